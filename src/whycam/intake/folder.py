"""A run folder, or the model folder in it, that `whycam train` or `whycam export` made."""

from __future__ import annotations

from pathlib import Path

from whycam.model.classifier import Card
from whycam.model.gap import GapClassifier, load_classifier, probe_identity
from whycam.runs import read_versions


def load(folder: Path, name: str) -> tuple[GapClassifier, Card]:
    """The classifier of a run or model folder.

    Raises:
        UserError: a missing, tampered or foreign file, or a broken identity.
    """
    network = load_classifier(folder / "model" if (folder / "model").is_dir() else folder)
    return network, describe(network, name)


def describe(network: GapClassifier, name: str) -> Card:
    """The card of a network whose maps are exact."""
    origin = {
        "backbone": network.origin.architecture,
        "weights": network.origin.source,
        "head": network.head,
        "map_stride": network.origin.map_stride,
        "identity_error": probe_identity(network),
        "versions": read_versions(),
    }
    return Card(name, network.class_names, network.preprocess, origin)
