"""compare(): two models on the same photos: who wins by how much, which photos flip, and where the change lies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whycam.data.annotations import Annotation, read_photos, to_annotation
from whycam.data.folder import Sample
from whycam.errors import UserError, make_unreadable_error
from whycam.metrics.groups import find_interval
from whycam.metrics.pairs.finding_evidence import PlacedFinding, place_findings
from whycam.metrics.pairs.gathered import Gathered, find_labels, tell_audit, tell_models
from whycam.metrics.pairs.paired import Change, correct, measure_change
from whycam.metrics.pairs.reader import KINDS, Flip, PairReader, Picture
from whycam.metrics.pairs.seeds import SeedNoise, measure_noise
from whycam.metrics.pairs.shared_model import SharedModel, open_any, share_classes, share_model
from whycam.metrics.pairs.training_runs import sort_runs
from whycam.metrics.pooling import Estimate, estimate
from whycam.runs import read_result

if TYPE_CHECKING:
    from whycam.explainer.model import Model
    from whycam.model.classifier import Classifier

Progress = Callable[[int], None]


@dataclass(frozen=True)
class ClassChange:
    """One class: with labels its own photos that are named rightly, without them the photos that are given to it.

    Attributes:
        name: the class.
        photos: its own; without labels all.
        share_a, share_b: how many of them A and B name so.
        change: the paired difference.
        p: corrected for all classes (Holm).
    """

    name: str
    photos: int
    share_a: float
    share_b: float
    change: Change
    p: float


@dataclass(frozen=True)
class FindingChange:
    """What A and B draw from the place of a finding, for its class, in units of the logit.

    Attributes:
        finding: see there.
        a, b: means over the photos, with 95 % intervals.
        change: B's less A's, photo by photo.
    """

    finding: PlacedFinding
    a: Estimate
    b: Estimate
    change: Estimate


@dataclass(frozen=True)
class Comparison:
    """Two models on N photos.

    Attributes:
        a, b: the models, on the classes that both have.
        runs: those that the noise of seeds is measured by.
        paths: N files.
        labels: (N,) index of the true class; -1 where it is not known.
        named: (2 + R, N) the classes that A, B and the runs name, among those that both have.
        flips: photos that A and B name differently; those in which most is at stake have their maps.
        evidence: finding -> rows (what A, what B draws from its place), a photo each.
        findings: those that were measured.
        unreadable: (file, why).
        outside: of A and of B, photos for which the model itself would choose a class that is not shared.
        belongs: A is a run of the training that the noise is measured by.
        notes: sentences: what was left out, and why.
        identity_error: the largest |mean(change) + bias - change of the logit| as a share of the logits' range.
    """

    a: SharedModel
    b: SharedModel
    runs: tuple[SharedModel, ...]
    paths: tuple[Path, ...]
    labels: np.ndarray
    named: np.ndarray
    flips: tuple[Flip, ...]
    evidence: Mapping[str, Sequence[tuple[float, float]]]
    findings: tuple[PlacedFinding, ...]
    unreadable: tuple[tuple[str, str], ...]
    outside: tuple[int, int]
    belongs: bool
    notes: tuple[str, ...]
    identity_error: float | None

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Those that both have."""
        return self.a.class_names

    @property
    def is_labelled(self) -> bool:
        """Whether the class of some photo is known, and so who is right."""
        return bool((self.labels >= 0).any())

    @property
    def is_exact(self) -> bool:
        """Whether both models have exact maps, and a change so has one."""
        return self.a.is_exact and self.b.is_exact

    @cached_property
    def accuracy(self) -> tuple[float, float] | None:
        """A's and B's, on the photos whose class is known; None without."""
        rows = self.labels >= 0
        if not rows.any():
            return None
        right = (self.named[:2, rows] == self.labels[rows]).mean(1)
        return float(right[0]), float(right[1])

    @cached_property
    def difference(self) -> Change | None:
        """B's accuracy less A's; None without labels."""
        rows = self.labels >= 0
        return measure_change(*(self.named[:2, rows] == self.labels[rows])) if rows.any() else None

    @cached_property
    def agreement(self) -> tuple[float, float, float]:
        """The share of photos that both name alike, with its 95 % interval (Wilson)."""
        same = int((self.named[0] == self.named[1]).sum())
        return same / len(self), *find_interval(same, len(self))

    @cached_property
    def counts(self) -> dict[str, int]:
        """Kind of flip -> photos."""
        found = Counter(flip.kind for flip in self.flips)
        return {kind: found[kind] for kind in KINDS if found[kind] or (kind != KINDS[-1]) == self.is_labelled}

    @cached_property
    def pairs(self) -> list[tuple[str, str, int]]:
        """(A's class, B's class, photos) of the flips, the most frequent first."""
        found = Counter((flip.a, flip.b) for flip in self.flips)
        return [(a, b, count) for (a, b), count in sorted(found.items(), key=lambda one: (-one[1], one[0]))]

    @cached_property
    def classes(self) -> tuple[ClassChange, ...]:
        """The classes, the clearest change first; see `ClassChange`."""
        rows = []
        for k, name in enumerate(self.class_names):
            own = self.labels == k if self.is_labelled else np.ones(len(self), dtype=bool)
            a, b = self.named[:2, own] == k
            if len(a) and (self.is_labelled or a.any() or b.any()):
                change = measure_change(a, b)
                rows.append(ClassChange(name, len(a), float(a.mean()), float(b.mean()), change, change.p))
        chances = correct([row.p for row in rows])
        found = [replace(row, p=p) for row, p in zip(rows, chances, strict=True)]
        return tuple(sorted(found, key=lambda row: (row.p, -abs(row.change.value), row.name)))

    @cached_property
    def noise(self) -> SeedNoise | None:
        """What of the difference seeds alone explain; None where no runs were named."""
        if not self.runs:
            return None
        return measure_noise(self.named[:2], self.named[2:], self.labels, belongs=self.belongs)

    @cached_property
    def finding_changes(self) -> tuple[FindingChange, ...]:
        """What A and B draw from the places of findings that photos were found of."""
        found = []
        for one in self.findings:
            if len(rows := np.array(self.evidence.get(one.key, ()))):
                a, b = estimate(rows[:, 0]), estimate(rows[:, 1])
                found.append(FindingChange(one, a, b, estimate(rows[:, 1] - rows[:, 0])))
        return tuple(found)

    def disagreement(self, flip: Flip) -> float | None:
        """The share of pairs of runs that name the photo of a flip differently; None without runs."""
        return None if self.noise is None else float(self.noise.disagreeing[self._rows[flip.path]])

    @cached_property
    def _rows(self) -> dict[Path, int]:
        return {path: row for row, path in enumerate(self.paths)}


