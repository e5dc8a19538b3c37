"""What is kept while photos go by two models: few numbers of each, and the maps of some flips."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from whycam.data.annotations import Annotation
from whycam.errors import UserError, as_clause
from whycam.explainer.targets import seek_class
from whycam.metrics.pairs.reader import KINDS, Flip, Item, Look, PairReader, Seen
from whycam.metrics.pairs.shared_model import SharedModel, list_sides
from whycam.metrics.pairs.training_runs import is_same
from whycam.model.classifier import Classifier

_TOLD = 5


@dataclass
class Gathered:
    """Filled photo by photo.

    Attributes:
        limit: so many flips keep their maps.
        items: the photos that were read.
        named: what A, B and the runs name, of each of them.
        unreadable: (file, why).
        evidence: finding -> (what A, what B draws from its place), a photo each.
        outside: of A and of B, photos for which it would choose a class that is not shared.
        miss: the largest |mean(change) + bias - change of the logit|, and the largest range of a photo's logits.
    """

    limit: int
    items: list[Item] = field(default_factory=list)
    named: list[tuple[int, ...]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    evidence: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    outside: list[int] = field(default_factory=lambda: [0, 0])
    miss: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        self._flips: list[Flip] = []
        self._looks: list[tuple[tuple[int, float], int, Look]] = []

    def add(self, seen: Seen) -> None:
        """Counts a photo; of one that flips, all but the maps is kept in any case."""
        if seen.error:
            self.unreadable.append((str(seen.item.path), seen.error))
            return
        self.items.append(seen.item)
        self.named.append(seen.named)
        self.miss = max(self.miss[0], seen.miss[0]), max(self.miss[1], seen.miss[1])
        for k, is_own in enumerate(seen.is_own):
            self.outside[k] += not is_own
        for key, pair in seen.evidence.items():
            self.evidence[key].append(pair)
        if seen.flip is not None:
            self._keep(seen.flip)

    def _keep(self, flip: Flip) -> None:
        if flip.look is not None:
            rank = (-KINDS.index(flip.kind), flip.p_a + flip.p_b)
            heapq.heappush(self._looks, (rank, len(self._flips), flip.look))
            if len(self._looks) > self.limit:
                heapq.heappop(self._looks)
        self._flips.append(replace(flip, look=None))

    @property
    def identity_error(self) -> float:
        """By how much the maps' change misses that of the logits, as a share of the logits' range."""
        return self.miss[0] / max(self.miss[1], 1e-12)

    @property
    def flips(self) -> tuple[Flip, ...]:
        """In the order of the photos."""
        looks = {place: look for _, place, look in self._looks}
        return tuple(replace(flip, look=looks.get(place)) for place, flip in enumerate(self._flips))


def find_labels(
    photos: Sequence[Annotation], models: Sequence[Classifier], class_names: Sequence[str]
) -> tuple[list[Item], list[str]]:
    """The photos to read with their shared classes, and sentences on those that are left out.

    Args:
        photos: whose classes are named, or are indices of the first model's.
        models: A and B.
        class_names: the shared ones.

    Raises:
        UserError: classes are named, and none of them is shared.
    """
    places = {name: k for k, name in enumerate(class_names)}
    known: dict[str | int, int | None] = {}
    items, left = [], Counter[str]()
    for one in photos:
        if one.classes is None:
            items.append(Item(one.photo, -1))
            continue
        for word in one.classes:
            if word not in known:
                known[word] = _seek(word, models, places)
        label = next((known[word] for word in one.classes if known[word] is not None), None)
        if label is None:
            left[str(one.classes[0]) if one.classes else "no class"] += 1
        else:
            items.append(Item(one.photo, label))
    if not items:
        raise UserError(
            f"Not one of the {len(left)} folders ({', '.join(sorted(left)[:_TOLD])}, ...) is named as one of the "
            f"{len(class_names)} classes that both models have ({', '.join(class_names[:_TOLD])}, ...). Rename the "
            "folders, or put all photos into one folder to compare without labels."
        )
    listed = _list([f"{name} ({count})" for name, count in left.most_common()])
    return items, [f"Left out, as not both models have their class: {left.total()} photos of {listed}."] if left else []


def _seek(word: str | int, models: Sequence[Classifier], places: Mapping[str, int]) -> int | None:
    """The shared class that a word means to the first of the models that knows it."""
    for model in models:
        names = list_sides(model)
        if (k := seek_class(word, names)) is not None and names[k] in places:
            return places[names[k]]
    return None


def tell_models(reader: PairReader, gathered: Gathered) -> list[str]:
    """Sentences: classes that are not shared, what that does, and what maps are not exact."""
    notes = []
    for who, model, outside in zip("AB", (reader.a, reader.b), gathered.outside, strict=True):
        if model.left_out:
            notes.append(
                f"Left out, as {who} alone has them: {_list(model.left_out)}. {who} is asked for the best of the "
                f"{len(model.class_names)} classes that both have; of {outside:,} photos it would itself name another."
            )
        if model.classifier.card.is_multi_label:
            notes.append(f"{who} gives several labels at once: what counts here is the strongest.")
        if not model.is_exact:
            notes.append(
                f"{who} has no exact maps ({_tell_why(model)}). So a change has no map here: {who}'s own are by "
                f"{model.stand_in}, which says where the score comes from, not how much of it."
            )
    if all(name == f"class {k}" for k, name in enumerate(reader.a.class_names)):
        notes.append("The classes are numbers: that they mean the same to both models is taken for granted.")
    return notes


def _tell_why(model: SharedModel) -> str:
    """Why it has no exact maps, without the remedies."""
    reason = model.classifier.card.tell_exactness().removeprefix("no: ")
    return as_clause(reason.partition(". ")[0])


def tell_audit(audit: Mapping[str, Any] | None, reader: PairReader, gathered: Gathered) -> list[str]:
    """Sentences: whose the audit is, where it is of neither model, and which places no photo has."""
    if audit is None:
        return []
    made = (audit.get("record") or {}).get("model")
    notes = []
    if made is not None and not any(made == one.name or is_same(made, one.name) for one in (reader.a, reader.b)):
        notes.append(f"The audit is of {made!r}, by its record, and not of A or B: its places are measured in both.")
    if not reader.is_exact:
        return [*notes, "What A and B draw from the places of findings is not measured: that takes exact maps of both."]
    unseen = [one.key for one in reader.findings if one.key not in gathered.evidence]
    return [*notes, f"Not measured, as none of these photos has their place: {_list(unseen)}."] if unseen else notes


def _list(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_TOLD]) + (f" and {len(names) - _TOLD} more" if len(names) > _TOLD else "")
