"""The report: what the page says is so, nothing in it reaches out, and nothing of a user's is taken for HTML."""

from __future__ import annotations

import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import whycam
from conftest import PHOTOS_A_CLASS, SHAPES
from report_cases import check_probabilities, decode_maps, make_finding, make_run, read_data, report, write_audit
from whycam.audit.chance import find_interval
from whycam.cli import app
from whycam.errors import UserError
from whycam.explainer.reading import Reading
from whycam.intake.door import open_classifier
from whycam.jobs import report as job
from whycam.jobs import report_photos
from whycam.metrics.groups import score_groups
from whycam.model.backbone import make_backbone
from whycam.model.classifier import Classifier
from whycam.model.gap import GapClassifier, save_classifier
from whycam.runs import write_json
from whycam.show.report import make_curve
from whycam.show.tally import Tally

PHOTOS = PHOTOS_A_CLASS * len(SHAPES)
HOSTILE = '</script><img src=x onerror="document.title=1">'


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, shapes_folder: Path) -> Path:
    """To be read only."""
    return make_run(tmp_path_factory.mktemp("run") / "shapes-run", tiny_folder, shapes_folder)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, run_folder: Path) -> Path:
    """A report of the run, with a finding."""
    out = tmp_path_factory.mktemp("page") / "report.html"
    audit = write_audit(out.with_name("audit.json"), make_finding([]))
    report(run_folder, None, out, audit=audit)
    return out


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_a_run_is_reported_on_its_held_out_photos(page: Path, tiny_folder: Path, shapes_folder: Path) -> None:
    text, data = read(page), read_data(page)
    model = whycam.load(tiny_folder)
    paths = sorted(shapes_folder.glob("*/*.jpg"))
    right = sum(model.explain(path).predicted[0] == SHAPES.index(path.parent.name) for path in paths)
    assert f"<strong>{100 * right / PHOTOS:.0f}\N{NO-BREAK SPACE}%</strong> of {PHOTOS} photos" in text
    assert f"{PHOTOS - int(right)} mistakes" in text
    assert "<h1>shapes-run</h1>" in text
    assert "test_resnet" in text
    assert "trained on 90 photos" in text
    assert len(data["entries"]) == PHOTOS
    assert {entry["id"] for entry in data["entries"]} == {p.relative_to(shapes_folder).as_posix() for p in paths}


def test_the_stored_maps_and_the_bias_are_the_scores(page: Path) -> None:
    data = read_data(page)
    for entry in data["entries"]:
        assert check_probabilities(entry, data["bias"]) == pytest.approx(entry["probabilities"], abs=2e-4)
        assert entry["classes"] == sorted(entry["classes"], key=lambda k: -entry["logits"][entry["classes"].index(k)])


