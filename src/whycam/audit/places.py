"""Places that any photo has: a class whose evidence lies there more than the other classes' does is suspected."""

from __future__ import annotations

import numpy as np

from whycam.audit.chance import compare_means
from whycam.audit.data import AuditData
from whycam.audit.regions import Place, list_places
from whycam.audit.suspects import Suspect, find_owners, list_classes, swap_place
from whycam.maps.render import resize_map

# How sure the heat has to be before the swaps are made, and how many suspects are tried.
_SCREEN_P, _MOST = 1e-4, 2


def suspect_places(data: AuditData) -> list[Suspect]:
    """The places where the heat of a class stands out most, one a class."""
    classes = list_classes(data)
    places = list_places(*data.pixels.shape[2:])
    if len(classes) < 2:
        return []
    shares = np.stack([measure_heat(data, place) for place in places])
    owner = find_owners(data)
    found = []
    for k in classes:
        inside, rest = owner == k, (owner != k) & (owner >= 0)
        p, at = min((compare_means(one[inside], one[rest]), i) for i, one in enumerate(shares))
        found.append((p, k, places[at]))
    clear = sorted((one for one in found if one[0] < _SCREEN_P), key=lambda one: one[0])
    return [_suspect(data, k, place) for _, k, place in clear[:_MOST]]


def _suspect(data: AuditData, label: int, place: Place) -> Suspect:
    give, take = swap_place(data, place.mask), swap_place(data, place.mask, is_matched=True)
    words = "More of its evidence lies there than in photos of other classes."
    title = f"what lies there: {place.region.name}"
    return Suspect("place", label, place.region, give, take, title, words, place.mask)


def measure_heat(data: AuditData, place: Place) -> np.ndarray:
    """(N,): the share of each photo's positive evidence that lies in the place."""
    weight = resize_map(place.mask.astype(np.float32), data.evidence.shape[1:])
    positive = data.evidence.clip(0)
    total = positive.sum((1, 2))
    share: np.ndarray = (positive * weight).sum((1, 2)) / np.where(total > 0, total, 1)
    return share
