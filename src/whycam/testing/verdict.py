"""Verdict: what became of a guard, the numbers that it rests on, and the photos that speak against the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whycam.testing.rule import LEVEL, Bounds, State, find_bounds, share_level

if TYPE_CHECKING:
    from PIL import Image

# So many photos are named in a message, and drawn.
NAMED = 10
_ROUND = 2
_ORDER = (State.BROKEN, State.INCONCLUSIVE, State.HOLDS)
Panel = tuple[str, "Image.Image"]


@dataclass(frozen=True)
class Worst:
    """A photo that speaks against the model.

    Attributes:
        path: the file.
        note: a few words: how.
        draw: makes its pictures, each with a caption.
        class_name: of the class that it is counted for.
    """

    path: Path
    note: str
    draw: Callable[[], Sequence[Panel]] = field(repr=False, compare=False)
    class_name: str = ""


@dataclass(frozen=True)
class Verdict:
    """See the module.

    Attributes:
        guard: its name, such as looks-at.
        state: holds, broken, or inconclusive.
        told: sentences with the numbers.
        photos: how many it rests on.
        value: what was measured, of all photos or of the class that decides; None where it is no number.
        low, high: its bounds; None where it was not estimated from a sample.
        limit: what was asked for.
        worst: the photos that speak against the model, the worst first.
        notes: sentences: what was left out, how it was measured, what to do.
        numbers: more, by name.
        measured: the number of each photo, where it is judged by those.
    """

    guard: str
    state: State
    told: str
    photos: int
    value: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    worst: tuple[Worst, ...] = ()
    notes: tuple[str, ...] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)
    measured: Measured | None = field(default=None, repr=False, compare=False)

    def fails(self, *, is_strict: bool) -> bool:
        """Whether a test stops at it: it is broken, or, where proof is asked for, not proved."""
        return self.state is State.BROKEN or (is_strict and self.state is State.INCONCLUSIVE)

    def describe(self) -> str:
        """The verdict in lines, as a failure prints them."""
        lines = [f"{self.guard} {'is ' if self.state is not State.HOLDS else ''}{self.state}: {self.told}"]
        lines += [f"  {one.path}: {one.note}" for one in self.worst[:NAMED]]
        if len(self.worst) > NAMED:
            lines.append(f"  and {len(self.worst) - NAMED} more")
        return "\n".join([*lines, *self.notes])

    def to_json(self) -> dict[str, Any]:
        """What guards.json holds of it."""
        numbers = {name: getattr(self, name) for name in ("value", "low", "high", "limit")}
        return {
            "guard": self.guard,
            "state": str(self.state),
            "told": self.told,
            "photos": self.photos,
            **{name: None if value is None else round(value, 6) for name, value in numbers.items()},
            "worst": [{"path": str(one.path), "note": one.note} for one in self.worst],
            "notes": list(self.notes),
            "numbers": dict(self.numbers),
        }


@dataclass(frozen=True)
class Measured:
    """A number in [0, 1] for each photo, that a guard judges by its mean.

    Attributes:
        guard: its name.
        values: (N,).
        classes: N names.
        tell: some of the values -> what they are, such as "37 of 50 photos are right".
    """

    guard: str
    values: np.ndarray
    classes: Sequence[str]
    tell: Callable[[np.ndarray], str]

    def judge(
        self,
        limit: float,
        *,
        each_class: bool,
        worst: Sequence[Worst],
        notes: Sequence[str] = (),
        numbers: Mapping[str, Any] | None = None,
    ) -> Verdict:
        """The verdict; `worst` and what follows are its fields.

        With `each_class` the limit is for all photos together and for those of each class.
        """
        of_class = {name: np.array([one == name for one in self.classes]) for name in sorted(set(self.classes))}
        whole, of_one = share_level(len(of_class)) if each_class else (LEVEL, LEVEL)
        found = {"": find_bounds(self.values, whole)}
        classes = {name: find_bounds(self.values[rows], of_one) for name, rows in of_class.items()}
        found |= classes if each_class else {}
        states = {name: bounds.decide(limit) for name, bounds in found.items()}
        state = min(states.values(), key=_ORDER.index)
        # Told is what decided; of several the lowest.
        name = min((name for name in found if states[name] is state), key=lambda name: (found[name].value, name))
        values, bounds = self.values[of_class[name]] if name else self.values, found[name]
        of_name = f"of {name!r}, " if name else ""
        return Verdict(
            self.guard,
            state,
            f"{of_name}{self.tell(values)}: {tell_bounds(bounds, limit)}",
            len(self.values),
            bounds.value,
            bounds.low,
            bounds.high,
            limit,
            worst=tuple(sorted(worst, key=lambda one: bool(name) and one.class_name != name)),
            notes=(*_tell_lowest(classes, name), *notes),
            numbers={
                "each_class": each_class,
                "all": round_bounds(found[""]),
                "classes": {name: round_bounds(one) for name, one in classes.items()},
                **(numbers or {}),
            },
            measured=self,
        )


def _tell_lowest(classes: Mapping[str, Bounds], told: str) -> list[str]:
    """A sentence on the lowest class, where it is another one than was told of."""
    lowest = min(classes, key=lambda name: (classes[name].value, name))
    if len(classes) < 2 or lowest == told:
        return []
    value, photos = classes[lowest].value, classes[lowest].photos
    return [f"The lowest of {len(classes)} classes is {lowest!r}: {value:.3f} on {photos} photos."]


def tell_bounds(bounds: Bounds, limit: float) -> str:
    """What was measured, how sure it is, and what was asked for; where photos are too few, how many would tell."""
    state = bounds.decide(limit)
    low, high = f"at least {bounds.low:.3f}", f"at most {bounds.high:.3f}"
    sure = {State.HOLDS: low, State.BROKEN: high, State.INCONCLUSIVE: f"{low} and {high}"}[state]
    told = f"{bounds.value:.3f}; {sure} ({LEVEL:.0%} confidence); {limit:.3g} is asked for."
    if state is not State.INCONCLUSIVE:
        return told
    needed = bounds.estimate_needed(limit)
    if needed is None:
        return f"{told} {bounds.photos} photos can't tell: it is so near to the limit that a million would not."
    scale = 10 ** max(0, len(str(needed)) - _ROUND)
    return f"{told} {bounds.photos} photos can't tell; some {-(-needed // scale) * scale:,} with this value would."


def round_bounds(bounds: Bounds) -> dict[str, float | int]:
    """As guards.json holds them."""
    numbers = {name: round(getattr(bounds, name), 6) for name in ("value", "low", "high")}
    return {**numbers, "photos": bounds.photos}
