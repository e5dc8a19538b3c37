"""The card and its evidence: every number is what its file says, and nothing of a user's is code."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

import whycam
from edit_cases import copy_scene, correct, make_finding, read_summary
from whycam.config import CardOptions, EvaluateOptions
from whycam.errors import UserError
from whycam.jobs.card import make_card
from whycam.jobs.evaluate import evaluate_folder
from whycam.runs import write_json

Run = Callable[..., subprocess.CompletedProcess[str]]
HOSTILE = "<script>alert(1)</script> | `x` [y](http://example.com) ```"


@pytest.fixture
def run(scene: Path, tmp_path: Path) -> Path:
    """A run of its own, whose audit has two findings: one that people trained against, one that is open."""
    edited = copy_scene(scene, tmp_path)
    edited.append([{"kind": "cure", "finding": make_finding(), "who": "Ann"}])
    write_audit(edited.run, make_finding(), make_finding(id="shortcut-square-1", **{"class": "square"}))
    return Path(edited.run)


def write_audit(folder: Path, *findings: dict[str, Any], **record: Any) -> Path:
    """RUN/audit.json as whycam audit writes it."""
    about = {"sha256": read_hash(folder), "kinds": ["shortcut"], "seed": 0, "classes": {"circle": 3, "square": 3}}
    content = {"command": "whycam audit", "options": {}, "findings": findings, "photos": 6, "notes": []}
    write_json(folder / "audit.json", {**content, "record": about | record})
    return folder / "audit.json"


def read_hash(folder: Path) -> str:
    return str(json.loads((folder / "model" / "config.json").read_text())["whycam"]["sha256"])


def iter_facts(sections: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for section in sections:
        yield from section["facts"]
        yield from iter_facts(section.get("parts", []))


def point(file: Path, key: str) -> Any:
    """What a JSON Pointer points to, by its own definition (RFC 6901)."""
    text = file.read_text()
    content = [json.loads(line) for line in text.splitlines()] if file.suffix == ".jsonl" else json.loads(text)
    for word in key.split("/")[1:]:
        part = word.replace("~1", "/").replace("~0", "~")
        content = content[int(part)] if isinstance(content, list) else content[part]
    return content


def make(run: Path, **options: Any) -> tuple[str, dict[str, Any]]:
    """The card's text, and what the evidence holds."""
    out = run.parent / "card.md"
    make_card(run, out, CardOptions(evidence=run.parent / "evidence.html", overwrite=True, **options))
    return out.read_text(), json.loads((run.parent / "evidence.json").read_text())


def check_values(told: dict[str, Any]) -> int:
    """Follows every pointer; how many values stand there as they are."""
    for about in told["files"].values():
        assert about["sha256"] == hashlib.sha256(Path(about["path"]).read_bytes()).hexdigest()
    plain = 0
    for fact in iter_facts(told["sections"]):
        assert fact["origins"]
        found = [
            point(Path(told["files"][origin["file"]]["path"]), origin["key"])
            for origin in fact["origins"]
            if origin["file"] != "command line"
        ]
        if found and "computed" not in fact:
            assert fact["value"] == found[0], fact["name"]
            plain += 1
    return plain


def test_every_value_stands_where_it_is_said_to_stand(run: Path) -> None:
    _, told = make(run, purpose="To sort shapes.")
    assert check_values(told) > 50


def test_an_evaluation_is_quoted_and_one_of_other_weights_refused(run: Path) -> None:
    options = EvaluateOptions(metrics="gini,entropy", limit=4, engine="torch")
    evaluate_folder(str(run), run.parent / "photos", run / "evaluation", options)
    text, told = make(run)
    assert check_values(told) > 60
    table = json.loads((run / "evaluation" / "overall.json").read_text())
    facts = {fact["name"]: fact for fact in iter_facts(told["sections"])}
    row = next(row for row in table["overall"] if (row["metric"], row["method"]) == ("gini", "cam"))
    assert facts["gini of cam"]["value"] == row["value"]
    assert facts["gini of cam"]["interval"]["low"] == row["low"]
    assert facts["paper of gini"]["value"] == "arXiv:1810.06583, sec. 4"
    assert "gini of cam" in text
    write_json(run / "evaluation" / "overall.json", table | {"record": table["record"] | {"sha256": "0" * 64}})
    with pytest.raises(UserError, match="another model"):
        make(run)


