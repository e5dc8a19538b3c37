"""The app: its numbers are Model.explain's, its limits hold, and what is hostile is answered, not obeyed."""

from __future__ import annotations

import asyncio
import base64
import io
import queue
import re
import socket
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import schemathesis
import torch
from fastapi.testclient import TestClient
from PIL import Image
from schemathesis.config import SchemathesisConfig

import whycam
from conftest import change
from serve_cases import check_call, serving
from whycam.config import ServeOptions
from whycam.data.walk import find_images
from whycam.errors import UserError
from whycam.explainer.reading import Reading
from whycam.jobs.serve import listen
from whycam.model.onnx.engine import OnnxEngine
from whycam.show.app.batching import Batcher
from whycam.show.app.guard import Guard, TokenBuckets, is_loopback
from whycam.show.app.served import Question, ServedModel
from whycam.show.app.site import make_app

HERE = "http://127.0.0.1"
Make = Callable[..., TestClient]


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> whycam.Model:
    return whycam.load(tiny_folder, engine="torch")


@pytest.fixture(scope="module")
def served(model: whycam.Model) -> Iterator[ServedModel]:
    with ServedModel(model) as made:
        yield made


@pytest.fixture(scope="module")
def make_client(served: ServedModel) -> Iterator[Make]:
    """An app with limits of its own on the shared served."""
    with ExitStack() as open_clients:

        def make(**limits: Any) -> TestClient:
            app = make_app(served, ServeOptions(**{"rate": 0, **limits}))
            return open_clients.enter_context(TestClient(app, HERE, raise_server_exceptions=False))

        yield make


@pytest.fixture(scope="module")
def client(make_client: Make) -> TestClient:
    return make_client()


@pytest.fixture(scope="module")
def photo(shapes_folder: Path) -> Path:
    return find_images([shapes_folder])[0]


def send(
    client: TestClient, path: Path | bytes, name: str = "photo.jpg", url: str = "/api/explain", **form: Any
) -> Any:
    data = path if isinstance(path, bytes) else path.read_bytes()
    field = "files" if url == "/api/explain" else "file"
    return client.post(url, files=[(field, (name, data))], data=form)


def read_entry(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    entry: dict[str, Any] = answer.json()["results"][0]["entry"]
    packed = np.frombuffer(base64.b64decode(entry["maps"]["data"]), "<i2").reshape(entry["maps"]["shape"])
    entry["values"] = packed / 32767 * np.array(entry["maps"]["scale"])[:, None, None]
    return entry


def read_pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)), dtype=np.float64)


def check_refused(answer: Any, status: int, words: str) -> None:
    assert answer.status_code == status, answer.text
    assert re.search(words, answer.json()["error"]["reason"]), answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


# ---- What it answers


