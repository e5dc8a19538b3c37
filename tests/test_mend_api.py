"""The calls of the page Mend: what was said is in the journal, once; what is wrong is refused in words."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import schemathesis
from fastapi.testclient import TestClient
from schemathesis.config import SchemathesisConfig

import whycam
from conftest import change
from mend_cases import copy_run, make_run
from serve_cases import check_call
from whycam.config import ServeOptions
from whycam.data.images import content_hash
from whycam.errors import UserError
from whycam.intake.door import open_classifier
from whycam.mend import retraining
from whycam.mend.edited_run import EditedRun
from whycam.mend.steps import CancelledError
from whycam.show.app.served import CurrentModel, ServedModel
from whycam.show.app.site import make_app

HERE = "http://127.0.0.1"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("mend"))


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> whycam.Model:
    return whycam.load(tiny_folder, engine="torch")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return copy_run(trained, tmp_path / "run")


@pytest.fixture
def client(model: whycam.Model, run: Path) -> Iterator[TestClient]:
    yield from open_client(model, run)


def open_client(model: whycam.Model, run: object, **options: Any) -> Iterator[TestClient]:
    """The app of a run: of its own model it needs nothing but the name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("whycam.model.classifier.Classifier._find_graph", lambda *_: None)
        with (
            ServedModel(change(model, name=str(run))) as served,
            TestClient(make_app(served, ServeOptions(rate=0, **options)), HERE) as client,
        ):
            yield client


def read_list(client: TestClient) -> Any:
    answer = client.get("/api/mend")
    assert answer.status_code == 200, answer.text
    return answer.json()


def say(client: TestClient, *edits: dict[str, Any]) -> Any:
    return client.post("/api/mend/edits", json={"edits": list(edits)})


def read_lines(run: Path) -> list[Any]:
    path = run / "edits.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait(client: TestClient) -> Any:
    """The training's end."""
    for _ in range(600):
        work = client.get("/api/mend/state").json()["work"]
        if work["state"] != "running":
            return work
        time.sleep(0.1)
    raise AssertionError("The training does not end.")


def find_photo(client: TestClient, sort: str = "label") -> Any:
    return next(one for one in read_list(client)["items"] if one["sort"] == sort)["photos"][0]


def check_refused(answer: Any, status: int, words: str) -> None:
    assert answer.status_code == status, answer.text
    assert re.search(words, answer.json()["error"]["reason"]), answer.text


# ---- What is said


def test_the_list_is_that_of_the_run(client: TestClient, run: Path) -> None:
    told = read_list(client)
    edited = EditedRun.open(run)
    assert [one["id"] for one in told["items"]] == [item.id for item in edited.list_work()]
    assert told["classNames"] == list(edited.source.class_names)
    assert (told["kept"], told["history"], told["notes"]) == ("000", [], [])
    assert client.get("/api/mend/state").json()["revision"] == told["revision"]


def test_each_action_can_be_sent_as_it_stands(client: TestClient, run: Path) -> None:
    before = read_list(client)
    items = {one["sort"]: one for one in reversed(before["items"])}
    done = [("finding", "dismiss", {}), ("label", "right", {}), ("mistake", "leave-out", {})]
    for k, (sort, name, words) in enumerate(done):
        action = next(one for one in items[sort]["actions"] if one["name"] == name)
        edits = [{**one, **words, "id": f"click-{k}.{i}"} for i, one in enumerate(action["edits"])]
        assert say(client, *edits).status_code == 200
    after = read_list(client)
    assert [one["kind"] for one in after["history"]] == ["leave-out", "right", "dismiss"]
    assert not {items[sort]["id"] for sort, _, _ in done} & {one["id"] for one in after["items"]}
    assert after["revision"] != before["revision"]
    assert [line["id"] for line in read_lines(run)] == [f"click-{k}.0" for k in range(3)]


def test_an_edit_that_is_sent_again_counts_once(client: TestClient, run: Path) -> None:
    photo = find_photo(client)
    edit = {"id": "a-click.0", "kind": "leave-out", "photo": photo["photo"]}
    assert {say(client, edit).status_code for _ in range(3)} == {200}
    lines = read_lines(run)
    assert [(line["kind"], line["path"]) for line in lines] == [("leave-out", photo["path"])]
    assert read_list(client)["said"] == 1


def test_a_label_is_changed_and_undone(client: TestClient) -> None:
    photo = find_photo(client)
    other = next(name for name in read_list(client)["classNames"] if name != photo["label"])
    say(client, {"id": "the-label", "kind": "label", "photo": photo["photo"], "label": other})
    address = f"/api/mend/photos/{photo['photo']}?version=000"
    assert client.get(address).json()["label"] == other
    assert say(client, {"id": "the-undo", "kind": "undo", "of": "the-label"}).status_code == 200
    assert client.get(address).json()["label"] == photo["label"]
    assert read_list(client)["history"] == []


