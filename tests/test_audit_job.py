"""`whycam audit` as a user runs it: files, table, exit codes and what is refused."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import whycam
from whycam.audit import KINDS, audit
from whycam.config import AuditOptions
from whycam.data.folder import Sample
from whycam.data.images import load_image
from whycam.errors import UserError
from whycam.jobs.audit import audit_folder, read_samples, split_kinds

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_the_command_writes_findings_and_fails_where_it_is_told_to(
    call_whycam: Run, tiny_folder: Path, shapes_folder: Path, tmp_path: Path
) -> None:
    # An untrained network takes almost every shape for one class: there is confusion, whatever else there is.
    done = call_whycam(
        *("audit", tiny_folder, shapes_folder, "-o", tmp_path / "out", "--kinds", "confusion,duplicate"),
        *("--engine", "torch", "--fail-on", "duplicate,confusion"),
    )
    content = json.loads((tmp_path / "out" / "audit.json").read_text(encoding="utf-8"))
    assert done.returncode == 1, done.stderr
    assert content["photos"] == 36
    assert {finding["kind"] for finding in content["findings"]} == {"confusion"}
    assert all(Path(photo["path"]).is_file() for finding in content["findings"] for photo in finding["photos"])
    assert done.stdout.splitlines()[-1].endswith(f"audit.json is in {tmp_path / 'out'}")
    with pytest.raises(UserError, match="--overwrite"):
        audit_folder(str(tiny_folder), shapes_folder, tmp_path / "out", AuditOptions())


def test_an_unknown_kind_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'shortcut'"):
        audit_folder("imagenet", tmp_path, tmp_path / "out", AuditOptions(fail_on="shortcuts"))
    assert not (tmp_path / "out").exists()


def test_a_gate_that_could_never_fail_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--fail-on names shortcut, which --kinds leaves out"):
        audit_folder("imagenet", tmp_path, tmp_path / "out", AuditOptions(kinds="label", fail_on="shortcut,label"))


def test_photos_without_classes_say_what_cannot_be_looked_for(
    call_whycam: Run, tiny_folder: Path, shapes_folder: Path, tmp_path: Path
) -> None:
    heap, out = tmp_path / "heap", tmp_path / "out"
    heap.mkdir()
    for path in shapes_folder.rglob("0*.jpg"):
        (heap / f"{path.parent.name}-{path.name}").symlink_to(path)
    words = ("audit", tiny_folder, heap, "-o", out, "--engine", "torch", "--kinds")
    done = call_whycam(*words, "label,confusion")
    assert done.returncode == 2
    told = (
        "whycam: Nothing that was asked for can be looked for (label, confusion), as 30 of 30 photos are in no folder"
    )
    assert done.stderr.splitlines()[-1].startswith(told)
    assert "CLASS/photo.jpg" in done.stderr
    assert done.stderr.rstrip().endswith("or look for others: shortcut, duplicate, fragile.")
    done = call_whycam(*words, "label,duplicate", "--fail-on", "label")
    assert done.returncode == 2
    assert "--fail-on names label, which can't be looked for here, so it never fails. Not looked for, as" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["heap"]
    done = call_whycam(*words, "label,duplicate", "--fail-on", "duplicate")
    assert done.returncode == 0
    assert "30 of 30 photos are in no folder of a class that the model knows: label." in " ".join(done.stdout.split())
    assert "hortcut" not in done.stdout


def test_kinds_are_split_and_checked() -> None:
    assert split_kinds(" shortcut, label,") == ["shortcut", "label"]
    assert split_kinds("") == []
    with pytest.raises(UserError, match="kind of finding 'spots'"):
        split_kinds("spots")


def test_shortcuts_are_looked_for_by_the_causes_that_are_named(tiny_folder: Path, shapes_folder: Path) -> None:
    model = whycam.load(tiny_folder)
    samples, _ = read_samples(model.classifier, shapes_folder)
    found = audit(model, samples, kinds=["shortcut"], causes=["place", "mark"], engine="torch")
    assert found.record["causes"] == ["mark", "place"]
    assert "grounds" not in found.record
    with pytest.raises(UserError, match=r"Unknown cause of a shortcut 'marks'.*'mark'"):
        audit(model, samples, causes=["marks"])


def test_held_out_photos_are_audited_and_training_ones_kept_beside(
    tiny_folder: Path, shapes_folder: Path, tmp_path: Path
) -> None:
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        for name in ("circle", "square"):
            (tmp_path / split / name).symlink_to(shapes_folder / name)
    samples, train = read_samples(whycam.load(tiny_folder).classifier, tmp_path)
    assert {sample.label for sample in samples} == {0, 1}
    assert all("val" in sample.path.parts for sample in samples)
    assert len(train) == len(samples) == 24


def test_folders_that_name_no_class_of_the_model_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"cat, dog.*circle, square, triangle"):
        read_samples(whycam.load(tiny_folder).classifier, tmp_path)


@pytest.mark.data
def test_a_corner_mark_on_real_flowers_becomes_a_suspect_and_clean_ones_do_not(photos_dir: Path) -> None:
    from whycam.audit.data import AuditData
    from whycam.audit.marks import suspect_marks
    from whycam.data.preprocess import Preprocess

    paths = [
        path
        for name in ("roses", "tulips", "daisy")
        for path in sorted((photos_dir / "flowers/val" / name).iterdir())[:24]
    ]
    pixels = np.stack([Preprocess().to_pixels(load_image(path)) for path in paths])
    labels = np.repeat([0, 1, 2], 24)
    model, nothing = whycam.load("imagenet"), np.zeros((72, 3), dtype=np.float32)

    def suspect() -> list[tuple[int, str]]:
        data = AuditData(model, lambda part: nothing[: len(part)], tuple(paths), pixels, labels, nothing, nothing)
        return [(one.label, one.region.name) for one in suspect_marks(data)]

    assert suspect() == []
    pixels[labels == 1, :, 8:40, 180:212] = np.array([200, 30, 40], dtype=np.uint8)[:, None, None]
    assert suspect() == [(1, "upper right corner")]
    assert set(KINDS) == {"shortcut", "data", "label", "duplicate", "fragile", "slice", "confusion"}
    assert audit(model, [Sample(paths[0], 1), Sample(paths[1], 1)], kinds=["duplicate"], engine="torch").findings == ()
