"""How much of what a shortcut costs does each cure give back? The worst group's accuracy, cause by cause.

`python benchmarks/cure.py --photos FLOWERS --work FOLDER` measures what is not measured yet, a file a row in FOLDER,
and writes results/cure.md and .json of all rows there are; `--part 1/2` and `--part 2/2` share the rows.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, save, write_table
from cure_features import Features
from cure_kinds import KINDS, Pool, make_pool

from whycam.config import make_train_options
from whycam.data.exchange import Exchange, find_shortcut, make_exchange
from whycam.data.folder import PhotoFolder, Sample
from whycam.data.groups import read_groups
from whycam.jobs.train import train
from whycam.maps.objects import open_finder
from whycam.mend.cures import GroundChange
from whycam.model.gap import GapClassifier, load_classifier
from whycam.runs import write_json
from whycam.train.features import Changed, FeatureStore, Stores
from whycam.train.last_layer import Layer
from whycam.train.phases import train_head
from whycam.train.retrain import retrain
from whycam.train.work import Work

TRAIN, VAL = 100, 30
# Share of the class's photos with the cause -> of the others' photos.
SHARES = {"most": (0.95, 0.05), "all": (1.0, 0.0)}
# What a clean training's photos have of it: the garden's grounds are even.
CLEAN = {"ground": 1 / 6}
SEEDS = 5
# Where all photos of the class have the cause, groups have nothing to balance.
WAYS = {"most": ("--robust", "--groups", "--against"), "all": ("--robust", "--against")}


@dataclass(frozen=True)
class Row:
    """What is measured together: a cause, on how many photos, and the seed of class and photos."""

    kind: str
    share: str
    seed: int


class Trial:
    """One class that is known by a cause: the photos to train on, and those to measure on."""

    def __init__(self, row: Row, pool: Pool, features: Features, work: Path) -> None:
        self.kind, self.seed, self.pool, self.features, self.work = row.kind, row.seed, pool, features, work
        self.label = row.seed % len(pool.classes)
        self.words: dict[Path, str] = {}
        shares = SHARES[row.share]
        self.biased = self._draw({k: shares[k != self.label] for k in range(len(pool.classes))})
        self.clean = self._draw({k: CLEAN.get(row.kind, 0.0) for k in range(len(pool.classes))})

    def _draw(self, shares: dict[int, float]) -> PhotoFolder:
        parts: dict[int, list[Sample]] = {TRAIN: [], VAL: []}
        for label, share in shares.items():
            draw = np.random.default_rng([self.seed, label])
            has, none = self.pool.train[label, True], self.pool.train[label, False]
            order = draw.permutation(len(has))
            at = 0
            for count, samples in parts.items():
                rows = order[at : at + count]
                with_it = round(count * share)
                at += count
                for i, row in enumerate(rows):
                    path = (has if i < with_it else none)[row]
                    samples.append(Sample(path, label))
                    self.words[path] = "with" if i < with_it else "without"
        return PhotoFolder(Path("/"), self.pool.classes, tuple(parts[TRAIN]), tuple(parts[VAL]), False)

    def measure(self, layer: Layer) -> dict[str, float]:
        """Accuracy on the photos to measure on: of the worst group, over all groups, and of what the cause is about."""
        found = {}
        for (label, has), paths in self.pool.test.items():
            right = layer(self.features.of_files(paths)).argmax(dim=1) == label
            found[label, has] = float(right.float().mean())
        others = [value for (label, has), value in found.items() if label != self.label and has]
        return {
            "worst": min(found.values()),
            "mean": float(np.mean(list(found.values()))),
            "class without": found[self.label, False],
            "others with": float(np.mean(others)),
        }

    def start(self, photos: PhotoFolder, **words: Any) -> tuple[Work, FeatureStore]:
        """A training as `whycam train` begins it, and the features of its photos."""
        options = make_train_options(seed=self.seed, choose_on="val", **words)
        torch.manual_seed(self.seed)
        model = GapClassifier(self.features.origin, self.pool.classes).eval()
        hashes = {sample.path: str(sample.path) for sample in photos.samples}
        run = self.work / "run"
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir(parents=True)
        work = Work(
            options, photos, hashes, {}, model, torch.device("cpu"), run, lambda *_: nullcontext(lambda _: None)
        )
        return work, self._store(photos.samples, [sample.path for sample in photos.samples])

    def _store(self, samples: Sequence[Sample], paths: Sequence[Path]) -> FeatureStore:
        return self._keep(samples, self.features.of_files(paths))

    def _keep(self, samples: Sequence[Sample], values: torch.Tensor) -> FeatureStore:
        rows = {str(sample.path): row for row, sample in enumerate(samples)}
        return FeatureStore(values.numpy()[:, :, None, None], rows, {}, True)

    def train(self, photos: PhotoFolder) -> tuple[Work, FeatureStore, Layer]:
        """The head, as every training begins."""
        work, plain = self.start(photos)
        train_head(work, Stores(plain))
        return work, plain, read_layer(work)

    def cure(self, way: str, work: Work, plain: FeatureStore, first: Layer) -> tuple[Layer, dict[str, float]]:
        """The last layer fitted once more in one of the ways; seconds of the fit, and how many views it had."""
        views: list[Changed] = []
        write_layer(work, first)
        csv_file, audit = self.work / "groups.csv", self.work / "audit.json"
        with csv_file.open("w", newline="") as file:
            csv.writer(file).writerows(
                [["file", "group"], *([s.path, self.words[s.path]] for s in work.photos.samples)]
            )
        groups = read_groups(csv_file, [sample.path for sample in work.photos.samples], Path("/"))
        if way == "--groups":
            work = replace(work, groups=groups)
        elif way == "--robust":
            work = replace(work, options=make_train_options(seed=self.seed, choose_on="val", robust=True))
        elif way == "--against":
            finding = {"id": "it", "kind": "shortcut", "class": self.pool.classes[self.label]}
            write_json(audit, {"findings": [finding | KINDS[self.kind].finding]})
            preprocess = self.features.origin.preprocess
            size = (2 * preprocess.width_px, 2 * preprocess.height_px)
            exchange = make_exchange(find_shortcut(f"{audit}#it"), work.photos, size, self.seed, self._ground)
            views = [self._change(exchange, view, work.photos.train) for view in range(exchange.views)]
            work = replace(work, make_exchanges=lambda photos: (exchange,))
        else:
            raise ValueError(way)
        with tell_time() as seconds:
            retrain(work, Stores(plain, changed=tuple(views)))
        return read_layer(work), {"fit_s": seconds(), "views": len(views) * len(work.photos.train)}

    def _change(self, exchange: Exchange, view: int, samples: Sequence[Sample]) -> Changed:
        """A view of the training photos; what the exchange does to held-out ones counts nothing here."""
        values = self.features.of_images(exchange(sample.path, view) for sample in samples)
        return Changed(0, {sample.path: str(sample.path) for sample in samples}, (self._keep(samples, values),))

    def _ground(self) -> GroundChange:
        return find_ground_change(self.features)

    def ignore(self) -> tuple[Layer, float]:
        """`whycam train --ignore` as a whole: its penalty needs the maps."""
        folder = self.work / "ignored"
        shutil.rmtree(folder, ignore_errors=True)
        for split, samples in (("train", self.biased.train), ("val", self.biased.val)):
            for sample in samples:
                to = folder / split / self.pool.classes[sample.label] / f"{self.words[sample.path]}-{sample.path.name}"
                to.parent.mkdir(parents=True, exist_ok=True)
                to.symlink_to(sample.path.resolve())
        words = {"ignore": KINDS[self.kind].ignore, "cache_dir": self.work / "cache", "overwrite": True}
        summary = train(folder, self.work / "ignored-run", make_train_options(seed=self.seed, choose_on="val", **words))
        model = load_classifier(self.work / "ignored-run" / "model")
        shutil.rmtree(self.work / "cache", ignore_errors=True)
        return Layer(model.classifier.weight.detach(), model.classifier.bias.detach()), summary["times_s"]["total"]


@lru_cache(1)
def find_ground_change(features: Features) -> GroundChange:
    """One for all rows: it keeps the photos that it took apart."""
    change = GroundChange(features.origin.preprocess, open_finder(1000))
    change._take_apart = lru_cache(1500)(change.take_apart)
    return change


def read_layer(work: Work) -> Layer:
    return Layer(work.model.classifier.weight.detach().clone(), work.model.classifier.bias.detach().clone())


@torch.no_grad()
def write_layer(work: Work, layer: Layer) -> None:
    work.model.classifier.weight.copy_(layer.weight)
    work.model.classifier.bias.copy_(layer.bias)


def measure_row(row: Row, trial: Trial) -> dict[str, Any]:
    """Clean, before and after each cure."""
    ways: dict[str, Any] = {"clean": trial.measure(trial.train(trial.clean)[2])}
    work, plain, first = trial.train(trial.biased)
    ways["before"] = trial.measure(first)
    for way in WAYS[row.share]:
        layer, spent = trial.cure(way, work, plain, first)
        ways[way] = trial.measure(layer) | spent
    return asdict(row) | {"class": trial.pool.classes[trial.label], "ways": ways}


def measure_ignored(row: Row, trial: Trial) -> dict[str, Any]:
    """The whole training with the place ignored."""
    layer, time_s = trial.ignore()
    return asdict(row) | {"ways": {"--ignore": trial.measure(layer) | {"train_s": time_s}}}


@contextmanager
def tell_time() -> Iterator[Callable[[], float]]:
    start = time.perf_counter()
    ends: list[float] = []
    yield lambda: (ends[0] if ends else time.perf_counter()) - start
    ends.append(time.perf_counter())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--part", default="1/1")
    parser.add_argument("--only", choices=list(KINDS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--summary", action="store_true", help="measure nothing more")
    args = parser.parse_args()
    part, parts = map(int, args.part.split("/"))
    (args.work / "rows").mkdir(parents=True, exist_ok=True)
    jobs = [(row, measure_row) for row in list_rows(args.seeds)]
    jobs += [(row, measure_ignored) for row in list_rows(args.seeds) if KINDS[row.kind].ignore]
    if not args.summary:
        features = Features(args.work)
        for row, measure in jobs[part - 1 :: parts]:
            name = f"{row.kind}-{row.share}-{row.seed}{'-ignored' if measure is measure_ignored else ''}"
            to = args.work / "rows" / f"{name}.json"
            if to.exists() or args.only not in {None, row.kind}:
                continue
            pool = make_pool(row.kind, args.photos, args.work)
            trial = Trial(row, pool, features, args.work / f"part-{part}")
            write_json(to, measure(row, trial))
            print(to.stem, flush=True)
    write(read_rows(args.work / "rows"), args.out)


def list_rows(seeds: int) -> list[Row]:
    """All that is measured, what is like a real collection first."""
    return [Row(kind, share, seed) for share in SHARES for seed in range(seeds) for kind in KINDS]


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows there are, each with what was measured of it apart."""
    rows = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    for name, row in rows.items():
        more = rows.get(f"{name}-ignored", {"ways": {}})
        row["ways"] |= more["ways"]
    return [row for name, row in rows.items() if not name.endswith("-ignored")]


