"""`whycam units`: the channels that a class is made of, each with its own map on the photos that excite it most."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from whycam.config import UnitsOptions
from whycam.data.images import load_image
from whycam.data.loader import in_batches, stream_photos
from whycam.data.samples import write_samples
from whycam.data.walk import find_images
from whycam.errors import make_unreadable_error
from whycam.explainer.model import Model
from whycam.explainer.targets import find_class
from whycam.intake.door import open_classifier
from whycam.jobs.progress import show_progress
from whycam.maps import render
from whycam.model.classifier import Classifier
from whycam.model.cut.output import select_output
from whycam.model.input import normalise_on
from whycam.runs import TableWriter, command_line, open_run, write_json

_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.int32()) for name in ("rank", "unit", "photo_rank")),
        *(pa.field(name, pa.float32()) for name in ("weight", "mean_activation", "contribution", "activation", "peak")),
        pa.field("path", pa.string()),
    ]
)
_TILE_PX, _LABEL_PX, _GAP_PX = 144, 150, 6


@dataclass(frozen=True)
class Outcome:
    """What a finished `whycam units` counts."""

    name: str
    units: int
    photos: int
    unreadable: int


@dataclass
class Survey:
    """What is remembered of each of C channels over any number of photos.

    Attributes:
        total: (C,) sums of mean activations over the photos that the network gives the class, `counted` of them.
        total_all: (C,) the same over all photos, `photos` of them.
        strongest: (C, P) the highest mean activations, and `best`, (C, P), the numbers of their photos.
    """

    total: Tensor
    total_all: Tensor
    strongest: Tensor
    best: Tensor
    paths: list[Path]
    counted: int = 0
    unreadable: int = 0

    @property
    def mean(self) -> Tensor:
        """(C,) mean activation over the class's photos, or over all where the network gives it none."""
        return self.total / self.counted if self.counted else self.total_all / len(self.paths)

    def add(self, activations: Tensor, is_class: Tensor, paths: Sequence[Path]) -> None:
        """Counts photos in: activations (N, C) and whether each is given the class."""
        numbers = torch.arange(len(self.paths), len(self.paths) + len(paths)).expand(activations.shape[1], -1)
        values = torch.cat([self.strongest, activations.T], dim=1)
        self.strongest, order = values.topk(self.strongest.shape[1], dim=1)
        self.best = torch.cat([self.best, numbers], dim=1).gather(1, order)
        self.total += activations[is_class].sum(0)
        self.total_all += activations.sum(0)
        self.counted += int(is_class.sum())
        self.paths.extend(paths)


