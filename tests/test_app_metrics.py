"""What Prometheus is told: each request once, by route and status, how full the batches were; no client's words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

import whycam
from whycam.config import ServeOptions
from whycam.data.walk import find_images
from whycam.show.app.served import ServedModel
from whycam.show.app.site import make_app

HERE = "http://127.0.0.1"


@pytest.fixture(scope="module")
def served(tiny_folder: Path) -> Iterator[ServedModel]:
    with ServedModel(whycam.load(tiny_folder, engine="torch")) as made:
        yield made


@pytest.fixture(scope="module")
def make_client(served: ServedModel) -> Iterator[Callable[..., TestClient]]:
    # An app that ends closes its model, and they share one.
    with ExitStack() as open_clients:

        def make(**options: Any) -> TestClient:
            app = make_app(served, ServeOptions(**options))
            return open_clients.enter_context(TestClient(app, HERE, raise_server_exceptions=False))

        yield make


def read(client: TestClient) -> dict[tuple[str, ...], float]:
    """Samples by name and the values of their labels."""
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_each_request_counts_once_by_route_and_status(
    make_client: Callable[..., TestClient], shapes_folder: Path
) -> None:
    client = make_client(api="kserve", rate=5, max_upload_mb=1)
    photo = find_images([shapes_folder])[0]
    for name in ("secret.jpg", "folder<secret>.jpg"):
        client.post("/api/explain", files=[("files", (name, photo.read_bytes()))])
    client.post("/v1/models/secret:explain", json={"instances": [1]})
    client.post("/v1/models/secret:explain", content=bytes(2**20 + 1))
    client.get("/secret")
    client.get("/v2/models/secret")
    client.get("/static/app.js")
    for _ in range(3):
        client.post("/v2/models/secret/infer", json={"inputs": []})
    told = read(client)
    text = client.get("/metrics").text
    requests = {key[1:]: value for key, value in told.items() if key[0] == "whycam_requests_total"}
    assert requests == {
        ("/api/explain", "200"): 1,
        ("/api/explain", "422"): 1,
        ("/v1/models/{name}:explain", "404"): 1,
        ("other", "413"): 1,
        ("other", "404"): 1,
        ("/v2/models/{name}", "404"): 1,
        ("/static/{name}", "200"): 1,
        # Of five posts a minute two are left: what is too large is refused before it counts.
        ("/v2/models/{name}/infer", "404"): 2,
        ("other", "429"): 1,
    }
    assert told["whycam_request_seconds_count", "/api/explain"] == 2
    assert told["whycam_request_seconds_bucket", "60.0", "/api/explain"] <= 2
    assert told["whycam_requests_under_way",] == 1  # this one
    assert told["process_resident_memory_bytes",] > 1e6
    assert "secret" not in text


def test_batches_are_told(
    make_client: Callable[..., TestClient], served: ServedModel, shapes_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, paths = make_client(metrics=True, rate=0), find_images([shapes_folder])[:8]
    # Full batches do not wait: the time only has to be enough.
    monkeypatch.setattr(served.exact, "wait_s", 30)

    def ask(path: Path) -> int:
        return client.post("/api/explain", files=[("files", (path.name, path.read_bytes()))]).status_code

    before = read(client)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, paths)) == {200}
    told = read(client)
    more = {key: told[key] - before[key] for key in told if key[0].startswith("whycam_batch_photos")}
    assert more["whycam_batch_photos_bucket", "4.0"] == 0
    assert more["whycam_batch_photos_bucket", "8.0"] == more["whycam_batch_photos_count",] == 1
    assert more["whycam_batch_photos_sum",] == 8
    assert told["whycam_photos_waiting",] == 0


def test_by_default_nothing_is_told(make_client: Callable[..., TestClient]) -> None:
    assert make_client().get("/metrics").status_code == 404
    client = make_client(metrics=True)
    assert client.get("/metrics").status_code == 200
    assert client.get("/v2").status_code == 404
