"""A frozen backbone's graph by the older exporter: quick to make, and believed only where its numbers are PyTorch's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn

from whycam.errors import UserError
from whycam.model.onnx import export as exporting
from whycam.model.onnx.export import open_or_export, run_graph


def refuse(*_: object, **__: object) -> None:
    raise UserError("The slow exporter was asked.")


def test_a_traced_graph_pads_by_numbers_and_takes_any_number_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_convert", refuse)
    torch.manual_seed(0)
    net = nn.Sequential(Conv2dSame(3, 4, 3, stride=2), nn.ReLU(), Conv2dSame(4, 5, 5, stride=2)).eval()
    images = torch.rand(7, 3, 21, 16)
    session = open_or_export(tmp_path / "g.onnx", net, images[:2], ["features"], {}, is_traced=True)
    with torch.no_grad():
        expected = net(images).numpy()
    assert np.allclose(run_graph(session, images)[0], expected, atol=1e-6)
    assert not {"Shape", "Ceil", "Gather"} & {node.op_type for node in onnx.load(tmp_path / "g.onnx").graph.node}
    assert all("forward" not in vars(layer) for layer in net)


class Baked(nn.Module):
    """Its trace has the number of images in it, as a number."""

    def forward(self, images: Tensor) -> Tensor:
        return images.reshape(int(images.shape[0]), 3, -1).mean(2)


def test_a_trace_that_holds_for_one_image_alone_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_convert", refuse)
    with pytest.raises(UserError, match="The slow exporter was asked"):
        open_or_export(tmp_path / "g.onnx", Baked().eval(), torch.rand(2, 3, 8, 8), ["means"], {}, is_traced=True)
    assert not list(tmp_path.iterdir())
