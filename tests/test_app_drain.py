"""SIGTERM as a cluster sends it: readiness says no, what is under way is finished, the process ends with 0."""

from __future__ import annotations

import base64
import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

import whycam
from serve_cases import serving
from whycam.data.walk import find_images
from whycam.show.app.draining import Drain
from whycam.show.app.served import ServedModel


@pytest.fixture(scope="module")
def served(tiny_folder: Path) -> Iterator[ServedModel]:
    with ServedModel(whycam.load(tiny_folder, engine="torch")) as made:
        yield made


def test_a_drain_lasts_as_long_as_it_is_told() -> None:
    drain = Drain(0.05)
    assert (drain.has_begun, drain.is_over) == (False, False)
    assert drain.begin()
    assert (drain.has_begun, drain.is_over) == (True, False)
    time.sleep(0.06)
    assert drain.is_over
    at_once = Drain()
    assert not at_once.begin()
    assert at_once.is_over


def test_the_docs_lines_are_answered_and_after_sigterm_no_request_is_lost(
    served: ServedModel, tiny_folder: Path, shapes_folder: Path, tmp_path: Path
) -> None:
    photo = find_images([shapes_folder])[0].read_bytes()
    (tmp_path / "photo.jpg").write_bytes(photo)
    body = json.dumps({"instances": [{"b64": base64.b64encode(photo).decode()}]}).encode()
    words = ("--api", "kserve", "--model-name", "flowers", "--drain-s", "4", "--grace-s", "60")
    with serving(served, tiny_folder, *words) as (process, address):
        assert httpx2.get(f"{address}/v2/health/ready").json() == {"ready": True}
        run_lines(address, tmp_path)
        place = urlsplit(address)
        with socket.create_connection((place.hostname, place.port), timeout=60) as slow:
            head = f"POST /v1/models/flowers:explain HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            slow.sendall(head.encode() + body[:100])
            begin = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert wait_for_no(address) == {"ready": False}
            assert httpx2.get(f"{address}/v2/health/live").status_code == 200
            answer = httpx2.post(f"{address}/v1/models/flowers:predict", content=body, timeout=60)
            assert answer.status_code == 200
            while is_open(place.hostname, place.port):
                time.sleep(0.05)
            assert time.monotonic() - begin > 3.5
            # The door is closed, and who came before is still heard.
            slow.sendall(body[100:])
            said = b"".join(iter(lambda: slow.recv(65536), b""))
        assert said.startswith(b"HTTP/1.1 200")
        assert (
            json.loads(said.partition(b"\r\n\r\n")[2])["predictions"][0]["name"]
            == answer.json()["predictions"][0]["name"]
        )
        assert process.wait(30) == 0


def run_lines(address: str, folder: Path) -> None:
    """The lines of docs/serve.md for a cluster, asked of the server at the address."""
    text = (Path(__file__).parents[1] / "docs" / "serve.md").read_text()
    block = next(one for one in re.findall(r"```sh\n(.+?)```", text, re.DOTALL) if "/v2/" in one)
    lines = block.replace("http://127.0.0.1:8080", address).replace("tulips", "square").splitlines()
    assert len(lines) == 5
    for line in lines:
        subprocess.run(
            line.replace("curl ", "curl --fail -s "), shell=True, cwd=folder, check=True, capture_output=True
        )


def wait_for_no(address: str) -> object:
    """What readiness says once it does not say yes."""
    while (answer := httpx2.get(f"{address}/v2/health/ready")).status_code == 200:
        time.sleep(0.02)
    return answer.json()


def is_open(host: str | None, port: int | None) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True
