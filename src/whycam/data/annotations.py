"""Where the objects are: boxes from CSV, masks from a folder, both from COCO JSON; fitted to the network's input.

A new format is one function here that gives a list of `Annotation`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from whycam.data.coco import check_known, load_coco, make_coco_error
from whycam.data.csv_file import open_csv
from whycam.data.folder import Sample
from whycam.data.listed import is_listed, read_labels, refuse_listed
from whycam.data.walk import find_images, walk_photos
from whycam.errors import UserError, as_clause
from whycam.runs import to_text

Box = tuple[float, float, float, float]
# What columns of a CSV are called, the most exact name first.
_PHOTO = ("file", "image", "path", "photo", "filename")
_BOXES = ("boxes_file", "boxes", "box", "bbox")
_CLASS = ("imagenet", "label", "class")
_SIZES = (("file_w", "file_h"), ("w", "h"), ("width", "height"))
_CORNERS = ("x0", "y0", "x1", "y1")
_VAL_NAMES = ("val", "valid", "validation", "test")
_EIGHT = np.ones((3, 3))


class AnnotationError(UserError):
    """An annotation that doesn't fit its photo; the photo is left out of what needs it, and counted."""


@dataclass(frozen=True)
class Truth:
    """Where the object of one photo's class is, in pixels of the network's input.

    Attributes:
        size: (H, W).
        boxes: (B, 4) x0, y0, x1, y1, B >= 1; x1 and y1 as in the file, scaled.
        mask: (H, W) bool, where there is one.
    """

    size: tuple[int, int]
    boxes: np.ndarray
    mask: np.ndarray | None = None

    @cached_property
    def region(self) -> np.ndarray:
        """(H, W) bool: the mask; without one, the boxes filled."""
        if self.mask is not None:
            return self.mask
        filled = np.zeros(self.size, dtype=bool)
        for x0, y0, x1, y1 in self.boxes:
            left, top = int(x0), int(y0)
            filled[top : max(top + 1, round(y1)), left : max(left + 1, round(x1))] = True
        return filled


@dataclass(frozen=True)
class Annotation:
    """What is known of one photo.

    Attributes:
        photo: the file.
        classes: names or indices of its class, as the source says them; several where any of them is right; None:
            not said; empty: none that the network could know.
        boxes: x0 y0 x1 y1 in pixels of the photo.
        mask: a file, or a function of nothing that gives (height, width) bool.
        mask_value: the pixel value of the class in the mask; None: all but 0.
        size: (width, height) of the photo that the annotation was made on, where said.
        is_whole: classes go together, and `classes` are all that the photo has.
    """

    photo: Path
    classes: tuple[str | int, ...] | None = None
    boxes: tuple[Box, ...] = ()
    mask: Path | Callable[[], np.ndarray] | None = None
    mask_value: int | None = None
    size: tuple[int, int] | None = None
    is_whole: bool = False

    @property
    def has_truth(self) -> bool:
        """Whether it says where the object is."""
        return bool(self.boxes) or self.mask is not None

    def fit(self, photo: tuple[int, int], size: tuple[int, int]) -> Truth:
        """The same in pixels of the network's input.

        Args:
            photo: (width, height) of the photo as decoded.
            size: (H, W) of the input, into which the whole photo is squashed.

        Raises:
            AnnotationError: made for a photo of another size, a mask of another size or empty, boxes outside.
        """
        if self.size is not None and self.size != photo:
            raise AnnotationError("made for a photo of another size")
        mask = None if self.mask is None else self._read_mask(photo)
        boxes = self.boxes or (_find_boxes(mask) if mask is not None else ())
        scale = np.array([size[1] / photo[0], size[0] / photo[1]] * 2)
        inside = np.array([_clip(box, photo) for box in boxes]) * scale
        fitted = None
        if mask is not None:
            fitted = np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))
        return Truth(size, inside, fitted)

    def _read_mask(self, photo: tuple[int, int]) -> np.ndarray:
        if callable(self.mask):
            mask = self.mask()
        else:
            try:
                with Image.open(self.mask or "") as picture:
                    values = np.asarray(picture)
            except OSError as error:
                raise AnnotationError(f"mask can't be read ({type(error).__name__})") from None
            values = values.max(axis=2) if values.ndim == 3 else values
            mask = values > 0 if self.mask_value is None else values == self.mask_value
        if mask.shape != photo[::-1]:
            raise AnnotationError("mask of another size than the photo")
        if not mask.any():
            raise AnnotationError("mask without a pixel of the class")
        return mask


def _clip(box: Box, photo: tuple[int, int]) -> Box:
    x0, y0, x1, y1 = box
    clipped = (max(0.0, x0), max(0.0, y0), min(float(photo[0]), x1), min(float(photo[1]), y1))
    if not (clipped[0] < clipped[2] and clipped[1] < clipped[3]):
        raise AnnotationError("box outside the photo, or without area")
    return clipped