def test_health_and_model(client: TestClient, model: whycam.Model) -> None:
    assert client.get("/api/health").json() == {"status": "ok", "model": model.name, "version": whycam.__version__}
    about = client.get("/api/model").json()
    assert about["classNames"] == list(model.class_names)
    assert np.allclose(about["bias"], model.network.classifier.bias)
    assert about["identityError"] == model.origin["identity_error"] < 1e-5
    names = [method["name"] for method in about["methods"]]
    assert names[:2] == ["cam", "grad-cam"]
    assert {"eigen-cam", "layer-cam"} < set(names)
    assert not {"contrast", "chefer", "rise", "random"} & set(names)
    assert about["engine"].startswith("onnxruntime")
    assert about["limits"] == {"uploadBytes": 32 * 2**20, "pixels": 50_000_000, "files": 32, "rate": 0}


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"target": "top:2"},
        {"target": "square", "versus": "circle"},
        {"target": "1", "method": "grad-cam"},
        {"target": "all", "method": "layer-cam"},
        {"target": "triangle", "versus": "0", "method": "hires-cam"},
    ],
    ids=str,
)
def test_numbers_are_those_of_explain(
    client: TestClient, model: whycam.Model, photo: Path, form: dict[str, str]
) -> None:
    answer = send(client, photo, **form)
    entry, result = read_entry(answer), answer.json()["results"][0]
    how = {**form, "target": form.get("target", "predicted"), "method": form.get("method", "cam")}
    why = model.explain(photo, **how)  # type: ignore[call-overload]
    for t, index in enumerate(why.targets[0].tolist()):
        at = entry["classes"].index(index)
        expected = why.map(0, t).numpy()
        step = entry["maps"]["scale"][at] / 65534
        assert np.abs(entry["values"][at] - expected).max() <= step + 1e-4 * np.ptp(expected)
        assert entry["logits"][at] == pytest.approx(float(why.logits[0, index]), rel=1e-4)
        assert entry["probabilities"][at] == pytest.approx(float(why.probabilities[0, index]), abs=1e-4)
        asked = result["targets"][t]
        assert (asked["index"], asked["name"]) == (index, model.class_names[index])
        assert len(asked["boxes"]) == len(why.boxes(0, t))
    assert result["prediction"]["index"] == int(why.predicted[0])
    assert entry["method"] == why.record["method"] == result["record"]["method"]
    assert result["record"]["target"] == how["target"]
    assert entry["logits"] == sorted(entry["logits"], reverse=True)


def test_exact_maps_of_all_best_classes_add_up_to_the_scores(client: TestClient, photo: Path) -> None:
    entry, bias = read_entry(send(client, photo)), client.get("/api/model").json()["bias"]
    assert sorted(entry["classes"]) == [0, 1, 2]
    for at, index in enumerate(entry["classes"]):
        step = entry["maps"]["scale"][at] / 65534
        assert abs(entry["values"][at].mean() + bias[index] - entry["logits"][at]) < step + 1e-5


def test_a_batch_with_a_bad_file(client: TestClient, photo: Path) -> None:
    files = [("files", (name, data)) for name, data in {"a.jpg": photo.read_bytes(), "b.jpg": b"hello\n"}.items()]
    results = client.post("/api/explain", files=files, data={"photo_px": 48}).json()["results"]
    assert [result["file"] for result in results] == ["a.jpg", "b.jpg"]
    assert results[0]["error"] is None
    address = results[0]["entry"]["image"]
    picture = Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/jpeg;base64,"))))
    assert picture.size == (48, 48)
    assert "holds text, not a picture" in results[1]["error"]["reason"]
    assert results[1]["entry"] is None


def test_downloads_are_those_of_explain(client: TestClient, model: whycam.Model, photo: Path) -> None:
    why = model.explain(photo, "square", versus="circle")
    form = {"target": "square", "versus": "circle"}
    answer = send(client, photo, url="/api/map", **form)
    values = np.load(io.BytesIO(answer.content))
    assert values.dtype == np.float32
    assert np.abs(values - why.map().numpy()).max() < 1e-4 * np.ptp(values)
    assert answer.headers["content-disposition"] == 'attachment; filename="map.npy"'
    drawn = read_pixels(send(client, photo, url="/api/overlay", opacity=0.5, **form).content)
    expected = io.BytesIO()
    why.overlay(alpha=0.5).save(expected, "JPEG", quality=92)
    assert np.abs(drawn - read_pixels(expected.getvalue())).mean() < 0.2
    found = send(client, photo, url="/api/boxes", threshold=0.3, **form).json()
    assert (found["width"], found["height"]) == Image.open(photo).size
    assert [(b["x0"], b["y0"], b["x1"], b["y1"]) for b in found["target"]["boxes"]] == [
        (b.x0, b.y0, b.x1, b.y1) for b in why.boxes(threshold=0.3)
    ]