def test_a_new_class_has_to_be_called_new(client: TestClient) -> None:
    photo = find_photo(client)["photo"]
    edit = {"id": "new-class", "kind": "label", "photo": photo, "label": "orchid"}
    check_refused(say(client, edit), 422, "orchid")
    assert say(client, {**edit, "is_new": True}).status_code == 200
    assert "orchid" in read_list(client)["classNames"]


def test_what_is_drawn_is_shown(client: TestClient) -> None:
    photo = find_photo(client)["photo"]
    region = {"boxes": [[0.0, 0.0, 0.5, 1.0]]}
    assert say(client, {"id": "drawn-one", "kind": "not-object", "photo": photo, "region": region}).status_code == 200
    view = client.get(f"/api/mend/photos/{photo}?version=000&photo_px=64").json()
    from whycam.data.drawn import read_mask

    mask = read_mask(view["drawn"]["not-object"])
    assert mask[:, : mask.shape[1] // 2].all()
    assert not mask[:, mask.shape[1] // 2 :].any()


BAD = [
    ({"kind": "right"}, "id"),
    ({"id": "short"}, "id"),
    ({"id": "good-identity", "kind": "praise"}, "unknown|Unknown|praise"),
    ({"id": "good-identity", "kind": "leave-out"}, "needs 'photo'"),
    ({"id": "good-identity", "kind": "leave-out", "photo": "0" * 32}, "no photo of the content"),
    ({"id": "good-identity", "kind": "leave-out", "photo": "../../etc"}, "photo"),
    ({"id": "good-identity", "kind": "undo", "of": "nothing"}, "No edit has the id"),
    ({"id": "good-identity", "kind": "not-object", "photo": "0" * 32, "region": {"boxes": [[0, 0, 0, 0]]}}, "no area"),
    ({"id": "good-identity", "kind": "not-object", "photo": "0" * 32, "region": {"mask": "AAAA"}}, "PNG"),
    ({"id": "good-identity", "kind": "cure", "finding": {"title": "none"}}, "none of an audit.json"),
    ({"id": "good-identity", "kind": "right", "time": "now"}, "time"),
]


@pytest.mark.parametrize(("edit", "words"), BAD, ids=[words for _, words in BAD])
def test_bad_edits_are_refused_and_leave_nothing(
    client: TestClient, run: Path, edit: dict[str, Any], words: str
) -> None:
    good = {"id": "a-good-one", "kind": "leave-out", "photo": find_photo(client)["photo"]}
    check_refused(say(client, good, edit), 422, words)
    assert read_lines(run) == []


def test_other_bad_requests(client: TestClient) -> None:
    assert client.post("/api/mend/edits", content=b"{").status_code == 422
    check_refused(say(client), 422, "edits")
    foreign = client.post("/api/mend/retrain", json={}, headers={"Origin": "http://elsewhere"})
    check_refused(foreign, 403, "elsewhere")
    check_refused(client.post("/api/mend/retrain", json={"audits": True}), 422, "audits")
    for path in ("photos/xyz?version=000", f"photos/{'0' * 32}?version=000", f"photos/{'0' * 32}?version=../x"):
        assert client.get(f"/api/mend/{path}").status_code == 422
    assert client.get(f"/api/mend/photos/{'0' * 32}/thumb").status_code == 404
    photo = find_photo(client)["photo"]
    check_refused(client.get(f"/api/mend/photos/{photo}?version=007"), 422, "no version '007'")
    check_refused(client.post("/api/mend/versions/007/keep"), 422, "no version '007'")
    check_refused(client.post("/api/mend/versions/000/throw-away"), 422, "first trained")
    assert client.post("/api/mend/versions/..%2fmodel/keep").status_code in {404, 422}


# ---- Photos and versions


def read_maps(entry: Any) -> np.ndarray:
    packed = np.frombuffer(base64.b64decode(entry["maps"]["data"]), "<i2").reshape(entry["maps"]["shape"])
    values: np.ndarray = packed / 32767 * np.array(entry["maps"]["scale"])[:, None, None]
    return values


def test_a_photo_has_the_exact_maps_of_the_version(client: TestClient) -> None:
    photo = find_photo(client)
    view = client.get(f"/api/mend/photos/{photo['photo']}?version=000").json()
    entry, bias = view["entry"], np.array(view["bias"])
    assert np.allclose(read_maps(entry).mean((1, 2)) + bias[entry["classes"]], entry["logits"], atol=1e-3)
    assert view["classNames"][entry["truth"]] == photo["label"]
    thumb = client.get(f"/api/mend/photos/{photo['photo']}/thumb")
    assert thumb.content[:2] == b"\xff\xd8"


def test_the_circle(client: TestClient, run: Path, trained: Path) -> None:
    photos = trained.parent / "garden"
    was, hashes = list_files(run), hash_files(photos)
    photo = find_photo(client)
    other = next(name for name in read_list(client)["classNames"] if name != photo["label"])
    say(client, {"id": "the-label", "kind": "label", "photo": photo["photo"], "label": other})
    assert client.post("/api/mend/retrain", json={}).status_code == 202
    done = {"state": "done", "step": "", "done": 0, "total": 0, "version": "001", "reason": "", "isClassEmpty": False}
    assert wait(client) == done
    first, second = client.get("/api/mend/versions").json()["versions"]
    assert (first["isKept"], second["isKept"], second["comparison"]["before"]) == (True, False, "000")
    view = client.get(f"/api/mend/photos/{photo['photo']}?version=001&before=000").json()
    entry, bias = view["entry"], np.array(view["bias"])
    assert entry["isChange"]
    # The maps of the change add up to the change of the scores.
    assert np.allclose(read_maps(entry).mean((1, 2)) + bias[entry["classes"]], entry["logits"], atol=1e-3)
    kept = client.post("/api/mend/versions/001/keep").json()["versions"]
    assert [one["isKept"] for one in kept] == [False, True]
    assert read_list(client)["kept"] == "001"
    check_refused(client.post("/api/mend/versions/001/throw-away"), 422, "stands for the run")
    client.post("/api/mend/versions/000/keep")
    assert len(client.post("/api/mend/versions/001/throw-away").json()["versions"]) == 1
    # Nothing else is written: not into the run, nor among the photos.
    assert list_files(run) - was == {"edits.jsonl", "versions"}
    assert hash_files(photos) == hashes


def list_files(run: Path) -> set[str]:
    return {path.name for path in run.iterdir() if not path.name.startswith(".")}


def hash_files(folder: Path) -> dict[Path, str]:
    return {path: content_hash(path) for path in folder.rglob("*") if path.is_file()}


def test_one_training_at_a_time_and_it_can_be_called_off(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    def train(*words: Any, **_: Any) -> None:
        with words[3]("head", 10) as advance:
            while True:
                advance(0)
                begun.set()
                time.sleep(0.01)

    monkeypatch.setattr(retraining, "retrain", train)
    assert client.post("/api/mend/retrain", json={}).status_code == 202
    assert begun.wait(10)
    work = client.get("/api/mend/state").json()["work"]
    assert (work["state"], work["step"], work["total"]) == ("running", "head", 10)
    for path in ("retrain", "versions/000/keep", "versions/001/throw-away"):
        check_refused(client.post(f"/api/mend/{path}", json={}), 409, "A training is under way")
    client.post("/api/mend/cancel")
    assert wait(client)["state"] == "cancelled"


@pytest.mark.parametrize(
    ("error", "state", "words"),
    [(CancelledError("off"), "cancelled", "^$"), (RuntimeError("x"), "failed", "fault of the program")],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_training_that_ends_badly_is_told(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, error: Exception, state: str, words: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(retraining, "retrain", fail)
    client.post("/api/mend/retrain", json={})
    work = wait(client)
    assert work["state"] == state
    assert re.search(words, work["reason"])


# ---- What can't be corrected


def check_unable(client: TestClient, words: str) -> None:
    state = client.get("/api/mend/state")
    assert state.status_code == 200
    assert re.search(words, state.json()["reason"]), state.text
    check_refused(client.get("/api/mend"), 422, words)
    check_refused(say(client, {"id": "good-identity", "kind": "undo", "of": "x"}), 422, words)
    assert client.get("/").status_code == client.get("/mend").status_code == client.get("/api/model").status_code == 200


def test_a_bare_model(model: whycam.Model, tiny_folder: Path) -> None:
    for client in open_client(model, tiny_folder):
        check_unable(client, "Found no options.json")
    for client in open_client(model, "resnet50"):
        check_unable(client, "Found no folder")


def test_a_run_that_can_not_be_written_to(model: whycam.Model, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whycam.show.app.mending.os.access", lambda *_: False)
    for client in open_client(model, run):
        check_unable(client, "can't be written to")


def test_photos_that_are_elsewhere(model: whycam.Model, run: Path, trained: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    summary["data"].update(folder="/nowhere", folder_from_run="nowhere")
    (run / "summary.json").write_text(json.dumps(summary))
    for client in open_client(model, run):
        check_unable(client, "no longer in '/nowhere'")
    for client in open_client(model, run, photos=trained.parent / "garden" / "photos"):
        assert client.get("/api/mend/state").json()["reason"] == ""


def test_a_run_of_another_version(model: whycam.Model, run: Path) -> None:
    (run / "options.json").write_text('{"colour": "red"}')
    for client in open_client(model, run):
        check_unable(client, "options.json' can't be read")


# ---- The first page


def test_the_first_page_follows_the_kept_version(run: Path, client: TestClient) -> None:
    photo = next((Path(json.loads((run / "summary.json").read_text())["data"]["folder"]) / "val").glob("*/*.*"))

    def ask(app: TestClient) -> list[float]:
        answer = app.post("/api/explain", files={"files": ("p.png", photo.read_bytes())})
        assert answer.status_code == 200, answer.text
        return answer.json()["results"][0]["entry"]["probabilities"]

    reopen = partial(open_classifier, str(run), engine="torch")
    with ServedModel(reopen()) as served:
        current = CurrentModel(served, reopen)
        with TestClient(make_app(current, ServeOptions(rate=0)), HERE) as app:
            before, told = ask(app), app.get("/api/model").json()
            learnt = next(one for one in EditedRun.open(run).list_photos().values() if one.split == "train")
            wrong = next(name for name in told["classNames"] if name != learnt.label)
            edit = {"id": "a-wrong-one", "kind": "label", "photo": learnt.photo, "label": wrong}
            assert say(app, edit).status_code == 200
            assert app.post("/api/mend/retrain", json={}).status_code == 202
            number = wait(app)["version"]
            assert ask(app) == before
            with current.use() as held:
                assert app.post(f"/api/mend/versions/{number}/keep").status_code == 200
                after = ask(app)
                assert after != before
                assert app.get("/api/model").json() != told
                # Who began with the earlier version ends with it.
                assert held is served
                assert np.isfinite(held.exact(np.zeros((1, 3, 64, 64), np.uint8)).logits).all()
            assert app.post("/api/mend/versions/000/keep").status_code == 200
            assert ask(app) == before


@pytest.mark.usefixtures("client")
def test_a_version_that_can_not_be_shown_is_told(run: Path, model: whycam.Model) -> None:
    def fail() -> whycam.Model:
        raise UserError("The disk is full.")

    with ServedModel(change(model, name=str(run))) as served:
        current = CurrentModel(served, fail)
        with TestClient(make_app(current, ServeOptions(rate=0)), HERE) as app:
            answer = app.post("/api/mend/versions/000/keep")
            check_refused(answer, 422, "000 stands for the run now, .* goes on with the earlier one: The disk is full.")
            assert current.served is served
            assert app.get("/api/health").status_code == 200


# ---- By its own description


@pytest.fixture(scope="module")
def described(model: whycam.Model, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    # Words that fit the description may still name no photo, no version, or a class that nobody knows.
    checks = {"positive_data_acceptance": {"expected-statuses": ["2xx", "404", "409", "422"]}}
    config = SchemathesisConfig.from_dict({"checks": checks})
    run = copy_run(trained, tmp_path_factory.mktemp("described") / "run")
    headers = {"Host": "127.0.0.1"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("whycam.mend.edited_run.EditedRun.retrain", lambda *_, **__: fail("The disk is full."))
        # Each question starts and stops the app anew.
        patch.setattr("whycam.show.app.mending.Mending.close", lambda _: None)
        for client in open_client(model, run):
            yield schemathesis.openapi.from_asgi("/openapi.json", client.app, config=config, headers=headers)


def fail(words: str) -> None:
    raise UserError(words)


READS = ("/api/mend", "/api/mend/state", "/api/mend/versions")
ASKS = ("/api/mend/photos/{content}", "/api/mend/photos/{content}/thumb", "/api/mend/edits", "/api/mend/retrain")
VERSIONS = ("/api/mend/versions/{number}/keep", "/api/mend/versions/{number}/throw-away")
CALLS = [(path, "positive") for path in (*READS, *ASKS, *VERSIONS, "/api/mend/cancel")]
CALLS += [(path, "negative") for path in (*ASKS, *VERSIONS)]


@pytest.mark.parametrize(("path", "mode"), CALLS)
def test_schemathesis_finds_nothing(described: schemathesis.BaseSchema, path: str, mode: str) -> None:
    check_call(described, path, mode)


def test_every_call_is_among_them(described: schemathesis.BaseSchema) -> None:
    paths = {path for path in described.raw_schema["paths"] if path.startswith("/api/mend")}
    assert paths == {path for path, _ in CALLS}
