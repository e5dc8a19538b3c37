"""A network as a page takes it: its graph, and what the page is told of it, Python's scores of a sample too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from whycam import __version__
from whycam.explainer.model import Model
from whycam.maps import render
from whycam.model.onnx.engine import GraphMetadata
from whycam.model.onnx.export import export_onnx
from whycam.model.onnx.parity import GraphOptions
from whycam.show.entries import encode_colormaps
from whycam.show.web.runtime import WebRuntime

SAMPLE, GRAPH = "cat.png", "model.onnx"


def write_graph(model: Model, path: Path) -> GraphMetadata:
    """Writes the graph, which takes uint8 pixels and gives all maps: what is behind the resizing is its own work.

    Args:
        model: with PyTorch.
        path: the file to make.

    Returns:
        What the export measured.

    Raises:
        UserError: a model without exact maps, or numbers that are not PyTorch's.
    """
    about = {"origin": _hide_places(model.origin), "records": {}}
    return export_onnx(model.classifier.exact_network, path, GraphOptions(takes_uint8=True), **about)


def describe_network(model: Model, card: GraphMetadata, runtime: WebRuntime, sample: Path) -> dict[str, Any]:
    """What the page is told of the model, as the app's /api/model; and Python's scores of a sample."""
    preprocess, about = card.preprocess, model.classifier.card
    why = model.explain(sample)
    return {
        "name": Path(about.name).name,  # a path of this machine is nobody else's business
        "classNames": list(card.class_names),
        "isMultiLabel": about.is_multi_label,
        "thresholds": list(about.thresholds) or None,
        "bias": list(card.bias),
        "identityError": card.identity_error,
        "methods": [{"name": "cam", "differs": "", "cost": "", "paper": "arXiv:1512.04150"}],
        "colormaps": encode_colormaps(),
        "defaults": {"colormap": render.COLORMAP_POSITIVE, "opacity": render.ALPHA},
        "input": {
            "width": preprocess.width_px,
            "height": preprocess.height_px,
            "interpolation": preprocess.interpolation,
            "isTallFirst": _is_tall_first(),
        },
        "sample": {"file": sample.name, "logits": [float(value) for value in why.logits[0]]},
        "versions": {"whycam": __version__, "onnxruntime-web": runtime.version},
    }


def _is_tall_first() -> bool:
    """Whether the installed Pillow resizes the columns of a tall photo before its rows, as it does from 13 on."""
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 20, 3), dtype=np.uint8))
    bicubic = Image.Resampling.BICUBIC
    tall_first = photo.resize((20, 16), bicubic).resize((16, 16), bicubic)
    return tall_first.tobytes() == photo.resize((16, 16), bicubic).tobytes()


def _hide_places(about: Mapping[str, Any]) -> dict[str, Any]:
    """The same without folders of this machine: a page is for anyone to read."""
    return {
        name: Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
        for name, value in about.items()
    }