def test_overlays_can_show_what_is_against(client: TestClient, photo: Path) -> None:
    pictures = [
        send(client, photo, url="/api/overlay", **form).content for form in ({}, {"signed": True, "colormap": "RdBu_r"})
    ]
    assert pictures[0] != pictures[1]


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"target": "squre"}, "Unknown class 'squre'.*Did you mean 'square'"),
        ({"target": "7"}, "Class index 7 is outside 0..2"),
        ({"target": "top:9"}, "expected top:N with N from 1 to 3"),
        ({"versus": "moon"}, "Unknown class 'moon'"),
        ({"target": "square", "versus": "1"}, "asked for against itself"),
        ({"method": "rise"}, "Unknown method 'rise'"),
        ({"photo_px": "9999"}, "photo_px: input should be less than or equal to 2048"),
        ({"photo_px": "x"}, "photo_px: .*valid integer"),
    ],
    ids=str,
)
def test_questions_that_make_no_sense(client: TestClient, photo: Path, form: dict[str, str], words: str) -> None:
    check_refused(send(client, photo, **form), 422, words)


def test_too_many_maps_at_once(served: ServedModel) -> None:
    many = change(whycam.Model(served.classifier), class_names=tuple(f"c{k}" for k in range(1000)))
    other = object.__new__(ServedModel)
    other.classifier, other.methods = many.classifier, served.methods
    with pytest.raises(UserError, match="asks for 1000 maps; expected 200"):
        other.check(Question("all"))
    with pytest.raises(UserError, match="asks for 11 maps; expected 10"):
        other.check(Question("top:11", method="grad-cam"))


def test_without_exact_maps_it_is_grad_cam(model: whycam.Model, photo: Path) -> None:
    with ServedModel(change(model, no_exact_map="It has none.")) as served:
        client = TestClient(make_app(served, ServeOptions()), HERE)
        about = client.get("/api/model").json()
        assert about["methods"][0]["name"] == "grad-cam"
        assert about["engine"] == "torch"
        assert read_entry(send(client, photo, target="square"))["method"] == "grad-cam"
        check_refused(send(client, photo, method="cam"), 422, "Unknown method 'cam'")


def test_without_a_graph_exact_maps_are_torchs(
    model: whycam.Model, photo: Path, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whycam.model.classifier.Classifier._find_graph", lambda *_: None)
    with ServedModel(model) as served, TestClient(make_app(served, ServeOptions()), HERE) as other:
        assert other.get("/api/model").json()["engine"] == "torch"
        entries = [read_entry(send(one, photo, target="square")) for one in (other, client)]
    assert entries[0]["classes"] == entries[1]["classes"]
    assert np.allclose(entries[0]["values"], entries[1]["values"], atol=1e-3 * np.abs(entries[1]["values"]).max())


# ---- Batches


def test_photos_that_come_together_are_run_together(
    served: ServedModel, client: TestClient, shapes_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    run = OnnxEngine.run

    def count(self: OnnxEngine, images: np.ndarray) -> list[np.ndarray]:
        sizes.append(len(images))
        return run(self, images)

    paths = find_images([shapes_folder])[:8]
    alone = [read_entry(send(client, path)) for path in paths]
    monkeypatch.setattr(OnnxEngine, "run", count)
    # Full batches do not wait: the time only has to be enough.
    monkeypatch.setattr(served.exact, "wait_s", 30)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda path: read_entry(send(client, path)), paths))
    assert sizes == [8]
    for one, other in zip(alone, together, strict=True):
        assert one["classes"] == other["classes"]
        assert np.allclose(one["values"], other["values"], atol=1e-3 * np.abs(one["values"]).max())


def test_a_failing_batch_fails_for_all_who_wait_and_the_next_one_works(
    served: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Batcher(served.classifier.read, wait_s=0.5)
    pixels = np.zeros((1, 3, 64, 64), np.uint8)
    with monkeypatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(OnnxEngine, "run", lambda *_: 1 / 0)
        for future in [pool.submit(engine, pixels) for _ in range(2)]:
            with pytest.raises(ZeroDivisionError):
                future.result()
    assert engine(pixels).logits.shape == (1, 3)
    engine.close()


# ---- Photos at full size


def make_png(side_px: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side_px, side_px), (90, 120, 40)).save(file, "PNG")
    return file.getvalue()


