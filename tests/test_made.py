"""--overwrite of every command: nothing goes that WhyCAM did not make; what it made does."""

from __future__ import annotations

import shutil
from pathlib import Path

import fsspec
import pytest
from typer.main import get_command

from conftest import Run
from edit_cases import describe
from whycam.cli import app
from whycam.config import ExplainOptions
from whycam.errors import UserError
from whycam.jobs.explain import explain_files
from whycam.jobs.outputs import choose_destination
from whycam.made import LIST, is_made_file, tell_foreign
from whycam.model.cache import prune_cached
from whycam.ray.place import open_place

# A command and what it is given before -o: the kinds of results that are folders, and single files.
FOLDERS = {
    "train": ("PHOTOS",),
    "explain": ("MODEL", "PHOTOS/circle/00.jpg"),
    "demo": (),
    "data": ("flowers",),
    "evaluate": ("MODEL", "PHOTOS", "--limit", "3", "--methods", "cam", "--metrics", "gini", "--engine", "onnx"),
    "audit": ("MODEL", "PHOTOS", "--kinds", "confusion"),
    "edits": ("RUN",),
    "edits label-studio": ("RUN", "--format", "label-studio"),
    "edits fiftyone": ("RUN", "--format", "fiftyone"),
    "check": ("PHOTOS",),
    "guard": ("MODEL", "PHOTOS", "--at-least", "0.99"),
    "localize": ("MODEL", "PHOTOS/circle/00.jpg"),
    "units": ("MODEL", "circle", "PHOTOS/circle"),
    "compare": ("MODEL", "MODEL", "PHOTOS/circle"),
    "export safetensors": ("MODEL", "--format", "safetensors"),
    "export openvino": ("MODEL", "--format", "openvino"),
    "export web": ("MODEL", "--format", "web"),
}
FILES = {
    "export onnx": ("out.onnx", ("MODEL",)),
    "export torchscript": ("out.pt", ("MODEL", "--format", "torchscript")),
    "report": ("out.html", ("MODEL", "PHOTOS/circle", "--no-audit")),
    "card": ("out.md", ("RUN",)),
    "card evidence": ("out.md", ("RUN", "--evidence", "evidence.html")),
    "compare page": ("out.html", ("MODEL", "MODEL", "PHOTOS/circle")),
}
# What takes long, or has no photos here, is looked at where it is tested itself.
QUICK = sorted(FOLDERS.keys() - {"train", "demo", "data", "evaluate", "export openvino", "export web"})