def write(rows: list[dict[str, Any]], out: Path) -> None:
    """The table: means over the seeds, and how much of the loss came back."""
    head = ["cause", "on", "training", "seeds", "worst group", "all groups", "class without it", "others with it"]
    head += ["of the loss back", "seeds with half of it back", "s to fit", "views"]
    table = []
    for kind in KINDS:
        for share in SHARES:
            found = [row for row in rows if (row["kind"], row["share"]) == (kind, share)]
            for way in dict.fromkeys(way for row in found for way in row["ways"]):
                known = [row for row in found if way in row["ways"]]
                table.append([kind, share, way, len(known), *_describe(known, way)])
    planned = len(list_rows(SEEDS))
    told = (
        f"{len(rows)} of {planned} rows (a cause, a share, a seed) are measured so far; `seeds` says how many each has."
    )
    save("cure", [*_TEXT, "", told, "", *write_table(head, table)], {"rows": rows}, out)


def _describe(rows: list[dict[str, Any]], way: str) -> list[str]:
    ways = [row["ways"] for row in rows]
    told = [_mean([one[way][name] for one in ways]) for name in ("worst", "mean", "class without", "others with")]
    lost = [one["clean"]["worst"] - one["before"]["worst"] for one in ways]
    back = [one[way]["worst"] - one["before"]["worst"] for one in ways]
    if way in {"clean", "before"}:
        return [*told, "-", "-", "-", "-"]
    # Where hardly anything was lost, a share of it says nothing.
    counted = [gain >= loss / 2 for gain, loss in zip(back, lost, strict=True) if loss >= _LEAST_LOSS]
    half = f"{sum(counted)} of {len(counted)}"
    share = f"{sum(back) / sum(lost):.2f}" if np.mean(lost) >= _LEAST_LOSS else "-"
    spent = [[one[way][name] for one in ways if name in one[way]] for name in ("fit_s", "views")]
    return [
        *told,
        share,
        half,
        *(_mean(values, digits) if values else "-" for values, digits in zip(spent, (1, 0), strict=True)),
    ]


_LEAST_LOSS = 0.03
_TEXT = [
    "# The cure",
    f"`python benchmarks/cure.py --photos FLOWERS --work FOLDER`: the frozen default network, a linear head, {TRAIN} "
    f"photos a class to train on and {VAL} held out, five classes; one class is known by the cause. On `most`: 95 % of "
    "its photos have it and 5 % of the others', in training and validation; on `all`: all of its photos and no other. "
    "Groups are a class with or without the cause, ten of them, measured on other photos (70 a group; garden 60). "
    "`--against` is told the true cause, as an audit would; the audit itself is measured elsewhere. Means over "
    "seeds, in each of which another class has the cause and other photos are drawn. Of the loss back: (cured - "
    "before) / (clean - before) of the worst group, the sums over the seeds. Seconds: of fitting the last "
    "layer, on 2 cores that other work shared; making the views and their features comes on top, and is not in them.",
]


def _mean(values: Sequence[float], digits: int = 3) -> str:
    return f"{np.mean(values):.{digits}f}"


if __name__ == "__main__":
    main()
