"""open_keras(): a Keras file as a torch network, with all that the file says of its input and its output."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from whycam.data.preprocess import Preprocess
from whycam.errors import UserError, as_clause
from whycam.model.keras.build import build
from whycam.model.keras.file import read_file
from whycam.model.keras.form import Form, read_form
from whycam.model.keras.head import Output, activate, measure_gap, measure_output, run_own, take_off
from whycam.model.keras.inside import Inside, read_inside
from whycam.model.keras.net import KerasClassifier

_SIDE_PX = 224  # of a model that takes images of any size
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class KerasFile:
    """A Keras classifier.

    Attributes:
        network: images (N, C, H, W) float32, in the range that the file's own first layer expects -> (N, K), in eval
            mode; its layers have Keras's names (`outer.inner` in a model inside a model), and give (N, C, h, w).
        height_px, width_px: of the input; None where any size is taken.
        channels: of the input.
        preprocess: from a photo to the input; None where nothing in the file says it.
        preprocess_from: where that is known from, or why it isn't: a clause without a dot.
        output: what the file's own output is.
        class_count: K.
        activation: the layer whose softmax or sigmoid was taken off, so that `network` gives logits; empty where
            nothing was.
    """

    network: nn.Module
    height_px: int | None
    width_px: int | None
    channels: int
    preprocess: Preprocess | None
    preprocess_from: str
    output: Output
    class_count: int
    activation: str = ""

    @property
    def gives_logits(self) -> bool:
        """Whether `network` gives logits; else it gives the file's own probabilities."""
        return self.output == "logits" or bool(self.activation)


def open_keras(path: str | Path) -> KerasFile:
    """The classifier in a .keras file, or in an .h5 file with a whole model, old ones too; none of its code is run.

    Raises:
        UserError: no Keras, no such file, code inside it, weights alone, or a model that is no image classifier.
    """
    return read_keras(read_file(Path(path)), f"'{Path(path).absolute()}'")


def read_keras(model: Any, name: str = "The Keras model") -> KerasFile:
    """The classifier that a keras.Model is; the network shares its weights.

    Raises:
        UserError: several inputs, no images, no scores (N, K), or a graph that torch can't run.
    """
    form = read_form(model, name)
    height, width = form.height_px or _SIDE_PX, form.width_px or _SIDE_PX
    with torch.inference_mode(mode=False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        network, activation, output = _convert(model, form, _make_probe(form, height, width), name)
        inside = read_inside(network, form.channels, height, width)
    return KerasFile(
        network,
        form.height_px,
        form.width_px,
        form.channels,
        _make_preprocess(inside, height, width),
        inside.reason,
        output,
        form.class_count,
        activation,
    )


def _make_probe(form: Form, height_px: int, width_px: int) -> Tensor:
    """A weak image, of 0 to 1, and a strong one, of 0 to 255: one of the two is in the range of the model's photos."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, form.channels, height_px, width_px, generator=generator)
    return images * torch.tensor([1.0, 255.0]).view(2, 1, 1, 1)


def _convert(model: Any, form: Form, images: Tensor, name: str) -> tuple[KerasClassifier, str, Output]:
    """The network, the layer whose activation was taken off, and what the model's own output is."""
    try:
        own = run_own(model, images, form.output, is_channels_last=form.is_channels_last)
        again = run_own(model, images, form.output, is_channels_last=form.is_channels_last)
        limit = max(_TOLERANCE, 2 * measure_gap(again, own))  # a model may draw at random
        network = build(model, form.output, is_channels_last=form.is_channels_last)
        taken = take_off(network)
        if taken is not None:
            if measure_gap(activate(network(images), taken[1]), own) <= limit:
                return network, *taken
            network = build(model, form.output, is_channels_last=form.is_channels_last)
        gap = measure_gap(network(images), own)
        output = measure_output(torch.cat([own, network(images * 30), network(images * -30)]))
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - layers raise whatever torch has for what they can't do
        raise UserError(
            f"{name} doesn't run on Keras's torch backend: {type(error).__name__}: {as_clause(error)[:200]}. "
            "Try it in Python: KERAS_BACKEND=torch, model.predict(images)."
        ) from None
    if gap > limit:
        raise UserError(
            f"{name} can't be taken apart: run layer by layer, its output is off by {gap:.2g} of the largest. "
            "Give the model as a function of images, for the methods that need scores alone."
        )
    return network, "", output


def _make_preprocess(inside: Inside, height_px: int, width_px: int) -> Preprocess | None:
    if inside.highest is None:
        return None
    each = 1 / inside.highest
    # Keras's own loaders resize so.
    return Preprocess(
        height_px=height_px, width_px=width_px, mean=(0, 0, 0), std=(each, each, each), interpolation="bilinear"
    )
