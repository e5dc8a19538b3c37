"""Grounds: what lies behind the object, and whether it decides the class.

The objects of photos are put before the grounds of other photos, of their own class and of others, as the Backgrounds
Challenge does (Xiao et al., arXiv:2006.09994: Mixed-Same, Mixed-Rand, and the gap between them). That is measured in
every audit; a class whose ground speaks for it there is suspected, and tried on other swaps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy

from whycam.audit.chance import compare_means
from whycam.audit.cutouts import Cutouts
from whycam.audit.data import AuditData
from whycam.audit.findings import Region
from whycam.audit.ground_words import describe_grounds
from whycam.audit.leaks import find_bare
from whycam.audit.objects import read_objects
from whycam.audit.suspects import MIN_PHOTOS, Suspect
from whycam.audit.swaps import margin

# Photos whose ground is exchanged for the measurement, and how often for other classes' grounds.
_HOSTS, _LEAST_OF_CLASS, _OTHERS = 100, 4, 2
# What share of a class's cut-outs a model must tell before a plain ground, for the others to be bad ones.
_TOLD = 0.5
# How clearly a class's ground must speak for it to be tried, what share of the class's lead it must give to objects of
# others, and how many classes are tried.
_SCREEN_P, _SCREEN_LEAD, _MOST = 0.1, 0.12, 6


@dataclass(frozen=True)
class Mixed:
    """Objects before other photos' grounds, and what they are taken for.

    Attributes:
        hosts: (n,) rows of the objects, one each.
        classes: (n,) theirs.
        same: (n, K) logits before a ground of their own class.
        grounds: (n, R) the classes of other grounds.
        others: (n, R, K) logits before those.
    """

    hosts: np.ndarray
    classes: np.ndarray
    same: np.ndarray
    grounds: np.ndarray
    others: np.ndarray

    @property
    def is_right_same(self) -> np.ndarray:
        """(n,) whether the class is told before a ground of its own class."""
        right: np.ndarray = self.same.argmax(1) == self.classes
        return right

    @property
    def is_right_others(self) -> np.ndarray:
        """(n, R) whether it is told before others' grounds."""
        right: np.ndarray = self.others.argmax(2) == self.classes[:, None]
        return right


def read_mixed(data: AuditData) -> Mixed | None:
    """The measurement, made once an audit; None where fewer than two classes have enough photos for it."""
    return data.remember("mixed grounds", lambda: _mix(data))


def list_grounds(data: AuditData) -> dict[int, np.ndarray]:
    """Class -> rows whose object is known and is cut out well; of classes with enough of them.

    A cut-out that is not told before a plain ground lacks its object, which then stays on its ground and would be
    swapped with it. Where fewer than half are told, it is the model that needs the ground, and all are kept.
    """
    return data.remember("cut out", lambda: _list_grounds(data))


def _list_grounds(data: AuditData) -> dict[int, np.ndarray]:
    objects, cutouts = read_objects(data), make_cutouts(data)
    known = {k: rows for k, own in data.groups.items() if len(rows := objects.of(own))}
    kept = {}
    for k, rows in known.items():
        is_told = score(data, cutouts.lay_on_plain, rows).argmax(1) == k
        kept[k] = rows[is_told] if is_told.mean() >= _TOLD else rows
    return {k: rows for k, rows in kept.items() if len(rows) >= MIN_PHOTOS}


def make_cutouts(data: AuditData) -> Cutouts:
    """The photos taken apart; kept, as each ground is needed many times."""
    objects = read_objects(data)
    return data.remember("cutouts", lambda: Cutouts(data.pixels, objects.masks, objects.holes))