@pytest.fixture
def here(cached: str, shapes_folder: Path, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the commands are given."""
    for name, place in (("MODEL", Path(cached)), ("PHOTOS", shapes_folder), ("RUN", scene / "run")):
        (tmp_path / name).symlink_to(place, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def edit(here: Path, scene: Path) -> None:
    """A run of the test's own, which somebody corrected."""
    from edit_cases import copy_scene, correct

    (here / "RUN").unlink()
    correct(copy_scene(scene, here / "own"), has_causes=False)
    (here / "RUN").symlink_to(here / "own" / "run", target_is_directory=True)


def test_every_command_that_makes_something_is_here() -> None:
    made = {name for name, one in get_command(app).commands.items() if any(p.name == "out" for p in one.params)}
    assert {name.partition(" ")[0] for name in (*FOLDERS, *FILES)} == made


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_the_user_s_is_left(name: str, here: Path, scene: Path, call_whycam: Run) -> None:
    if name.startswith("edits"):
        edit(here, scene)
    (here / "mine" / "holidays").mkdir(parents=True)
    (here / "mine" / "holidays" / "beach.jpg").write_text("irreplaceable")
    (here / "mine" / "record.json").write_text('{"record": "of mine"}')
    before = describe(here / "mine")
    done = call_whycam(name.split(maxsplit=1)[0], *FOLDERS[name], "-o", "mine", "--overwrite")
    assert done.returncode == 2
    assert "a folder that WhyCAM did not make (holidays, record.json)" in done.stderr
    assert describe(here / "mine") == before
    assert not list(here.glob("mine.*"))


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_the_user_s_is_left(name: str, here: Path, call_whycam: Run) -> None:
    out, words = FILES[name]
    given = (name.split(maxsplit=1)[0], *words, "-o", out, "--overwrite")
    mine = {"evidence.json": "evidence"} if name == "card evidence" else {out: "card", "compare.json": "[1]"}
    for file in mine:
        Path(file).write_text("---\ntitle: my notes\n---\n whycam is what I tried\n")
        done = call_whycam(*given)
        assert done.returncode == 2
        assert f"{file}' is there already: a file that WhyCAM did not make" in done.stderr
        assert Path(file).read_text().startswith("---\ntitle: my notes")
        Path(file).unlink()
        if name != "compare page":
            break


@pytest.mark.parametrize("name", QUICK)
def test_a_result_is_known_by_its_list(name: str, here: Path, scene: Path, call_whycam: Run) -> None:
    if name.startswith("edits"):
        edit(here, scene)
    done = call_whycam(name.split(maxsplit=1)[0], *FOLDERS[name], "-o", "out")
    assert done.returncode in {0, 1}, done.stderr
    out = here / "out"
    assert tell_foreign(out) == ""
    (out / "mine.txt").write_text("mine")
    assert "but it holds mine.txt, which WhyCAM did not make" in tell_foreign(out)
    (out / "mine.txt").unlink()
    (out / LIST).unlink()
    assert "a folder that WhyCAM did not make" in tell_foreign(out)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_known(name: str, here: Path, call_whycam: Run) -> None:
    out, words = FILES[name]
    given = (name.split(maxsplit=1)[0], *words, "-o", out)
    done = call_whycam(*given)
    assert done.returncode == 0, done.stderr
    made = [path for path in here.iterdir() if path.is_file()]
    assert len(made) == {"card evidence": 3, "compare page": 3}.get(name, 1)
    for path in made:
        assert is_made_file(path), path
        if path.suffix == ".html":  # as pages were before they said what made them
            content = path.read_text(encoding="utf-8")
            assert content.count('name="generator" content="WhyCAM ') == 1
            path.write_text(content.replace('name="generator"', ""), encoding="utf-8")
            assert is_made_file(path)
    done = call_whycam(*given)
    assert done.returncode == 2
    assert "or give --overwrite" in done.stderr
    if name.startswith("card"):
        assert call_whycam(*given, "--overwrite").returncode == 0


def test_a_run_keeps_what_people_said_and_is_known(scene: Path, here: Path) -> None:
    edit(here, scene)
    run = here / "own" / "run"
    assert tell_foreign(run, keeps="edits.jsonl") == ""
    assert "it holds edits.jsonl, which WhyCAM did not make or may not throw away" in tell_foreign(run)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("export", "MODEL", "-o", "x.onnx", "--format", "web"), "x.onnx' is a file's name"),
        (("export", "MODEL", "-o", "x"), "'x' has no ending; an export is a file that ends in .onnx. Take 'x.onnx'"),
        (("export", "MODEL", "-o", "x.html"), "ends in .html"),
        (("report", "RUN", "-o", "repA"), "'repA' has no ending; a report is a file that ends in .html"),
        (("card", "RUN", "-o", "card.html"), "ends in .html; a card is a file that ends in .md"),
        (("audit", "MODEL", "PHOTOS", "-o", "audit.json"), "audit.json' is a file's name"),
        (("compare", "MODEL", "MODEL", "PHOTOS", "-o", "c.json"), "c.json' is a file's name"),
    ],
)
def test_names_say_what_is_made(words: tuple[str, ...], told: str, here: Path, call_whycam: Run) -> None:
    before = sorted(here.iterdir())
    done = call_whycam(*words)
    assert done.returncode == 2
    assert told in done.stderr
    assert sorted(here.iterdir()) == before


def test_an_address_with_something_else_is_left(cached: str, shapes_folder: Path) -> None:
    """No rights to --overwrite are needed to refuse, nor is anything taken from there without it."""
    system = fsspec.filesystem("memory")
    photo = str(shapes_folder / "circle" / "00.jpg")
    for names in (("explanations.csv",), ("explanations/part-of-mine.txt",), ("record.json",), ("overlays/a", "b.jpg")):
        for name in names:
            system.pipe_file(f"/mine/{name}", b'{"mine": 1}')
        for how in ({}, {"overwrite": True}, {"resume": True}):
            with pytest.raises(UserError, match=r"memory://mine' holds what WhyCAM did not make .*another address"):
                explain_files(cached, [photo], "memory://mine", ExplainOptions(**how))
            with (
                pytest.raises(UserError, match="holds what WhyCAM did not make"),
                open_place("memory://mine", ExplainOptions(on="ray", **how)),
            ):
                pass
        assert sorted(system.find("/mine")) == sorted(f"/mine/{name}" for name in names)
        system.rm("/mine", recursive=True)
    explain_files(cached, [photo], "memory://ours", ExplainOptions())
    with pytest.raises(UserError, match="a finished result already"):
        choose_destination("memory://ours", overwrite=False)
    choose_destination("memory://ours", overwrite=True)
    system.rm_file("/ours/record.json")  # as an interrupted run leaves it
    choose_destination("memory://ours", overwrite=False)
    system.rm("/ours", recursive=True)


