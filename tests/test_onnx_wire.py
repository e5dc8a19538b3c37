"""Weights are not read with the graph, and are the same when it is run: of the file itself, or of one beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from test_onnx_file import CHANNELS, CLASSES, FLAT, POOL, WEIGHT, check, node, write
from whycam.errors import UserError
from whycam.model.onnx.file import OnnxFile
from whycam.model.onnx.graph import load_graph
from whycam.model.onnx.wire import read_model

WIDE = 2000
INTO, OUT = np.zeros((CHANNELS, WIDE), np.float32), np.zeros((WIDE, CLASSES), np.float32)
INTO[:, :CHANNELS], OUT[:CHANNELS] = np.eye(CHANNELS), WEIGHT.T


def write_wide(path: Path) -> Path:
    """The net whose weights are two matrices of 40 kB and more."""
    head = [POOL, FLAT, node("MatMul", "v into", "wide"), node("MatMul", "wide out", "m"), node("Add", "m b", "scores")]
    return write(path, head, constants={"into": INTO, "out": OUT})


def test_weights_stay_in_the_file(tmp_path: Path) -> None:
    path = write_wide(tmp_path / "m.onnx")
    model = read_model(path)
    outside = {t.name for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL}
    assert outside == {"into", "out"}
    assert model.ByteSize() < 0.1 * path.stat().st_size
    for tensor in onnx.load(path).graph.initializer:
        found = load_graph(path).read_constant(tensor.name)
        assert found is not None
        assert (found == numpy_helper.to_array(tensor)).all()
    file = OnnxFile(path, threads=1)
    path.unlink()  # a running model does not need it
    check(file)


@pytest.mark.parametrize("name", ["m.data", "weights of mine.bin"])
def test_weights_beside_the_file(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "größe"
    folder.mkdir()
    path = write_wide(folder / "m.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location=name, size_threshold=0)
    check(OnnxFile(path, threads=1))


def test_a_link_and_a_name_of_other_bytes(tmp_path: Path) -> None:
    path = write_wide(tmp_path / "m.onnx")
    link = tmp_path / "link.onnx"
    link.symlink_to(path)
    check(OnnxFile(link, threads=1))
    folder = tmp_path / "plain"
    folder.mkdir()
    onnx.save(onnx.load(path), folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    odd = folder.rename(tmp_path / "caf\udce9")
    check(OnnxFile(odd / "m.onnx", threads=1))


def test_any_cut_of_the_file_is_told(tmp_path: Path) -> None:
    path = write_wide(tmp_path / "m.onnx")
    content = path.read_bytes()
    for end in (1, 2, 40, len(content) // 3, len(content) - 1):
        path.write_bytes(content[:end])
        with pytest.raises(UserError, match="no ONNX model, or one that was cut short"):
            OnnxFile(path)
