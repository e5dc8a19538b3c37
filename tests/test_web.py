"""`whycam export --format web` without a browser: what is in the folder, where onnxruntime-web comes from, refusals."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import io
import json
import re
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import whycam
from conftest import Run
from whycam.errors import UserError
from whycam.made import LIST, tell_foreign
from whycam.model.onnx.engine import OnnxEngine
from whycam.show.web import runtime as module
from whycam.show.web.runtime import find_registry, find_runtime
from whycam.show.web.site import POLICY

GLUE, SCRIPT, BINARY = b"// glue", b"// script", b"\0asm" + bytes(1000)
PARTS = {
    "package.json": b'{"name": "onnxruntime-web", "version": "9.9.9"}',
    "dist/ort.wasm.min.mjs": SCRIPT,
    "dist/ort-wasm-simd-threaded.mjs": GLUE,
    "dist/ort-wasm-simd-threaded.wasm": BINARY,
}


def make_archive(parts: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, data in parts.items():
            about = tarfile.TarInfo(f"package/{name}")
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return file.getvalue()


def make_package(folder: Path, parts: dict[str, bytes] = PARTS) -> Path:
    for name, data in parts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return make_package(tmp_path / "package")


@pytest.fixture(autouse=True)
def _nobodys_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads this machine's npm settings, or asks a registry of the world."""
    for name in ("npm_config_registry", "NPM_CONFIG_REGISTRY", "NPM_CONFIG_USERCONFIG", module.VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("npm_config_userconfig", str(tmp_path / "npmrc"))
    monkeypatch.setattr(module, "PUBLIC_REGISTRY", "http://127.0.0.1:9")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)


@contextmanager
def serve_registry(folder: Path, data: bytes) -> Iterator[str]:
    """A registry that has one package."""
    asked.clear()
    place = folder / "registry" / module.PACKAGE / "-" / f"{module.PACKAGE}-{module.VERSION}.tgz"
    place.parent.mkdir(parents=True)
    place.write_bytes(data)
    handler = functools.partial(_Registry, directory=folder / "registry")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


asked: list[str] = []