def _find_boxes(mask: np.ndarray) -> tuple[Box, ...]:
    """A box around each connected part (8 neighbours) of a mask."""
    from scipy import ndimage  # noqa: PLC0415 - slow to import, and photos without masks do without

    parts = ndimage.find_objects(ndimage.label(mask, structure=_EIGHT)[0])
    return tuple((float(x.start), float(y.start), float(x.stop), float(y.stop)) for y, x in parts)


def to_annotation(sample: str | Path | Sample | Annotation) -> Annotation:
    """What is known of a photo that is named by its path, or with its label."""
    if isinstance(sample, Annotation):
        return sample
    if isinstance(sample, Sample):
        return Annotation(sample.path, (sample.label,))
    return Annotation(Path(sample))


def read_both(folder: Path, *, is_multi_label: bool = False) -> tuple[list[Annotation], list[Annotation]]:
    """The photos of a folder, those of val/ where there is one, and the ones in train/ beside them; or those of a list.

    Photos of a list whose classes go together have them all in `classes`, none to several, and `is_whole`.

    Args:
        folder: a folder, a list or shards.
        is_multi_label: read a list's labels as `--multi-label` does.

    Raises:
        UserError: no photos.
    """
    if is_listed(folder):
        found = read_labels(folder, is_multi_label=is_multi_label)
        split: dict[str, list[Annotation]] = {"val": [], "": []}
        for path, label in found.labels.items():
            one = (
                Annotation(path, (label,)) if found.sets is None else Annotation(path, found.sets[path], is_whole=True)
            )
            split["val" if found.splits[path] == "val" else ""].append(one)
        return (split["val"], split[""]) if split["val"] else (split[""], [])
    photos, train = read_photos(folder), folder / "train"
    is_beside = train.is_dir() and not any(train.absolute() in annotation.photo.parents for annotation in photos)
    return photos, read_photos(train) if is_beside else []


def read_photos(
    folder: Path, *, boxes: Path | None = None, masks: Path | None = None, coco: Path | None = None
) -> list[Annotation]:
    """The photos of a folder with what is known of them: CLASS/photo, val/CLASS/photo, or all in one heap.

    Photos that the file of boxes, or of COCO, does not name keep the class of their folder and have no boxes; photos
    that it names with several classes come once for each.

    Raises:
        UserError: no photos; a file that can't be read, or that names no photo of the folder.
    """
    refuse_listed(folder)
    root = next((folder / name for name in _VAL_NAMES if (folder / name).is_dir()), folder)
    photos = {path.absolute(): Annotation(path.absolute(), name_class(path, root)) for path in find_images([root])}
    top = {annotation.classes for annotation in photos.values()}
    if len(top) < 2 or None in top:  # one sub-folder, such as images/, is no class
        photos = {path: replace(annotation, classes=None) for path, annotation in photos.items()}
    if masks is not None:
        return _add_masks(photos, masks, (root, folder))
    if boxes is not None:
        return _join(photos, read_boxes(boxes), boxes, folder)
    if coco is not None:
        return _join(photos, read_coco(coco), coco, folder)
    return list(photos.values())


def name_class(path: Path, root: Path) -> tuple[str] | None:
    """The folder below the root that a photo is in, as its class; None where it is in none."""
    below = path.absolute().relative_to(root.absolute()).parts
    return (to_text(below[0]),) if len(below) > 1 else None


def _join(
    photos: Mapping[Path, Annotation], found: Sequence[Annotation], source: Path, folder: Path
) -> list[Annotation]:
    """Annotations put to their photos: by path from the source or the folder, else by a name that is unique."""
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in photos:
        by_name[path.name].append(path)
    rows: dict[Path, list[Annotation]] = defaultdict(list)
    for one in found:
        places = [(base / one.photo).absolute() for base in (source.parent, folder)]
        same = by_name.get(one.photo.name, [])
        place = next((p for p in places if p in photos), same[0] if len(same) == 1 else None)
        if place is not None:
            rows[place].append(replace(one, photo=place))
    if not rows:
        raise UserError(
            f"Not one of the {len(found)} photos that '{source.absolute()}' names is among the {len(photos)} in "
            f"'{folder.absolute()}' (it names '{found[0].photo if found else ''}'). Check the folder."
        )
    joined = []
    for path, plain in photos.items():
        for one in rows.get(path, [plain]):
            joined.append(one if one.classes is not None else replace(one, classes=plain.classes))
    return joined


