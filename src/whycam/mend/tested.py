"""What the summary says beside the held-out photos' scores: those of `--test`, and with mirror images (`--tta`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from whycam.data.folder import Sample
from whycam.data.loader import in_batches, stream_photos
from whycam.mend.scores import Scored, score_stored
from whycam.metrics.groups import find_interval
from whycam.model.input import normalise_on
from whycam.train.stores import compute_more
from whycam.train.work import Work, log

VIEWS = "the photo and its mirror image"


def measure_more(work: Work, scored: Scored) -> dict[str, Any]:
    """`test` and `tta` of the summary, where they are asked for.

    Args:
        work: with the finished model.
        scored: its scores of the held-out photos.
    """
    found: dict[str, Any] = {}
    if work.options.tta:
        mirrored, _ = _score(work, work.photos.val, "mirror images", is_flipped=True)
        logits = (scored.logits + mirrored) / 2
        found["tta"] = {"views": VIEWS, "val": _describe(logits, work.photos.val)}
    if work.test is not None:
        samples = work.test.list_samples(work.photos.class_names)
        logits, unreadable = _score(work, samples, "test photos")
        for path, why in unreadable.items():
            log.warning("Left out of the test '%s': %s", path, why)
        read = [sample for sample in samples if sample.path not in unreadable]
        found["test"] = _describe_test(work, logits, read, unreadable)
        if work.options.tta:
            mirrored, _ = _score(work, read, "mirror images of test photos", is_flipped=True)
            found["tta"]["test"] = _describe((logits + mirrored) / 2, read)
    return found


def _describe_test(work: Work, logits: Tensor, read: Sequence[Sample], unreadable: dict[Path, str]) -> dict[str, Any]:
    assert work.test is not None  # noqa: S101 - the caller has asked
    told = [
        f"{count} of these photos are {what}, too: the figure is too kind."
        for split, what in (("train", "trained on"), ("val", "held out"))
        if (count := work.test.copies.get(split, 0))
    ]
    names, predicted = work.photos.class_names, logits.argmax(dim=1)
    labels = torch.tensor([sample.label for sample in read])
    counts = {name: int((labels == k).sum()) for k, name in enumerate(names)}
    return {
        "place": str(work.test.place),
        **_describe(logits, read),
        "classes": {
            name: {"photos": counts[name], "recall": float((predicted[labels == k] == k).float().mean())}
            for k, name in enumerate(names)
            if counts[name]
        },
        "classes_missing": [name for name in names if not counts[name]],
        "unreadable": {str(path): why for path, why in sorted({**work.test.unreadable, **unreadable}.items())},
        "copies": dict(work.test.copies),
        "note": " ".join([*([] if told else ["Nothing was chosen on these photos."]), *told]),
    }


def _describe(logits: Tensor, samples: Sequence[Sample]) -> dict[str, Any]:
    """How many are right, with Wilson's interval."""
    labels = torch.tensor([sample.label for sample in samples])
    right = int((logits.argmax(dim=1) == labels).sum())
    low, high = find_interval(right, len(samples))
    loss = float(functional.cross_entropy(logits, labels)) if len(samples) else None
    about = {"photos": len(samples), "right": right, "accuracy": right / len(samples) if len(samples) else None}
    return {**about, "low": low, "high": high, "loss": loss}


def _score(
    work: Work, samples: Sequence[Sample], words: str, *, is_flipped: bool = False
) -> tuple[Tensor, dict[Path, str]]:
    """(N, K) logits of those that can be read, and why the others can't; frozen features are kept for the next time."""
    if work.stores is None:
        return _score_network(work, samples, words, is_flipped=is_flipped)
    store = compute_more(work, samples, f"features of {words}", is_flipped=is_flipped)
    reasons = {sample.path: store.unreadable.get(work.hashes[sample.path], "") for sample in samples}
    read = [sample for sample in samples if not reasons[sample.path]]
    if not read:
        return torch.zeros(0, len(work.photos.class_names)), reasons
    return score_stored(work, work.model, store, read).logits, {path: why for path, why in reasons.items() if why}


@torch.no_grad()
def _score_network(
    work: Work, samples: Sequence[Sample], words: str, *, is_flipped: bool
) -> tuple[Tensor, dict[Path, str]]:
    model, parts = work.model, [torch.zeros(0, len(work.photos.class_names))]
    unreadable: dict[Path, str] = {}
    with work.show_progress(words, len(samples)) as advance:
        for batch in in_batches(stream_photos([one.path for one in samples], model.preprocess), 32):
            unreadable |= {photo.path: photo.error for photo in batch if photo.error}
            if pixels := [photo.pixels for photo in batch if photo.pixels is not None]:
                images = normalise_on(torch.from_numpy(np.stack(pixels)).to(work.device), model.preprocess)
                parts.append(model(images.flip(-1) if is_flipped else images).cpu())
            advance(len(batch))
    return torch.cat(parts), unreadable
