"""The names of a Hugging Face model's classes, where its folder has none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from whycam.intake.door import open_classifier

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("labels", [None, {}])
def test_a_folder_without_labels_has_numbers(labels: object, tmp_path: Path) -> None:
    config = transformers.ResNetConfig(
        depths=[1, 1], hidden_sizes=[4, 8], embedding_size=4, layer_type="basic", num_labels=3
    )
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path)
    about = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({**about, "id2label": labels, "label2id": labels, "num_labels": 3})
    )
    model = open_classifier(tmp_path, device="cpu", preprocess="imagenet", image_size=32)
    assert len(set(model.card.class_names)) == 3


def test_a_family_that_keeps_no_labels(tmp_path: Path) -> None:
    sizes = {"depths": [1] * 4, "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 2, 3, 4], "image_size": 64}
    config = transformers.PvtConfig(**sizes)
    config.num_labels = 3
    transformers.PvtForImageClassification(config).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["id2label"] is None
    model = open_classifier(tmp_path, device="cpu", preprocess="imagenet", image_size=64)
    assert model.card.class_names == ("class 0", "class 1", "class 2")
