"""onnxruntime-web, which runs the graph in the browser: from a package that is at hand, else once from npm's registry.

The package brings no Python and needs no npm: three of its files go into the site as they are. For a newer version
change `VERSION` and `INTEGRITY`, the second to what `npm view onnxruntime-web@VERSION dist.integrity` says.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import re
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from whycam.data.fetch import receive_all
from whycam.errors import UserError, as_clause
from whycam.model.cache import find_cache, open_or_make

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
PUBLIC_REGISTRY = "https://registry.npmjs.org"
VARIABLE = "WHYCAM_ORT_WEB"
_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
# What a page loads: its interface, what loads the WebAssembly, and that itself, packed by gzip.
SCRIPT, GLUE, PACKED = *_FILES[:2], f"{_FILES[2]}.gz"
_BYTES_MB = 33
_REMEDY = (
    f"On a machine with a connection run: npm pack {PACKAGE}@{VERSION} (or fetch that file from npm's registry), and "
    f"name the .tgz, or an unpacked folder, by --runtime or {VARIABLE}."
)


@dataclass(frozen=True)
class WebRuntime:
    """What a site has in its folder runtime.

    Attributes:
        version: of onnxruntime-web.
        files: name -> bytes; the large one is packed by gzip, to a quarter.
    """

    version: str
    files: Mapping[str, bytes]


def find_runtime(given: Path | None) -> WebRuntime:
    """What runs a graph in the browser.

    Args:
        given: a folder in which the package is unpacked (node_modules/onnxruntime-web), or its .tgz. None takes what
            WHYCAM_ORT_WEB names, else what is in the cache, else npm's registry.

    Raises:
        UserError: nothing, or something else, lies there; no connection to the registry; not what npm published.
    """
    named = given or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if named is not None:
        return _read_package(named)
    place = find_cache() / "runtime" / f"{hashlib.sha256(INTEGRITY.encode()).hexdigest()[:32]}.zip"

    def make() -> dict[str, Any]:
        with tempfile.TemporaryDirectory(dir=place.parent) as folder:
            file = Path(folder) / f"{PACKAGE}-{VERSION}.tgz"
            address = _download(file)
            _write_zip(place, _read_package(file))
        return {"package": f"{PACKAGE}@{VERSION}", "integrity": INTEGRITY, "from": urlsplit(address).hostname}

    return open_or_make(place, make, lambda path, _about: _read_zip(path))[0]


def read_licence() -> str:
    """Its licence: the same project's package for Python brings it; the one for the browser names it and no more."""
    return (resources.files("onnxruntime") / "LICENSE").read_text(encoding="utf-8")


def find_registry() -> str:
    """The registry as npm itself is told of it: by the environment, .npmrc here, the user's; else the public one."""
    for name, value in os.environ.items():
        if name.lower() == "npm_config_registry" and value:
            return _check_address(value, f"the variable {name}")
    user = next((value for name, value in os.environ.items() if name.lower() == "npm_config_userconfig"), None)
    for path in (Path(".npmrc"), Path(user) if user else Path.home() / ".npmrc"):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if found := re.findall(r"^\s*registry\s*=\s*[\"']?([^\s\"']+)", text, re.MULTILINE):
            return _check_address(os.path.expandvars(found[-1]), f"'{path.absolute()}'")
    return PUBLIC_REGISTRY


def _check_address(address: str, where: str) -> str:
    parts = urlsplit(address)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UserError(f"{where} names the registry {address!r}; expected https://HOST/. Correct it, or: {_REMEDY}")
    return address.rstrip("/")


def _download(file: Path) -> str:
    address = f"{find_registry()}/{PACKAGE}/-/{PACKAGE}-{VERSION}.tgz"
    host = urlsplit(address).hostname
    try:
        receive_all(address, file, lambda _done, _total: None)
    except OSError as error:
        reason = as_clause(getattr(error, "reason", error))
        raise UserError(
            f"{PACKAGE} {VERSION} can't be fetched from npm's registry at {host}: {reason}. Expected a connection for "
            f"{_BYTES_MB} MB, once. {_REMEDY}"
        ) from error
    found = f"sha512-{base64.b64encode(hashlib.sha512(file.read_bytes()).digest()).decode()}"
    if found != INTEGRITY:
        raise UserError(
            f"What {host} gave as {PACKAGE} {VERSION} ({file.stat().st_size:,} bytes) has the integrity {found[:23]}..."
            f"; expected {INTEGRITY[:23]}..., npm's. It was thrown away. Try again, or: {_REMEDY}"
        )
    return address


def _read_package(path: Path) -> WebRuntime:
    path = path.absolute()
    if not path.exists():
        raise UserError(f"There is no '{path}'; expected {PACKAGE}, its .tgz or a folder. {_REMEDY}")
    if path.is_dir():
        return _make_runtime(path, lambda name: (path / name).read_bytes())
    try:
        with tarfile.open(path) as archive:
            return _make_runtime(path, lambda name: _read_member(archive, f"package/{name}"))
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(f"'{path}' is no whole .tgz ({as_clause(error)}); expected {PACKAGE}'s. {_REMEDY}") from error


def _read_member(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(name)
    if member is None:
        raise KeyError(name)
    return member.read()


def _make_runtime(path: Path, read: Callable[[str], bytes]) -> WebRuntime:
    try:
        about = json.loads(read("package.json"))
        if about["name"] != PACKAGE:
            raise UserError(f"'{path}' is the package {about['name']!r}; expected {PACKAGE}. {_REMEDY}")
        script, glue, binary = (read(f"dist/{name}") for name in _FILES)
        version = str(about["version"])
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"'{path}' is not {PACKAGE}, or lacks a part of it ({as_clause(error)}); expected package.json, and in "
            f"dist {', '.join(_FILES)}. {_REMEDY}"
        ) from error
    packed = gzip.compress(binary, 9, mtime=0)
    return WebRuntime(version, {SCRIPT: script, GLUE: glue, PACKED: packed})


def _write_zip(path: Path, runtime: WebRuntime) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in runtime.files.items():
            archive.writestr(name, data)


def _read_zip(path: Path) -> WebRuntime:
    with zipfile.ZipFile(path) as archive:
        return WebRuntime(VERSION, {name: archive.read(name) for name in archive.namelist()})
