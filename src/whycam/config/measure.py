"""What is measured of a model or of photos, and what is looked for."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from whycam.config.base import MAKES_MAPS, MAX_SEED, OVERWRITE, ClusterOptions, Device, Engine, ModelOptions, Options


class EvaluateOptions(ModelOptions, ClusterOptions):
    """What `whycam evaluate` measures, and on what."""

    methods: str = Field("cam", description="Map methods with commas; `whycam methods` lists them.")
    metrics: str = Field(
        "quick",
        description="quick, all, faithfulness, localization, sanity, complexity, or names; see docs/metrics.md.",
    )
    boxes: Path | None = Field(None, description="A CSV of boxes in pixels: file,boxes and, where known, label.")
    masks: Path | None = Field(None, description="A folder of masks, PHOTO.png for each photo; 0 is background.")
    coco: Path | None = Field(None, description="Boxes and masks as COCO JSON.")
    groups: Path | None = Field(
        None, description="A CSV file,group: the accuracy of each group, a class and a word, and the worst one's."
    )
    target: Literal["auto", "true", "predicted"] = Field(
        "auto", description="The class whose maps are measured; auto: the true one where it is known."
    )
    limit: int | None = Field(None, ge=2, description="So many photos, drawn by the seed [all].")
    until: float | None = Field(
        None, gt=0, description="Stop when half of every interval is under this; photos come in an order drawn."
    )
    baseline_photos: int = Field(100, ge=2, description="Photos that the baselines are measured on, drawn by the seed.")
    every_step: bool = Field(False, description="All points of every curve, not only those where it bends.")
    layer: str | None = Field(None, description="Layer whose features are used [found by itself].")
    batch_size: int = Field(8, ge=1, description="Photos at a time.")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="All that is drawn at random follows from it.")
    engine: Engine = Field(
        "auto", description="onnx: changed photos are scored by the exported graph. auto: that, without a GPU."
    )
    overwrite: bool = OVERWRITE


class AuditOptions(ModelOptions, ClusterOptions):
    """What `whycam audit` looks for."""

    kinds: str = Field(
        "",
        description="Kinds of findings with commas: shortcut, data, label, duplicate, fragile, slice, confusion [all].",
    )
    before: Path | None = Field(
        None,
        description="An audit.json of before, say before a cure: tells what is gone and what is new.",
    )
    fail_on: str = Field("", description="Exit with code 1 where there is a finding of these kinds (with commas).")
    masks: Path | None = Field(
        None, description="Folder of masks of the objects, PHOTO.png; without it a general network finds them."
    )
    with_training: bool = Field(
        False,
        description="Look for shortcuts, and for them alone, on training photos, too, of classes with fewer than 60 "
        "photos to audit: those of train/ beside them, else the run's own. Finds more; see docs/audit.md.",
    )
    limit: int = Field(
        1000, ge=2, description="So many photos, drawn by the seed as evenly over the classes as can be."
    )
    seed: int = Field(0, ge=0, le=MAX_SEED, description="All that is drawn at random follows from it.")
    engine: Engine = Field(
        "auto", description="onnx: the model is asked by the exported graph. auto: that, without a GPU."
    )
    overwrite: bool = OVERWRITE


class CheckOptions(Options):
    """What `whycam check` looks at."""

    fail_on: str = Field("", description="Exit with code 1 where there is a finding of these kinds: data, duplicate.")
    limit: int = Field(
        10_000, ge=2, description="So many photos, drawn by the seed as evenly over the classes as can be."
    )
    seed: int = Field(0, ge=0, le=MAX_SEED, description="All that is drawn at random follows from it.")
    overwrite: bool = OVERWRITE


class GuardOptions(ModelOptions):
    """What `whycam guard` asks of a model."""

    at_least: float | None = Field(None, gt=0, le=1, description="Share of the photos that must be named rightly.")
    looks_at: Path | None = Field(
        None,
        description="Where the objects are: a folder of masks (PHOTO.png), a .csv of boxes or COCO's .json; with "
        "--share.",
    )
    share: float | None = Field(None, gt=0, le=1, description="Share of the evidence that must lie on the objects.")
    no_shortcut: str | None = Field(
        None,
        description="By none of these may a class be known: mark, stamp, property, thing, ground, place, with commas.",
    )
    kept: str | None = Field(
        None, description="An older MODEL of the same classes: the evidence must be where that one sees it."
    )
    kept_share: float = Field(0.7, gt=0, le=1, description="Share of its evidence that must be in its place.")
    each_class: bool = Field(
        False, description="--at-least and --share are for each class, too; what --kept asks for always is."
    )
    exact: bool = Field(False, description="mean(map) + bias must be the logit, on every photo.")
    strict: bool = Field(False, description="Fail, too, where the photos are too few to tell.")
    limit: int = Field(
        1000, ge=2, description="So many photos for --no-shortcut, drawn by the seed evenly over the classes."
    )
    seed: int = Field(0, ge=0, le=MAX_SEED, description="All that is drawn at random follows from it.")
    overwrite: bool = OVERWRITE


def _of(side: str, name: str) -> Any:
    """What `ModelOptions` says, of one of two models."""
    field = copy(ModelOptions.model_fields[name])
    said = field.description or ""
    field.description = f"Of {side}: {said[:1].lower()}{said[1:]}"
    return field


class CompareOptions(Options):
    """What `whycam compare` is told of both models, and what else it looks at."""

    weights_a: Path | None = _of("A", "weights")
    weights_b: Path | None = _of("B", "weights")
    classes_a: Path | None = _of("A", "classes")
    classes_b: Path | None = _of("B", "classes")
    preprocess_a: str | None = _of("A", "preprocess")
    preprocess_b: str | None = _of("B", "preprocess")
    image_size_a: int | None = _of("A", "image_size")
    image_size_b: int | None = _of("B", "image_size")
    device: Device = Field("auto", description="auto takes a GPU where there is one.")
    noise: list[str] = Field(
        [], description="Runs of one training with other seeds, with A or without; two or more, after A, B and PHOTOS."
    )
    audit: Path | None = Field(None, description="An audit.json of A or B: what both draw from its findings' places.")
    limit: int = Field(400, ge=1, description="Photos that flip on the page at the most; flips.csv has all.")
    batch_size: int = Field(8, ge=1, description="Photos a forward pass.")
    engine: Engine = MAKES_MAPS
    overwrite: bool = OVERWRITE

    def describe_model(self, side: str) -> dict[str, Any]:
        """The words of `whycam.intake.door.open_classifier` for A or B."""
        own = {name: getattr(self, f"{name}_{side}", None) for name in ModelOptions.model_fields}
        return own | {"device": self.device}
