"""examples/serve: what the Dockerfile installs is all that its server imports, and its command is one that serves."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import whycam
from whycam.config import ServeOptions
from whycam.data.walk import find_images
from whycam.jobs.serve import find_drain_s

EXAMPLE = Path(__file__).parents[1] / "examples" / "serve"
# Imports of what the image does not have fail, as they do in it; what was imported is told at the end.
PROGRAM = """
import importlib.abc, json, sys
absent = set(json.loads(sys.argv[1]))
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
sys.argv[:2] = ["whycam"]
from whycam.__main__ import main
try:
    main()
finally:
    print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def read_steps() -> list[str]:
    """The Dockerfile's instructions, each as one line, without its comments."""
    lines = [line for line in (EXAMPLE / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    return [step for step in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines() if step]


def read_requirements() -> list[Requirement]:
    words = next(shlex.split(step) for step in read_steps() if step.startswith("RUN pip install"))
    return [Requirement(word) for word in words[3:] if not word.startswith("--")]


def find_installed(requirements: list[Requirement]) -> set[str]:
    """The names of these distributions, and of all that they need."""
    found: set[str] = set()
    waiting = list(requirements)
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        if name in found or (one.marker and not any(one.marker.evaluate({"extra": e}) for e in ("", *one.extras))):
            continue
        found.add(name)
        try:
            waiting += map(Requirement, distribution(name).requires or [])
        except PackageNotFoundError:  # for another machine than this
            continue
    return found


def find_absent(installed: set[str]) -> list[str]:
    """The modules of this environment that the image lacks."""
    present = {*installed, "whycam"}
    modules = packages_distributions().items()
    return [module for module, owners in modules if not set(map(canonicalize_name, owners)) & present]


@contextmanager
def run_image(model: Path, told: list[str]) -> Iterator[str]:
    """The image's command on a free port of this machine; its address, and afterwards what it imported."""
    (command,) = (json.loads(step.removeprefix("CMD ")) for step in read_steps() if step.startswith("CMD "))
    words = [{"/models/model.onnx": str(model), "0.0.0.0": "127.0.0.1", "8080": "0"}.get(w, w) for w in command]
    absent = json.dumps(find_absent(find_installed(read_requirements())))
    env = {**os.environ, "PYTHONPATH": str(Path(whycam.__file__).parents[1])}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", PROGRAM, absent, "serve", *words], env=env, **pipes) as process:
        line = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert address, line + process.communicate(timeout=60)[1]
        try:
            yield address[0]
        finally:
            process.send_signal(signal.SIGTERM)
        said, complaints = process.communicate(timeout=60)
        assert process.returncode == 0, complaints
        told += json.loads(said.splitlines()[-1])


@pytest.mark.slow
def test_the_image_needs_what_it_installs_and_nothing_else(
    tiny_cache: Path, shapes_folder: Path, tmp_path: Path
) -> None:
    (graph,) = tiny_cache.rglob("*.onnx")
    shutil.copy(graph, tmp_path / "model.onnx")
    photo, told = find_images([shapes_folder])[0].read_bytes(), []
    with run_image(tmp_path / "model.onnx", told) as address:
        instances = {"instances": [{"b64": base64.b64encode(photo).decode()}], "parameters": {"target": "all"}}
        said = httpx2.post(f"{address}/v1/models/model:explain", json=instances, timeout=60).json()
        bias = httpx2.get(f"{address}/v2/models/model").json()["parameters"]["bias"]
        for one in said["explanations"][0]["targets"]:
            assert np.mean(one["map"]) + bias[one["index"]] == pytest.approx(one["logit"], abs=1e-4)
        for path in ("/", "/docs", "/metrics", "/api/model", "/samples/cat.png"):
            assert httpx2.get(address + path).status_code == 200, path
        files = {"file": ("a.jpg", photo)}
        for call in ("overlay", "map", "boxes"):
            assert httpx2.post(f"{address}/api/{call}", files=files, timeout=60).status_code == 200, call
    assert "torch" not in told
    owners = packages_distributions()
    used = {canonicalize_name(owner) for module in told for owner in owners.get(module, [])}
    listed = {canonicalize_name(one.name) for one in read_requirements()}
    assert listed <= used, f"{listed - used} are listed and never imported"


def test_what_is_installed_is_small() -> None:
    size = 0
    for name in find_installed(read_requirements()):
        with suppress(PackageNotFoundError):
            size += sum(file.size or 0 for file in distribution(name).files or [])
    assert 100e6 < size < 450e6  # the base image has some 130 MB, and 600 MB are the limit


def test_the_list_is_the_projects_own() -> None:
    project = (EXAMPLE.parents[1] / "pyproject.toml").read_text()
    for one in read_requirements():
        assert f'    "{one}",\n' in project


def test_compose_builds_that_file_and_waits_long_enough() -> None:
    (service,) = yaml.safe_load((EXAMPLE / "compose.yaml").read_text())["services"].values()
    assert (EXAMPLE / service["build"]["context"] / service["build"]["dockerfile"]).samefile(EXAMPLE / "Dockerfile")
    options = ServeOptions(api="kserve")
    assert int(service["stop_grace_period"].removesuffix("s")) > find_drain_s(options) + options.grace_s


def test_the_service_of_the_docs_starts_the_server_whatever_kserve_adds(tmp_path: Path) -> None:
    text = (EXAMPLE.parents[1] / "docs" / "serve.md").read_text()
    spec = yaml.safe_load(re.search(r"```yaml\n(.+?)```", text, re.DOTALL)[1])["spec"]
    predictor, explainer = (spec[part]["containers"][0] for part in ("predictor", "explainer"))
    (tmp_path / "whycam").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "whycam").chmod(0o755)
    added = ["--model_name", "flowers", "--predictor_host", "flowers-predictor.default", "--http_port", "8080"]
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([*explainer["command"], *added], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["serve", *predictor["args"]]
    known = {f"--{name.replace('_', '-')}" for name in ServeOptions.model_fields}
    assert {word for word in predictor["args"] if word.startswith("--")} <= known