def test_large_photos_are_drawn_one_at_a_time_and_others_pass(
    client: TestClient, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whycam.show.app.served.LARGE_PIXELS", 100 * 100)
    begun: queue.SimpleQueue[str] = queue.SimpleQueue()
    go_on = threading.Event()
    draw = Reading.overlay

    def wait(self: Reading, **how: Any) -> Image.Image:
        begun.put(threading.current_thread().name)
        if self.find_size() == (101, 101):
            assert go_on.wait(60)
        return draw(self, **how)

    monkeypatch.setattr(Reading, "overlay", wait)
    with ThreadPoolExecutor(8) as pool:
        large = [pool.submit(send, client, make_png(101), url="/api/overlay") for _ in range(8)]
        names = [begun.get(timeout=60)]
        for _ in range(3):
            assert send(client, photo, url="/api/overlay").status_code == 200
            names.append(begun.get(timeout=60))
        assert begun.empty()
        go_on.set()
        assert [future.result().status_code for future in large] == [200] * 8
    assert all(name.startswith("whycam-draw") for name in names)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_process_gives_back_the_memory_of_large_photos_and_stops_amid_them(
    served: ServedModel, tiny_folder: Path, photo: Path
) -> None:
    large, small = make_png(3000), photo.read_bytes()
    with ThreadPoolExecutor(16) as pool, serving(served, tiny_folder) as (process, address):

        def ask(data: bytes) -> int:
            return httpx2.post(f"{address}/api/overlay", files={"file": ("a.png", data)}, timeout=120).status_code

        assert set(pool.map(ask, [small] * 40)) == {200}
        before = read_memory(process)
        assert set(pool.map(ask, [large] * 24)) == {200}
        assert read_memory(process) < 1.1 * before
        under_way = [pool.submit(ask, large) for _ in range(16)]
        assert next(as_completed(under_way)).result() == 200
    assert {future.result() for future in under_way} <= {200, 503}


# ---- What is hostile


def make_bomb() -> bytes:
    """A PNG of a few bytes that says it has 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def cut(path: Path) -> bytes:
    data = path.read_bytes()
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("bomb.png", lambda _: make_bomb(), "3,600,000,000 pixels; the limit is 50,000,000"),
        ("note.jpg", lambda _: b"hello\n", "'note.jpg' holds text"),
        ("cut.jpg", cut, "'cut.jpg' is damaged or truncated"),
        ("x.svg", lambda _: b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "holds text"),
        ("empty.jpg", lambda _: b"", "is empty"),
        ("<img src=x onerror=alert(1)>.jpg", Path.read_bytes, "holds '<'; expected a plain name"),
        ("../../etc/passwd.jpg", Path.read_bytes, "holds '/'; expected a plain name"),
        ("..\\..\\boot.jpg", Path.read_bytes, "expected a plain name"),
        ("a" * 300 + ".jpg", Path.read_bytes, "has 304 characters"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
@pytest.mark.parametrize("url", ["/api/explain", "/api/overlay"])
def test_hostile_files(  # noqa: PLR0917 - parameters, not arguments
    client: TestClient, photo: Path, name: str, make: Callable[[Path], bytes], words: str, url: str
) -> None:
    check_refused(send(client, make(photo), name, url), 422, words)
    assert send(client, photo).status_code == 200


def test_large_uploads_are_refused_unread(make_client: Make, photo: Path) -> None:
    client = make_client(max_upload_mb=1)
    check_refused(send(client, bytes(2**20 + 1)), 413, "1.0 MB or more; expected 1 MB at the most")
    drawn = 0

    def stream() -> Iterator[bytes]:
        nonlocal drawn
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
        for _ in range(100):
            drawn += 1
            yield bytes(2**20)

    answer = client.post("/api/explain", content=stream(), headers={"Content-Type": "multipart/form-data; boundary=x"})
    check_refused(answer, 413, "expected 1 MB at the most")
    assert drawn == 100  # the client was heard to the end, and gets the answer
    assert send(client, photo).status_code == 200


def test_limits_of_pixels_files_and_rate(make_client: Make, photo: Path) -> None:
    check_refused(send(make_client(max_pixels=9000), photo), 422, "96 x 96 = 9,216 pixels; the limit is 9,000")
    files = [("files", ("a.jpg", photo.read_bytes()))] * 3
    check_refused(make_client(max_files=2).post("/api/explain", files=files), 413, "3 files; expected 2 at the most")
    client = make_client(rate=2)
    assert [send(client, photo).status_code for _ in range(2)] == [200, 200]
    answer = send(client, photo)
    check_refused(answer, 429, "More than 2 requests in a minute; wait")
    assert 1 <= int(answer.headers["retry-after"]) <= 31
    assert client.get("/api/health").status_code == 200


def test_buckets_fill_again_for_each_client() -> None:
    now = 0.0
    buckets = TokenBuckets(60, lambda: now)
    assert [buckets.take("a") for _ in range(61)] == [0] * 60 + [1]
    assert buckets.take("b") == 0
    now = 0.5
    assert buckets.take("a") == 0.5
    now = 1.5
    assert buckets.take("a") == 0
    now = 1000
    assert [buckets.take("a") for _ in range(61)] == [0] * 60 + [1]
    for k in range(5000):
        buckets.take(str(k))
    assert len(buckets._left) <= 4096


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::", "localhost@evil.example:80"])
def test_foreign_hosts_and_pages_are_refused(client: TestClient, photo: Path, host: str) -> None:
    check_refused(client.get("/", headers={"Host": host}), 403, "expected this machine's own name")
    files = [("files", ("a.jpg", photo.read_bytes()))]
    for origin in (f"http://{host or 'x'}", "null"):
        check_refused(client.post("/api/explain", files=files, headers={"Origin": origin}), 403, "comes from a page of")


def test_a_request_that_a_stopping_server_gives_up_is_answered() -> None:
    async def stop(*_: object) -> None:
        raise asyncio.CancelledError

    check_refused(TestClient(Guard(stop, max_bytes=1, rate=0, is_local=True), HERE).get("/"), 503, "The server stops")


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:80"])
def test_this_machine_is_not_foreign(client: TestClient, photo: Path, host: str) -> None:
    headers = {"Host": host, "Origin": f"http://{host}"}
    assert (
        client.post("/api/explain", files=[("files", ("a.jpg", photo.read_bytes()))], headers=headers).status_code
        == 200
    )


def test_open_to_others_it_answers_to_any_name(make_client: Make) -> None:
    assert make_client(host="0.0.0.0").get("/", headers={"Host": "photos.example"}).status_code == 200
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "photos")] == [True] * 3 + [
        False
    ] * 2


# ---- Pages


def test_pages_ask_nobody_else(client: TestClient) -> None:
    for path in ("/", "/docs", "/static/app.js", "/static/app.css", "/static/viewer.js", "/static/viewer.css"):
        answer = client.get(path)
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        outside = set(re.findall(r"https?://[\w.:]+", answer.text)) - {HERE, "http://www.w3.org"}
        assert not outside
        if path.endswith(("/", "docs")):
            assert not re.search(r"<script>|<style>| style=| on\w+=", answer.text)


def test_docs_describe_each_call(client: TestClient) -> None:
    text = client.get("/docs").text
    for path in client.get("/openapi.json").json()["paths"]:
        assert path in text
    assert "top:N" in text


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/%2e%2e/site.py", "/static/report.js", "/samples/x", "/no"]
)
def test_no_other_file_is_given_out(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["reason"]


def test_photos_to_try(client: TestClient) -> None:
    names = re.findall(r'data-sample="([^"]+)"', client.get("/").text)
    assert len(names) == 4
    for name in names:
        assert Image.open(io.BytesIO(client.get(f"/samples/{name}").content)).size > (200, 200)


def test_names_are_text_in_the_page(model: whycam.Model) -> None:
    served = object.__new__(ServedModel)
    served.classifier = change(model, name="<script>alert(1)</script>&").classifier
    text = TestClient(make_app(served, ServeOptions()), HERE).get("/").text
    assert "&lt;script&gt;alert(1)" in text
    assert "<script>alert" not in text


def test_a_fault_of_the_program_is_json_too(client: TestClient, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxEngine, "run", lambda *_: 1 / 0)
    answer = send(client, photo)
    assert answer.status_code == 500
    assert "fault of the program" in answer.json()["error"]["reason"]


def test_scores_that_are_no_numbers(model: whycam.Model, photo: Path) -> None:
    broken = whycam.load(model.name, engine="torch")
    with torch.no_grad():
        broken.network.classifier.bias.fill_(float("nan"))
    with ServedModel(change(broken, no_exact_map="It has none.")) as served:
        client = TestClient(make_app(served, ServeOptions()), HERE)
        check_refused(send(client, photo), 422, "scores of 'photo.jpg' are not finite")


# ---- By its own description


@pytest.fixture(scope="module")
def described(served: ServedModel) -> schemathesis.BaseSchema:
    # Random bytes fit the description of a photo, and random words that of a class: to refuse them is right.
    checks = {"positive_data_acceptance": {"expected-statuses": ["2xx", "422"]}}
    config = SchemathesisConfig.from_dict({"checks": checks})
    app = make_app(served, ServeOptions(rate=0))
    return schemathesis.openapi.from_asgi("/openapi.json", app, config=config, headers={"Host": "127.0.0.1"})


UPLOADS = ("/api/explain", "/api/overlay", "/api/map", "/api/boxes")
# What takes nothing can be asked nothing wrong.
CALLS = [(path, "positive") for path in ("/api/health", "/api/model", *UPLOADS)] + [
    (path, "negative") for path in UPLOADS
]


@pytest.mark.parametrize(("path", "mode"), CALLS)
def test_schemathesis_finds_nothing(described: schemathesis.BaseSchema, path: str, mode: str) -> None:
    check_call(described, path, mode)


# ---- As a process


def read_memory(process: subprocess.Popen[str]) -> int:
    """Bytes of a process that are in memory."""
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())[1]) * 1024  # type: ignore[index]


def test_a_process_serves_what_the_docs_say_and_stops(
    served: ServedModel, tiny_folder: Path, photo: Path, tmp_path: Path
) -> None:
    with serving(served, tiny_folder) as (_, address):
        for name in ("photo.jpg", "other.jpg"):
            (tmp_path / name).write_bytes(photo.read_bytes())
        run_examples(address, tmp_path)


def run_examples(address: str, folder: Path) -> None:
    """The blocks of docs/serve.md, asked of the app at the address."""
    text = (Path(__file__).parents[1] / "docs" / "serve.md").read_text()
    for word, other in {"http://127.0.0.1:8000": address, "tulips": "square", "roses": "circle"}.items():
        text = text.replace(word, other)
    shell, python = (re.search(rf"```{kind}\n(.+?)```", text, re.DOTALL)[1] for kind in ("sh", "python"))  # type: ignore[index]
    for line in shell.replace("curl ", "curl --fail -s ").splitlines():
        subprocess.run(line, shell=True, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    assert Image.open(folder / "overlay.jpg").size == Image.open(folder / "photo.jpg").size
    assert np.load(folder / "map.npy").shape == (2, 2)
    done = subprocess.run([sys.executable, "-c", python], cwd=folder, check=True, capture_output=True, text=True)
    _, made, _, logit = done.stdout.split()
    assert float(made) == pytest.approx(float(logit), abs=1e-3)


def test_a_port_in_use() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UserError, match=r"expected a free port.*--port"),
    ):
        listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UserError, match=r"Can't listen at no\.such\.host\.invalid"):
        listen("no.such.host.invalid", 0)