def test_intervals_are_wilsons_of_the_counts(run: Path) -> None:
    _, told = make(run)
    facts = {fact["name"]: fact for fact in iter_facts(told["sections"])}
    counts = read_summary(run)["confusion"]
    right, total = counts[0][0] + counts[1][1], sum(map(sum, counts))
    for name, hits, of in (("accuracy", right, total), ("circle: recall", counts[0][0], sum(counts[0]))):
        z, share = 1.959963984540054, hits / of
        assert facts[name]["value"] == pytest.approx(share)
        middle = (share + z * z / (2 * of)) / (1 + z * z / of)
        half = z / (1 + z * z / of) * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
        interval = facts[name]["interval"]
        assert interval["low"] == pytest.approx(middle - half, abs=1e-9)
        assert interval["high"] == pytest.approx(middle + half, abs=1e-9)


def test_hugging_face_reads_the_card(run: Path) -> None:
    text, _ = make(run, license="apache-2.0", name="shapes", purpose="To sort shapes.")
    card = ModelCard(text)
    assert card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == "image-classification"
    result = card.data.eval_results[0]
    assert result.metric_value == read_summary(run)["val_accuracy"]
    assert result.dataset_revision == read_summary(run)["data"]["fingerprint"]
    assert "# shapes" in card.text
    assert "To sort shapes." in card.text


def test_a_card_names_no_place_and_nobody_and_claims_nothing(run: Path) -> None:
    text, told = make(run)
    assert str(run.parent) not in text
    assert "Ann" not in text
    assert "no statement that the model conforms" in " ".join(text.split())
    assert "no statement that the model conforms" in told["about"]
    assert told["left_to_people"]
    titles = [section["title"] for section in told["sections"]]
    assert [title[0] for title in titles] == list("123456")


def test_what_was_done_about_each_finding_is_told(run: Path) -> None:
    text, told = make(run)
    parts = {part["key"]: part for section in told["sections"] for part in section.get("parts", [])}
    (done,) = [fact for fact in parts["shortcut-circle-1"]["facts"] if fact["name"] == "what was done"]
    assert "not yet trained" in done["value"]
    assert done["origins"] == [{"file": "edits.jsonl", "key": "/0/kind"}]
    assert done["note"].startswith("Ann at ")
    (done,) = [fact for fact in parts["shortcut-square-1"]["facts"] if fact["name"] == "what was done"]
    assert done["value"] == "nothing is recorded"
    assert "not yet trained by it" in text


def test_a_kept_version_is_told_with_what_it_is_trained_by(scene: Path, tmp_path: Path) -> None:
    edited = copy_scene(scene, tmp_path)
    correct(edited)
    version = edited.retrain()
    edited.keep(version.number)
    _, told = make(Path(edited.run))
    facts = {fact["name"]: fact for fact in iter_facts(told["sections"])}
    assert facts["SHA-256 of the weights"]["value"] == read_hash(version.folder)
    assert facts["edits that this model is trained by"]["value"] == len(edited.state.edits)
    assert facts["A mark."]["value"] == "trained against"
    assert facts["accuracy"]["origins"][0]["file"] == "versions/001/summary.json"
    changes = next(section for section in told["sections"] if section["key"] == "changes")
    assert [part["title"] for part in changes["parts"]] == ["Version 000", "Version 001 (this model)"]


def test_names_are_text_and_no_code(run: Path) -> None:
    write_audit(run, make_finding(title=HOSTILE, detail=HOSTILE))
    text, _ = make(run, name=HOSTILE, purpose=HOSTILE)
    page = (run.parent / "evidence.html").read_text()
    assert "<script" not in page
    assert not re.findall(r"""(?:src|href)=["']?http""", page)
    body = ModelCard(text).text
    assert "<script" not in body
    assert "[y](http" not in body
    for row in re.findall(r"^\|.*$", body, re.MULTILINE):
        assert len(re.findall(r"(?<!\\)\|", row)) == 3, row


def test_a_result_of_a_model_says_which_weights_it_is_of(tiny_folder: Path) -> None:
    content = (tiny_folder / "model.safetensors").read_bytes()
    assert whycam.load(tiny_folder).origin["sha256"] == hashlib.sha256(content).hexdigest()


