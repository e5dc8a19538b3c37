"""`whycam explain`: any number of photos to overlays, heatmaps, raw maps and one table, with flat memory.

Each batch is decoded, explained, drawn and written by one of a few threads, in parts that have no more pixels than the
threads' share of `data.budget`; a journal of the rows that are done lies in
the unfinished folder, so that `--resume` goes on, and the table is made of it at the end.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from whycam.config import ClusterOptions, ExplainOptions
from whycam.data.budget import BUDGET
from whycam.data.images import ImageError
from whycam.data.loader import Photo, count_pixels, in_batches, in_weighed_batches, load_photo, map_ahead
from whycam.data.sources import Source, find_sources, name_sources
from whycam.errors import UserError, make_unreadable_error
from whycam.explainer.reading import Reading
from whycam.jobs.outputs import Destination, choose_destination
from whycam.jobs.photo_files import (
    NUMBERS,
    REMARKS,
    TEXTS,
    WHOLE_NUMBERS,
    list_folders,
    needs_photo,
    write_reading,
)
from whycam.jobs.progress import show_progress
from whycam.jobs.readers import Reader, open_reader
from whycam.maps import render
from whycam.runs import TableWriter, command_line, open_run, to_json, write_json

_JOURNAL, _STATE, _NAMES, _RECORD = ".rows.jsonl", ".state.json", ".names.json", "record.json"
_WORKERS = max(2, os.cpu_count() or 2)
Rows = list[dict[str, Any]]
# A photo and its file or bytes, or why there are none.
Item = tuple[Source, Path | bytes | ImageError]


@dataclass(frozen=True)
class Outcome:
    """What a finished `whycam explain` counts; `doubles` are photos that were named again, by a run on a cluster."""

    photos: int
    unreadable: int
    out: str
    doubles: int = 0


def explain_files(model_name: str, inputs: Sequence[str], out: str, options: ExplainOptions) -> Outcome:
    """Explains photos into the folder `out`; memory does not grow with their number.

    Args:
        model_name: see `whycam.load`.
        inputs: see `find_sources`.
        out: a folder, or the address of one.
        options: what is explained, and how it is drawn.

    Raises:
        UserError: no photos, an unknown model, class or method, an output folder that exists, a full disk, or not one
            photo that can be read.
    """
    sources = find_sources(inputs)
    render.check_colormap(options.colormap)
    destination = choose_destination(out, overwrite=options.overwrite)
    with open_run(destination.folder, overwrite=options.overwrite, resume=options.resume, keep=_JOURNAL) as folder:
        _check_state(folder, {"model": model_name, "inputs": list(inputs), "options": _describe(options)})
        sources = _name(sources, folder / _NAMES)
        done = _read_done(folder / _JOURNAL)
        left = [source for source in sources if source.path not in done]
        reader = open_reader(model_name, options, len(left))
        for name in list_folders(options):
            (folder / name).mkdir(exist_ok=True)
        work = _Work(reader, folder, options, destination)
        work.run(left, total=len(sources))
        unreadable = _write_table(folder)
        if unreadable == len(sources):
            (folder / _JOURNAL).unlink()
            raise make_unreadable_error(len(sources), sources[0].path)
        _write_record(folder, options, reader, photos=len(sources), unreadable=unreadable)
        for name in (_JOURNAL, _STATE, _NAMES):
            (folder / name).unlink()
        destination.finish(folder)
    destination.clean()
    return Outcome(len(sources), unreadable, out)


class _Work:
    """One run: batches through decoding, reading and writing, by several threads."""

    def __init__(self, reader: Reader, folder: Path, options: ExplainOptions, destination: Destination) -> None:
        self.reader, self.folder, self.options, self.destination = reader, folder, options, destination
        self._lock = threading.Lock()

    def run(self, sources: Sequence[Source], *, total: int) -> None:
        """Adds a line to the journal for each photo, in order."""
        batches = in_batches(sources, self.options.batch_size)
        with show_progress("explaining", total) as advance:
            advance(total - len(sources))
            for rows_of in map_ahead(self._explain, batches, workers=_WORKERS, ahead=2 * _WORKERS):
                # Opened anew each time: there is a journal only where something is done.
                with (self.folder / _JOURNAL).open("ab") as journal:
                    journal.writelines(map(to_json, rows_of))
                advance(len(rows_of))

    def _explain(self, batch: Sequence[Source]) -> list[Rows]:
        """The rows of each photo, whose files are written."""
        rows_of = []
        for part in in_weighed_batches(self._weigh(batch), len(batch), BUDGET.pixels // _WORKERS):
            with BUDGET.hold(sum(pixels for _, pixels in part)):
                rows_of += self._explain_part([item for item, _ in part])
        return rows_of

    def _weigh(self, batch: Sequence[Source]) -> Iterator[tuple[Item, int]]:
        """Each photo with the pixels that it will fill memory with until it is drawn."""
        is_drawn = list_folders(self.options) != ["maps"] or needs_photo(self.options)
        for source in batch:
            try:
                place = source.read()
            except ImageError as error:
                yield (source, error), 0
            else:
                yield (source, place), count_pixels(place) if is_drawn else 0

    def _explain_part(self, part: Sequence[Item]) -> list[Rows]:
        photos = [self._decode(*item) for item in part]
        good = [photo for photo in photos if photo.pixels is not None]
        readings: Iterator[Reading] = iter(())
        if good:
            pixels = np.stack([photo.pixels for photo in good if photo.pixels is not None])
            found = self.reader(pixels, [photo.image for photo in good])
            readings = iter(found)
            self._remember(found[0].record)
        rows_of = []
        for (source, _), photo in zip(part, photos, strict=True):
            if photo.pixels is None:
                rows_of.append([{"path": source.path, "error": photo.error}])
                continue
            reading = replace(next(readings), size_px=photo.size_px)
            rows = write_reading(reading, source, self.folder, self.options)
            self.destination.send(self.folder, rows)
            rows_of.append(rows)
        return rows_of

    def _decode(self, source: Source, place: Path | bytes | ImageError) -> Photo:
        if isinstance(place, ImageError):
            return Photo(Path(source.path), error=str(place))
        keep_image = needs_photo(self.options)
        return load_photo(Path(source.path), self.reader.preprocess, keep_image=keep_image, read=lambda: place)

    def _remember(self, record: Mapping[str, Any]) -> None:
        path = self.folder / _RECORD
        with self._lock:
            if not path.exists():
                write_json(path, dict(record))


def _describe(options: ExplainOptions) -> dict[str, Any]:
    """The options that decide what is written."""
    return options.model_dump(mode="json", exclude={"overwrite", "resume", "batch_size", *ClusterOptions.model_fields})


def _check_state(folder: Path, state: dict[str, Any]) -> None:
    """Refuses to go on with what was begun another way.

    Raises:
        UserError: the unfinished folder is of other photos, another model or other options.
    """
    path = folder / _STATE
    if path.is_file():
        begun = json.loads(path.read_text(encoding="utf-8"))
        if other := [name for name, value in state.items() if begun.get(name) != value]:
            raise UserError(
                f"The unfinished '{folder}' was begun with another value of: {', '.join(other)}. "
                "Give the same command with --resume, or leave --resume out to start anew."
            )
    write_json(path, state)


def _name(sources: Sequence[Source], path: Path) -> list[Source]:
    """The sources with the names of their files, which a resumed run keeps, whatever photos have come since."""
    named = list(sources)
    if path.is_file():
        named = name_sources(sources, json.loads(path.read_text(encoding="utf-8")))
    write_json(path, {source.path: source.name for source in named})
    return named


def _read_rows(journal: Path) -> Iterator[Rows]:
    """The rows of each photo that is done; a line that a kill has cut off is none, wherever it was cut."""
    if journal.is_file():
        with journal.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield json.loads(line)


def _read_done(journal: Path) -> set[str]:
    """The paths that are done; the journal is left without a line that was cut off."""
    if not journal.is_file():
        return set()
    part = journal.with_suffix(".part")
    done = set()
    with part.open("wb") as whole:
        for rows in _read_rows(journal):
            done.add(rows[0]["path"])
            whole.write(to_json(rows))
    part.replace(journal)
    return done


def _write_table(folder: Path) -> int:
    """The table of all rows; how many photos could not be read."""
    import pyarrow as pa  # noqa: PLC0415 - slow to import, and not needed before the end

    is_said = (folder / _RECORD).is_file()
    has_several = is_said and "output" in json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    schema = pa.schema(
        [
            *(pa.field(name, pa.string()) for name in (*TEXTS, *(["given"] if has_several else []))),
            *(pa.field(name, pa.int32()) for name in WHOLE_NUMBERS),
            *(pa.field(name, pa.float32()) for name in NUMBERS),
            *(pa.field(name, pa.string()) for name in REMARKS),
        ]
    )
    unreadable = 0
    with TableWriter(folder, "explanations", schema) as table:
        for rows in _read_rows(folder / _JOURNAL):
            unreadable += any(row.get("error") for row in rows)
            for row in rows:
                table.write(row)
    return unreadable


def _write_record(folder: Path, options: ExplainOptions, reader: Reader, *, photos: int, unreadable: int) -> None:
    path = folder / _RECORD
    write_json(
        path,
        {
            "command": command_line(),
            "photos": photos,
            "unreadable": unreadable,
            "options": options.model_dump(mode="json"),
            "class_names": list(reader.class_names),
            **json.loads(path.read_text(encoding="utf-8")),
        },
    )
