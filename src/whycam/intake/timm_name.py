"""The installed network `imagenet`, or a timm name."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from whycam.intake.folder import describe
from whycam.model.classifier import Card
from whycam.model.gap import HeadError, load_network, make_exact, name_classes
from whycam.runs import read_versions


def load(name: str, weights: Path | None, image_size: int | None) -> tuple[nn.Module, Card]:
    """The network of that name, as one with exact maps where it was measured to have them.

    Raises:
        UserError: unknown, or weights that are out of reach or do not fit.
    """
    whole, origin = load_network(name, weights=weights, image_size=image_size)
    try:
        exact = make_exact(whole, origin)
    except HeadError as error:
        about = {"backbone": origin.architecture, "weights": origin.source, "versions": read_versions()}
        names = tuple(name_classes(getattr(whole, "num_classes", 0)))
        return whole, Card(name, names, origin.preprocess, about, no_exact_map=str(error))
    return exact, describe(exact, name)
