"""The photos of a guard: a folder or files, with the model's classes that their folders name, and their masks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from whycam.data.annotations import Annotation, read_photos
from whycam.errors import UserError, join_words, nearest_names
from whycam.explainer.targets import seek_class
from whycam.runs import to_text

_LISTED = 5
PhotosLike = str | Path | Iterable[str | Path | Annotation]


@dataclass(frozen=True)
class Asked:
    """A photo that a model is asked about.

    Attributes:
        photo: with its mask or boxes.
        labels: indices of its class; several where any of them is right; empty where none is known.
    """

    photo: Annotation
    labels: tuple[int, ...] = ()

    @property
    def path(self) -> Path:
        """The file."""
        return self.photo.photo


def read_asked(
    photos: PhotosLike, class_names: Sequence[str] | None = None, masks: str | Path | None = None
) -> list[Asked]:
    """The photos with the classes that their folders name, of the model's.

    Args:
        photos: a folder, CLASS/photo.jpg, val/CLASS/photo.jpg or photos in a heap; or files; or `Annotation`s.
        class_names: the model's; None where the photos' classes don't matter.
        masks: a folder of masks, a .csv of boxes or COCO's .json, of photos in a folder.

    Raises:
        UserError: no photos, masks of none of them, or a folder that is named as no class of the model.
    """
    read = _read_folder(Path(photos), masks) if isinstance(photos, str | Path) else _list_files(photos, masks)
    if class_names is None:
        return [Asked(one) for one in read]
    words = {word for one in read for word in one.classes or ()}
    indices = {word: seek_class(word, class_names) for word in words}
    unknown = sorted(str(word) for word, index in indices.items() if index is None)
    # COCO and the like name all that is on a photo; a folder's name is one class, and a wrong one would be left out.
    if unknown and (len(unknown) == len(words) or not _names_more(masks)):
        raise _make_unknown(unknown, class_names)
    known = [tuple(k for word in one.classes or () if (k := indices[word]) is not None) for one in read]
    return [Asked(one, labels) for one, labels in zip(read, known, strict=True) if labels or not one.classes]


def _read_folder(folder: Path, masks: str | Path | None) -> list[Annotation]:
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise UserError(f"Found {found} at '{folder.absolute()}'; expected a folder of photos. Check the path.")
    if masks is None:
        return read_photos(folder)
    place = Path(masks)
    kind = {".csv": "boxes", ".json": "coco"}.get(place.suffix.lower(), "masks")
    return read_photos(folder, **{kind: place})


def _names_more(masks: str | Path | None) -> bool:
    return masks is not None and Path(masks).suffix.lower() in {".csv", ".json"}


def _list_files(photos: Iterable[str | Path | Annotation], masks: str | Path | None) -> list[Annotation]:
    if masks is not None:
        raise UserError(
            "Found masks beside a list of photos; expected a folder of photos, whose names the masks have. Name the "
            "folder, or pass Annotations with their masks."
        )
    listed = [one if isinstance(one, Annotation) else Annotation(Path(one).absolute()) for one in photos]
    if not listed:
        raise UserError("Found no photos; expected at least one. Name a folder, or files.")
    if gone := next((one.photo for one in listed if not one.photo.is_file()), None):
        raise UserError(f"Found no file '{gone}'; expected a photo. Check the path.")
    return listed


def _make_unknown(unknown: Sequence[str], class_names: Sequence[str]) -> UserError:
    near = [names[0] for word in unknown if (names := nearest_names(word, class_names, 1))]
    hint = f" Did you mean {join_words([repr(name) for name in near[:_LISTED]])}?" if near else ""
    more = f" and {len(unknown) - _LISTED} more" if len(unknown) > _LISTED else ""
    return UserError(
        f"Found photos of {join_words([repr(to_text(word)) for word in unknown[:_LISTED]])}{more}, no class of the "
        f"model; expected folders named as its {len(class_names)} classes "
        f"({', '.join(class_names[:_LISTED])}{', ...' if len(class_names) > _LISTED else ''}). Rename the folders, or "
        f"the model's classes.{hint}"
    )


def tell_left_out(photos: int, what: str) -> list[str]:
    """A sentence on photos that are not measured; none where there are none."""
    return [f"Left out: {photos} photo{'s' if photos > 1 else ''} {what}."] if photos else []
