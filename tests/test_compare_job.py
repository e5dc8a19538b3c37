"""`whycam compare` as a user calls it: files, closing line, words, and what it refuses."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compare_cases import explain_all, make_model, save_model
from conftest import PHOTOS_A_CLASS, SHAPES
from report_cases import decode_maps, make_finding, read_data, write_audit
from whycam.made import LIST

Run = Callable[..., subprocess.CompletedProcess[str]]
PHOTOS = PHOTOS_A_CLASS * len(SHAPES)
FILES = {"compare.html", "compare.json", "flips.csv"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, shapes_folder: Path) -> dict[str, Path]:
    """Model folders, to be read only."""
    root = tmp_path_factory.mktemp("models")
    names = {"a": 0, "b": 1, "c": 2, "d": 3}
    found = {name: save_model(make_model(shapes_folder, seed), root / name) for name, seed in names.items()}
    other = make_model(shapes_folder, 4, names=("x", "y"))
    return {**found, "other": save_model(other, root / "other")}


def read_flips(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_page_numbers_and_table(call_whycam: Run, models: dict[str, Path], shapes_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "compare.html"
    done = call_whycam("compare", models["a"], models["b"], shapes_folder, "-o", out)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.parent.iterdir()} == FILES
    numbers, rows = json.loads(out.with_name("compare.json").read_text()), read_flips(out.with_name("flips.csv"))
    last = done.stdout.splitlines()[-1]
    assert last.startswith(f"Compared on {PHOTOS} photos; {len(rows)} flip; open {out} (")
    assert last.endswith("compare.json and flips.csv are beside it")
    assert f"B is right on {numbers['accuracy']['b']:.1%} of {PHOTOS} photos" in done.stdout
    for line in numbers["told"]:
        assert line in done.stdout
    named = {k: {path: explain_all(models[k], path)[0] for path in shapes_folder.glob("*/*.jpg")} for k in "ab"}
    flipped = {str(path) for path in named["a"] if named["a"][path].argmax() != named["b"][path].argmax()}
    assert {row["path"] for row in rows} == flipped
    assert numbers["flips"]["photos"] == len(flipped)
    assert numbers["difference"]["gained"] == sum(row["kind"] == "wrong-to-right" for row in rows)
    for row in rows:
        a, b = (SHAPES.index(row[k]) for k in "ab")
        for k, lead in (("a", row["lead_a"]), ("b", row["lead_b"])):
            scores = named[k][Path(row["path"])]
            assert float(lead) == pytest.approx(scores[b] - scores[a], abs=1e-3)
        assert row["truth"] == Path(row["path"]).parent.name
        assert row["between_runs"] == ""
    assert numbers["identity_error"] < 1e-5
    assert numbers["a"]["exact"].startswith("yes")


def test_the_page_holds_what_it_shows(
    call_whycam: Run, models: dict[str, Path], shapes_folder: Path, tmp_path: Path
) -> None:
    done = call_whycam("compare", models["a"], models["b"], shapes_folder, "-o", tmp_path / "out", "--limit", 5)
    assert done.returncode == 0, done.stderr
    page = tmp_path / "out" / "compare.html"
    assert {path.name for path in page.parent.iterdir()} == {*FILES, LIST}
    text, data, rows = page.read_text(), read_data(page), read_flips(tmp_path / "out" / "flips.csv")
    assert len(data["flips"]) == 5 < len(rows) == data["total"]
    assert f"5 of {len(rows)} are shown" in text
    bias = {k: np.array(data["bias"][k]) for k in ("a", "b", "change")}
    np.testing.assert_allclose(bias["change"], bias["b"] - bias["a"], atol=1e-6)
    for flip in data["flips"]:
        assert flip["image"].startswith("data:image/jpeg;base64,")
        leads = {}
        for k, entry in flip["entries"].items():
            maps, classes = decode_maps(entry), entry["classes"]
            assert sorted(classes) == [0, 1, 2]
            place = {index: i for i, index in enumerate(classes)}
            mean = (maps[place[flip["b"]]] - maps[place[flip["a"]]]).mean()
            leads[k] = mean + bias[k][flip["b"]] - bias[k][flip["a"]]
            assert entry["isChange"] == (k == "change")
        assert leads["a"] == pytest.approx(flip["leadA"], abs=1e-3)
        assert leads["b"] == pytest.approx(flip["leadB"], abs=1e-3)
        assert leads["change"] == pytest.approx(flip["leadB"] - flip["leadA"], abs=1e-3)
    assert set(re.findall(r"https?://[^\s\"'<>)]*", text)) <= {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in html.unescape(text)


def test_noise_takes_all_words_up_to_the_next_option(
    call_whycam: Run, models: dict[str, Path], shapes_folder: Path, tmp_path: Path
) -> None:
    words = ("compare", models["a"], models["b"], shapes_folder, "--noise", models["c"], models["d"])
    done = call_whycam(*words, models["a"], "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    numbers = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert numbers["noise"]["names"] == [str(models["c"]), str(models["d"])]
    assert numbers["noise"]["a_belongs"]
    assert len(numbers["noise"]["accuracy"]["runs"]) == 3
    assert "A and 2 other runs of its training are right on" in done.stdout
    assert re.search(r"^(Within|Beyond) noise: ", done.stdout, re.MULTILINE)
    assert all(0 <= float(row["between_runs"]) <= 1 for row in read_flips(tmp_path / "out" / "flips.csv"))
    again = call_whycam(*words[:4], "--noise", models["c"], "--noise", models["d"], "-o", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    assert "2 other runs of one training are right on" in again.stdout


def test_findings_and_odd_names(call_whycam: Run, models: dict[str, Path], shapes_folder: Path, tmp_path: Path) -> None:
    odd = "<img src=x onerror='document.title=1'>[red]"
    audit = write_audit(tmp_path / "audit.json", make_finding([], title=odd))
    photos = tmp_path / "photos"
    for name in SHAPES:
        (photos / name).mkdir(parents=True)
        for path in (shapes_folder / name).glob("0*.jpg"):
            shutil.copy(path, photos / name / f"{odd}-{path.name}")
    (photos / "square" / "bad.jpg").write_text("no photo")
    done = call_whycam("compare", models["a"], models["b"], photos, "-o", tmp_path / "out", "--audit", audit)
    assert done.returncode == 0, done.stderr
    assert f"Compared on {len(SHAPES) * 10} photos (1 could not be read: see the table)" in done.stdout
    text, numbers = ((tmp_path / "out" / name).read_text() for name in ("compare.html", "compare.json"))
    (finding,) = json.loads(numbers)["findings"]
    assert (finding["title"], finding["photos"]) == (odd, 10)
    assert finding["change"]["low"] <= finding["change"]["value"] <= finding["change"]["high"]
    assert [one["path"] for one in json.loads(numbers)["unreadable"]] == [str(photos / "square" / "bad.jpg")]
    assert "<img src=x" not in text
    assert html.escape(odd, quote=False).replace("'", "&#39;") in text
    assert "1 photos could not be read" in text


def test_photos_in_one_heap_are_told_plainly(
    call_whycam: Run, models: dict[str, Path], shapes_folder: Path, tmp_path: Path
) -> None:
    done = call_whycam("compare", models["a"], models["b"], shapes_folder / "circle", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "so it can't be said which of them is right" in done.stdout
    numbers = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert (numbers["accuracy"], numbers["difference"]) == (None, None)
    text = (tmp_path / "out" / "compare.html").read_text()
    assert "named alike" in text
    assert "Classes that are named more, and less" in text


def test_two_equal_models_have_an_empty_table(
    call_whycam: Run, models: dict[str, Path], shapes_folder: Path, tmp_path: Path
) -> None:
    done = call_whycam("compare", models["a"], models["a"], shapes_folder, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert f"0 of {PHOTOS} photos flip" in done.stdout
    assert read_flips(tmp_path / "out" / "flips.csv") == []
    assert "None: both name every photo alike." in (tmp_path / "out" / "compare.html").read_text()


def test_what_is_there_is_never_replaced_by_itself(
    call_whycam: Run, models: dict[str, Path], shapes_folder: Path, tmp_path: Path
) -> None:
    photos = shapes_folder / "circle"
    words = ("compare", models["a"], models["b"], photos, "-o", tmp_path / "page.html")
    (tmp_path / "flips.csv").write_text("mine")
    for given in (words, (*words, "--overwrite")):
        done = call_whycam(*given)
        assert done.returncode == 2
        assert f"'{tmp_path / 'flips.csv'}' is there already" in done.stderr
        assert (tmp_path / "flips.csv").read_text() == "mine"
        assert [path.name for path in tmp_path.iterdir()] == ["flips.csv"]
    (tmp_path / "flips.csv").unlink()
    assert call_whycam(*words).returncode == 0
    done = call_whycam(*words)
    assert done.returncode == 2
    assert "or give --overwrite" in done.stderr
    done = call_whycam(*words, "--overwrite")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"page.html", "compare.json", "flips.csv"}
    done = call_whycam("compare", models["a"], models["b"], photos, "-o", tmp_path)
    assert done.returncode == 2
    assert "is there already" in done.stderr


@pytest.mark.parametrize(
    "case",
    [
        (["NONE", "B", "PHOTOS"], "expected a model"),
        (["A", "OTHER", "PHOTOS"], "no class that both models have by name"),
        (["A", "B", "PHOTOS/none"], "No file or folder"),
        (["A", "B", "PHOTOS", "--noise", "C", "OTHER"], "The run of --noise"),
        (["A", "B", "PHOTOS", "--noise", "C"], "measured by 1 run"),
        (["A", "B", "PHOTOS", "--audit", "AUDIT"], "The audit speaks of 'star'"),
        (["A", "B", "PHOTOS", "--audit", "PHOTOS"], "can't be read as audit.json"),
        (["A", "B", "PHOTOS", "--preprocess-a", "half"], "--preprocess would say"),
        (["A", "B", "BAD"], "Not one of the 2 photos could be read"),
    ],
)
def test_what_cannot_be_done_is_told_and_nothing_is_left(
    call_whycam: Run, models: dict[str, Path], shapes_folder: Path, tmp_path: Path, case: tuple[list[str], str]
) -> None:
    words, told = case
    bad = tmp_path / "bad"
    bad.mkdir()
    for name in "xy":
        (bad / f"{name}.jpg").write_text("no photo")
    audit = write_audit(tmp_path / "audit.json", make_finding([], **{"class": "star"}))
    known: dict[str, Any] = {"NONE": tmp_path / "none.onnx", "PHOTOS": shapes_folder, "AUDIT": audit, "BAD": bad}
    known |= {name.upper(): folder for name, folder in models.items()}
    known["PHOTOS/none"] = shapes_folder / "none"
    for out in (tmp_path / "out" / "page.html", tmp_path / "folder"):
        done = call_whycam("compare", *(known.get(word, word) for word in words), "-o", out)
        assert done.returncode == 2
        assert told in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr
        assert not out.exists()
        assert not list(out.parent.glob(".*")) or out.parent == tmp_path
    assert not list(tmp_path.glob("*.partial"))