def test_the_command_needs_no_torch_and_ends_with_its_files(run: Path) -> None:
    out, evidence = run.parent / "made" / "card.md", run.parent / "made" / "evidence.json"
    code = (
        "import sys; from whycam.__main__ import main\n"
        f"sys.argv = ['whycam', 'card', {str(run)!r}, '-o', {str(out)!r}, '--evidence', {str(evidence)!r}]\n"
        "try: main()\nexcept SystemExit as end: assert not end.code\n"
        "print('HEAVY', sorted(sys.modules.keys() & {'torch', 'timm', 'matplotlib'}))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines() == [f"The card is {out}; its evidence is {evidence}", "HEAVY []"]
    assert sorted(path.name for path in out.parent.iterdir()) == ["card.md", "evidence.json"]


def drop_fingerprint(run: Path) -> None:
    summary = read_summary(run)
    del summary["data"]["fingerprint"]
    write_json(run / "summary.json", summary | {"versions": {"whycam": "0.0.7"}})


@pytest.mark.parametrize(
    ("spoil", "words", "expected"),
    [
        (lambda run: (run / "summary.json").unlink(), [], ["Found no summary.json", "whycam train FOLDER"]),
        (drop_fingerprint, [], ["data.fingerprint", "whycam 0.0.7", "Train it again"]),
        (lambda run: (run / "summary.json").write_text("{"), [], ["summary.json' can't be read", "whycam train"]),
        (lambda run: (run / "summary.json").write_text("[]"), [], ["summary.json'", "whycam train"]),
        (lambda run: (run / "options.json").unlink(), [], ["options.json' can't be read"]),
        (lambda run: write_audit(run, sha256="0" * 64), [], ["another model", "000000000000", "whycam audit"]),
        (
            lambda run: write_audit(run, make_finding(**{"class": "wolf"}), sha256=None),
            [],
            ["'wolf', which is no class", "'circle', 'square'"],
        ),
        (lambda run: write_audit(run, sha256=None, backbone="vgg16"), [], ["'vgg16'", "'test_resnet'"]),
        (lambda run: None, ["--audit", "nowhere"], ["nowhere' can't be read as audit.json", "whycam audit"]),
        (lambda run: None, ["--evidence", "evidence.pdf"], [".json nor .html", "evidence.pdf"]),
        (lambda run: Path("evidence.json").write_text("mine"), ["--evidence", "evidence.html"], ["is there already"]),
        (lambda run: None, ["--evidence", "card.json", "-o", "card.json"], ["both name 'card.json'"]),
    ],
)
def test_wrong_words_are_told_what_would_be_right(  # noqa: PLR0917 - fixtures
    call_whycam: Run,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path], object],
    words: list[str],
    expected: list[str],
) -> None:
    monkeypatch.chdir(run.parent)
    spoil(run)
    before = sorted(path.name for path in run.parent.iterdir())
    done = call_whycam("card", run, *words)
    assert done.returncode == 2, done.stdout
    assert "Traceback" not in done.stderr
    for text in expected:
        assert text in " ".join(done.stderr.split())
    assert sorted(path.name for path in run.parent.iterdir()) == before


def test_a_model_folder_and_no_folder_are_told_apart(run: Path) -> None:
    with pytest.raises(UserError, match=r"part that is called model: try '.*run'"):
        make(run / "model")
    with pytest.raises(UserError, match="Found no folder"):
        make(run.parent / "none")


def test_an_older_audit_is_told_to_be_known_by_its_classes_alone(run: Path) -> None:
    write_audit(run, sha256=None, backbone="test_resnet")
    text, told = make(run)
    assert "does not say the hash" in told["sections"][4]["note"]
    assert "found nothing that is certain enough" in text


def test_without_an_audit_the_card_says_so(run: Path) -> None:
    (run / "audit.json").unlink()
    text, _ = make(run)
    assert "No audit of this model was given" in text


def test_weights_that_are_not_there_are_told(run: Path) -> None:
    shutil.move(run / "model" / "model.safetensors", run.parent / "away")
    _, told = make(run)
    facts = {fact["name"]: fact for fact in iter_facts(told["sections"])}
    assert "not there" in facts["SHA-256 of the weights"]["note"]