def _mix(data: AuditData) -> Mixed | None:
    rows = list_grounds(data)
    if len(rows) < 2:
        return None
    draw = np.random.default_rng([data.seed, 29])
    count = max(_LEAST_OF_CLASS, _HOSTS // len(rows))
    shuffled = {k: draw.permutation(own) for k, own in rows.items()}
    hosts, classes, donors, grounds = [], [], [], []
    for k, own in shuffled.items():
        others = [other for other in rows if other != k]
        turns = draw.permutation(others)
        for i, host in enumerate(own[:count]):
            behind = [int(turns[(_OTHERS * i + j) % len(turns)]) for j in range(_OTHERS)]
            hosts.append(host)
            classes.append(k)
            grounds.append(behind)
            donors.append([own[(i + 1) % len(own)], *(draw.choice(shuffled[other]) for other in behind)])
    pairs = np.repeat(hosts, 1 + _OTHERS), np.array(donors).ravel()
    logits = score(data, make_cutouts(data).swap, *pairs).reshape(len(hosts), 1 + _OTHERS, -1)
    return Mixed(np.array(hosts), np.array(classes), logits[:, 0], np.array(grounds), logits[:, 1:])


def score(data: AuditData, change: Callable[..., np.ndarray], *rows: np.ndarray, size: int = 64) -> np.ndarray:
    """(n, K) logits of photos, changed some at a time."""
    starts = range(0, len(rows[0]), size)
    return np.concatenate([data.run(change(*(part[start : start + size] for part in rows))) for start in starts])


def measure_grounds(data: AuditData) -> dict[str, float]:
    """Mixed-Same and Mixed-Rand accuracy in [0, 1], and the gap with its 95 % interval; empty where not measured.

    Where labels are not known, right is what the photo itself is taken for. The interval is Agresti and Min's of a
    paired difference (2005), a photo's other grounds counted together.
    """
    mixed = read_mixed(data)
    if mixed is None:
        return {}
    same, others = mixed.is_right_same.astype(float), mixed.is_right_others.mean(1)
    low, high = find_gap_interval(same - others)
    return {
        "photos": len(same),
        "own_photo": float((data.predicted[mixed.hosts] == mixed.classes).mean()),
        "mixed_same": float(same.mean()),
        "mixed_rand": float(others.mean()),
        "gap": float(same.mean() - others.mean()),
        "gap_low": low,
        "gap_high": high,
    }


def find_gap_interval(differences: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a mean paired difference in [-1, 1]; half a pair of each kind and an equal one are added."""
    n = len(differences) + 2
    mean = differences.sum() / n
    spread = np.sqrt(((differences**2).sum() + 1) / n - mean**2)
    half = scipy.stats.norm.ppf(0.975) * spread / np.sqrt(n)
    return float(max(-1, mean - half)), float(min(1, mean + half))


def tell_grounds(data: AuditData) -> list[str]:
    """Sentences for every audit: the measurement, and what was left out of it."""
    told, found = [], measure_grounds(data)
    if found:
        how = "masks that were given" if read_objects(data).is_given else "a general network's masks"
        told.append(
            f"Grounds: {found['photos']} objects, cut out by {how}, are right before grounds of their own class in "
            f"{found['mixed_same']:.0%}, before grounds of other classes in {found['mixed_rand']:.0%}: a gap of "
            f"{100 * found['gap']:.0f} points (95 % interval {100 * found['gap_low']:.0f} to "
            f"{100 * found['gap_high']:.0f})."
        )
    else:
        told.append(f"Grounds: not measured, as fewer than two classes have {MIN_PHOTOS} photos with a known object.")
    left_out = read_objects(data).tell_left_out()
    return [*told, left_out] if left_out else told


def suspect_grounds(data: AuditData) -> list[Suspect]:
    """The classes for which their ground speaks most, in the measurement."""
    mixed = read_mixed(data)
    if mixed is None:
        return []
    classes = sorted(set(mixed.classes.tolist()))
    found = sorted((screen(mixed, k), k) for k in classes)
    chosen = [k for p, k in found if p < _SCREEN_P][:_MOST]
    suspects = [_suspect(data, k) for k in chosen]
    return [one for one in suspects if one.members is not None and len(one.members) >= MIN_PHOTOS]


def screen(mixed: Mixed, label: int) -> float:
    """The chance that the ground of a class lifts the class's lead so by accident; 1 where it lifts it by little."""
    is_given = (mixed.grounds == label) & (mixed.classes != label)[:, None]
    hosts = is_given.any(1)
    if not hosts.any():
        return 1.0
    usual = margin(mixed.same, [label])
    lead = margin(mixed.others.reshape(-1, mixed.others.shape[2]), [label]).reshape(mixed.grounds.shape)
    span = usual[mixed.classes == label].mean() - usual[hosts].mean()
    if (lead - usual[:, None])[is_given].mean() < _SCREEN_LEAD * span:
        return 1.0
    return compare_means(lead[is_given], usual[hosts])


def _suspect(data: AuditData, label: int) -> Suspect:
    cutouts = make_cutouts(data)
    rows = list_grounds(data)
    words = describe_grounds(data, rows, label)
    return Suspect(
        kind="ground",
        label=label,
        region=Region("the ground"),
        give=cutouts.swap,
        # In the control the object is cut out too, so that the edge it lost is none of the difference.
        take=cutouts.swap,
        title="the ground behind the object" + (f" ({words})" if words else ""),
        words="Objects were put before other photos' grounds, the place of the object there filled from around it.",
        members=rows[label] if read_objects(data).is_given else find_bare(data, cutouts, rows, label),
        pool=np.concatenate(list(rows.values())),
    )
