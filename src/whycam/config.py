"""Every option once: type, default, range and help. The command line and Python read the same models.

Add an option as one field here; `cli.py` turns the fields into command line options by itself.
"""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Head = Literal["linear", "conv"]
# Maps of more at 7x7 cells would take over 20 MB a photo; a million names is a mistake in a file, not a classifier.
MAX_CLASSES = 100_000
Device = Literal["auto", "cpu", "cuda", "mps"]
Engine = Literal["auto", "onnx", "torch"]
_MAKES_MAPS: Any = Field(
    "auto", description="onnx: exact maps by the exported graph, several times faster. auto: that too, without a GPU."
)


class Options(BaseModel):
    """What all option models share: unknown names are refused, values are checked, nothing changes after."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())


class TrainOptions(Options):
    """How `whycam train` makes a classifier from a folder of photos."""

    recipe: Literal["default", "vgg16-gap"] = Field(
        "default", description="A named set of options; those given beside it win. vgg16-gap: the original experiment."
    )
    backbone: str = Field("imagenet", description="'imagenet' (the installed network) or any timm name.")
    weights: Path | None = Field(
        None, description="Backbone weights: a file in timm's or torchvision's names, or in Keras's (.h5, of VGG16)."
    )
    scratch: bool = Field(False, description="Start from random weights and train the whole network.")
    head: Head = Field("linear", description="linear: GAP + linear. conv: 3x3 conv x 1024 + ReLU, then GAP + linear.")
    image_size: int | None = Field(
        None, ge=16, le=4096, description="Side of the network's input in pixels [the backbone's own]."
    )
    map_stride: int | None = Field(
        None, ge=1, le=64, description="Pixels a map cell spans: at 224 px 16 gives 14x14 maps, 32 gives 7x7 [its own]."
    )
    classes: Path | None = Field(
        None, description="The class folders in the order that their classes are to have, a name a line [by name]."
    )
    val_fraction: float = Field(0.2, gt=0, lt=1, description="Share held out where FOLDER has no train/ and val/.")
    allow_empty: bool = Field(
        False, description="Train without the classes of which fewer than 2 photos can be read, instead of stopping."
    )
    epochs: int = Field(40, ge=1, description="Epochs of the head at the most.")
    steps_per_epoch: int | None = Field(None, ge=1, description="Batches an epoch [all photos once].")
    batch_size: int = Field(32, ge=1, description="Photos a step.")
    lr: float = Field(3e-3, gt=0, description="Learning rate of the head (Adam).")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="How the learning rate goes.")
    patience: int = Field(12, ge=0, description="Stop after this many epochs without a better validation; 0: never.")
    val_photos: int | None = Field(
        None,
        ge=1,
        description="Held-out photos that measure an epoch; the best few epochs and the last are measured on all "
        "[all; where an epoch trains on under half as many, as many as it trains on, but with a linear head all].",
    )
    augment: int = Field(
        0, ge=0, le=64, description="Random views of each training photo beside the plain one; 0: none."
    )
    unfreeze: Literal["none", "last", "all"] = Field(
        "none", description="After the head, fine-tune the backbone's last stages, or all of it."
    )
    finetune_epochs: int = Field(6, ge=1, description="Epochs of --unfreeze and --scratch at the most.")
    finetune_lr: float = Field(2e-4, gt=0, description="Learning rate of --unfreeze (AdamW, cosine).")
    class_weights: bool = Field(False, description="Weight the loss by the inverse of the class counts.")
    ignore: str | None = Field(
        None,
        description="Push the evidence off a part of the photos: a folder of masks (PHOTO.png, all but 0), "
        "upper-right:0.25, border, 0.7,0,1,0.3 or audit.json#FINDING; see docs/cure.md.",
    )
    attend: Path | None = Field(None, description="Pull the evidence onto the objects: a folder of their masks.")
    focus_weight: float = Field(
        10.0, ge=0, description="Weight in the loss of the share of evidence where --ignore and --attend forbid it."
    )
    against: str | None = Field(
        None, description="Train a shortcut away, by audit.json#FINDING: views have its cause exchanged. docs/cure.md."
    )
    edits: Path | None = Field(
        None, description="Train as people corrected it: RUN/edits.jsonl; photos' files stay as they are. docs/mend.md."
    )
    groups: Path | None = Field(
        None, description="Fit the last layer again with groups of equal weight: a CSV file,group. See docs/cure.md."
    )
    robust: bool = Field(
        False, description="Fit the last layer again with more weight on what a first head misses. See docs/cure.md."
    )
    seed: int = Field(0, ge=0, description="Split, order, views and initial weights follow from it.")
    device: Device = Field("auto", description="auto takes a GPU where there is one.")
    cache_dir: Path | None = Field(None, description="Where features are kept [the user's cache folder].")
    overwrite: bool = Field(False, description="Replace a finished run of that name.")
    resume: bool = Field(False, description="Go on with an interrupted run of that name.")


# What a recipe changes; options that the caller gives win over it.
RECIPES: dict[str, dict[str, object]] = {
    "default": {},
    # VGG-16 without its top and last pooling layer, frozen; conv 3x3 x 1024; 160 px and so 10 x 10 maps.
    "vgg16-gap": {
        "backbone": "vgg16",
        "head": "conv",
        "image_size": 160,
        "map_stride": 16,
        "batch_size": 32,
        "epochs": 100,
        "steps_per_epoch": 2,
        "val_fraction": 0.2,
        "lr": 1e-3,
        "schedule": "constant",
        "patience": 0,
    },
}


def make_train_options(**given: object) -> TrainOptions:
    """Options from the caller's words: defaults, under the recipe, under what is given.

    Raises:
        pydantic.ValidationError: a value out of its range, or an option that does not exist.
    """
    recipe = RECIPES.get(str(given.get("recipe", "default")), {})
    return TrainOptions.model_validate({**recipe, **given})


class ModelOptions(Options):
    """What is said of a model beside its name."""

    weights: Path | None = Field(
        None, description="Weights (.safetensors, .pth), for a timm or torchvision name or for your own code."
    )
    classes: Path | None = Field(None, description="The names of the model's outputs, a name a line [its own].")
    preprocess: str | None = Field(
        None,
        description="How photos are prepared: imagenet, half, unit, bytes, caffe or FILE.json [the model's own].",
    )
    image_size: int | None = Field(
        None, ge=16, le=4096, description="Side of the network's input in pixels, where it takes any [its own]."
    )
    device: Device = Field("auto", description="auto takes a GPU where there is one.")

    def describe_model(self) -> dict[str, Any]:
        """The words of `whycam.intake.door.open_classifier`."""
        return {name: getattr(self, name) for name in ModelOptions.model_fields}


class ExplainOptions(ModelOptions):
    """What `whycam explain` explains, and how it is drawn."""

    target: str = Field("predicted", description="predicted, top:N, all, a class name, class:NAME, or index:N.")
    versus: str | None = Field(
        None, description="Explain the target against this class: the difference of the two maps, exact."
    )
    method: str = Field("cam", description="A map method; `whycam methods` lists them.")
    layer: str | None = Field(None, description="Layer whose features are used; several with commas [found by itself].")
    fuse: Literal["mean", "max", "product", "tanh-max"] = Field("mean", description="How several layers' maps join.")
    option: list[str] = Field([], description="An option of the method, as name=value; may be given again.")
    smooth: str | None = Field(
        None, description="Average over views of the photo: flips, scales, or both with a comma."
    )
    refine: bool = Field(False, description="Maps refined to the object: where it is, not how much each place counts.")
    colormap: str | None = Field(None, description="A matplotlib colour map [inferno; for signed maps RdBu_r].")
    alpha: float = Field(0.5, ge=0, le=1, description="Opacity of the heat where it is strongest.")
    format: Literal["jpg", "png", "webp"] = Field("jpg", description="Picture format of overlays and heatmaps.")
    overlays: bool = Field(True, description="Write the photos with the heat on them.")
    heatmaps: bool = Field(True, description="Write the heat alone, as pictures.")
    maps_only: bool = Field(False, description="Write raw maps and the table, no pictures.")
    batch_size: int = Field(8, ge=1, description="Photos a forward pass.")
    engine: Engine = _MAKES_MAPS
    overwrite: bool = Field(False, description="Replace an output folder of that name.")
    resume: bool = Field(False, description="Go on with an interrupted output folder of that name.")


class InspectOptions(ModelOptions):
    """What is said to `whycam inspect` of the model."""

    seed: int = Field(0, ge=0, description="Which photos are tried, where there are many.")


class EvaluateOptions(ModelOptions):
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
    layer: str | None = Field(None, description="Layer whose features are used [found by itself].")
    batch_size: int = Field(8, ge=1, description="Photos at a time.")
    seed: int = Field(0, ge=0, description="All that is drawn at random follows from it.")
    engine: Literal["auto", "onnx", "torch"] = Field(
        "auto", description="onnx: changed photos are scored by the exported graph. auto: that, without a GPU."
    )
    overwrite: bool = Field(False, description="Replace an output folder of that name.")


class AuditOptions(ModelOptions):
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
    limit: int = Field(
        1000, ge=2, description="So many photos, drawn by the seed as evenly over the classes as can be."
    )
    seed: int = Field(0, ge=0, description="All that is drawn at random follows from it.")
    engine: Literal["auto", "onnx", "torch"] = Field(
        "auto", description="onnx: the model is asked by the exported graph. auto: that, without a GPU."
    )
    overwrite: bool = Field(False, description="Replace an output folder of that name.")


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
    seed: int = Field(0, ge=0, description="All that is drawn at random follows from it.")
    overwrite: bool = Field(False, description="Replace an output folder of that name.")


class CheckOptions(Options):
    """What `whycam check` looks at."""

    fail_on: str = Field("", description="Exit with code 1 where there is a finding of these kinds: data, duplicate.")
    limit: int = Field(
        10_000, ge=2, description="So many photos, drawn by the seed as evenly over the classes as can be."
    )
    seed: int = Field(0, ge=0, description="All that is drawn at random follows from it.")
    overwrite: bool = Field(False, description="Replace an output folder of that name.")


class LocalizeOptions(ModelOptions):
    """What `whycam localize` looks for, and what counts as found."""

    target: str = Field("predicted", description="predicted, top:N, all, a class name, class:NAME, or index:N.")
    refine: bool = Field(False, description="Maps refined to the object, by the same network: better boxes, slower.")
    method: str = Field("cam", description="Without --refine: a map method; `whycam methods` lists them.")
    threshold: float | None = Field(
        None, ge=0, lt=1, description="Share of the map's maximum that counts [0.28; refined 0.3]."
    )
    max_boxes: int = Field(5, ge=1, le=100, description="Boxes of one class in one photo at the most.")
    least_share: float = Field(
        0.2, ge=0, le=1, description="A further box has at least this share of the largest one's area."
    )
    crop_reclassify: bool = Field(
        False, description="Classify each photo's first box once more by itself, and both together."
    )
    batch_size: int = Field(16, ge=1, description="Photos a forward pass.")
    overwrite: bool = Field(False, description="Replace an output folder of that name.")


class UnitsOptions(ModelOptions):
    """Which channels `whycam units` shows."""

    units: int = Field(8, ge=1, le=64, description="Channels of the class, the weightiest first.")
    photos: int = Field(6, ge=1, le=32, description="Photos of each channel, those that excite it most.")
    by: Literal["weight", "contribution"] = Field(
        "contribution", description="Rank by the class's weight alone, or by weight times mean activation in FOLDER."
    )
    batch_size: int = Field(16, ge=1, description="Photos a forward pass.")
    overwrite: bool = Field(False, description="Replace an output folder of that name.")


class EditsOptions(Options):
    """How `whycam edits` hands on what people said."""

    format: Literal["csv", "label-studio", "fiftyone"] = Field(
        "csv", description="csv: a table. label-studio, fiftyone: what these tools import; see docs/mend.md."
    )
    overwrite: bool = Field(False, description="Replace an output folder of that name.")


class ExportOptions(ModelOptions):
    """What `whycam export` writes."""

    format: Literal["onnx", "openvino", "torchscript", "safetensors"] = Field(
        "onnx", description="onnx and torchscript: a file. openvino and safetensors (weights, for timm too): a folder."
    )
    uint8_input: bool = Field(False, description="Take pixels of 0 to 255 and normalise them inside the graph.")
    topk: int | None = Field(None, ge=1, description="Give the maps of so many best classes alone [all].")
    dynamic_size: bool = Field(False, description="Take any height and width.")
    int8: bool = Field(False, description="Quantise; kept only if maps correlate over 0.98 and under 1 % change class.")
    calibrate: Path | None = Field(None, description="Photos for --int8: half give its ranges, half measure it.")
    overwrite: bool = Field(False, description="Replace an output of that name.")


class ServeOptions(ModelOptions):
    """Where `whycam serve` listens, and what a request may be."""

    host: str = Field("127.0.0.1", description="Address to listen at; another than this machine's opens it to others.")
    port: int = Field(8000, ge=0, le=65535, description="Port; 0 takes a free one.")
    max_upload_mb: int = Field(32, ge=1, le=4096, description="Size of one upload at the most.")
    max_pixels: int = Field(50_000_000, ge=1, description="Pixels of one photo at the most.")
    max_files: int = Field(32, ge=1, le=1000, description="Photos in one request at the most.")
    rate: int = Field(600, ge=0, description="Requests a minute that one client may make; 0: any number.")
    photos: Path | None = Field(None, description="Photos that a run was trained on, for Mend [where they were then].")
    api: Literal["app", "kserve"] = Field("app", description="kserve: KServe's protocols, V1 and V2, beside the app.")
    model_name: str | None = Field(None, description="The model's name in KServe's protocols [its short name].")
    metrics: bool = Field(False, description="Tell Prometheus at /metrics; with --api kserve it is always told.")
    drain_s: int | None = Field(None, ge=0, le=3600, description="Seconds it goes on at SIGTERM [kserve: 5; else 0].")
    grace_s: int = Field(5, ge=1, le=3600, description="Seconds that requests under way then have to finish.")


class ReportOptions(ModelOptions):
    """What `whycam report` puts on its page."""

    limit: int = Field(
        400, ge=1, description="Photos on the page at the most: mistakes, then a sample; the figures count all photos."
    )
    audit: Path | None = Field(None, description="An audit.json of this model [RUN/audit.json; else an audit is made].")
    no_audit: bool = Field(False, description="Make no audit where there is none.")
    evaluation: Path | None = Field(None, description="What `whycam evaluate` made of this model [RUN/evaluation].")
    batch_size: int = Field(8, ge=1, description="Photos a forward pass.")
    seed: int = Field(0, ge=0, description="The sample of --limit follows from it.")
    engine: Engine = _MAKES_MAPS
    overwrite: bool = Field(False, description="Replace a report of that name.")


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
    engine: Engine = _MAKES_MAPS
    overwrite: bool = Field(False, description="Replace a comparison of that name.")

    def describe_model(self, side: str) -> dict[str, Any]:
        """The words of `whycam.intake.door.open_classifier` for A or B."""
        own = {name: getattr(self, f"{name}_{side}", None) for name in ModelOptions.model_fields}
        return own | {"device": self.device}
