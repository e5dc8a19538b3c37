"""What is asked of a model and its maps."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from whycam.config.base import MAKES_MAPS, MAX_SEED, OVERWRITE, ClusterOptions, Engine, ModelOptions


class ExplainOptions(ModelOptions, ClusterOptions):
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
    engine: Engine = MAKES_MAPS
    overwrite: bool = OVERWRITE
    resume: bool = Field(False, description="Go on with an interrupted output folder of that name.")


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
    overwrite: bool = OVERWRITE


class UnitsOptions(ModelOptions):
    """Which channels `whycam units` shows."""

    units: int = Field(8, ge=1, le=64, description="Channels of the class, the weightiest first.")
    photos: int = Field(6, ge=1, le=32, description="Photos of each channel, those that excite it most.")
    by: Literal["weight", "contribution"] = Field(
        "contribution", description="Rank by the class's weight alone, or by weight times mean activation in FOLDER."
    )
    batch_size: int = Field(16, ge=1, description="Photos a forward pass.")
    overwrite: bool = OVERWRITE


class InspectOptions(ModelOptions):
    """What is said to `whycam inspect` of the model."""

    seed: int = Field(0, ge=0, le=MAX_SEED, description="Which photos are tried, where there are many.")
