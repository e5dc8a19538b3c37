"""How a classifier is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from whycam.config.base import MAX_SEED, OVERWRITE, Device, Options

Head = Literal["linear", "conv"]


class TrainOptions(Options):
    """How `whycam train` makes a classifier from a folder of photos."""

    recipe: Literal["default", "vgg16-gap"] = Field(
        "default", description="A named set of options; those given beside it win. vgg16-gap: the original experiment."
    )
    backbone: str = Field(
        "imagenet", description="'imagenet' (the installed network), imagenet-lite1, imagenet-lite2 or any timm name."
    )
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
        None, description="The classes in their order, a name a line, all that the photos have [by name]."
    )
    multi_label: bool = Field(
        False,
        description="Classes go together: a list's column label names several, between ; or |. Lists with a column "
        "labels, or 0 and 1 for each class, and COCO JSON say it themselves. See docs/training.md.",
    )
    threshold: str = Field(
        "f1",
        description="Of --multi-label: from which probability on a class is given. f1: each class's own, with the "
        "highest F1 on held-out photos; or a number for all, such as 0.5.",
    )
    val_fraction: float = Field(0.2, gt=0, lt=1, description="Share held out where FOLDER has no train/ and val/.")
    test: Path | None = Field(
        None,
        description="Photos to test the finished model on, once: a folder for each class, a list or shards. Nothing is "
        "chosen on them.",
    )
    tta: bool = Field(
        False, description="Tell the accuracy with the mirror image averaged in, too; explain --smooth flips does so."
    )
    allow_empty: bool = Field(
        False, description="Train without the classes of which fewer than 2 photos can be read, instead of stopping."
    )
    epochs: int = Field(40, ge=1, description="Epochs of the head at the most.")
    steps_per_epoch: int | None = Field(None, ge=1, description="Batches an epoch [all photos once].")
    batch_size: int = Field(32, ge=1, description="Photos a step.")
    lr: float = Field(3e-3, gt=0, description="Learning rate of the head (Adam).")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="How the learning rate goes.")
    patience: int = Field(12, ge=0, description="Stop after this many epochs without a better one; 0: never.")
    choose_on: Literal["slice", "val", "last"] = Field(
        "slice",
        description="What chooses the epoch. slice: a fifth of the training photos, so that held-out ones choose "
        "nothing. val: the held-out ones. last: nothing, the last is kept.",
    )
    val_photos: int | None = Field(
        None,
        ge=1,
        description="Photos that measure an epoch; the best few epochs and the last are measured on all that choose "
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
    finetune_decay: float = Field(
        1.0, gt=0, le=1, description="A layer's learning rate over that of the next one up, in --unfreeze; 1: the same."
    )
    ema: float | None = Field(
        None, gt=0, lt=1, description="Keep a moving average of the weights of --unfreeze and --scratch, such as 0.99."
    )
    randaugment: int = Field(
        0, ge=0, le=10, description="Strength of RandAugment on the views of --unfreeze and --scratch; 0: none."
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of each target that all classes have alike, such as 0.1."
    )
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
    seed: int = Field(0, ge=0, le=MAX_SEED, description="Split, order, views and initial weights follow from it.")
    device: Device = Field("auto", description="auto takes a GPU where there is one.")
    cache_dir: Path | None = Field(None, description="Where features are kept [the user's cache folder].")
    overwrite: bool = OVERWRITE
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
        # As the original did; to choose on a slice would train its head twice.
        "choose_on": "val",
    },
}


def make_train_options(**given: object) -> TrainOptions:
    """Options from the caller's words: defaults, under the recipe, under what is given.

    Raises:
        pydantic.ValidationError: a value out of its range, or an option that does not exist.
    """
    recipe = RECIPES.get(str(given.get("recipe", "default")), {})
    return TrainOptions.model_validate({**recipe, **given})
