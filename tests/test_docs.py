"""What the documentation says is so: named tests exist, examples run."""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import whycam

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def find_tests(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_tests_exist(page: Path) -> None:
    for path, name in re.findall(r"(tests/\w+\.py)::(\w+)", page.read_text()):
        assert name in find_tests(ROOT / path), f"{page.name} names {path}::{name}"


def test_every_complaint_names_a_test_or_says_why_there_is_none() -> None:
    rows = re.findall(r"^\| (.+#\d+.*) \| (.+) \| (.+) \|$", (ROOT / "docs/complaints.md").read_text(), re.MULTILINE)
    assert len(rows) > 30
    for _, answer, proof in rows:
        assert "::" in proof or answer.startswith("No: ") or proof.startswith("no test: ")


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 2, 5, stride=4)

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        scores = self.body(images).sigmoid().flatten(2)
        labels = torch.tensor([18, 3])[:, None].expand(2, scores.shape[2]).flatten()
        return [{"labels": labels, "scores": of_image.flatten()} for of_image in scores]


def test_examples_of_targets_run() -> None:
    section = (ROOT / "docs/methods.md").read_text().split("## Targets that are no class")[1].split("\n## ")[0]
    region, embedding, detection = (
        textwrap.dedent(block)
        for block in re.findall(r"(?:^    .*\n|^\n(?=    ))+", section, re.MULTILINE)
        if block.strip()
    )
    torch.manual_seed(1)
    images = torch.rand(2, 3, 64, 64)
    segmenter = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 5, 1))
    embedder = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 8))
    for code, net in ((region, segmenter), (embedding, embedder), (detection, Detector())):
        known: dict[str, Any] = {"whycam": whycam, "torch": torch, "images": images, "net": net, "detector": net}
        known["reference_image"] = images[:1].flip(3)
        exec(code, known)
        assert known["why"].maps.shape[0] == 2
        assert bool(known["why"].maps.any())