class _Registry(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        asked.append(self.path)


def sign(data: bytes) -> str:
    return f"sha512-{base64.b64encode(hashlib.sha512(data).digest()).decode()}"


def test_the_folder_is_whole(call_whycam: Run, tiny_folder: Path, package: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    done = call_whycam("export", tiny_folder, "-o", site, "--format", "web", "--runtime", package)
    assert done.returncode == 0, done.stderr
    assert "Wrote" in done.stdout
    assert LIST not in (site / "sw.js").read_text()
    assert tell_foreign(site) == ""
    assert (site / "runtime" / "ort.wasm.min.mjs").read_bytes() == SCRIPT
    assert gzip.decompress((site / "runtime" / "ort-wasm-simd-threaded.wasm.gz").read_bytes()) == BINARY

    # The graph gives the model's numbers of the sample, which the page is told of.
    model, told = whycam.load(tiny_folder, engine="torch"), json.loads((site / "model.json").read_text())
    photo = site / "samples" / told["sample"]["file"]
    logits = model.explain(photo).logits[0].numpy()
    answer = OnnxEngine(site / "model.onnx")(model.preprocess.to_pixels(Image.open(photo).convert("RGB"))[None])
    assert np.allclose(answer.logits[0], logits, atol=1e-4)
    assert np.allclose(told["sample"]["logits"], logits, atol=1e-6)
    assert told["classNames"] == list(model.class_names)
    assert told["input"]["width"] == model.preprocess.width_px

    # What the page names is there, nothing is from elsewhere, and the machine's folders are not told of.
    page = (site / "index.html").read_text()
    assert POLICY in page.replace("&#39;", "'")
    worker = (site / "sw.js").read_text()
    kept = json.loads(worker.split("\n", 1)[0].removeprefix("const SITE = ").removesuffix(";"))
    files = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file() and path.name != LIST}
    assert files - {"index.html", "sw.js"} == set(kept["files"]) - {"./"}
    manifest = json.loads((site / "manifest.webmanifest").read_text())
    for icon in manifest["icons"]:
        assert Image.open(site / icon["src"]).size == tuple(map(int, icon["sizes"].split("x")))
    assert manifest["start_url"] == manifest["scope"] == "./"
    for path in site.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert str(tiny_folder).encode() not in data, path
            named = data.replace(b"https://, or http://localhost", b"")  # in a sentence
            assert path.suffix not in {".js", ".html", ".css"} or b"https://" not in named, path
    assert "Microsoft" in (site / "licenses.txt").read_text()
    assert "9.9.9" in (site / "licenses.txt").read_text()


def test_a_new_export_is_another_to_the_browser(
    call_whycam: Run, tiny_folder: Path, package: Path, tmp_path: Path
) -> None:
    def export() -> str:
        done = call_whycam(
            "export", tiny_folder, "-o", tmp_path / "site", "--format", "web", "--runtime", package, "--overwrite"
        )
        assert done.returncode == 0, done.stderr
        return (tmp_path / "site" / "sw.js").read_text().split('"version":"')[1][:16]

    first = export()
    assert len(first) == 16
    (package / "dist" / "ort.wasm.min.mjs").write_bytes(b"// a newer script")
    assert export() != first


def test_an_archive_does_as_a_folder(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "onnxruntime-web.tgz"
    archive.write_bytes(make_archive(PARTS))
    assert find_runtime(archive) == find_runtime(package)
    monkeypatch.setenv(module.VARIABLE, str(archive))
    assert find_runtime(None).version == "9.9.9"


def test_it_is_fetched_once_from_npms_own_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_archive(PARTS)
    monkeypatch.setattr(module, "INTEGRITY", sign(data))
    with serve_registry(tmp_path, data) as address:
        (tmp_path / "npmrc").write_text(f"; mine\nregistry = {address}/\n")
        assert find_runtime(None).files["ort.wasm.min.mjs"] == SCRIPT
    assert len(asked) == 1
    # The registry is gone, and nobody needs it.
    found = find_runtime(None)
    assert gzip.decompress(found.files["ort-wasm-simd-threaded.wasm.gz"]) == BINARY


def test_what_npm_did_not_publish_is_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_registry(tmp_path, make_archive(PARTS)) as address:
        monkeypatch.setenv("npm_config_registry", address)
        with pytest.raises(UserError, match=r"has the integrity sha512-.*expected sha512-.*thrown away.*--runtime"):
            find_runtime(None)
    with pytest.raises(UserError, match="can't be fetched from npm's registry"):
        find_runtime(None)


def test_an_archive_that_is_none_is_told_in_a_line(call_whycam: Run, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "junk.tgz").write_bytes(b"junk" * 99)
    words = ("--format", "web", "--runtime", tmp_path / "junk.tgz")
    done = call_whycam("export", tiny_folder, "-o", tmp_path / "site", *words)
    assert done.returncode == 2
    told = [line for line in done.stderr.splitlines() if "junk.tgz" in line or "method" in line]
    assert len(told) == 1
    assert "junk.tgz' is no whole .tgz (file could not be opened successfully); expected onnxruntime-web's" in told[0]


def test_the_docs_name_the_buttons_as_the_page_does() -> None:
    static, templates = (Path(whycam.__file__).parent / "show" / name for name in ("static", "templates"))
    sources = [templates / "site.html", templates / "app_columns.html", *static.glob("*.js")]
    page = "".join(path.read_text(encoding="utf-8") for path in sources)
    text = (Path(__file__).parents[1] / "docs" / "web.md").read_text(encoding="utf-8")
    named = re.findall(r"(?<![*\w])\*([A-Z][^*\n]+)\*(?!\*)", text)
    assert {"Camera", "Hold the class"} <= set(named)
    assert [name for name in named if not re.search(rf"[>\"\x60 ]{re.escape(name)}[<\"\x60]", page)] == []


def test_no_network_and_nothing_at_hand(call_whycam: Run, tiny_folder: Path, tmp_path: Path) -> None:
    done = call_whycam("export", tiny_folder, "-o", tmp_path / "site", "--format", "web")
    assert done.returncode == 2
    assert "can't be fetched from npm's registry at 127.0.0.1" in done.stderr.replace("\n", " ")
    assert "npm pack onnxruntime-web@" in done.stderr.replace("\n", " ")
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize(
    ("lines", "variable", "expected"),
    [
        ("", "", None),
        ("registry=https://npm.example.org/", "", "https://npm.example.org"),
        (
            '@scope:registry=https://other.example.org\nregistry = "https://npm.example.org"',
            "",
            "https://npm.example.org",
        ),
        ("registry=https://npm.example.org/", "https://mirror.example.org/npm/", "https://mirror.example.org/npm"),
    ],
)
def test_the_registry_is_npms_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, variable: str, expected: str | None
) -> None:
    (tmp_path / "npmrc").write_text(lines)
    if variable:
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", variable)
    assert find_registry() == (expected or module.PUBLIC_REGISTRY)
    # A project's own settings come before the user's.
    Path(".npmrc").write_text("registry=https://project.example.org\n")
    assert find_registry() == (expected if variable else "https://project.example.org")


def test_a_registry_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("npm_config_registry", "file:///etc")
    with pytest.raises(
        UserError, match=r"npm_config_registry names the registry 'file:///etc'; expected https://HOST/"
    ):
        find_registry()


def test_packages_that_are_none(package: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no '.*/missing'; expected onnxruntime-web"):
        find_runtime(tmp_path / "missing")
    (package / "dist" / "ort.wasm.min.mjs").unlink()
    with pytest.raises(UserError, match=r"lacks a part of it.*expected package\.json, and in dist ort\.wasm\.min\.mjs"):
        find_runtime(package)
    other = make_package(tmp_path / "other", {**PARTS, "package.json": b'{"name": "left-pad", "version": "1"}'})
    with pytest.raises(UserError, match=r"is the package 'left-pad'; expected onnxruntime-web"):
        find_runtime(other)
    half = tmp_path / "half.tgz"
    half.write_bytes(make_archive(PARTS)[:200])
    with pytest.raises(UserError, match=r"is no whole \.tgz"):
        find_runtime(half)
    without = tmp_path / "without.tgz"
    without.write_bytes(make_archive({"package.json": PARTS["package.json"]}))
    with pytest.raises(UserError, match="lacks a part of it"):
        find_runtime(without)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--format", "web", "--topk", "2"), "--format web does not go with --topk"),
        (("--format", "web", "--int8", "--calibrate", "."), "--format web does not go with --int8"),
        (("--format", "web", "--uint8-input"), "--format web does not go with --uint8-input"),
        (("--runtime", "."), "--runtime goes with --format web; found --format onnx"),
    ],
)
def test_options_that_do_not_go_together(
    call_whycam: Run, tiny_folder: Path, tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    done = call_whycam("export", tiny_folder, "-o", tmp_path / "site", *words)
    assert done.returncode == 2
    assert told in " ".join(done.stderr.split())
    assert not (tmp_path / "site").exists()


def test_a_folder_that_is_there_is_kept(call_whycam: Run, tiny_folder: Path, package: Path, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "mine.txt").write_text("mine")
    done = call_whycam("export", tiny_folder, "-o", tmp_path / "site", "--format", "web", "--runtime", package)
    assert done.returncode == 2
    assert "is there already" in done.stderr
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["mine.txt"]


def test_a_model_that_is_too_large(
    call_whycam: Run, tiny_folder: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whycam.jobs.export._WEB_LIMIT_MB", 0.001)
    done = call_whycam("export", tiny_folder, "-o", tmp_path / "site", "--format", "web", "--runtime", package)
    assert done.returncode == 2
    assert "MB of weights; expected 0.001 MB at the most in a page" in " ".join(done.stderr.split())
    assert not (tmp_path / "site").exists()


def test_a_model_without_exact_maps(call_whycam: Run, package: Path, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\nnet = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))\n"
        "import torch\nnet(torch.zeros(1, 3, 32, 32))\n"
    )
    words = ("export", f"{tmp_path / 'net.py'}:net", "-o", tmp_path / "site", "--format", "web", "--runtime", package)
    done = call_whycam(*words, "--image-size", "32", "--preprocess", "half")
    assert done.returncode == 2
    assert "exact" in done.stderr
    assert not (tmp_path / "site").exists()
