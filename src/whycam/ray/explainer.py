"""Explainer: a batch of photos to the columns that explain them, by a model that stays open; for `map_batches`.

It imports no Ray: any pipeline that hands dicts of arrays to an object can use it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from whycam import __version__
from whycam.config import ExplainOptions
from whycam.data.images import ImageError, image_from_pil
from whycam.data.loader import Photo, in_batches, load_photo
from whycam.data.preprocess import Preprocess
from whycam.data.samples import make_probe
from whycam.data.sources import Source
from whycam.errors import UserError
from whycam.explainer.reading import Reading
from whycam.jobs.photo_files import needs_photo
from whycam.jobs.readers import Reader, choose_reader, open_reader, read_how
from whycam.model.classifier import MANY
from whycam.model.sent import SentClassifier

# How many of the best classes each photo's row names.
TOP = 5
Columns = dict[str, np.ndarray]


class Explainer:
    """Columns with a photo a row -> the same without the photo, with what explains it.

    The photo is the first of these columns that is there: `pixels` (3, H, W) uint8, the network's input before it is
    normalised; `image` (H, W, 3) uint8 of any size; `bytes` of a file; `path`, a path or an address.

    A row gets `target_index` (T,), `p_target` and `logit` (T,); `top_index` and `p_top` of the `top` likeliest classes;
    `predicted`, the name of the first; `maps` (T, h, w) float32, raw and signed as `whycam explain` writes them;
    `boxes`, JSON, a list for each target; `width_px`, `height_px`; `note`; and `error`. Of a photo that can't be read
    `error` says why, indices are -1 and numbers NaN.
    """

    def __init__(
        self,
        model: str = "",
        *,
        sent: SentClassifier | Callable[[], SentClassifier] | None = None,
        top: int = TOP,
        version: str = __version__,
        **options: Any,
    ) -> None:
        """Opens the model and explains two photos of its own, by which a wrong option is told before any of yours.

        Args:
            model: see `whycam.load`.
            sent: a classifier in its place, or what gets it.
            top: how many of the likeliest classes each row names.
            version: of WhyCAM on the machine that asks.
            options: those of `whycam explain`, such as target="top:3", versus, method, batch_size.

        Raises:
            UserError: an unknown model, class, method or option, or another version of WhyCAM.
        """
        check_version(version, __version__)
        self.options = check_options(ExplainOptions.model_validate(options))
        self.reader = open_sent(sent, self.options) if sent else open_reader(model, self.options, MANY)
        self.form = read_form(self.reader, top)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> Columns:
        """See the class; rows go through the network in groups of `batch_size`, from the first row on.

        Raises:
            UserError: none of the columns that hold a photo.
        """
        name = next((name for name in ("pixels", "image", "bytes", "path") if name in batch), None)
        if name is None:
            raise UserError(
                f"Found the columns {', '.join(batch)}; expected one of pixels, image, bytes or path to hold the "
                "photo. Rename yours: ds.rename_columns({'jpeg': 'bytes'})."
            )
        found = self.form.make_columns(len(batch[name]))
        start = 0
        for rows in in_batches(self._open_rows(batch, name), self.options.batch_size):
            self._explain(rows, found, start)
            start += len(rows)
        kept = {key: values for key, values in batch.items() if key != name or name == "path"}
        return {**kept, **found}

    def _open_rows(self, batch: Mapping[str, np.ndarray], name: str) -> Iterator[Photo]:
        for i, value in enumerate(batch[name]):
            path = Path(str(batch["path"][i])) if "path" in batch else Path(f"row {i}")
            if name == "pixels":
                error = str(batch["error"][i]) if "error" in batch else ""
                size = (int(batch["width_px"][i]), int(batch["height_px"][i])) if "width_px" in batch else None
                yield Photo(path, None if error else value, error=error, size_px=size or value.shape[:0:-1])
            elif name == "image":
                yield _prepare(path, value, self.reader.preprocess)
            else:
                yield load_photo(path, self.reader.preprocess, read=partial(_read_file, name, value))

    def _explain(self, rows: Sequence[Photo], found: Columns, start: int) -> None:
        good = [i for i, photo in enumerate(rows) if photo.pixels is not None]
        for i, photo in enumerate(rows):
            found["error"][start + i] = photo.error
        if good:
            readings = self.reader(np.stack([rows[i].pixels for i in good]), [None] * len(good))  # type: ignore[misc]
            for i, reading in zip(good, readings, strict=True):
                self.form.fill(found, start + i, reading, rows[i].size_px)


@dataclass(frozen=True)
class Form:
    """What every row of a model and a question looks like.

    Attributes:
        shape: (T, h, w) of the maps.
        top: how many of the likeliest classes are named.
        record: how the maps are made.
    """

    shape: tuple[int, ...]
    top: int
    record: Mapping[str, Any]

    def make_columns(self, rows: int) -> Columns:
        """Those of photos that can't be read."""
        targets = self.shape[0]
        texts = {name: np.full(rows, "", dtype=object) for name in ("predicted", "boxes", "note", "error")}
        return {
            "target_index": np.full((rows, targets), -1, np.int32),
            "p_target": np.full((rows, targets), np.nan, np.float32),
            "logit": np.full((rows, targets), np.nan, np.float32),
            "top_index": np.full((rows, self.top), -1, np.int32),
            "p_top": np.full((rows, self.top), np.nan, np.float32),
            "maps": np.full((rows, *self.shape), np.nan, np.float32),
            "width_px": np.zeros(rows, np.int32),
            "height_px": np.zeros(rows, np.int32),
            **texts,
        }

    def fill(self, found: Columns, row: int, reading: Reading, size_px: tuple[int, int] | None) -> None:
        """Writes one photo's reading into its row."""
        # Heat and boxes have the photo's own size.
        reading = replace(reading, size_px=size_px)
        best = np.argsort(-reading.logits, kind="stable")[: self.top]
        boxes = [[asdict(box) for box in reading.boxes(t)] for t in range(len(reading.targets))]
        values = {
            "target_index": reading.targets,
            "p_target": reading.probabilities[reading.targets],
            "logit": reading.logits[reading.targets],
            "top_index": best,
            "p_top": reading.probabilities[best],
            "maps": reading.maps,
            "predicted": reading.name(reading.predicted),
            "boxes": json.dumps(boxes),
            "note": " ".join(reading.notes),
        }
        for name, value in values.items():
            found[name][row] = value
        found["width_px"][row], found["height_px"][row] = reading.find_size()