def list_masks(folder: Path) -> dict[str, Path]:
    """Path below the folder, without its suffix -> the picture.

    Raises:
        UserError: no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"Found no folder '{folder.absolute()}'; expected one of mask pictures. Check the path.")
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in walk_photos(folder)}


def _add_masks(photos: Mapping[Path, Annotation], masks: Path, roots: Sequence[Path]) -> list[Annotation]:
    files = list_masks(masks)
    joined = []
    for path, plain in photos.items():
        stems = [path.relative_to(root.absolute()).with_suffix("").as_posix() for root in roots]
        joined.append(replace(plain, mask=next((files[stem] for stem in (*stems, path.stem) if stem in files), None)))
    if not any(one.mask for one in joined):
        raise UserError(
            f"Found {len(files)} masks in '{masks.absolute()}' and none of the name of a photo; expected PHOTO.png "
            "beside PHOTO.jpg, in the same sub-folders or in none. Rename them."
        )
    return joined


def read_boxes(path: Path) -> list[Annotation]:
    """A CSV with a photo and its boxes in each row; photos as named there.

    Columns: `file` (or image, path, photo); `boxes` (or box, boxes_file) as "x0 y0 x1 y1;..." in pixels, or x0, y0,
    x1, y1; and, where there are any, `label` (or class, imagenet), `w` and `h`, `mask` and `mask_value`.

    Raises:
        UserError: no such file, or a column or a box that is not there.
    """
    with open_csv(path, "expected a CSV of boxes") as table:
        rows = list(table)
    columns = _find_columns(list(rows[0]) if rows else [], path)
    found = []
    for number, row in enumerate(rows, start=2):
        try:
            found.append(_read_row(row, columns, path))
        except ValueError as error:
            raise UserError(
                f"Line {number} of '{path.absolute()}' has a value that is no number: {as_clause(error)}."
            ) from None
    return found


@dataclass(frozen=True)
class _Columns:
    """What the columns of a CSV are called; those that may be missing are None."""

    photo: str
    boxes: str | None
    label: str | None
    size: tuple[str, str] | None


def _find_columns(columns: Sequence[str], path: Path) -> _Columns:
    photo, boxes, label = (next((n for n in names if n in columns), None) for names in (_PHOTO, _BOXES, _CLASS))
    if photo is None or (boxes is None and not set(_CORNERS) <= set(columns)):
        raise UserError(
            f"'{path.absolute()}' has the columns {', '.join(columns) or 'none'}; expected 'file' and 'boxes' "
            "(\"x0 y0 x1 y1;...\" in pixels), or 'file', 'x0', 'y0', 'x1', 'y1'. Rename them."
        )
    return _Columns(photo, boxes, label, next((pair for pair in _SIZES if set(pair) <= set(columns)), None))


def _read_row(row: Mapping[str, str], columns: _Columns, path: Path) -> Annotation:
    text = row[columns.boxes] if columns.boxes else " ".join(row[name] for name in _CORNERS)
    classes = None
    if columns.label is not None:
        # A column `imagenet` may name several classes; others hold one name, with or without blanks.
        words = row[columns.label].split() if columns.label == "imagenet" else filter(None, [row[columns.label]])
        classes = tuple(words)
    width, height = (row[name] for name in columns.size) if columns.size else ("", "")
    return Annotation(
        Path(row[columns.photo]),
        classes,
        _read_corners(text),
        path.parent / row["mask"] if row.get("mask") else None,
        int(row["mask_value"]) if row.get("mask_value") else None,
        (int(width), int(height)) if width and height else None,
    )


def _read_corners(text: str) -> tuple[Box, ...]:
    boxes = []
    for part in filter(str.strip, text.split(";")):
        x0, y0, x1, y1 = (float(word) for word in part.replace(",", " ").split())
        boxes.append((x0, y0, x1, y1))
    return tuple(boxes)


def read_coco(path: Path) -> list[Annotation]:
    """COCO JSON: one annotation for each photo and category, with all its boxes, and its mask where every one has some.

    Raises:
        UserError: no such file, not COCO's, or annotations of a photo or a category that it does not list.
    """
    coco = load_coco(path)
    check_known(path, coco)
    try:
        return [
            _join_objects(coco.images[image], coco.names[category], found)
            for (image, category), found in coco.objects.items()
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise make_coco_error(path, error) from None


def _join_objects(image: Mapping[str, Any], name: str, objects: Sequence[Mapping[str, Any]]) -> Annotation:
    boxes = tuple((x, y, x + w, y + h) for x, y, w, h in (one["bbox"] for one in objects if "bbox" in one))
    parts = [one.get("segmentation") for one in objects]
    size = (int(image["width"]), int(image["height"]))
    mask = (lambda: draw_segments(parts, size)) if all(parts) else None
    return Annotation(Path(image["file_name"]), (name,), boxes, mask, size=size)


def draw_segments(parts: Sequence[Any], size: tuple[int, int]) -> np.ndarray:
    """(height, width) bool: the union of COCO segmentations, polygons or run lengths, of a photo (width, height)."""
    union = np.zeros(size[::-1], dtype=bool)
    for part in parts:
        if isinstance(part, Mapping):
            counts = part["counts"]
            runs = _read_runs(counts) if isinstance(counts, str) else counts
            values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
            if values.size != union.size:
                raise AnnotationError("mask of another size than the photo")
            union |= values.reshape(size).T
        else:
            picture = Image.new("1", size)
            for polygon in part:
                ImageDraw.Draw(picture).polygon([float(v) for v in polygon], fill=1)
            union |= np.asarray(picture)
    return union


def _read_runs(text: str) -> list[int]:
    """COCO's compressed run lengths: 5 bits a character, a 6th if more follow; differences from the fourth on."""
    runs: list[int] = []
    value = shift = 0
    for character in text.encode():
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return runs
