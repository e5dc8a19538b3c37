"""What is handed to a package index: a wheel and an sdist that are whole, described, and typed from outside."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path, PurePosixPath

import pytest

import whycam

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "whycam"

pytestmark = pytest.mark.slow

# As a stranger would write it: one line is wrong, the others are told their types.
SCRIPT = """
from pathlib import Path

import whycam

model = whycam.load("imagenet")
reveal_type(model)
reveal_type(model.class_names)
why = model.explain(Path("photo.jpg"), target="top:3")
reveal_type(why)
whycam.load("imagenet", engine=3)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, the wheel made of the sdist as an index's users make it."""
    out = tmp_path_factory.mktemp("dist")
    # Without isolation, so that nothing is fetched.
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


def read_metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def list_shipped() -> set[str]:
    """What lies beside the code and belongs to it."""
    parts = ("py.typed", "show/templates/*", "show/static/*")
    return {path.relative_to(SOURCE.parent).as_posix() for part in parts for path in SOURCE.glob(part)}


def test_the_metadata_is_complete(wheel: Path) -> None:
    about = read_metadata(wheel)
    assert about["Name"] == "whycam"
    assert about["Version"] == whycam.__version__
    assert about["License-Expression"] == "Apache-2.0"
    assert about.get_all("License-File") == ["LICENSE"]
    assert about["Requires-Python"] == ">=3.11.4"
    assert about["Description-Content-Type"] == "text/markdown"
    assert str(about.get_payload()).strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()
    assert about.get_all("Project-URL")
    assert about["Keywords"]
    classifiers = about.get_all("Classifier") or []
    for start in (
        "Development Status",
        "Intended Audience",
        "Operating System",
        "Programming Language",
        "Topic",
        "Typing",
    ):
        assert any(one.startswith(start) for one in classifiers), start
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(about.get_all("Provides-Extra") or []) == set(extras)


def test_every_extra_but_the_developers_is_documented() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    page = (ROOT / "docs" / "dependencies.md").read_text()
    for name in extras:
        assert f"`{name}`" in page, name


def test_the_wheel_has_types_templates_and_static_files_and_no_more(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.startswith("whycam-")}
        entry = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        points = archive.read(entry).decode()
    assert list_shipped() >= {"whycam/py.typed", "whycam/show/templates/card.md", "whycam/show/static/viewer.js"}
    assert list_shipped() <= names
    assert {PurePosixPath(name).parts[0] for name in names} == {"whycam"}
    code = {path.relative_to(SOURCE.parent).as_posix() for path in SOURCE.rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == code
    assert "whycam = whycam.__main__:main" in points
    assert "whycam = whycam.testing.plugin" in points


def test_the_sdist_has_what_a_packager_needs(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "pyproject.toml",
        "tests/conftest.py",
        "src/whycam/py.typed",
    } <= names
    assert not [name for name in names if name.startswith((".venv", "site/", "build/"))]


def test_a_typed_project_sees_the_types(wheel: Path, tmp_path: Path) -> None:
    """The wheel is installed where nothing else is: what stays unknown are other libraries' types alone."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (tmp_path / "script.py").write_text(SCRIPT)
    words = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(python), "--cache-dir", "cache"]
    done = subprocess.run([*words, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    told = done.stdout
    assert 'Revealed type is "whycam.explainer.model.Model"' in told
    assert 'Revealed type is "whycam.explainer.explanation.Explanation"' in told
    assert "tuple[" in told
    assert "incompatible type" in told or "No overload variant" in told, told
    assert "py.typed" not in told
    assert "import-untyped" not in told
    assert done.stderr == ""


def test_the_version_is_semantic_and_has_an_entry_in_the_changelog() -> None:
    parts = whycam.__version__.split(".")
    assert len(parts) == 3
    assert all(part.isdecimal() for part in parts)
    text = (ROOT / "CHANGELOG.md").read_text()
    assert f"## {whycam.__version__}" in text
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == whycam.__version__