def read_form(reader: Reader, top: int = TOP) -> Form:
    """The form of a reader's rows, by two photos of its own.

    Raises:
        UserError: an unknown class, or a target that has no index.
    """
    probe = make_probe(reader.preprocess)
    first = reader(probe, [None] * len(probe))[0]
    return Form(first.maps.shape, min(top, len(first.class_names)), first.record)


def check_options(options: ExplainOptions) -> ExplainOptions:
    """The options, where rows of a table can hold all that they ask for.

    Raises:
        UserError: pictures, or maps that are refined on the photo itself.
    """
    asked = [name for name in ("overlays", "heatmaps") if name in options.model_fields_set and getattr(options, name)]
    if asked or (options.refine and needs_photo(options)):
        word = "refine" if options.refine else asked[0]
        raise UserError(
            f"--{word} draws on the photos themselves; expected a question that small raw maps answer, which is what "
            f"workers write. Leave it out, find the photos that matter in the table, and run whycam explain on those."
        )
    return options


def check_version(asks: str, answers: str) -> None:
    """Refuses to let two versions of WhyCAM make one table.

    Raises:
        UserError: they differ.
    """
    if asks != answers:
        raise UserError(
            f"A worker has WhyCAM {answers}; expected {asks}, as where the command runs. Install the same version on "
            f"every machine: pip install 'whycam[ray]=={asks}'."
        )


def open_sent(sent: SentClassifier | Callable[[], SentClassifier], options: ExplainOptions) -> Reader:
    """The reader of a classifier that was sent."""
    given = sent() if callable(sent) else sent
    return choose_reader(given.open(threads=1), options.target, read_how(options))


def _read_file(column: str, value: object) -> Path | bytes:
    return Source(str(value), "", str(value)).read() if column == "path" else bytes(value)  # type: ignore[call-overload]


def _prepare(path: Path, image: np.ndarray, preprocess: Preprocess) -> Photo:
    from PIL import Image  # noqa: PLC0415 - only those who decode photos themselves need it

    try:
        photo = image_from_pil(Image.fromarray(np.asarray(image, dtype=np.uint8)))
        return Photo(path, preprocess.to_pixels(photo), size_px=photo.size)
    except (ImageError, TypeError, ValueError) as error:
        return Photo(path, error=f"'{path}' is no (H, W, 3) array of uint8: {error}")
