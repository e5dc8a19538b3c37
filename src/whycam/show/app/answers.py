"""What the JSON API answers, as models: the API's description is made of them.

An `Entry` is what `whycam.show.entries.make_entry` makes and the viewer draws.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class CamelAnswer(BaseModel):
    """Names in JSON are camelCase, as the viewer reads them."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


class Reason(CamelAnswer):
    """Why something was refused."""

    reason: str = Field(description="What was found, what was expected, what to do.")


class BadFile(Reason):
    """A file that could not be explained."""

    file: str


class Fault(Reason):
    """Why a request was refused."""

    files: list[BadFile] = Field([], description="The reason for each file, where it is the files' fault.")


class ErrorAnswer(CamelAnswer):
    """Every answer that is not 2xx."""

    error: Fault


class BoxAnswer(CamelAnswer):
    """A region over the threshold, in photo pixels; x1 and y1 are one past the last pixel."""

    x0: int
    y0: int
    x1: int
    y1: int
    heat: float = Field(description="The share of the map's heat that lies in it.")


class ClassScore(CamelAnswer):
    """A class's score."""

    index: int
    name: str
    logit: float
    probability: float


class ClassBoxes(ClassScore):
    """A class that was asked for, with the boxes around its evidence, the largest first."""

    boxes: list[BoxAnswer]


class PackedMaps(CamelAnswer):
    """Raw maps: value = integer / 32767 * scale."""

    shape: tuple[int, int, int] = Field(description="Classes, rows, columns.")
    scale: list[float] = Field(description="One for each class.")
    data: str = Field(description="Base64 of little-endian int16, in the order of the shape.")


class Entry(CamelAnswer):
    """A photo for the viewer: the asked classes and, of exact maps, the ten best ones, best first."""

    id: str
    name: str
    width: int
    height: int
    image: str = Field(description="The photo as a data address, where photo_px asked for it; else empty.")
    truth: int | None
    classes: list[int]
    logits: list[float]
    probabilities: list[float]
    maps: PackedMaps
    method: str
    notes: list[str] = Field(description="Why a map is blank, flat or not finite.")


class Result(CamelAnswer):
    """One file's explanation, or why there is none."""

    file: str
    error: Reason | None = None
    prediction: ClassScore | None = None
    targets: list[ClassBoxes] = Field([], description="The classes that were asked for.")
    entry: Entry | None = None
    record: dict[str, Any] = Field({}, description="How the maps were made.")


class Results(CamelAnswer):
    """One result for each file, in their order."""

    results: list[Result]


class Boxes(CamelAnswer):
    """The boxes of one class in one photo."""

    file: str
    width: int
    height: int
    target: ClassBoxes
    threshold: float = Field(description="Share of the map's maximum.")


class Health(CamelAnswer):
    """That the server lives."""

    status: str
    model: str
    version: str


class MethodAnswer(CamelAnswer):
    """A map method that works for the model and answers in seconds."""

    name: str
    differs: str
    cost: str
    paper: str


class LimitsAnswer(CamelAnswer):
    """What a request may be."""

    upload_bytes: int
    pixels: int
    files: int
    rate: int = Field(description="Requests a minute; 0: any number.")


class ModelAnswer(CamelAnswer):
    """What the model is: all that the viewer needs beside an entry."""

    name: str
    class_names: list[str]
    is_multi_label: bool = Field(
        description="Several labels may be right at once: probabilities are each label's own, and need not add up to 1."
    )
    thresholds: list[float] | None = Field(
        None, description="Of such labels, from which probability on each is given; null: over one half."
    )
    bias: list[float] | None = Field(description="mean(map) + bias = logit, where maps are exact.")
    identity_error: float | None = Field(description="The largest error of that, as a share of the logits' range.")
    methods: list[MethodAnswer] = Field(description="The default first.")
    engine: str
    record: dict[str, Any]
    colormaps: dict[str, str] = Field(description="Name -> 256 colours of three bytes, in base64.")
    defaults: dict[str, Any]
    limits: LimitsAnswer
