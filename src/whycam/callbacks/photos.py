"""The fixed set of photos that a training is watched on: files with their classes and masks, and their pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from whycam.data.annotations import Annotation, AnnotationError, read_photos
from whycam.data.folder import sort_names
from whycam.data.loader import load_photo, map_ahead
from whycam.data.preprocess import Preprocess
from whycam.data.regions import find_masks
from whycam.errors import UserError, as_clause, make_unknown_name, make_unreadable_error
from whycam.runs import to_text

PICTURE_PX = 360
PhotosLike = str | Path | Mapping[str | Path, str | int]


@dataclass(frozen=True)
class Labelled:
    """Files and their classes.

    Attributes:
        class_names: K names.
        paths: N files.
        truths: N class indices.
        names: N names to show.
        masks: photo -> mask picture, in which all but 0 counts.
    """

    class_names: tuple[str, ...]
    paths: tuple[Path, ...]
    truths: tuple[int, ...]
    names: tuple[str, ...]
    masks: Mapping[Path, Path]


@dataclass(frozen=True)
class WatchedPhotos:
    """The photos that could be read.

    Attributes:
        names: N names to show.
        paths: N files.
        truths: (N,) class indices.
        pixels: (N, 3, H, W) uint8, the network's input before normalisation.
        pictures: N small RGB pictures, their longer side 360 px at the most.
        sizes: N times (width, height) of the photo in pixels.
        masks: N times (H, W) bool, True on the object; None where there is no mask that fits.
        unreadable: (name, why) of the others, and of masks that do not fit.
    """

    names: tuple[str, ...]
    paths: tuple[Path, ...]
    truths: np.ndarray
    pixels: np.ndarray
    pictures: tuple[Image.Image, ...]
    sizes: tuple[tuple[int, int], ...]
    masks: tuple[np.ndarray | None, ...]
    unreadable: tuple[tuple[str, str], ...]


def list_labelled(photos: PhotosLike, class_names: Sequence[str] | None, masks: str | Path | None) -> Labelled:
    """The files of a folder CLASS/photo.jpg (or val/CLASS/..), or of a mapping photo -> class (name or index).

    Without `class_names` they are those of the folder, or of the mapping, in order of name.

    Raises:
        UserError: no photos, no classes, a class that is none of `class_names`, masks of no photo.
    """
    if isinstance(photos, Mapping):
        found = {Path(path).absolute(): label for path, label in photos.items()}
        root = None
    else:
        root = Path(photos)
        found = {one.photo: one.classes[0] if one.classes else "" for one in read_photos(root)}
    if not found:
        raise UserError(
            "Found no photos to watch; expected at least one with its class. Give a folder CLASS/photo.jpg."
        )
    if "" in found.values():
        raise UserError(
            f"Found photos without class folders in '{root and root.absolute()}'; expected CLASS/photo.jpg of two "
            "classes or more. Move each photo into the folder of its class, or give a mapping {photo: class}."
        )
    words = {label for label in found.values() if isinstance(label, str)}
    names = tuple(class_names) if class_names is not None else tuple(sort_names(words))
    truths = tuple(_find_class(label, names) for label in found.values())
    paths = tuple(found)
    shown = tuple(to_text(_shorten(path, root)) for path in paths)
    found_masks = (
        {} if masks is None else find_masks(Path(masks), paths, root.absolute() if root else Path(paths[0].anchor))
    )
    return Labelled(names, paths, truths, shown, found_masks)


def _find_class(label: str | int, names: Sequence[str]) -> int:
    if isinstance(label, str):
        if label not in names:
            raise make_unknown_name("class of a photo", label, names)
        return names.index(label)
    if not 0 <= label < len(names):
        raise UserError(
            f"A photo has the class {label}; expected 0 to {len(names) - 1}, as there are {len(names)} class names. "
            "Give class_names, one for each output of the model."
        )
    return int(label)


def _shorten(path: Path, root: Path | None) -> Path:
    if root is None:
        return Path(*path.parts[-2:])
    return path.relative_to(root.absolute()) if path.is_relative_to(root.absolute()) else path


def read_watched(labelled: Labelled, preprocess: Preprocess) -> WatchedPhotos:
    """Their pixels; those that can't be read are named with the reason.

    Raises:
        UserError: not one can be read.
    """
    size = (preprocess.height_px, preprocess.width_px)
    unreadable: list[tuple[str, str]] = []
    rows = []
    loaded = map_ahead(lambda path: load_photo(path, preprocess, keep_image=True), labelled.paths, ahead=4)
    for photo, name, truth in zip(loaded, labelled.names, labelled.truths, strict=True):
        if photo.image is None or photo.pixels is None:
            unreadable.append((name, photo.error))
            continue
        mask = None
        if photo.path in labelled.masks:
            try:
                mask = Annotation(photo.path, mask=labelled.masks[photo.path]).fit(photo.image.size, size).region
            except AnnotationError as error:
                unreadable.append((name, f"{as_clause(error)}; its heat is not counted on masks"))
        rows.append((name, photo.path, truth, photo.pixels, _shrink(photo.image), photo.image.size, mask))
    if not rows:
        raise make_unreadable_error(len(labelled.paths), labelled.paths[0])
    names, paths, truths, pixels, pictures, sizes, masks = zip(*rows, strict=True)
    return WatchedPhotos(names, paths, np.array(truths), np.stack(pixels), pictures, sizes, masks, tuple(unreadable))


def _shrink(photo: Image.Image) -> Image.Image:
    small = photo.convert("RGB")
    small.thumbnail((PICTURE_PX, PICTURE_PX))
    return small