def test_every_entry_holds_the_photos_true_class_and_maps(page: Path, tiny_folder: Path, shapes_folder: Path) -> None:
    entry = read_data(page)["entries"][PHOTOS // 2]
    assert SHAPES[entry["truth"]] == Path(entry["id"]).parent.name
    why = whycam.load(tiny_folder).explain(shapes_folder / entry["id"], "all")
    expected = why.maps[0].numpy()[entry["classes"]]
    # Read from a JPEG decoded at a reduced size, where that is enough.
    assert np.abs(decode_maps(entry) - expected).max() <= 1e-4 * np.abs(expected).max()


def test_nothing_on_the_page_comes_from_elsewhere(page: Path) -> None:
    text = read(page)
    assert set(re.findall(r"https?://[^\s\"'<>)]*", text)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(
        r"(src|href)\s*=\s*[\"']?(?!data:)[\w/.]", re.sub(r"<script.*?</script>", "", text, flags=re.S)
    )
    assert "default-src 'none'" in html.unescape(text)


class _Tags(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_names_of_classes_and_files_are_text(tmp_path: Path, shapes_folder: Path) -> None:
    backbone = make_backbone("test_resnet", is_random=True, image_size=64)
    model = GapClassifier(backbone, (HOSTILE, "square", "triangle")).eval()
    save_classifier(model, tmp_path / "model", 0.0)
    photos = tmp_path / "photos"
    (photos / "square").mkdir(parents=True)
    (photos / "triangle").mkdir()
    odd = '<img src=x onerror="document.title=1">&"\'.jpg'
    shutil.copy(shapes_folder / "square" / "00.jpg", photos / "square" / odd)
    (photos / "triangle" / "<svg onload=alert(1)>.jpg").write_bytes(b"no photo")
    finding = make_finding([photos / "square" / odd], title=HOSTILE, detail=HOSTILE, other=HOSTILE, id=HOSTILE)
    finding |= {"class": HOSTILE, "photos": [*finding["photos"], {"path": HOSTILE, "boxes": [], "note": HOSTILE}]}
    out = tmp_path / "report.html"
    report(tmp_path / "model", photos, out, audit=write_audit(tmp_path / "audit.json", finding))
    tags = _Tags()
    tags.feed(read(out))
    assert not [tag for tag, _ in tags.found if tag in {"img", "iframe", "object"}]
    assert sum(tag == "script" for tag, _ in tags.found) == 3
    assert not [name for _, attributes in tags.found for name in attributes if name.startswith("on")]
    data = read_data(out)
    assert data["classNames"][0] == HOSTILE
    assert data["entries"][0]["name"] == f"square/{odd}"


def test_of_many_photos_those_that_matter_are_kept_and_all_are_counted(
    tmp_path: Path, run_folder: Path, shapes_folder: Path, page: Path
) -> None:
    out, again = tmp_path / "few.html", tmp_path / "again.html"
    whole = read_data(page)["entries"]
    wrong = {entry["id"] for entry in whole if entry["classes"][0] != entry["truth"]}
    limit = len(wrong) + 3
    done = report(run_folder, None, out, limit=limit)
    report(run_folder, None, again, limit=limit)
    kept = {entry["id"] for entry in read_data(out)["entries"]}
    assert len(kept) == limit
    assert wrong <= kept
    assert kept == {entry["id"] for entry in read_data(again)["entries"]}
    assert done.photos == read_data(out)["counted"] == PHOTOS
    right = next(entry["id"] for entry in whole if entry["id"] not in kept)
    audit = write_audit(tmp_path / "audit.json", make_finding([shapes_folder / right]))
    report(run_folder, None, tmp_path / "wanted.html", limit=1, audit=audit)
    assert [entry["id"] for entry in read_data(tmp_path / "wanted.html")["entries"]] == [right]
    assert f"of {PHOTOS} photos are named rightly" in re.sub(r"</?strong>|\s+", " ", read(out)).replace("  ", " ")


def test_photos_that_have_moved_are_found_where_folder_says(
    tmp_path: Path, tiny_folder: Path, shapes_folder: Path
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(shapes_folder, old)
    run = make_run(tmp_path / "run", tiny_folder, old)
    old.rename(new)
    (new / "circle" / "00.jpg").unlink()
    (new / "circle" / "01.jpg").write_bytes(b"no photo")
    with pytest.raises(UserError, match=rf"Found none of the {PHOTOS} held-out photos .*whycam report .* FOLDER"):
        report(run, None, tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()
    done = report(run, new, tmp_path / "found.html")
    assert (done.photos, done.unreadable) == (PHOTOS - 2, 2)
    text = read(tmp_path / "found.html")
    assert "2 photos could not be read" in text
    assert "<b>circle/00.jpg</b>" in text


def test_photos_that_have_moved_with_their_run_are_found(
    tmp_path: Path, tiny_folder: Path, shapes_folder: Path
) -> None:
    shutil.copytree(shapes_folder, tmp_path / "old" / "photos")
    make_run(tmp_path / "old" / "run", tiny_folder, tmp_path / "old" / "photos")
    (tmp_path / "old").rename(tmp_path / "new")
    assert report(tmp_path / "new" / "run", None, tmp_path / "report.html").photos == PHOTOS


def test_plain_photos_have_no_accuracy(tmp_path: Path, tiny_folder: Path, shapes_folder: Path) -> None:
    done = report(tiny_folder, shapes_folder / "circle", tmp_path / "report.html")
    assert done.photos == PHOTOS_A_CLASS
    text = read(tmp_path / "report.html")
    assert "none of a known class" in text
    assert 'id="mistakes"' not in text
    assert 'id="confusion"' not in text
    assert "Named rightly</th>" not in text


def test_of_a_thousand_classes_the_best_and_the_true_one_are_stored(tmp_path: Path, shapes_folder: Path) -> None:
    torch.manual_seed(0)
    names = (*SHAPES, *(f"class {k}" for k in range(997)))
    model = GapClassifier(make_backbone("test_resnet", is_random=True, image_size=64), names).eval()
    save_classifier(model, tmp_path / "model", 0.0)
    done = report(tmp_path / "model", shapes_folder, tmp_path / "report.html")
    entries = read_data(tmp_path / "report.html")["entries"]
    assert {len(entry["classes"]) for entry in entries} <= {5, 6}
    assert all(entry["truth"] in entry["classes"] for entry in entries)
    assert done.size_mb < 1
    assert "among the first five" in read(tmp_path / "report.html")


def test_models_without_exact_maps_are_read_by_grad_cam(
    tmp_path: Path, tiny_folder: Path, shapes_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_vague(name: str, **_: object) -> Classifier:
        return open_classifier(name, engine="torch").having(no_exact_map="It has none.")

    monkeypatch.setattr(report_photos, "open_classifier", open_vague)
    monkeypatch.setattr(report_photos, "ALL_CLASSES", 2)
    monkeypatch.setattr(report_photos, "BEST", 1)
    report(tiny_folder, shapes_folder, tmp_path / "report.html")
    data = read_data(tmp_path / "report.html")
    assert data["bias"] is None
    for entry in data["entries"]:
        assert entry["method"] == "grad-cam"
        assert entry["truth"] in entry["classes"]
        assert len(entry["classes"]) == (1 if entry["classes"][0] == entry["truth"] else 2)
    assert "made by grad-cam" in read(tmp_path / "report.html")


def test_findings_come_most_serious_first_with_their_photos(
    tmp_path: Path, run_folder: Path, shapes_folder: Path
) -> None:
    own = shapes_folder / "square" / "00.jpg"
    other = tmp_path / "elsewhere.jpg"
    Image.new("RGB", (80, 60)).save(other)
    light = make_finding([other, tmp_path / "gone.jpg"], severity=0.9, cost=0.01, title="A minor thing.", region=None)
    grave = make_finding(
        [own], severity=0.1, cost=0.3, title="A serious thing.", detail="That is 3.6% (95 % interval 2% to 9.5%)."
    )
    grave["photos"][0]["note"] = "31.2% right"
    report(run_folder, None, tmp_path / "report.html", audit=write_audit(tmp_path / "audit.json", light, grave))
    text, data = read(tmp_path / "report.html"), read_data(tmp_path / "report.html")
    assert text.index("A serious thing.") < text.index("A minor thing.") < text.index("Class by class")
    assert "A note of the audit." in text
    assert "Crop it away." in text
    # Shares are written one way, those of the audit's sentences too.
    assert "That is 3.6\u00a0% (95 % interval 2\u00a0% to 9.5\u00a0%)." in text
    assert data["findings"][0]["photos"][0]["note"] == "31.2\u00a0% right"
    assert "--ignore audit.json#shortcut-square-1" in text
    first, second = data["findings"]
    assert first["photos"][0]["entry"] == "square/00.jpg"
    assert first["photos"][0]["boxes"] == [[0.75, 0.0, 1.0, 0.25]]
    assert [photo["entry"] for photo in second["photos"]] == [str(other), None]
    extra = [entry for entry in data["entries"] if entry["isEvidence"]]
    assert [entry["id"] for entry in extra] == [str(other)]
    assert data["counted"] == PHOTOS
    assert f"{tmp_path}/gone.jpg" in text


def test_an_audit_of_another_model_is_refused(tmp_path: Path, run_folder: Path) -> None:
    audit = write_audit(tmp_path / "audit.json", make_finding([]) | {"class": "daisy"})
    with pytest.raises(UserError, match="speaks of 'daisy', which is no class of this model"):
        report(run_folder, None, tmp_path / "report.html", audit=audit)
    assert not (tmp_path / "report.html").exists()


def test_without_an_audit_the_page_says_so(tmp_path: Path, run_folder: Path) -> None:
    report(run_folder, None, tmp_path / "report.html")
    assert "Not audited" in read(tmp_path / "report.html")


def test_a_run_without_an_audit_is_audited(tmp_path: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    class Found:
        def to_json(self, **words: str) -> dict:
            return {"findings": [make_finding([])], "photos": asked["photos"], "notes": [], "record": {}}

    def audit(_model: whycam.Model, samples: list, **how: object) -> Found:
        asked.update(
            photos=len(samples), labels={sample.label for sample in samples}, seed=how["seed"], train=how["train"]
        )
        return Found()

    monkeypatch.setattr("whycam.audit.audit", audit)
    report(run_folder, None, tmp_path / "report.html", no_audit=False, seed=3)
    assert asked == {"photos": PHOTOS, "labels": {0, 1, 2}, "seed": 3, "train": ()}
    assert "Squares are told by a corner." in read(tmp_path / "report.html")


def test_the_audit_of_a_report_knows_what_the_run_learnt_from(
    tmp_path: Path, tiny_folder: Path, shapes_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, asked = tmp_path / "photos", {}
    shutil.copytree(shapes_folder, photos)
    run = make_run(tmp_path / "run", tiny_folder, photos)
    learnt = [photos / name / "learnt.jpg" for name in ("circle", "square")]
    for path in learnt:
        shutil.copy(next(path.parent.iterdir()), path)

    def audit(_model: whycam.Model, samples: list, **how: object) -> None:
        asked.update(how)
        raise UserError("Enough is known.")

    monkeypatch.setattr("whycam.audit.audit", audit)
    report(run, None, tmp_path / "report.html", no_audit=False)
    assert sorted(asked["train"]) == learnt


def test_what_an_audit_refuses_is_told_on_the_page(
    tmp_path: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def audit(*_given: object, **_how: object) -> None:
        raise UserError("Found too little. Give more.")

    monkeypatch.setattr("whycam.audit.audit", audit)
    report(run_folder, None, tmp_path / "report.html", no_audit=False)
    assert "Found too little. Give more." in read(tmp_path / "report.html")


def test_the_numbers_of_an_evaluation_are_shown(tmp_path: Path, run_folder: Path) -> None:
    row = {"metric": "pointing", "method": "cam", "value": 0.71234, "low": 0.6, "high": 0.8, "same_as": None}
    rows = [row | {"is_baseline": False}, row | {"method": "random", "value": None, "low": None, "is_baseline": True}]
    about = {"pointing": {"better": "higher", "paper": "x", "category": "localization"}}
    overall = {"command": "whycam evaluate it", "photos": 36, "metrics": about, "overall": rows}
    write_json(tmp_path / "overall.json", overall)
    report(run_folder, None, tmp_path / "report.html", evaluation=tmp_path)
    text = read(tmp_path / "report.html")
    assert "0.712" in text
    assert "pointing ↑" in text
    assert "whycam evaluate it" in text


def test_the_worst_group_and_all_others_are_told(tmp_path: Path, run_folder: Path) -> None:
    """By the training run where it knows them, else by the evaluation; the words are text."""
    told = {}
    for name, word in (("run", "<logo>"), ("evaluation", "plain")):
        right = [True] * 7 + [False] * 3 + [True] * 9
        told[name] = score_groups(["circle"] * 10 + ["square"] * 9, [word] * 10 + ["other"] * 9, right)
    overall = {"command": "", "photos": 36, "metrics": {}, "overall": [], "groups": told["evaluation"]}
    write_json(tmp_path / "overall.json", overall)
    report(run_folder, None, tmp_path / "a.html", evaluation=tmp_path)
    assert "circle / plain" in read(tmp_path / "a.html")
    copied = shutil.copytree(run_folder, tmp_path / "run")
    summary = json.loads((copied / "summary.json").read_text())
    write_json(copied / "summary.json", summary | {"groups": told["run"]})
    report(copied, None, tmp_path / "b.html", evaluation=tmp_path)
    text = " ".join(read(tmp_path / "b.html").split())
    assert "of 10 photos in the worst group: circle / &lt;logo&gt;" in text
    assert "<strong>70 %</strong>" in text
    assert "<td>other</td>" in text
    assert "worst group" not in read_plain(tmp_path, run_folder)


def read_plain(tmp_path: Path, run_folder: Path) -> str:
    report(run_folder, None, tmp_path / "c.html")
    return read(tmp_path / "c.html")


def test_a_report_is_not_replaced_by_itself(tmp_path: Path, run_folder: Path) -> None:
    out = tmp_path / "report.html"
    out.write_text("mine")
    for how in ({}, {"overwrite": True}):
        with pytest.raises(UserError, match="is there already"):
            report(run_folder, None, out, **how)
        assert out.read_text() == "mine"
    out.write_text('<!doctype html><meta name="generator" content="WhyCAM 0.1.0">')
    with pytest.raises(UserError, match=r"is there already .* --overwrite"):
        report(run_folder, None, out)
    report(run_folder, None, out, overwrite=True)
    assert "<h1>shapes-run</h1>" in read(out)
    with pytest.raises(UserError, match=r"\(a folder\).*report\.html"):
        report(run_folder, None, tmp_path, overwrite=True)


def test_nothing_half_written_is_left(tmp_path: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(self: Path, _text: str, **_how: object) -> None:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fill)
    with pytest.raises(UserError, match="No room to write"):
        report(run_folder, None, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"audit": "nothing.json"}, "can't be read as audit.json .* Run whycam audit"),
        ({"audit": "odd.json"}, "can't be read as audit.json .* Run whycam audit"),
        ({"evaluation": "odd.json"}, "can't be read as overall.json .* Run whycam evaluate"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_named(
    tmp_path: Path, run_folder: Path, options: dict, message: str
) -> None:
    (tmp_path / "odd.json").write_text('{"other": 1}')
    with pytest.raises(UserError, match=message):
        report(run_folder, None, tmp_path / "r.html", **{name: tmp_path / file for name, file in options.items()})


def test_without_photos_the_message_says_what_to_name(tmp_path: Path, tiny_folder: Path) -> None:
    with pytest.raises(UserError, match=r"no training run.*Name a folder"):
        report(tiny_folder, None, tmp_path / "report.html")
    with pytest.raises(UserError, match=r"Found no folder .*Check the path"):
        report(tiny_folder, tmp_path / "none", tmp_path / "report.html")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_bytes(b"no photo")
    with pytest.raises(UserError, match="Not one of the 1 photos could be read"):
        report(tiny_folder, tmp_path / "bad", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_the_command_says_where_the_page_is(tmp_path: Path, run_folder: Path) -> None:
    out = tmp_path / "deep" / "report.html"
    done = CliRunner().invoke(app, ["report", str(run_folder), "-o", str(out), "--no-audit", "--engine", "torch"])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"Reported on {PHOTOS} photos; open {out} (")
    assert out.is_file()


def test_a_damaged_run_is_told(tmp_path: Path, run_folder: Path) -> None:
    shutil.copytree(run_folder, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=r"can't be read whole .* Train again"):
        report(tmp_path / "run", None, tmp_path / "report.html")


@pytest.mark.data
def test_350_photos_of_5_classes_make_a_page_under_10_mb(tmp_path: Path, tiny_folder: Path, photos_dir: Path) -> None:
    few = tmp_path / "photos"
    few.mkdir()
    photos = sorted((photos_dir / "flowers" / "val").glob("*/*.jpg"))[::14]
    for number, path in enumerate(photos):
        shutil.copy(path, few / f"{number}.jpg")
    size_mb = report(tiny_folder, few, tmp_path / "few.html").size_mb
    shell_mb = report(tiny_folder, few, tmp_path / "one.html", limit=1).size_mb
    # The network's maps are 7 x 7, of 5 classes: 654 bytes in base64; the tiny one's are smaller.
    assert shell_mb + 350 * ((size_mb - shell_mb) / (len(photos) - 1) + 0.001) < 10


def make_reading(maps: list[list[list[float]]], logits: list[float]) -> Reading:
    names = tuple("abcdef"[: len(logits)])
    values = np.array(logits, np.float32)
    return Reading(np.array(maps, np.float32), values, values, np.arange(len(maps)), names, {})


def test_heat_is_counted_by_shares() -> None:
    tally = Tally(2)
    centre = [[0, 0, 0], [0, 8, 0], [0, 0, -5]]
    corner = [[2, 0, 0], [0, 0, 0], [0, 0, 2]]
    tally.add(make_reading([centre, corner], [1, 0]), 0)
    tally.add(make_reading([corner, centre], [0, 1]), 0)
    [row, named] = tally.rows()
    assert row["border"] == 0.5
    # Shares 1 in the centre, and 1/2 in each of two corners; their mean, times 9 cells.
    assert row["map"] == {"shape": [3, 3], "values": [2.25, 0, 0, 0, 4.5, 0, 0, 0, 2.25]}
    assert (row["accuracy"], row["photos"], row["named"], row["precision"]) == (0.5, 2, 1, 1.0)
    assert (named["accuracy"], named["named"], named["precision"]) == (None, 1, 0.0)
    assert tally.even_border == pytest.approx(8 / 9)


def test_top_five_counts_a_class_that_four_are_before() -> None:
    tally = Tally(6)
    flat = [[1.0]]
    tally.add(make_reading([flat] * 6, [6, 5, 4, 3, 2, 1]), 4)
    tally.add(make_reading([flat] * 6, [6, 5, 4, 3, 2, 1]), 5)
    assert tally.top5 == 1


def test_intervals_are_wilsons() -> None:
    # By hand: centre (p + z²/2n) / (1 + z²/n), z = 1.96.
    assert find_interval(318, 350) == pytest.approx((0.8739, 0.9344), abs=2e-4)
    assert find_interval(10, 10)[1] == 1.0


def test_a_curve_spans_its_picture_and_marks_the_best_epoch() -> None:
    epochs = [
        {"train_accuracy": 0.5, "val_accuracy": 0.6, "val_loss": 1.0},
        {"train_accuracy": 1.0, "val_accuracy": 0.8, "val_loss": 0.5},
        {"train_accuracy": 1.0, "val_accuracy": 0.8, "val_loss": 0.6},
    ]
    curve = make_curve(epochs, "accuracy")
    assert curve is not None
    assert curve["lines"]["train"] == "0.0,180.0 210.0,0.0 420.0,0.0"
    assert curve["lines"]["val"] == "0.0,144.0 210.0,72.0 420.0,72.0"
    assert (curve["best"], curve["best_value"], curve["low"], curve["high"]) == (2, 0.8, 0.5, 1.0)
    assert curve["sample"] == 0
    assert make_curve(epochs[:1], "accuracy") is None


def test_a_curve_of_samples_has_its_best_among_the_epochs_measured_on_all_photos() -> None:
    epochs = [
        {"train_accuracy": 0.5, "val_accuracy": accuracy, "val_loss": 1.0, "val_photos": photos, "is_val_whole": whole}
        for accuracy, photos, whole in ((0.95, 64, False), (0.8, 350, True), (0.9, 350, True), (0.95, 64, False))
    ]
    curve = make_curve(epochs, "accuracy")
    assert curve is not None
    assert (curve["best"], curve["best_value"], curve["sample"]) == (3, 0.9, 64)


def test_json_that_an_option_names_may_be_a_folder_or_a_file(tmp_path: Path) -> None:
    write_audit(tmp_path / "audit.json")
    for place in (tmp_path, tmp_path / "audit.json"):
        assert job._find_json(place, "audit.json", "whycam audit", None)["photos"] == 36
    assert job._find_json(None, "audit.json", "whycam audit", tmp_path)["photos"] == 36
    assert job._find_json(None, "audit.json", "whycam audit", tmp_path / "none") is None
