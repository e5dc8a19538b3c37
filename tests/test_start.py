"""What commands import before they answer: nothing that is slow to load and of no use to them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from report_cases import make_finding, make_run, write_audit
from whycam.cam.registry import iter_methods
from whycam.errors import UserError
from whycam.intake.door import open_classifier
from whycam.show.app import menu
from whycam.show.app.menu import find_methods

TORCH = {"torch", "timm", "torchvision", "torchmetrics"}
SCIPY = {"scipy.stats", "scipy.ndimage", "scipy.special", "scipy.linalg", "skimage.color"}
# Runs a command, and tells which of some modules it has imported; told of them too: what it had by its first photo.
_RUN = """
import sys
heavy, folder, words = set({heavy!r}), {folder!r}, {words!r}
by_first = []
def watch(event, args):
    if event == "open" and not by_first and isinstance(args[0], str) and args[0].startswith(folder):
        if args[0].endswith(".jpg"):
            by_first.append(sorted(heavy & sys.modules.keys()))
sys.addaudithook(watch)
from whycam.cli import app
app(words, standalone_mode=False)
print("FIRST", by_first, "END", sorted(heavy & sys.modules.keys()))
"""


def find_imports(folder: Path, words: Sequence[object], heavy: set[str]) -> tuple[str, str]:
    """The modules among `heavy` that a command has imported by its first photo, and by its end."""
    code = _RUN.format(heavy=sorted(heavy), folder=str(folder), words=list(map(str, words)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, _, end = done.stdout.splitlines()[-1].removeprefix("FIRST ").partition(" END ")
    return first, end


@pytest.mark.parametrize(
    "words",
    [
        ["explain"],
        ["localize", "--crop-reclassify"],
        ["audit", "--kinds", "label,duplicate,confusion"],
        ["report", "--no-audit"],
    ],
    ids=lambda words: words[0],
)
def test_a_graph_at_hand_needs_no_torch_by_any_command(
    cached: str, shapes_folder: Path, tmp_path: Path, words: list[str]
) -> None:
    out = tmp_path / ("out.html" if words[0] == "report" else "out")
    heavy = TORCH | {"sklearn", "transformers", *SCIPY}
    first, end = find_imports(shapes_folder, [words[0], cached, shapes_folder, "-o", out, *words[1:]], heavy)
    assert first == "[[]]"
    assert not TORCH & set(end.strip("[]").replace("'", "").split(", "))


def test_a_runs_report_takes_no_library_of_tables_and_tests(cached: str, shapes_folder: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", Path(cached), shapes_folder)
    audit = write_audit(tmp_path / "audit.json", make_finding([]))
    heavy = TORCH | {"pandas", "scipy.stats", "sklearn"}
    _, end = find_imports(shapes_folder, ["report", run, "-o", tmp_path / "r.html", "--audit", audit], heavy)
    assert end == "[]"


def test_evaluate_reads_its_first_photo_before_the_network_is_built(
    cached: str, shapes_folder: Path, tmp_path: Path
) -> None:
    options = ["--limit", 4, "--metrics", "deletion-auc", "--engine", "torch"]
    words = ["evaluate", cached, shapes_folder, "-o", tmp_path / "out", *options]
    first, _ = find_imports(shapes_folder, words, TORCH | {"scipy.stats", "sklearn", "transformers"})
    assert first == "[['torch']]"


def test_the_menu_of_an_app_is_kept_and_read_without_torch(cached: str) -> None:
    made = find_methods(open_classifier(cached))
    kinds = [method for method in iter_methods() if method.needs in menu._KINDS and method.name != "contrast"]
    assert made[0].name == "cam"
    assert {vars(one)["cost"] for one in made} <= {method.cost for method in kinds}
    slow = TORCH | SCIPY | {"onnx", "whycam.audit.run", "whycam.mend.cures", "whycam.show.app.kserve"}
    code = (
        "import sys; from whycam.intake.door import open_classifier\n"
        "from whycam.show.app.site import make_app; from whycam.show.app.served import ServedModel\n"
        "from whycam.config import ServeOptions\n"
        f"with ServedModel(open_classifier({cached!r})) as served:\n"
        "    make_app(served, ServeOptions())\n"
        "    print(*[method.name for method in served.methods], sep=',')\n"
        f"assert not {slow!r} & sys.modules.keys(), sorted({slow!r} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ",".join(method.name for method in made)


def test_a_menu_is_made_anew_where_it_is_damaged_or_of_other_methods(
    cached: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = open_classifier(cached)
    tried = []
    plain = menu._try_methods
    monkeypatch.setattr(menu, "_try_methods", lambda asked: tried.append(1) or plain(asked))
    made = find_methods(classifier)
    assert find_methods(classifier) == made
    assert len(tried) == 1
    next(Path(os.environ["WHYCAM_CACHE"]).glob("menus/*.menu")).write_text("[]")
    assert find_methods(classifier) == made
    assert len(tried) == 2
    monkeypatch.setattr(menu, "_hash_methods", lambda: "other files")
    assert find_methods(classifier) == made
    assert len(tried) == 3


def test_a_model_that_no_method_explains_is_refused_each_time(cached: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise UserError("No map method works.")

    monkeypatch.setattr(menu, "_try_methods", refuse)
    for _ in range(2):
        with pytest.raises(UserError, match="No map method works"):
            find_methods(open_classifier(cached))
