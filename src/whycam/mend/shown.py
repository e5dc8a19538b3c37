"""Which held-out photos stand for all: those on the sheet, which also show whether the maps are the scores."""

from __future__ import annotations

from torch import Tensor

from whycam.data.folder import PhotoFolder

_SHOWN = 40


def choose_shown(logits: Tensor, photos: PhotoFolder) -> list[int]:
    """Rows of held-out photos to show: of each class in turn its mistakes first, then the others in order."""
    if photos.is_multi_label:
        return _choose_several(logits, photos)
    predicted = logits.argmax(dim=1).tolist()
    rows = range(len(photos.val))
    of_class = [
        sorted(
            (i for i in rows if photos.val[i].label == label), key=lambda i: (predicted[i] == photos.val[i].label, i)
        )
        for label in range(len(photos.class_names))
    ]
    each = max(2, _SHOWN // len(of_class))
    wrong = max(1, each // 4)
    chosen = []
    for members in of_class:
        mistakes = [i for i in members if predicted[i] != photos.val[i].label][:wrong]
        right = [i for i in members if predicted[i] == photos.val[i].label]
        chosen += [*mistakes, *right[: each - len(mistakes)]]
    return chosen[: max(_SHOWN, 2 * len(of_class))][:80]


def _choose_several(logits: Tensor, photos: PhotoFolder) -> list[int]:
    """Of each class in turn the photos that lack most of its score, then those that have most; each photo once."""
    count = len(photos.class_names)
    each = max(2, _SHOWN // count)
    chosen: dict[int, None] = {}
    for label in range(count):
        own = [i for i, sample in enumerate(photos.val) if label in sample.classes and i not in chosen]
        ranked = sorted(own, key=lambda i: float(logits[i, label]))
        few = max(1, each // 4)
        chosen |= dict.fromkeys([*ranked[:few], *ranked[few:][::-1][: each - few]])
    return list(chosen)[: max(_SHOWN, 2 * count)][:80]
