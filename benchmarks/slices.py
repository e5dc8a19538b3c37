"""Does the audit find blind spots? Models with one to three planted ones, counted as SpotCheck does (arXiv:2207.04104).

`python benchmarks/slices.py --work FOLDER` writes results/slices.md and .json; `--part 2/4` does a quarter of the
models, `--summary` puts together what is done. FOLDER takes the features of the scenes (some 30 MB). Thresholds were
chosen with `--first-seed 1000 --models 24 --pool tune`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from common import RESULTS, save, write_table
from scipy.stats import fisher_exact
from sklearn.cluster import KMeans
from slice_scenes import Scene, list_spots, make_scene

from whycam.audit.chance import find_interval
from whycam.audit.findings import LEAST_CERTAINTY
from whycam.audit.generic import open_generic
from whycam.audit.slices import list_slices
from whycam.data.flowers import FLOWERS

SIZE_PX, AUDITED, LEAST_SIZE = 224, 200, 3
# Scenes of a class that a clean model learns; held-out photos of a class in a small audit of it.
CLEAN_LEARNED, FEW = 60, 30
# First scene, and scenes of each flower: of the models whose thresholds were chosen, and of those that are measured.
POOLS = {"tune": (1_000_000, 1600), "measure": (0, 2200)}
# A planted spot is one if the model errs on so much of it, and on so little of the class's other photos.
ERRS_INSIDE, ERRS_OUTSIDE = 0.75, 0.05
# SpotCheck's: a group is of a spot if so much of it is in the spot; a spot is found if its groups have so much of it.
PRECISION = RECALL = 0.8
DOMINO = 0.36
COMMAND = f"""\
`python benchmarks/slices.py --work FOLDER`. A scene has a ground (6), a fence or none, a thing in front (4) or none,
one or several heads, and one of three lights, drawn independently. A blind spot is one of these, or a pair of them,
of one class (8 to 26 % of its photos), whose training labels are another class; one to three of each model, half of
the further ones with the first one's class and wrong label. A linear head is trained on the frozen default network;
models that don't err on {ERRS_INSIDE:.0%} of each spot's held-out photos, or err on more than {ERRS_OUTSIDE:.0%} of
the class's others, are drawn anew. {AUDITED} held-out photos of each of five classes are audited with their true
labels (1,000: the default of `--limit`). A group is of a spot if {PRECISION:.0%} of it lies in the spot; a spot is
found if its groups together have {RECALL:.0%} of it (SpotCheck's rule). Groups are those of certainty
{LEAST_CERTAINTY} and over. Beside, on the same models: k-means of a class's pooled features, with the number of
clusters that is best for it on the tuning models, whose clusters of at least {LEAST_SIZE} photos that go wrong twice
as often as the class are groups; and the photos of a class that are taken for one other class, with no regard to
looks. A first pass on the same models, before groups were judged by what the scores do not depend on (changed for the
sake of the test, not of these rates), had 0.46 and 0.24."""


@dataclass(frozen=True)
class Pool:
    """Scenes: pooled features (N, C), attributes and flowers (N,)."""

    pooled: np.ndarray
    scenes: list[Scene]
    labels: np.ndarray

    def having(self, spot: Scene) -> np.ndarray:
        """(N,) bool: which scenes have all of these attributes."""
        return np.array([all(scene[name] == value for name, value in spot.items()) for scene in self.scenes])

    def touching(self, spot: Scene) -> np.ndarray:
        """(N,) bool: which scenes have at least one of them."""
        return np.array([any(scene[name] == value for name, value in spot.items()) for scene in self.scenes])


@cache
def read_pool(name: str, work: Path) -> Pool:
    """The pool of that name, made where it is not there."""
    path = work / f"pool-{name}.npz"
    if not path.exists():
        make_pool(path, *POOLS[name])
    kept = np.load(path)
    return Pool(kept["pooled"].astype(np.float32), [json.loads(one) for one in kept["scenes"]], kept["labels"])


def make_pool(path: Path, first_seed: int, per_flower: int) -> None:
    network = open_generic().having(pools=True)
    pooled, scenes, labels = [], [], []
    for label, flower in enumerate(FLOWERS):
        for start in range(0, per_flower, 32):
            seeds = range(first_seed + start, first_seed + min(start + 32, per_flower))
            made = [make_scene(flower, seed, SIZE_PX) for seed in seeds]
            pixels = np.stack([network.card.preprocess.to_pixels(image) for image, _ in made])
            pooled.append(np.asarray(network.read(pixels).pooled, np.float16))
            scenes += [json.dumps(scene) for _, scene in made]
            labels += [label] * len(made)
        print(f"{path.name}: {flower}", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, pooled=np.concatenate(pooled), scenes=np.array(scenes), labels=np.array(labels))


@dataclass(frozen=True)
class Planted:
    """A model with blind spots, and the photos to audit it on.

    Attributes:
        data: what `list_slices` reads of an audit's data.
        spots: a mask (N,) of the audited photos each.
        words: what each is, and how often the model errs there.
        tries: how many drawings came before.
    """

    data: Any
    spots: list[np.ndarray]
    words: list[str]
    tries: int


def plant(pool: Pool, seed: int) -> Planted:
    """The model of a seed."""
    for tries in range(100):
        draw = np.random.default_rng([23, seed, tries])
        plan = draw_spots(int(np.random.default_rng([29, seed]).integers(1, 4)), draw)
        masks = [pool.having(spot) & (pool.labels == k) for k, spot, _ in plan]
        if any((one & other).sum() > 0.2 * min(one.sum(), other.sum()) for one, other in pairs(masks)):
            continue
        order = [draw.permutation(np.flatnonzero(pool.labels == k)) for k in range(len(FLOWERS))]
        audited = np.concatenate([rows[:AUDITED] for rows in order])
        # Two thirds of the rest are learned, and the truth is measured on the photos that are left.
        cut = AUDITED + (len(order[0]) - AUDITED) * 2 // 3
        learned = np.concatenate([rows[AUDITED:cut] for rows in order])
        labels, weights = pool.labels.copy(), np.ones(len(pool.labels))
        for mask, (k, spot, other) in zip(masks, plan, strict=True):
            labels[mask] = other
            # So that a linear head learns the pair and not one of the two, photos near the spot count four times.
            weights[pool.touching(spot) & (pool.labels == k)] = 4
        weight, bias = train(pool.pooled[learned], labels[learned], weights[learned], seed)
        logits = pool.pooled @ weight.T + bias
        wrong = logits.argmax(1) != pool.labels
        held = np.ones(len(labels), dtype=bool)
        held[learned] = held[audited] = False
        errors = [float(wrong[mask & held].mean()) for mask in masks]
        spotted = np.any(masks, axis=0)
        beside = [wrong[held & ~spotted & (pool.labels == k)].mean() for k, *_ in plan]
        if min(errors) < ERRS_INSIDE or max(beside) > ERRS_OUTSIDE:
            continue
        words = [
            f"{FLOWERS[k]} with {name_spot(spot)} as {FLOWERS[other]}, errs {error:.2f}"
            for (k, spot, other), error in zip(plan, errors, strict=True)
        ]
        data = describe(pool, audited, weight, bias, seed)
        return Planted(data, [mask[audited] for mask in masks], words, tries)
    raise RuntimeError(f"Of 100 drawings of seed {seed} no model errs on its spots.")


def describe(pool: Pool, rows: np.ndarray, weight: np.ndarray, bias: np.ndarray, seed: int) -> Any:
    """What `list_slices` reads of an audit's data, of a linear head on those scenes."""
    own, pooled = pool.labels[rows], pool.pooled[rows]
    return SimpleNamespace(
        pooled=pooled,
        weight=weight,
        labels=own,
        predicted=(pooled @ weight.T + bias).argmax(1),
        groups={k: np.flatnonzero(own == k) for k in range(len(FLOWERS))},
        seed=seed,
        has_labels=True,
    )


def run_clean(pool: Pool, seed: int) -> dict[str, Any]:
    """A model of clean training on few scenes, which errs where it can't know better; on many photos and on few."""
    draw = np.random.default_rng([31, seed])
    order = [draw.permutation(np.flatnonzero(pool.labels == k)) for k in range(len(FLOWERS))]
    learned = np.concatenate([rows[AUDITED : AUDITED + CLEAN_LEARNED] for rows in order])
    weight, bias = train(pool.pooled[learned], pool.labels[learned], np.ones(len(learned)), seed)
    row = {}
    for count in (AUDITED, FEW):
        data = describe(pool, np.concatenate([rows[:count] for rows in order]), weight, bias, seed)
        groups = find_by_audit(data)
        fresh = describe(pool, np.concatenate([rows[AUDITED + CLEAN_LEARNED :] for rows in order]), weight, bias, seed)
        row[str(count)] = {
            "errors": int((data.predicted != data.labels).sum()),
            "groups": len(groups),
            "hold": sum(does_hold(data, fresh, k, rows) for k, rows in groups),
            # Of ten groups of the same size each, drawn at random.
            "random_hold": sum(
                does_hold(data, fresh, k, draw.choice(data.groups[k], len(rows), replace=False))
                for k, rows in groups
                for _ in range(10)
            ),
        }
    return row


def does_hold(data: Any, fresh: Any, k: int, group: np.ndarray) -> bool:
    """Whether fresh photos of the class that look like a group go wrong more often than its others (Fisher, 0.01).

    They are told by a ridge regression on what of the pooled features no class's score depends on: that a photo is
    wrong must not be why it looks so.
    """
    basis, _ = np.linalg.qr(data.weight.T)
    rows, others = data.groups[k], fresh.groups[k]
    known, new = (part - part @ basis @ basis.T for part in (data.pooled[rows], fresh.pooled[others]))
    centre, scale = known.mean(0), known.std() * np.sqrt(known.shape[1])
    known, new = (known - centre) / scale, (new - centre) / scale
    target = np.isin(rows, group) - np.isin(rows, group).mean()
    scores = new @ known.T @ np.linalg.solve(known @ known.T + 0.3 * np.eye(len(rows)), target)
    alike = scores >= np.sort(scores)[-max(LEAST_SIZE, round(len(group) / len(rows) * len(scores)))]
    wrong = fresh.predicted[others] != k
    table = [[(wrong & alike).sum(), (~wrong & alike).sum()], [(wrong & ~alike).sum(), (~wrong & ~alike).sum()]]
    return bool(fisher_exact(table, "greater").pvalue < 0.01)


def name_spot(spot: Scene) -> str:
    return " and ".join(name if value == "yes" else value for name, value in spot.items())


def draw_spots(count: int, draw: np.random.Generator) -> list[tuple[int, Scene, int]]:
    """So many spots: class, attributes, wrong class."""
    spots, plan = list_spots(0.08, 0.26), []
    for index in range(count):
        k = int(draw.integers(len(FLOWERS)))
        other = int((k + draw.integers(1, len(FLOWERS))) % len(FLOWERS))
        if index and draw.random() < 0.5:
            k, _, other = plan[0]
        plan.append((k, spots[draw.integers(len(spots))], other))
    return plan


def pairs(masks: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(one, other) for i, one in enumerate(masks) for other in masks[:i]]


def train(pooled: np.ndarray, labels: np.ndarray, weights: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A linear head: weight (K, C) and bias (K,); photos are drawn by their weights."""
    torch.manual_seed(seed)
    values, targets, chances = (torch.from_numpy(one) for one in (pooled, labels, weights))
    layer = torch.nn.Linear(values.shape[1], len(FLOWERS))
    optimizer = torch.optim.Adam(layer.parameters(), lr=3e-3)
    epochs, batch, generator = 30, 128, torch.Generator().manual_seed(seed)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(values) // batch))
    for _ in range(epochs):
        for rows in torch.multinomial(chances, len(values), replacement=True, generator=generator).split(batch):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layer(values[rows]), targets[rows]).backward()
            optimizer.step()
            schedule.step()
    return layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()


Groups = list[tuple[int, np.ndarray]]


def find_by_audit(data: Any) -> Groups:
    """The product's."""
    return [(one.label, one.group.rows) for one in list_slices(data) if 1 - one.p >= LEAST_CERTAINTY]


def find_by_mistake(data: Any) -> Groups:
    """All photos of a class that are taken for one other class."""
    found = []
    for k, rows in data.groups.items():
        for other in np.setdiff1d(data.predicted[rows], [k]):
            own = rows[data.predicted[rows] == other]
            found += [(k, own)] if len(own) >= LEAST_SIZE else []
    return found


def find_by_clusters(data: Any, clusters: int = 20) -> Groups:
    """Clusters of a class's pooled features that go wrong at least twice as often as the class."""
    found = []
    for k, rows in data.groups.items():
        wrong = data.predicted[rows] != k
        named = KMeans(clusters, n_init=4, random_state=0).fit_predict(data.pooled[rows])
        for name in range(clusters):
            own = named == name
            if own.sum() >= LEAST_SIZE and wrong[own].sum() >= LEAST_SIZE and wrong[own].mean() >= 2 * wrong.mean():
                found.append((k, rows[own]))
    return found


FINDERS: dict[str, Callable[[Any], Groups]] = {
    "audit": find_by_audit,
    "k-means": find_by_clusters,
    "mistaken for one class": find_by_mistake,
}


def count_found(planted: Planted, groups: Groups) -> dict[str, Any]:
    """Which spots are found, how many groups there are, and how many of them are of a spot."""
    found, is_true = [], np.zeros(len(groups), dtype=bool)
    for spot in planted.spots:
        covered = np.zeros(len(spot), dtype=bool)
        for index, (_, rows) in enumerate(groups):
            if spot[rows].mean() >= PRECISION:
                is_true[index] = covered[rows] = True
        found.append(bool((covered & spot).sum() >= RECALL * spot.sum()))
    return {"found": found, "groups": len(groups), "true": int(is_true.sum())}


def run(pool: Pool, seed: int) -> dict[str, Any]:
    """One model, and what each way finds."""
    planted = plant(pool, seed)
    row: dict[str, Any] = {"spots": planted.words, "tries": planted.tries}
    row["photos"] = [int(spot.sum()) for spot in planted.spots]
    for name, find in FINDERS.items():
        start = time.perf_counter()
        row[name] = count_found(planted, find(planted.data))
        row[name]["time_s"] = time.perf_counter() - start
    return row


def rate(rows: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """Discovery and false discovery rate, with 95 % intervals by drawing models (bootstrap)."""
    found = [(sum(row[name]["found"]), len(row[name]["found"])) for row in rows]
    wrong = [(row[name]["groups"] - row[name]["true"], row[name]["groups"]) for row in rows]
    draw, rates = np.random.default_rng(0), {}
    for word, counts in (("discovery", np.array(found)), ("false_discovery", np.array(wrong))):
        sums = counts[draw.integers(len(counts), size=(4000, len(counts)))].sum(1)
        low, high = np.quantile(sums[:, 0] / np.maximum(sums[:, 1], 1), [0.025, 0.975])
        total = counts.sum(0)
        rates[word] = {"hits": int(total[0]), "of": int(total[1]), "low": float(low), "high": float(high)}
    rates["time_s"] = float(np.median([row[name]["time_s"] for row in rows]))
    return rates


def tell(rates: dict[str, Any]) -> str:
    share = rates["hits"] / max(1, rates["of"])
    return f"{share:.2f} ({rates['low']:.2f} to {rates['high']:.2f}; {rates['hits']} of {rates['of']})"


def tell_clean(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence for each size of audit."""
    lines = []
    for count in (AUDITED, FEW):
        own = [row[str(count)] for row in rows]
        accused, errors = sum(one["groups"] > 0 for one in own), sum(one["errors"] for one in own)
        low, high = find_interval(accused, len(own))
        groups, hold, by_chance = (sum(one[word] for one in own) for word in ("groups", "hold", "random_hold"))
        lines.append(
            f"Clean models ({CLEAN_LEARNED} scenes a class learned, {count} audited, {errors / len(own):.1f} errors in "
            f"the mean): slices are reported of {accused} of {len(own)} ({low:.2f} to {high:.2f}). Slices that hold on "
            "fresh photos (those that look so go wrong more often than the class's others, Fisher's test, 0.01): "
            f"{hold} of {groups}; of random groups of the same sizes {by_chance} of {10 * groups}."
        )
    return lines


def summarise(rows: dict[str, dict[str, Any]], clean: Sequence[dict[str, Any]], out: Path) -> None:
    """results/slices.md and .json."""
    done = list(rows.values())
    rates = {name: rate(done, name) for name in FINDERS}
    table = [
        [name, tell(r["discovery"]), tell(r["false_discovery"]), f"{r['time_s']:.2f}"] for name, r in rates.items()
    ]
    table.append(["Domino, as published, on its own slices", f"{DOMINO:.2f}", "", ""])
    by_count = []
    for count in (1, 2, 3):
        own = [row for row in done if len(row["spots"]) == count]
        by_count.append(
            [count, len(own), *(tell(rate(own, name)["discovery"]) for name in FINDERS)] if own else [count]
        )
    alone = [sum(row["audit"]["found"]) > 0 for row in done]
    low, high = find_interval(sum(alone), len(alone))
    lines = [
        "# Hidden slices, on models with planted blind spots",
        COMMAND,
        "",
        *write_table(["groups by", "discovery rate", "false discovery rate", "s a model"], table),
        "",
        f"Of {len(done)} models, {sum(row['tries'] for row in done)} were drawn anew. Intervals are 95 %, by drawing "
        f"models. In {sum(alone)} models at least one spot is found ({sum(alone) / len(alone):.2f}, "
        f"{low:.2f} to {high:.2f}).",
        "",
        *write_table(["spots", "models", *(f"discovery rate by {name}" for name in FINDERS)], by_count),
    ]
    lines += ["", *tell_clean(clean)]
    save("slices", lines, {"rates": rates, "rows": rows, "clean": list(clean)}, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--models", type=int, default=50)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--pool", choices=POOLS, default="measure")
    parser.add_argument("--part", default="1/1", help="2/4: the second quarter of the models")
    parser.add_argument("--summary", action="store_true", help="run nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    part, parts = map(int, args.part.split("/"))
    kept = args.work / "rows"
    kept.mkdir(parents=True, exist_ok=True)
    seeds = range(args.first_seed, args.first_seed + args.models)
    for seed in [] if args.summary else seeds[part - 1 :: parts]:
        for name, work in (("planted", run), ("clean", run_clean)):
            path = kept / f"{name}-{seed}.json"
            if not path.exists():
                path.write_text(json.dumps(work(read_pool(args.pool, args.work), seed)))
                print(seed, path.read_text(), flush=True)
    paths = {name: [kept / f"{name}-{seed}.json" for seed in seeds] for name in ("planted", "clean")}
    rows, clean = ({path.stem: json.loads(path.read_text()) for path in own if path.exists()} for own in paths.values())
    summarise(rows, list(clean.values()), args.out)


if __name__ == "__main__":
    main()
