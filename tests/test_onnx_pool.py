"""Pooling of tokens as exporters write it: exact where the tokens stand in order, never in the way of the scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from whycam.intake.door import open_classifier
from whycam.model.onnx.export import quiet
from whycam.model.onnx.file import OnnxFile

SIDE = 32


class Tokens(nn.Module):
    """Cells in a row, averaged in several ways: by an adaptive pool over the row, or by the mean of rebuilt rows."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.conv, self.norm, self.head = how, nn.Conv2d(3, 8, 8, 8), nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        cells = self.conv(images).relu()
        if self.how == "of a map":
            pooled = nn.functional.adaptive_avg_pool1d(cells.flatten(2), 1).flatten(1)
        elif self.how == "of computed rows":
            # As in Swin, whose windows are cut by what the sides are: no shape can be inferred behind it.
            count, _, height, width = cells.shape
            rows = cells.permute(0, 2, 3, 1).reshape(count, height // 2, 2, width // 2, 2, 8)
            tokens = self.norm(rows.reshape(count, (height // 2) * 2 * width, 8))
            pooled = nn.functional.adaptive_avg_pool1d(tokens.transpose(1, 2), 1).flatten(1)
        elif self.how == "window":
            # As in EfficientNet of Hugging Face.
            pooled = nn.functional.avg_pool2d(cells[:, :, : cells.shape[2]], 64, ceil_mode=True).flatten(1)
        elif self.how == "of rows":
            tokens = self.norm(cells.flatten(2).transpose(1, 2))
            pooled = nn.functional.adaptive_avg_pool1d(tokens.transpose(1, 2), 1).flatten(1)
        else:
            rows = cells.permute(0, 2, 3, 1)
            pooled = rows.reshape(images.shape[0], -1, 8).mean(1)
        return self.head(pooled)


@pytest.mark.parametrize("how", ["of a map", "of rows", "of computed rows", "window", "rebuilt"])
def test_pooled_tokens_are_exact(how: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, path = Tokens(how).eval(), tmp_path / "net.onnx"
    with quiet():
        torch.onnx.export(
            net,
            (torch.randn(2, 3, SIDE, SIDE),),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
        )
    file = OnnxFile(path)
    assert file.is_exact, file.no_exact_map
    images = np.random.default_rng(0).standard_normal((3, 3, SIDE, SIDE)).astype(np.float32)
    answer = file.read(images)
    assert answer.maps.shape == (3, 5, 4, 4)
    own = net(torch.from_numpy(images)).detach().numpy()
    np.testing.assert_allclose(answer.maps.mean((2, 3)) + np.asarray(file.bias), own, atol=1e-5)
    model = open_classifier(path, device="cpu", preprocess="imagenet")
    assert model.card.is_exact
