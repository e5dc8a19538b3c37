"""What people said, in the formats of other tools.

Add a format as one function in `FORMATS`: (edited photos, folder to write into). docs/mend.md says what each tool does
with the files.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from whycam.data.drawn import Drawn, draw_all
from whycam.data.images import read_size
from whycam.mend.state import PhotoState
from whycam.runs import to_json, to_text

# Under which Label Studio serves files of the machine it runs on.
_LOCAL = "/data/local-files/?d="
_PARTS = {"object": "object", "not_object": "not object"}
# How many bits say how long a run of equal values is, in the four sizes that a brush stroke's code may use.
_RUN_BITS = (3, 4, 8, 16)


@dataclass(frozen=True)
class Edited:
    """The photos that people spoke of.

    Attributes:
        root: the folder of photos.
        photos: file, content hash, class of its folder, and what is said of it; those that are still there.
        class_names: all classes, new ones too.
    """

    root: Path
    photos: Sequence[tuple[Path, str, str, PhotoState]]
    class_names: Sequence[str]


def write_csv(edited: Edited, out: Path) -> None:
    """`edits.csv`: a row a photo, with its class now and before, and what is drawn on it as JSON."""
    columns = ("path", "content", "folder_class", "class", "verdict", "object", "not_object", "who", "time", "note")
    with (out / "edits.csv").open("w", encoding="utf-8", newline="", errors="backslashreplace") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        for path, content, before, said in edited.photos:
            verdict = said.verdict
            last = said.edits[-1]
            table.writerow(
                {
                    "path": to_text(path.relative_to(edited.root).as_posix()),
                    "content": content,
                    "folder_class": before,
                    "class": "" if said.is_left_out else said.label or before,
                    "verdict": verdict.kind if verdict else "",
                    "object": _tell_drawn(said.object),
                    "not_object": _tell_drawn(said.not_object),
                    "who": last.who,
                    "time": last.time,
                    "note": last.note or "",
                }
            )


def _tell_drawn(drawn: Sequence[Drawn]) -> str:
    return json.dumps([one.model_dump(mode="json", exclude_defaults=True) for one in drawn]) if drawn else ""


def write_label_studio(edited: Edited, out: Path) -> None:
    """`tasks.json` for Label Studio's import, and `labels.xml`, the labelling interface that it is for."""
    tasks = [_make_task(edited, path, before, said) for path, _, before, said in edited.photos]
    (out / "tasks.json").write_bytes(to_json(tasks, indent=1))
    choices = "".join(f"<Choice value={quoteattr(name)}/>" for name in edited.class_names)
    parts = "".join(f"<Label value={quoteattr(name)}/>" for name in _PARTS.values())
    tools = (("RectangleLabels", "box"), ("PolygonLabels", "polygon"), ("BrushLabels", "brush"))
    drawn = "".join(f'<{tag} name="{name}" toName="image">{parts}</{tag}>' for tag, name in tools)
    (out / "labels.xml").write_text(
        f'<View><Image name="image" value="$image"/><Choices name="class" toName="image">{choices}</Choices>'
        f'<Choices name="use" toName="image"><Choice value="leave out"/></Choices>{drawn}</View>\n',
        encoding="utf-8",
        errors="backslashreplace",
    )


def _make_task(edited: Edited, path: Path, before: str, said: PhotoState) -> dict[str, Any]:
    size = read_size(path)
    name = "use" if said.is_left_out else "class"
    choice = "leave out" if said.is_left_out else said.label or before
    results = [_make_result(name, "choices", {"choices": [choice]})]
    for word, title in _PARTS.items():
        for drawn in getattr(said, word):
            results += _draw_results(drawn, title, size)
    where = quote(to_text(path.relative_to(edited.root).as_posix()))
    return {
        "data": {"image": f"{_LOCAL}{where}"},
        "meta": {"whycam_edits": [edit.id for edit in said.edits]},
        "annotations": [{"result": [{"id": f"r{k}", **one} for k, one in enumerate(results)]}],
    }


