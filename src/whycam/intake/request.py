"""What is said of a model beside its name, and what a kind of model makes of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from whycam.data.csv_file import make_letters_error
from whycam.data.preprocess import NAMED, Preprocess
from whycam.errors import UserError, as_clause, make_unknown_name, tell_wrong_value, with_article
from whycam.model.card import Card
from whycam.model.runtime import Runtime

if TYPE_CHECKING:
    from torch import nn


# Of files that hold a model, or a part of one: a name that ends so is no network's.
SUFFIXES = {".onnx", ".keras", ".h5", ".hdf5", ".pt2", ".pt", ".pth", ".pkl", ".bin", ".safetensors", ".ckpt"}
SUFFIXES |= {".ts", ".torchscript", ".py", ".pb", ".tflite"}


log = logging.getLogger("whycam.intake")


@dataclass(frozen=True)
class Request:
    """A model that somebody asks for.

    Attributes:
        model: a name, a path, a module or a function.
        weights: a file, for a name or for the user's own code.
        class_names: K names, or a file with one a line; None takes the model's own, else numbers.
        preprocess: one of `NAMED`, a JSON file of a Preprocess, a Preprocess, or a transform of torchvision or timm;
            None takes what the model says.
        image_size: side of the input in pixels; None takes what the model says.
        device: where a module computes.
        threads: that one call of a graph uses; None takes one for each core.
    """

    model: object
    weights: Path | None = None
    class_names: Sequence[str] | Path | None = None
    preprocess: object = None
    image_size: int | None = None
    device: str = "cpu"
    threads: int | None = None

    @property
    def name(self) -> str:
        """What it is called in results."""
        if isinstance(self.model, str | Path):
            return str(self.model)
        return getattr(self.model, "__name__", type(self.model).__name__)

    @property
    def is_plain(self) -> bool:
        """Whether the name alone says which model it is, and how it is asked."""
        said = (self.weights, self.class_names, self.preprocess, self.image_size)
        return isinstance(self.model, str | Path) and all(one is None for one in said)

    def refuse(self, kind: str, *words: str) -> None:
        """Refuses what this kind of model has no use for.

        Raises:
            UserError: one of the options was given.
        """
        for word in words:
            if getattr(self, word) is not None:
                option = {"class_names": "classes"}.get(word, word.replace("_", "-"))
                raise UserError(
                    f"{self.name!r} is {with_article(kind)}, which says by itself what --{option} would say; found it "
                    "beside. Leave it out."
                )

    def name_classes(self, count: int, known: Sequence[str] | None = None, where: str = "the model") -> tuple[str, ...]:
        """The names of `count` classes: the caller's, else those that the model knows, else numbers.

        Raises:
            UserError: as many names as there are not classes, or one of them twice.
        """
        given = self.class_names
        if isinstance(given, Path):
            where, names = f"'{given}'", read_classes(given)
        else:
            names = list(given if given is not None else known or (f"class {k}" for k in range(count)))
            where = "class_names" if given is not None else where
        if len(names) != count:
            raise UserError(
                f"{where} has {len(names)} class names; {self.name!r} has {count} outputs. Give {count} names, one for "
                "each output, in their order (--classes FILE, a name a line)."
            )
        twice = sorted({name for name in names if names.count(name) > 1}) if count <= 10_000 else []
        if twice:
            raise UserError(f"{where} names {twice[0]!r} more than once; expected {count} different names.")
        return tuple(names)

    def choose_preprocess(
        self, size: tuple[int, int] | None, known: Preprocess | None, where: str, *, channels: int = 3
    ) -> tuple[Preprocess, str]:
        """From a photo to the input, and where that is known from.

        Args:
            size: (height, width) that the model takes, in pixels; None where it takes any.
            known: what the model says of itself, if anything.
            where: in words.
            channels: of the input.

        Raises:
            UserError: neither the caller nor the model says it.
        """
        given = self.preprocess
        if given is None and known is None:
            raise UserError(
                f"{self.name!r} does not say how its photos were prepared, and a wrong guess would spoil every map in "
                f"silence. Give --preprocess {'|'.join(NAMED)} or a JSON file (in Python preprocess=); "
                "`whycam inspect MODEL PHOTOS` tries them on photos in class folders."
            )
        if given is None:
            found, told = known, where
        else:
            found, told = read_preprocess(given), "as given"
            if known is not None and not _is_alike(found, known):
                log.warning(
                    "%r says by itself how to prepare photos (%s); --preprocess overrides it.", self.name, where
                )
        assert found is not None  # noqa: S101 - one of the two is there
        side = (self.image_size, self.image_size) if self.image_size else size
        changes: dict[str, Any] = {}
        if side is None and isinstance(given, str) and given in NAMED:
            told = f"as given; its size of {found.height_px} px by habit, as nobody says another (--image-size)"
        if side is not None:
            changes = {"height_px": side[0], "width_px": side[1]}
        if channels == 1:
            changes["channels"] = "grey"
        return found.model_copy(update=changes), told


def _is_alike(one: Preprocess, other: Preprocess) -> bool:
    """Whether pixels become the same numbers."""
    return (one.channels, one.mean, one.std) == (other.channels, other.mean, other.std)


def read_classes(path: Path) -> list[str]:
    """The names in a file, one a line.

    Raises:
        UserError: no such file, or not one name.
    """
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise make_letters_error(path, error, "expected a text file, a class name a line") from None
    except OSError as error:
        raise UserError(
            f"'{path}' can't be read as class names ({as_clause(error)}); expected a text file in UTF-8, a name a line."
        ) from None
    if not names:
        raise UserError(f"'{path}' is empty; expected a class name a line, in the order of the model's outputs.")
    return names


def read_preprocess(given: object) -> Preprocess:
    """A preprocessing by its name, from a JSON file, or of a transform.

    Raises:
        UserError: an unknown name, a file that is no Preprocess, or a transform that can't be read.
    """
    if isinstance(given, Preprocess):
        return given
    if isinstance(given, str | Path):
        word = str(given)
        if word in NAMED:
            return Preprocess(**NAMED[word])
        if not word.endswith(".json"):
            raise make_unknown_name("preprocessing", word, [*NAMED, "FILE.json"])
        try:
            return Preprocess.model_validate_json(Path(word).read_bytes())
        except (OSError, ValueError) as error:
            raise UserError(
                f"'{word}' can't be read as a preprocessing ({_tell_first(error)}); expected JSON such as "
                f"{Preprocess().model_dump_json()}."
            ) from None
    from whycam.intake.transform import read_transform  # noqa: PLC0415 - torchvision, for who gives a transform

    return read_transform(given)


def _tell_first(error: OSError | ValueError) -> str:
    """Why; of the faults in a description, the first."""
    if not isinstance(error, ValidationError):
        return as_clause(error)
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {tell_wrong_value(first)}".removeprefix(": ")


@dataclass(frozen=True)
class Found:
    """A model as it came in.

    Attributes:
        card: what is known of it.
        network: the module in eval mode, or what loads it, or what runs a model that is none.
    """

    card: Card
    network: nn.Module | Callable[[], nn.Module] | Runtime

    def describing(self, **card: Any) -> Found:
        """The same with other entries in its card."""
        return replace(self, card=replace(self.card, **card))


@dataclass(frozen=True)
class Kind:
    """A kind of model.

    Attributes:
        name: in a word or two, as a user would say it.
        is_it: whether a request is for one; it looks at names and the first bytes of files, and loads nothing.
        open: makes it; its UserErrors say what is wrong with this one.
    """

    name: str
    is_it: Callable[[Request], bool]
    open: Callable[[Request], Found]


def as_path(request: Request) -> Path | None:
    """The file or folder that is asked for; None where it is none that exists."""
    if not isinstance(request.model, str | Path):
        return None
    path = Path(request.model)
    return path if path.exists() else None
