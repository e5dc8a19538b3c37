"""A model asked about the classes alone that it shares with another: both then choose among the same ones."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from whycam.errors import UserError
from whycam.explainer.exact import choose_stand_in
from whycam.explainer.targets import to_probabilities, to_sides
from whycam.intake.door import open_classifier
from whycam.model.classifier import Classifier

if TYPE_CHECKING:
    from whycam.explainer.model import Model

_TOLD = 5


@dataclass(frozen=True)
class Answers:
    """What a model says of B photos, on S shared classes.

    Attributes:
        logits: (B, S).
        maps: (B, S, h, w), mean(map) + bias = logit; None without exact maps.
        is_own: (B,) whether the class that the model would choose of all of its own is a shared one.
    """

    logits: np.ndarray
    maps: np.ndarray | None
    is_own: np.ndarray

    @property
    def named(self) -> np.ndarray:
        """(B,): of the shared classes the one with the highest score."""
        best: np.ndarray = self.logits.argmax(1)
        return best


@dataclass(frozen=True, eq=False)
class SharedModel:
    """See the module; asked from several threads.

    Attributes:
        classifier: the model.
        class_names: S names.
        columns: (S,) where those classes are among the model's own; of a single logit, its two sides.
    """

    classifier: Classifier
    class_names: tuple[str, ...]
    columns: np.ndarray
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def name(self) -> str:
        """What it was loaded by."""
        return self.classifier.card.name

    @property
    def is_exact(self) -> bool:
        """Whether it has exact maps."""
        return self.classifier.card.is_exact

    @property
    def left_out(self) -> tuple[str, ...]:
        """Its classes that are not shared."""
        return tuple(name for name in list_sides(self.classifier) if name not in set(self.class_names))

    @cached_property
    def bias(self) -> np.ndarray | None:
        """(S,): mean(map) + bias = logit; None without exact maps."""
        if (bias := self.classifier.bias) is None:
            return None
        values: np.ndarray = to_sides(np.array([bias], dtype=np.float64))[0, self.columns]
        return values

    @property
    def stand_in(self) -> str:
        """The method of its maps."""
        return "cam" if self.is_exact else choose_stand_in(self.classifier.card)

    def read(self, pixels: np.ndarray) -> Answers:
        """Its answers for pixels (B, 3, H, W) uint8, with maps where these are exact."""
        if not self.is_exact:
            return self._choose(self.classifier.scores(pixels), None)
        answer = self.classifier.read(pixels)
        return self._choose(answer.logits, to_sides(answer.maps)[:, self.columns])

    def score(self, pixels: np.ndarray) -> Answers:
        """Its answers for pixels (B, 3, H, W) uint8, without maps."""
        return self._choose(self.classifier.scores(pixels), None)

    def _choose(self, logits: np.ndarray, maps: np.ndarray | None) -> Answers:
        every = to_sides(logits)
        return Answers(every[:, self.columns], maps, np.isin(every.argmax(1), self.columns))

    def explain(self, pixels: np.ndarray, wanted: Sequence[int]) -> tuple[np.ndarray, list[int]]:
        """Maps (T, h, w) of one photo (3, H, W) by the method that stands in for exact ones, and their classes.

        Of a single logit there is the map of the side that it names, whatever is wanted.
        """
        from whycam.explainer.model import Model  # noqa: PLC0415 - torch, which exact maps do without

        is_single = len(self.classifier.card.class_names) == 1
        targets = [0] if is_single else [int(self.columns[k]) for k in wanted]
        # A network changes its state while a method runs.
        with self._lock:
            why: Any = Model(self.classifier).explain_pixels(pixels[None], targets, self.stand_in)
        own = [int(to_sides(why.logits.detach().cpu().numpy())[0, self.columns].argmax())]
        return why.maps[0].detach().cpu().numpy(), own if is_single else list(wanted)

    def to_probabilities(self, logits: np.ndarray) -> np.ndarray:
        """(B, S): how sure it is of each shared class, as if there were no other; of labels, of each one by itself."""
        return to_probabilities(logits, self.classifier.card.output)


def list_sides(classifier: Classifier) -> tuple[str, ...]:
    """The names of its classes; of a single logit, of its two sides."""
    names = classifier.card.class_names
    return (f"not {names[0]}", names[0]) if len(names) == 1 else names


def share_classes(a: Classifier, b: Classifier) -> tuple[str, ...]:
    """The names of the classes that both have, in A's order.

    Raises:
        UserError: fewer than two.
    """
    known = set(list_sides(b))
    shared = tuple(name for name in list_sides(a) if name in known)
    if len(shared) >= 2:
        return shared
    found = "no class" if not shared else f"one class alone, {shared[0]!r},"
    raise UserError(
        f"Found {found} that both models have by name: {a.card.name!r} has {_list(a)}, {b.card.name!r} has {_list(b)}; "
        "expected two or more in common. Where they mean the same by other names, say so: --classes-a FILE or "
        "--classes-b FILE, a name a line (in Python load(..., class_names=))."
    )


def _list(classifier: Classifier) -> str:
    names = list_sides(classifier)
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return ", ".join(map(repr, names[:_TOLD])) + more


def share_model(classifier: Classifier, class_names: tuple[str, ...], role: str) -> SharedModel:
    """The model on these classes.

    Raises:
        UserError: it lacks one of them; `role` says in the message what the model is there for.
    """
    places = {name: k for k, name in enumerate(list_sides(classifier))}
    if missing := [name for name in class_names if name not in places]:
        raise UserError(
            f"{role} {classifier.card.name!r} has other classes: {_list(classifier)}, and not {missing[0]!r}; expected "
            f"those that are compared: {', '.join(map(repr, class_names[:_TOLD]))}. Name runs of the same training."
        )
    return SharedModel(classifier, class_names, np.array([places[name] for name in class_names]))


def open_any(model: Model | Classifier | object, engine: str, photos: int) -> Classifier:
    """The classifier of what `whycam.load` gives or takes, ready for so many photos, asked by several threads at once.

    Raises:
        UserError: no such model; see `open_classifier`.
    """
    found = model if isinstance(model, Classifier) else getattr(model, "classifier", None)
    if isinstance(found, Classifier):
        return found.having(engine=engine, photos=photos)
    return open_classifier(model, engine=engine, photos=photos, threads=1)
