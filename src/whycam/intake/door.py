"""The door: what a user names becomes a Classifier, without torch where the exported graph is at hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from whycam.errors import UserError
from whycam.intake.device import choose_device
from whycam.model.classifier import Card, Classifier
from whycam.model.onnx.engine import check_engine, find_engine, open_kept

if TYPE_CHECKING:
    from torch import nn


def open_classifier(
    model: str | Path,
    *,
    device: str = "auto",
    weights: Path | None = None,
    image_size: int | None = None,
    engine: str = "auto",
    photos: int = 1,
    threads: int | None = None,
) -> Classifier:
    """The classifier of that name.

    Args:
        model: a run folder, a model folder, `imagenet` (the installed network), or a timm name.
        device: auto, cpu, cuda or mps.
        weights: a local file, for a timm name.
        image_size: side of the network's input in pixels, for a name.
        engine: see `choose_runtime`.
        photos: how many are expected.
        threads: that one call of an exported graph uses; None takes one for each core.

    Raises:
        UserError: no such model, a missing or tampered file, weights out of reach, a broken identity.
    """
    check_engine(engine)
    name, kind = str(model), choose_device(device, engine)
    # With weights or a size of the caller's own, the name does not say which graph it is.
    place = find_engine(name) if weights is None and image_size is None else None

    def load(kind: str = kind) -> tuple[nn.Module, Card]:
        return _load(name, kind, weights, image_size)

    graph = open_kept(place, threads) if place and engine != "torch" and kind == "cpu" else None
    if graph is not None:
        card = Card(name, graph.metadata.class_names, graph.metadata.preprocess, graph.metadata.model)
        found = Classifier(card, lambda: load()[0], engine=engine, photos=photos, threads=threads, place=place)
        return found.holding(graph)
    network, card = load()
    return Classifier(card, network, engine=engine, photos=photos, threads=threads, place=place)


def _load(name: str, device: str, weights: Path | None, image_size: int | None) -> tuple[nn.Module, Card]:
    from whycam.intake import folder, timm_name  # noqa: PLC0415 - torch, which a graph at hand does without

    path, network = Path(name), cast("nn.Module", None)
    if path.is_dir():
        network, card = folder.load(path, name)
    elif path.exists() or len(path.parts) > 1:
        found = "a file" if path.exists() else "nothing"
        raise UserError(
            f"Found {found} at '{path.absolute()}'; expected a run folder, a model folder, 'imagenet' or a timm "
            "name. Check the path."
        )
    else:
        network, card = timm_name.load(name, weights, image_size)
    return network.requires_grad_(requires_grad=False).to(device).eval(), card.on(device)