def _make_result(name: str, kind: str, value: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"from_name": name, "to_name": "image", "type": kind, "value": dict(value), **more}


def _draw_results(drawn: Drawn, title: str, size: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """One drawing as Label Studio has it: in percents of the photo, brush strokes in the photo's pixels."""
    about = {"original_width": size[0], "original_height": size[1], "image_rotation": 0}
    for x0, y0, x1, y1 in drawn.boxes:
        box = {"x": 100 * x0, "y": 100 * y0, "width": 100 * (x1 - x0), "height": 100 * (y1 - y0), "rotation": 0}
        yield _make_result("box", "rectanglelabels", {**box, "rectanglelabels": [title]}, **about)
    for corners in drawn.polygons:
        points = [[100 * x, 100 * y] for x, y in corners]
        yield _make_result("polygon", "polygonlabels", {"points": points, "polygonlabels": [title]}, **about)
    if drawn.mask is not None:
        mask = Drawn(mask=drawn.mask).draw((size[1], size[0]))
        value = {"format": "rle", "rle": encode_brush(mask), "brushlabels": [title]}
        yield _make_result("brush", "brushlabels", value, **about)


def encode_brush(mask: np.ndarray) -> list[int]:
    """The bytes by which Label Studio stores a brush stroke's mask (H, W) bool.

    Its pixels are RGBA, 255 where the stroke is. Bits, not bytes, follow each other: 32 for how many values there are,
    5 for a value's size less 1, four times 4 for the sizes of a run's length less 1; then for each run of equal values
    a 1, 2 bits for which of these sizes, its length less 1, and the value.
    """
    values = np.repeat(mask.ravel(), 4)
    starts = np.flatnonzero(np.diff(values, prepend=~values[:1]))
    lengths = np.diff(starts, append=len(values))
    longest = 2 ** _RUN_BITS[3]
    bits = [f"{len(values):032b}{7:05b}", *(f"{size - 1:04b}" for size in _RUN_BITS)]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        for done in range(0, length, longest):
            run = min(longest, length - done)
            bits.append(f"1{3:02b}{run - 1:016b}{255 if values[start] else 0:08b}")
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8))


def write_fiftyone(edited: Edited, out: Path) -> None:
    """A FiftyOneImageClassificationDataset, `labels.json` and `data.json`; regions as a detection dataset's labels.

    Photos that are left out have no label; `left_out.json` names them. Of what is drawn FiftyOne gets the boxes around.
    """
    index = {name: label for label, name in enumerate(edited.class_names)}
    kept = [(path, content, before, said) for path, content, before, said in edited.photos if not said.is_left_out]
    labels = {content: index[said.label or before] for _, content, before, said in kept}
    regions = {content: boxes for _, content, _, said in kept if (boxes := list(_box_all(said)))}
    files: dict[str, Any] = {
        "data.json": {content: to_text(path) for path, content, _, _ in edited.photos},
        "labels.json": {"classes": list(edited.class_names), "labels": labels},
        "regions.json": {"classes": list(_PARTS.values()), "labels": regions},
        "left_out.json": [content for _, content, _, said in edited.photos if said.is_left_out],
    }
    for name, content in files.items():
        (out / name).write_bytes(to_json(content, indent=1))


def _box_all(said: PhotoState) -> Iterator[dict[str, Any]]:
    """The box around each drawing: left, top, width and height as fractions."""
    size = 512
    for label, word in enumerate(_PARTS):
        for drawn in getattr(said, word):
            mask = draw_all([drawn], (size, size))
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            x0, y0, x1, y1 = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
            yield {"label": label, "bounding_box": [float(v) / size for v in (x0, y0, x1 - x0, y1 - y0)]}


FORMATS: dict[str, Callable[[Edited, Path], None]] = {
    "csv": write_csv,
    "label-studio": write_label_studio,
    "fiftyone": write_fiftyone,
}
