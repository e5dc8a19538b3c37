"""A run folder, or the model folder in it, that `whycam train` or `whycam export` made."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from whycam.intake.request import Found, Kind, Request, as_path
from whycam.model.card import Card
from whycam.runs import find_model, read_versions

if TYPE_CHECKING:
    from whycam.model.gap import GapClassifier


def _is_it(request: Request) -> bool:
    path = as_path(request)
    return path is not None and path.is_dir() and (find_model(path) != path or not _is_anothers(path))


def _is_anothers(folder: Path) -> bool:
    """Whether its config.json is a description by another library, such as Hugging Face's."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return (folder / "saved_model.pb").exists()
    return isinstance(config, dict) and "whycam" not in config and bool({"architectures", "model_type"} & config.keys())


def _open(request: Request) -> Found:
    from whycam.model.folder_config import read_hash  # noqa: PLC0415 - torch, which other kinds do without
    from whycam.model.gap import load_classifier  # noqa: PLC0415 - as above

    if (find_model(Path(request.name)) / "config.json").is_file():
        request.refuse("folder of whycam's", "weights", "class_names", "preprocess", "image_size")
    assert isinstance(request.model, str | Path)  # noqa: S101 - _is_it has seen to that
    folder = find_model(Path(request.model))
    network = load_classifier(folder)
    card = describe(network, request.name, kind="whycam folder", device=request.device, preprocess_from="config.json")
    card = replace(card, origin={**card.origin, "sha256": read_hash(folder)})
    return Found(card, network.requires_grad_(requires_grad=False).to(request.device).eval())


def describe(network: GapClassifier, name: str, *, kind: str, device: str, preprocess_from: str) -> Card:
    """The card of a network whose maps are exact."""
    from whycam.model.gap import probe_identity  # noqa: PLC0415 - torch, which other kinds do without

    origin = {
        "backbone": network.origin.architecture,
        "weights": network.origin.source,
        "head": network.head,
        "map_stride": network.origin.map_stride,
        "identity_error": probe_identity(network),
        "versions": read_versions(),
    }
    return Card(
        *(name, network.class_names, network.preprocess, origin, device),
        kind=kind,
        preprocess_from=preprocess_from,
        output="multi-label logits" if network.thresholds else "logits",
        thresholds=network.thresholds,
    )


KIND = Kind("a run or model folder of whycam's", _is_it, _open)
