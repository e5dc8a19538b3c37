"""How long an audit takes, beside decoding the same photos and asking the model once, in turns in one process.

`python benchmarks/audit_time.py MODEL FOLDER` writes results/audit_time.md and .json. The first audit, which finds the
objects and keeps them, is told apart from those after it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from common import RESULTS, save, write_table

from whycam.audit import audit
from whycam.data.folder import Sample
from whycam.data.loader import in_batches, stream_photos
from whycam.intake.door import open_classifier
from whycam.jobs.audit import read_samples
from whycam.model.classifier import Classifier


def ask_once(classifier: Classifier, samples: Sequence[Sample]) -> None:
    """Decodes the photos and asks for their scores."""
    for batch in in_batches(stream_photos((one.path for one in samples), classifier.card.preprocess), 32):
        classifier.scores(np.stack([photo.pixels for photo in batch if photo.pixels is not None]))


def clock(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    classifier = open_classifier(args.model, photos=1000)
    samples, train = read_samples(classifier, args.folder)
    ask_once(classifier, samples[:32])
    first = clock(lambda: audit(classifier, samples, train=train))
    turns = [
        (clock(lambda: ask_once(classifier, samples)), clock(lambda: audit(classifier, samples, train=train)))
        for _ in range(args.turns)
    ]
    bare, whole = (statistics.median(times) for times in zip(*turns, strict=True))
    ratio = statistics.median(b / a for a, b in turns)
    table = write_table(
        ["photos", "decode and ask once", "audit", "median ratio", "first audit of these photos"],
        [[len(samples), f"{bare:.1f} s", f"{whole:.1f} s", f"{ratio:.1f}", f"{first:.1f} s"]],
    )
    command = f"`python benchmarks/audit_time.py MODEL FOLDER`, {args.turns} turns of both; all kinds of findings."
    content = {"photos": len(samples), "turns_s": turns, "first_s": first, "ratio": ratio}
    save("audit_time", ["# The time of an audit", command, "", *table], content, args.out)


if __name__ == "__main__":
    main()
