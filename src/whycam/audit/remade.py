"""Suspects of the kind "property": classes whose photos were made in a way of their own, and photos re-made so."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from threading import Lock

import numpy as np

from whycam.audit.data import AuditData
from whycam.audit.findings import Region
from whycam.audit.properties import Labelled, Line, Told, describe, tell_classes
from whycam.audit.suspects import Change, Suspect, find_owners, list_classes
from whycam.audit.telling import fit_range
from whycam.data.images import ImageError
from whycam.data.loader import map_ahead
from whycam.data.properties import PROPERTIES, PropertyTable, Value
from whycam.data.remake import REMAKES, Host, measure_scales, open_host, remake

# What a property must reach for a class to be tried by it, by how often an object has it by nature. It is
# less than for a fault of the photos: the trial decides.
LEAST = {"never": Line(0.58, 0.15), "seldom": Line(0.72, 0.3), "often": Line(0.93)}
_LINES = {name: LEAST[PROPERTIES[name].by_nature] for name in REMAKES}
# A class is tried by so many properties at the most, one of a family.
_MOST_FAMILIES = 2
# To take a colour cast from a photo takes the object's own colours, too; the control, which changes little, does not.
_ONLY_GIVEN = ("colour",)
# Where so large a share of the class's photos has it, all are donors.
_MOST_HAVE = 0.9
# So many bytes of decoded photos are kept for their next turn.
_KEPT_BYTES = 200_000_000


def suspect_properties(data: AuditData) -> list[Suspect]:
    """The classes whose photos were made otherwise than the others', where other photos can be made so."""
    photos = Labelled(data.paths, find_owners(data), {}, data.properties)
    remaker, suspects = Remaker(data), []
    found = tell_classes(photos, data.seed, _LINES)
    for k in list_classes(data):
        families: set[str] = set()
        for one in sorted((one for one in found if one.label == k), key=lambda one: -round(one.score, 2)):
            family = REMAKES[one.name].family
            if family not in families and len(families) < _MOST_FAMILIES and can_be_given(one):
                families.add(family)
                suspects.append(_suspect(data, photos, one, remaker))
    return suspects


def can_be_given(one: Told) -> bool:
    """Whether other classes' photos can be made as this class's are."""
    own, others = one.usual
    if isinstance(own, str) or isinstance(others, str):
        return own == "grey"
    return {"lower": own < others, "higher": own > others, "both": True}[REMAKES[one.name].way]


def _suspect(data: AuditData, photos: Labelled, one: Told, remaker: Remaker) -> Suspect:
    about, way = PROPERTIES[one.name], REMAKES[one.name]
    rows = data.groups[one.label]
    have = rows[_find_bearers(photos, one)]
    level = photos.table.columns[one.name][have]
    own = about.write(float(np.median(level)) if level.dtype.kind == "f" else str(level[0]))
    change = remaker.make_change(one.name)
    return Suspect(
        kind="property",
        label=one.label,
        region=Region("all over the photo"),
        give=change,
        take=change if way.way == "both" and way.family not in _ONLY_GIVEN else None,
        title=f"{way.title} ({about.words}: {own})",
        words=describe(one, data.name(one.label), None),
        members=have if len(have) < _MOST_HAVE * len(rows) else None,
        numbers={
            "property": one.name,
            "level": _to_number(one.usual[0]),
            "level_of_others": _to_number(one.usual[1]),
            "auc": one.tell.auc.value,
            "auc_low": one.tell.auc.low,
        },
    )


def _to_number(value: Value) -> Value:
    return value if isinstance(value, str) else round(value, 4)


def _find_bearers(photos: Labelled, one: Told) -> np.ndarray:
    """Which of the class's photos have what tells the class; all of them where too few or nearly all do."""
    values = photos.table.columns[one.name]
    own = values[photos.labels == one.label]
    if values.dtype.kind != "f":
        return np.asarray(own == one.usual[0])
    rest = values[(photos.labels != one.label) & (photos.labels >= 0)]
    known = np.isfinite(own)
    rule = fit_range(own[known], rest[np.isfinite(rest)])
    has: np.ndarray = known & rule(np.where(known, own, 0))
    return has if has.sum() >= 4 else known


@dataclass
class Remaker:
    """Re-makes an audit's photos from their files, and keeps the decoded ones for a while.

    Attributes:
        data: whose photos.
    """

    data: AuditData
    _kept: OrderedDict[int, Host | None] = field(default_factory=OrderedDict)
    _bytes: int = 0
    _lock: Lock = field(default_factory=Lock)

    def make_change(self, name: str) -> Change:
        """(hosts, donors) -> the hosts with the donors' level of that property."""

        def change(hosts: np.ndarray, donors: np.ndarray) -> np.ndarray:
            pairs = list(zip(hosts.tolist(), donors.tolist(), strict=True))
            return np.stack(list(map_ahead(lambda pair: self.remake(name, *pair), pairs)))

        return change

    def remake(self, name: str, host: int, donor: int) -> np.ndarray:
        """(3, H, W) uint8; the audit's own pixels where the file can no longer be read."""
        photo = self.open(host, is_scaled=name == "sharpness")
        if photo is None:
            return np.asarray(self.data.pixels[host])
        image = remake(name, photo, self.table[donor])
        return self.data.classifier.card.preprocess.to_pixels(image)

    @property
    def table(self) -> PropertyTable:
        """The photos' properties."""
        return self.data.properties

    def open(self, row: int, *, is_scaled: bool) -> Host | None:
        """The decoded photo, with what is left of its sharpness at other sizes; None where it can't be read."""
        with self._lock:
            if row in self._kept:
                self._kept.move_to_end(row)
                photo = self._kept[row]
                if photo is None or not is_scaled or photo.sharpness:
                    return photo
        try:
            photo = open_host(self.data.paths[row], self.table[row])
        except ImageError:
            photo = None
        if photo is not None and is_scaled:
            photo = replace(photo, sharpness=measure_scales(photo.image))
        with self._lock:
            self._keep(row, photo)
        return photo

    def _keep(self, row: int, photo: Host | None) -> None:
        for old in [self._kept.pop(row)] if row in self._kept else []:
            self._bytes -= _weigh(old)
        self._kept[row] = photo
        self._bytes += _weigh(photo)
        while self._bytes > _KEPT_BYTES and len(self._kept) > 1:
            self._bytes -= _weigh(self._kept.popitem(last=False)[1])


def _weigh(photo: Host | None) -> int:
    return photo.image.width * photo.image.height * 3 if photo else 0
