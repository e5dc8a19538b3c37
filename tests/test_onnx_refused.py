"""ONNX files that are no image classifiers, or that nothing can run: told clearly, with the remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from test_onnx_file import FLAT, GEMM, IMAGES, POOL, SIDE, node, write
from whycam.errors import UserError
from whycam.model.onnx.file import OnnxFile

HEAD = [POOL, FLAT, GEMM]


def change(path: Path, edit: Callable[[onnx.ModelProto], Any]) -> Path:
    model = onnx.load(path)
    edit(model)
    onnx.save(model, path)
    return path


def make_opset(path: Path, opset: int) -> Path:
    return change(write(path, HEAD), lambda model: setattr(model.opset_import[0], "version", opset))


def add_input(path: Path) -> Path:
    more = helper.make_tensor_value_info("reference", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])
    return change(write(path, HEAD), lambda model: model.graph.input.append(more))


def change_input(path: Path, kind: int, shape: list[Any]) -> Path:
    value = helper.make_tensor_value_info("images", kind, shape)
    return change(write(path, HEAD), lambda model: model.graph.input[0].CopyFrom(value))


def write_bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def split_weights(path: Path) -> Path:
    model = onnx.load(write(path, HEAD))
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    return path


def lose(path: Path) -> Path:
    split_weights(path).with_name("m.data").unlink()
    return path


def cut_short(path: Path) -> Path:
    write_bytes(split_weights(path).with_name("m.data"), b"abc")
    return path


def move_out(path: Path) -> Path:
    def edit(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            onnx.external_data_helper.set_external_data(tensor, "../elsewhere.data")
            tensor.ClearField("raw_data")

    return change(write(path, HEAD), edit)


def detect(path: Path) -> Path:
    return write(path, [*HEAD, node("Identity", "features", "boxes")], outputs={"scores": ["N", 5], "boxes": ["N", 4]})


def segment(path: Path) -> Path:
    return write(path, [node("Identity", "features", "scores")], outputs={"scores": ["N", 6, 11, 11]})


def yolo(path: Path) -> Path:
    head = [node("Reshape", "features shape", "output0")]
    return write(path, head, constants={"shape": np.array([0, 6, -1])}, outputs={"output0": ["N", 6, 121]})


def custom(path: Path) -> Path:
    odd = helper.make_node("Secret", ["v"], ["v2"], domain="my.own")
    path = write(path, [POOL, FLAT, odd, node("Gemm", "v2 w b", "scores", transB=1)])
    return change(path, lambda model: model.opset_import.append(helper.make_opsetid("my.own", 1)))


CASES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing": (lambda path: path, r"Found no file at '.*m\.onnx'.*Check the path"),
    "a folder": (lambda path: path.parent, "Found a folder at"),
    "text": (lambda path: write_bytes(path, b"hello, I am a model" * 9), "no ONNX model"),
    "empty": (lambda path: write_bytes(path, b""), r"\(0 bytes\) is no ONNX model"),
    "half": (lambda path: write_bytes(path, write(path, HEAD).read_bytes()[:300]), "cut short"),
    "Git LFS": (lambda path: write_bytes(path, b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "opset too old": (lambda path: make_opset(path, 6), "opset 6; ONNX Runtime takes 7 and later.*version_converter"),
    "opset too new": (lambda path: make_opset(path, 99), "can't be opened by ONNX Runtime.*newer onnxruntime"),
    "two inputs": (add_input, r"2 inputs \('images' float32 \(N, 3, 24, 24\), 'reference'"),
    "words": (lambda path: change_input(path, TensorProto.INT64, ["N", 128]), "'images' int64.*no image classifier"),
    "four channels": (lambda path: change_input(path, 1, ["N", 4, SIDE, SIDE]), r"\(N, 4, 24, 24\).*3 channels or 1"),
    "a single image": (lambda path: change_input(path, 1, [3, SIDE, SIDE]), "batch axis"),
    "weights missing": (lose, "keeps its weights in 'm.data'.*no such file.*Put it beside"),
    "weights cut short": (cut_short, r"has 3 bytes; 'm.onnx' expects .*copy both files again"),
    "weights elsewhere": (move_out, "outside its own folder"),
    "a detector": (detect, "'boxes' float32.*It looks like a detector"),
    "a detector of one output": (yolo, r"'output0' float32 \(N, 6, 121\).*It looks like a detector"),
    "a segmenter": (segment, "It looks like a segmenter"),
    "any size": (
        lambda path: write(path, HEAD, sides=("H", "W")),
        r"any size, float32 \(N, 3, H, W\).*--image-size 224",
    ),
    "an operator of its own": (custom, "can't be opened by ONNX Runtime.*Secret"),
}


@pytest.mark.parametrize("name", CASES)
def test_refused(name: str, tmp_path: Path) -> None:
    make, words = CASES[name]
    with pytest.raises(UserError) as found:
        OnnxFile(make(tmp_path / "m.onnx"), threads=1)
    assert re.search(words, str(found.value)), str(found.value)


def test_a_size_that_it_does_not_take(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", HEAD)
    with pytest.raises(UserError, match="takes 24 x 24 px; found a size of 32 x 32 px"):
        OnnxFile(path, size_px=(32, 32))
    file = OnnxFile(path, threads=1)
    with pytest.raises(UserError, match=r"takes images \(B, 3, 24, 24\); got \(4, 3, 12, 24\)"):
        file.scores(IMAGES[:, :, :12])


def test_a_size_that_it_says_it_takes(tmp_path: Path) -> None:
    """The sizes are free by the words of the file, and fixed by its weights."""
    head = [node("Flatten", "features", "v"), node("MatMul", "v big", "scores")]
    big = {"big": np.ones((6 * 121, 5), np.float32)}
    path = write(tmp_path / "m.onnx", head, constants=big, sides=("H", "W"))
    assert OnnxFile(path, threads=1, size_px=(SIDE, SIDE)).scores(IMAGES).shape == (4, 5)
    with pytest.raises(UserError, match=r"can't be run on images of 32 x 32 px .*--image-size"):
        OnnxFile(path, threads=1, size_px=(32, 32))