class Features:
    """The channels that an exact classifier averages; `weight` (K, C) is what it makes its logits with."""

    def __init__(self, classifier: Classifier) -> None:
        self.preprocess, self._device = classifier.card.preprocess, classifier.card.device
        blank = np.zeros((1, 3, self.preprocess.height_px, self.preprocess.width_px), dtype=np.uint8)
        self._cut = classifier.cut(self._normalise(blank), reads_tail=False)
        if self._cut.weight is None:
            raise RuntimeError(f"{classifier.card.name!r} is said to be exact, and its tail is {self._cut.how!r}.")
        self.weight = self._cut.weight.cpu()

    def __call__(self, pixels: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """(N, K) logits and (N, C, h, w) features of the pixels of N photos, each (3, H, W) uint8."""
        logits, features = self._cut.run(self._normalise(np.stack(pixels)))
        return select_output(logits).cpu(), features.cpu()

    def _normalise(self, pixels: np.ndarray) -> Tensor:
        return normalise_on(torch.from_numpy(pixels).to(self._device), self.preprocess)


def show_units(model_name: str, target: str, folder: Path | None, out: Path, options: UnitsOptions) -> Outcome:
    """Writes the sheet and the table of a class's channels; without `folder` on the photos that come with whycam.

    Raises:
        UserError: an unknown model or class, a model without exact maps, no photo that can be read, or an output folder
            that exists.
    """
    with open_run(out, overwrite=options.overwrite) as work, tempfile.TemporaryDirectory(dir=work) as scratch:
        paths = find_images([folder]) if folder else write_samples(Path(scratch))
        model = Model(open_classifier(model_name, **options.describe_model()))
        model.classifier.card.check_exact("Units are channels that a class weighs.")
        features, index = Features(model.classifier), find_class(target, model.class_names)
        survey = survey_photos(features, index, paths, options)
        units = rank_units(features.weight[index], survey, options)
        rows = list(describe_units(features.weight[index], units, survey))
        draw_sheet(features, rows, len(units), options.photos).save(work / "sheet.png")
        with TableWriter(work, "units", _SCHEMA) as table:
            for row in rows:
                table.write(row)
        record = {
            "command": command_line(),
            "model": model.name,
            **model.origin,
            "class": model.class_names[index],
            "photos": len(survey.paths),
            "photos_of_the_class": survey.counted,
            "unreadable": survey.unreadable,
            "options": options.model_dump(mode="json"),
        }
        write_json(work / "record.json", record)
    return Outcome(model.class_names[index], len(units), len(survey.paths), survey.unreadable)


@torch.no_grad()
def survey_photos(read: Features, index: int, paths: Sequence[Path], options: UnitsOptions) -> Survey:
    """Every channel's mean activation in every photo, of which only sums and the highest are kept.

    Raises:
        UserError: not one photo can be read.
    """
    channels = read.weight.shape[1]
    survey = Survey(
        torch.zeros(channels),
        torch.zeros(channels),
        torch.full((channels, options.photos), -torch.inf),
        torch.full((channels, options.photos), -1),
        [],
    )
    with show_progress("looking", len(paths)) as advance:
        for batch in in_batches(stream_photos(paths, read.preprocess), options.batch_size):
            good = [photo for photo in batch if photo.pixels is not None]
            survey.unreadable += len(batch) - len(good)
            if good:
                logits, features = read([photo.pixels for photo in good if photo.pixels is not None])
                survey.add(features.mean(dim=(2, 3)), logits.argmax(1) == index, [photo.path for photo in good])
            advance(len(batch))
    if not survey.paths:
        raise make_unreadable_error(len(paths), paths[0])
    return survey


def rank_units(weights: Tensor, survey: Survey, options: UnitsOptions) -> list[int]:
    """The channels that add most to the class's score, by their weight (C,) alone or times their mean activation."""
    worth = weights * survey.mean if options.by == "contribution" else weights
    return worth.topk(min(options.units, len(worth))).indices.tolist()


def describe_units(weights: Tensor, units: Sequence[int], survey: Survey) -> Iterator[dict[str, Any]]:
    """A row for each channel and photo; `peak` is the channel's highest activation in its photos' maps."""
    mean = survey.mean
    for rank, unit in enumerate(units):
        photos = [number for number in survey.best[unit].tolist() if number >= 0]
        for photo_rank, number in enumerate(photos):
            yield {
                "rank": rank + 1,
                "unit": unit,
                "weight": float(weights[unit]),
                "mean_activation": float(mean[unit]),
                "contribution": float(weights[unit] * mean[unit]),
                "photo_rank": photo_rank + 1,
                "activation": float(survey.strongest[unit, photo_rank]),
                "path": str(survey.paths[number]),
            }


@torch.no_grad()
def draw_sheet(read: Features, rows: list[dict[str, Any]], units: int, photos: int) -> Image.Image:
    """A line for each channel: its number, weight and contribution, and its own map over its photos.

    The heat of a line is scaled by the line's highest activation, which is entered in its rows as `peak`.
    """
    step = _TILE_PX + _GAP_PX
    sheet = Image.new("RGB", (_LABEL_PX + photos * step, units * step), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for line in range(units):
        own = [row for row in rows if row["rank"] == line + 1]
        pictures = [load_image(row["path"]) for row in own]
        maps = [read([read.preprocess.to_pixels(one)])[1][0, own[0]["unit"]].numpy() for one in pictures]
        peak = max(float(values.max()) for values in maps)
        first = own[0]
        text = (
            f"unit {first['unit']}\nweight {first['weight']:+.3f}\nactivation {first['mean_activation']:.3f}\n"
            f"adds {first['contribution']:+.3f}"
        )
        pen.multiline_text((_GAP_PX, line * step + _TILE_PX // 4), text, fill="black", font=font, spacing=5)
        for column, (row, picture, values) in enumerate(zip(own, pictures, maps, strict=True)):
            row["peak"] = peak
            tile = picture.resize((_TILE_PX, _TILE_PX))
            heat = render.resize_map(values.clip(0) / (peak if peak > 0 else 1), (_TILE_PX, _TILE_PX))
            drawn = render.lay_over(tile, heat, render.COLORMAP_POSITIVE, alpha=render.ALPHA, is_signed=False)
            sheet.paste(drawn, (_LABEL_PX + column * step, line * step))
    return sheet