def test_a_cluster_s_table_alone_is_replaced_at_an_address() -> None:
    system = fsspec.filesystem("memory")
    for name, content in (
        ("record.json", b'{"options": {}, "command": "whycam", "versions": {"whycam": "0.1.0"}}'),
        ("explanations/part-0000000.parquet", b"old"),
        ("explanations/notes.txt", b"mine"),
    ):
        system.pipe_file(f"/table/{name}", content)
    with open_place("memory://table", ExplainOptions(on="ray", overwrite=True)):
        assert system.find("/table") == ["/table/explanations/notes.txt"]
    system.rm("/table", recursive=True)


def test_a_cache_in_the_user_s_folder_leaves_the_user_s_files(tmp_path: Path) -> None:
    mine, old, new = (tmp_path / f"{name}.npy" for name in ("mine", "old", "new"))
    for path in (mine, old, new):
        path.write_bytes(b"x" * 100)
    for path in (old, new):
        path.with_suffix(".json").write_text("{}")
    prune_cached(new, 100)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.npy", "new.json", "new.npy"]


def test_a_dataset_keeps_photos_that_were_put_in(tmp_path: Path, call_whycam: Run) -> None:
    from whycam.made import write_list

    place = tmp_path / "flowers" / "photos" / "rose"
    place.mkdir(parents=True)
    (place / "1.jpg").touch()
    (tmp_path / "flowers" / "SOURCE.txt").write_text("Flowers\nLicence: CC BY\n")
    write_list(tmp_path / "flowers")
    (place / "mine.jpg").write_text("mine")
    done = call_whycam("data", "flowers", "-o", tmp_path / "flowers", "--overwrite", "--source", tmp_path)
    assert done.returncode == 2
    assert "but it holds photos/rose/mine.jpg, which WhyCAM did not make" in done.stderr
    shutil.rmtree(place)
    assert tell_foreign(tmp_path / "flowers") == ""


# Folders of other programs, whose files are called like ours and say the like.
LOOKALIKES = {
    "photos with their source": {"SOURCE.txt": "Licence: CC-BY, my own photos", "photos/daisy/x.jpg": "irreplaceable"},
    "another tool's audit": {"audit.json": '{"findings": []}', "audit.log": "mine"},
    "another trainer's run": {"summary.json": '{"data": {"n": 1}}', "model/weights.pth": "mine", "train.log": "mine"},
    "labels": {"record.json": '{"options": {"a": 1}}', "labels/a.txt": "mine", "pictures/x.jpg": "irreplaceable"},
}


@pytest.mark.parametrize("name", LOOKALIKES)
@pytest.mark.parametrize("place", ["out", "out.partial", ".out.0123abcd.whycam-replaced", "out.20261127.old"])
def test_what_only_looks_like_a_result_is_left(name: str, place: str, here: Path, call_whycam: Run) -> None:
    for file, content in LOOKALIKES[name].items():
        (here / place / file).parent.mkdir(parents=True, exist_ok=True)
        (here / place / file).write_text(content)
    before = describe(here / place)
    done = call_whycam("check", "PHOTOS", "-o", "out", "--overwrite")
    assert done.returncode == (2 if place in {"out", "out.partial"} else 0)
    assert describe(here / place) == before


def test_what_a_command_reads_is_not_replaced_by_what_it_makes(here: Path, call_whycam: Run) -> None:
    words = ("PHOTOS/circle/00.jpg", "-o", "first")
    assert call_whycam("explain", "MODEL", *words).returncode == 0
    before = describe(here / "first")
    picture = next((here / "first" / "overlays").rglob("*.*"))
    for photos in (picture, here / "first"):
        done = call_whycam("explain", "MODEL", photos, "-o", "first", "--overwrite")
        assert done.returncode == 2
        assert "is read by this command, and --overwrite of 'first' would throw it away" in done.stderr
    assert describe(here / "first") == before


def test_a_card_that_somebody_went_on_with_is_left(here: Path, call_whycam: Run) -> None:
    given = ("card", "RUN", "-o", "card.md", "--overwrite")
    assert call_whycam(*given).returncode == 0
    assert call_whycam(*given).returncode == 0
    edited = Path("card.md").read_text(encoding="utf-8").replace("---\n", "---\nlicense: mine\n", 1)
    Path("card.md").write_text(edited, encoding="utf-8")
    done = call_whycam(*given)
    assert done.returncode == 2
    assert "or that was edited since" in done.stderr
    assert Path("card.md").read_text(encoding="utf-8") == edited