def compare(
    a: Model | Classifier | object,
    b: Model | Classifier | object,
    samples: str | Path | Iterable[str | Path | Sample | Annotation],
    *,
    noise: Sequence[Model | Classifier | object] = (),
    audit: Mapping[str, Any] | str | Path | None = None,
    limit: int = 400,
    batch_size: int = 8,
    engine: str = "auto",
    picture: Picture | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Two models on the same photos.

    Each reads the photos its own way, and chooses among the classes that both have by name. All differences are B's
    less A's.

    Args:
        a: what `whycam.load` gives, or takes.
        b: the same, of another model.
        samples: a folder, whose sub-folders name classes; paths; or `Sample`s, whose labels are A's.
        noise: runs of one training with other seeds: what they differ by is no difference of A and B. Where one of
            them is A, A belongs to them.
        audit: the findings whose places are measured: an audit.json, its folder, or what is in it.
        limit: so many flips keep their maps at the most.
        batch_size: photos a forward pass.
        engine: what makes exact maps: onnx, torch, or auto.
        picture: is given each photo that flips, no larger than it has to be; what it gives is kept with the flip.
        progress: is told how many photos are done.

    Raises:
        UserError: no such model, fewer than two classes in common, no photos, none that can be read, no photo of a
            class that both have, too few runs, runs of other classes, an audit of another model.
    """
    listed = [
        to_annotation(one) for one in (read_photos(Path(samples)) if isinstance(samples, str | Path) else samples)
    ]
    if not listed:
        raise UserError("Found no photos to compare on; expected some. Check the folder.")
    if isinstance(audit, str | Path):
        audit = read_result(Path(audit), "audit.json", "findings", "whycam audit")
    trained = sort_runs(a, b, noise)
    opened = [open_any(model, engine, len(listed)) for model in (a, b, *trained.others)]
    names = share_classes(opened[0], opened[1])
    findings, unplaced = place_findings(audit, names)
    first, second, *runs = (share_model(one, names, "The run of --noise") for one in opened)
    items, left_out = find_labels(listed, opened[:2], names)
    reader = PairReader(first, second, tuple(runs), findings, picture)
    gathered = Gathered(limit)
    for seen in reader.read(items, batch_size):
        gathered.add(seen)
        if progress:
            progress(1)
    if not gathered.named:
        raise make_unreadable_error(len(items), items[0].path)
    notes = [*left_out, *tell_models(reader, gathered), *unplaced, *tell_audit(audit, reader, gathered), *trained.notes]
    return Comparison(
        first,
        second,
        tuple(runs),
        tuple(item.path for item in gathered.items),
        np.array([item.label for item in gathered.items]),
        np.array(gathered.named).T,
        gathered.flips,
        gathered.evidence,
        findings,
        tuple(gathered.unreadable),
        (gathered.outside[0], gathered.outside[1]),
        trained.belongs,
        tuple(notes),
        gathered.identity_error if reader.is_exact else None,
    )
