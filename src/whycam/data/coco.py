"""COCO JSON as it stands: photos, categories, and the objects of each; who asks makes boxes, masks or labels of it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from whycam.errors import UserError, as_clause

# So many photos of a file tell in which folder they are.
_TRIED = 20


@dataclass(frozen=True)
class Coco:
    """A file's content.

    Attributes:
        images: id -> what is said of the photo; each has `file_name`.
        names: id -> category.
        objects: (photo's id, category's id) -> annotations; either id may be unknown.
    """

    images: Mapping[Any, Mapping[str, Any]]
    names: Mapping[Any, str]
    objects: Mapping[tuple[Any, Any], Sequence[Mapping[str, Any]]]


def load_coco(path: Path) -> Coco:
    """The content of a file.

    Raises:
        UserError: no such file, or not COCO's.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        images = {image["id"]: image for image in content["images"]}
        names = {category["id"]: str(category["name"]) for category in content["categories"]}
        _check_ids(path, "photos", "file_name", content["images"])
        _check_ids(path, "categories", "name", content["categories"])
        objects: dict[tuple[Any, Any], list[dict[str, Any]]] = defaultdict(list)
        for one in content["annotations"]:
            objects[one["image_id"], one["category_id"]].append(one)
        for image in images.values():
            str(image["file_name"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise make_coco_error(path, error) from None
    return Coco(images, names, objects)


def _check_ids(path: Path, things: str, word: str, entries: Sequence[Mapping[str, Any]]) -> None:
    """Refuses an id that stands for two things: annotations don't say which."""
    called: dict[Any, str] = {}
    for entry in entries:
        name = str(entry[word])
        if called.setdefault(entry["id"], name) != name:
            raise UserError(
                f"'{path.absolute()}' has two {things} with the id {entry['id']!r}, {called[entry['id']]!r} and "
                f"{name!r}; expected an id for each, by which annotations name them. Number them anew."
            )


def check_known(path: Path, coco: Coco) -> None:
    """Refuses annotations of what the file does not list.

    Raises:
        UserError: there are some.
    """
    for (image, category), objects in coco.objects.items():
        if image in coco.images and category in coco.names:
            continue
        thing, number, place = (
            ("category", category, "categories") if image in coco.images else ("photo", image, "images")
        )
        raise UserError(
            f"'{path.absolute()}' has {len(objects)} annotations of the {thing} {number!r}, which its list of {place} "
            "lacks; expected a photo and a category for each. Add it, or take these annotations away."
        )


def check_names(path: Path, files: Sequence[str]) -> None:
    """Refuses photos' names that lead out of the folder that they are below.

    Raises:
        UserError: one does.
    """
    odd = next((name for name in files if PurePath(name).is_absolute() or ".." in PurePath(name).parts), None)
    if odd is not None:
        raise UserError(
            f"'{path.absolute()}' names the photo '{odd}'; expected names below the folder of the photos, without .. "
            "in them. Correct its file_name; a list (path,label or path,labels) may have whole paths."
        )


def make_coco_error(path: Path, error: Exception) -> UserError:
    """Of a file that is not COCO's."""
    return UserError(
        f"'{path.absolute()}' can't be read as COCO JSON ({type(error).__name__}: {as_clause(error)}); expected "
        "the lists 'images', 'annotations' and 'categories'. Check the file."
    )


def find_photo_folder(path: Path, files: Sequence[str]) -> Path:
    """The folder that a COCO file's photos are below: its own, one in it, the one above, or one in that.

    Of several the first that has most of the first few photos.

    Raises:
        UserError: none of them has one.
    """
    here = path.absolute().parent
    places = [here, *_list_below(here), here.parent, *_list_below(here.parent)]
    tried = [name for name in files if name][:_TRIED]
    counts = [sum((place / name).is_file() for name in tried) for place in places]
    if not any(counts):
        raise UserError(
            f"Found none of the first {len(tried)} photos of '{path.absolute()}' (such as "
            f"'{tried[0] if tried else ''}') below '{here}', '{here.parent}' or a folder in these; expected them "
            "there. Put the file beside the photos."
        )
    return places[counts.index(max(counts))]


def _list_below(folder: Path) -> list[Path]:
    try:
        return sorted(place for place in folder.iterdir() if place.is_dir())
    except OSError:
        return []
