"""The pytest plugin as a user's tests meet it: outcomes, lines at the end, the report, workers, and what it costs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import whycam
from kind_cases import NAMES, NET, make_onnx, write_photos
from whycam.testing.session import Session, begin, end

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytest_plugins = ["pytester"]

TESTS = """
import pytest
import whycam
from whycam.testing import assert_accuracy, assert_evidence_kept, assert_exact, assert_looks_at


@pytest.fixture(scope="session")
def model():
    return whycam.load({model!r}, preprocess="unit", class_names={names!r})


def test_good(model):
    assert_accuracy(model, {many!r}, 0.5)
    assert_exact(model)


def test_broken(model):
    assert_accuracy(model, {wrong!r}, 0.95)


def test_few(model):
    assert_accuracy(model, {few!r}, 0.9)


def test_kept(model):
    assert_evidence_kept(model, model, {many!r}, 0.5)


def test_bad_input(model):
    assert_looks_at(model, {many!r}, {masks!r}, share=0.5)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, photos of which it is sure, a few of them, and some in the wrong folders."""
    root = tmp_path_factory.mktemp("plugin")
    (root / "net.py").write_text(NET, encoding="utf-8")
    make_onnx(root)
    write_photos(root / "many", 10)
    write_photos(root / "few", 2)
    write_photos(root / "wrong", 4)
    write_photos(root / "masks", 0)
    for path in (root / "wrong" / "red").iterdir():
        path.rename(root / "wrong" / "green" / f"red-{path.name}")
    (root / "wrong" / "red").rmdir()
    return root


@pytest.fixture
def project(pytester: pytest.Pytester, root: Path, guard_plugin: None) -> pytest.Pytester:
    """A user's project with the tests above."""
    words = {name: str(root / name) for name in ("many", "few", "wrong", "masks")}
    pytester.makepyfile(test_model=TESTS.format(model=str(root / "Colours.onnx"), names=list(NAMES), **words))
    return pytester


def read_guards(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "guards.json").read_text(encoding="utf-8"))["guards"]
    return sorted(found, key=lambda one: (one["test"], one["guard"]))


def test_outcomes_lines_and_the_report(project: pytest.Pytester, root: Path) -> None:
    done = project.runpytest_inprocess("--whycam-report", "report", "--junitxml", "junit.xml")
    done.assert_outcomes(passed=3, failed=2)
    done.stdout.fnmatch_lines(
        [
            "E * accuracy is broken: 8 of 12 photos are right: 0.667; at most *0.95 is asked for.",
            f"E * {root}/wrong/green/red-*.png: green, taken for red by * logits",
            "E * pictures: *report/index.html",
            "*UserError: Found 0 masks in * and none of the name of a photo*",
            "*= whycam =*",
            "inconclusive: test_model.py::test_few: accuracy: 6 of 6 photos are right: 1.000; at least 0.6* *would.",
            "pictures and all verdicts: *report/index.html",
        ]
    )
    # Of whycam's own lines a failure shows none.
    assert "settle(" not in done.stdout.str()
    assert "def read_photos" not in done.stdout.str()
    report = project.path / "report"
    guards = read_guards(report)
    assert [(one["test"], one["guard"], one["state"], one["fails"]) for one in guards] == [
        ("test_model.py::test_broken", "accuracy", "broken", True),
        ("test_model.py::test_few", "accuracy", "inconclusive", False),
        ("test_model.py::test_good", "accuracy", "holds", False),
        ("test_model.py::test_good", "exact", "holds", False),
        ("test_model.py::test_kept", "evidence-kept", "holds", False),
    ]
    page = (report / "index.html").read_text(encoding="utf-8")
    for row in guards[0]["worst"]:
        for picture in row["pictures"]:
            assert (report / guards[0]["folder"] / picture["file"]).is_file()
            assert f'src="{guards[0]["folder"]}/{picture["file"]}"' in page
    assert "test_model.py::test_few" in page
    assert 'name="whycam-accuracy" value="broken: 8 of 12 photos' in (project.path / "junit.xml").read_text()


@pytest.mark.slow
def test_two_workers_give_what_one_gives(project: pytest.Pytester) -> None:
    """In a process of its own, and with no report named: pictures go to pytest's temporary folder."""
    alone = project.runpytest_inprocess("--whycam-report", "alone")
    done = project.runpytest_subprocess("-n", "2", "--basetemp", "base")
    assert done.parseoutcomes() == {**alone.parseoutcomes(), "passed": 3, "failed": 2}
    done.stdout.fnmatch_lines(["inconclusive: test_model.py::test_few: *", "pictures and all verdicts: *base/whycam/*"])
    both, one = (read_guards(project.path / name) for name in ("base/whycam", "alone"))
    assert [(row["told"], row["worst"], row["numbers"]) for row in both] == [
        (row["told"], row["worst"], row["numbers"]) for row in one
    ]


def test_proof_may_be_asked_for(project: pytest.Pytester) -> None:
    done = project.runpytest_inprocess("-k", "few", "--whycam-strict")
    done.assert_outcomes(failed=1, deselected=4)
    done.stdout.fnmatch_lines(["E * accuracy is inconclusive: *", "E * It fails, as proof is asked for (strict)."])
    project.makeini("[pytest]\nwhycam_strict = true\nwhycam_report = found/here\n")
    project.runpytest_inprocess("-k", "few").assert_outcomes(failed=1, deselected=4)
    assert read_guards(project.path / "found" / "here")[0]["fails"]


def test_without_the_plugin_guards_fail_and_warn(project: pytest.Pytester) -> None:
    # This process may itself be one of pytest's with the plugin.
    begin(plain := Session())
    done = project.runpytest_inprocess("-p", "no:whycam")
    end(plain)
    done.assert_outcomes(passed=3, failed=2, warnings=1)
    done.stdout.fnmatch_lines(["*InconclusiveWarning: accuracy: 6 of 6 photos are right*"])
    done.stdout.no_fnmatch_line("*= whycam =*")
    done.stdout.no_fnmatch_line("*pictures:*")
    assert project.runpytest_inprocess("-p", "no:whycam", "--whycam-strict").ret == pytest.ExitCode.USAGE_ERROR


def test_an_earlier_report_makes_room_and_other_files_do_not(project: pytest.Pytester) -> None:
    project.runpytest_inprocess("--whycam-report", "report", "-k", "broken")
    report = project.path / "report"
    (old,) = (path for path in report.iterdir() if path.is_dir())
    (report / "notes").mkdir()
    project.runpytest_inprocess("--whycam-report", "report", "-k", "good")
    assert not old.exists()
    assert (report / "notes").is_dir()
    assert [one["state"] for one in read_guards(report)] == ["holds", "holds"]
    (report / "guards.json").write_text('{"guards": []}')  # as a run leaves it that is killed
    assert project.runpytest_inprocess("--whycam-report", "report", "-k", "good").ret == pytest.ExitCode.OK
    (project.path / "mine").mkdir()
    (project.path / "mine" / "thesis.txt").touch()
    for name in ("mine", "mine/thesis.txt"):
        done = project.runpytest_inprocess("--whycam-report", name)
        assert done.ret == pytest.ExitCode.USAGE_ERROR
        done.stderr.fnmatch_lines([f"ERROR: --whycam-report: '*{name}' holds something else than a report*"])


def test_all_tests_of_a_run_share_the_answers(pytester: pytest.Pytester, root: Path, guard_plugin: None) -> None:
    pytester.makepyfile(
        test_model=f"""
        import pytest
        import whycam
        from whycam.testing import assert_accuracy

        seen = []

        def classify(images):
            seen.append(len(images))
            return images.mean((2, 3)) * 50

        @pytest.fixture(scope="session")
        def model():
            found = whycam.load(classify, class_names={list(NAMES)!r}, preprocess="unit", image_size=64)
            seen.clear()
            return found

        @pytest.mark.parametrize("limit", [0.5, 0.6, 0.7])
        def test_it(model, limit):
            assert_accuracy(model, {str(root / "many")!r}, limit)
            assert sum(seen) == 30
        """
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=3)


def test_a_run_without_guards_pays_nothing(pytester: pytest.Pytester, guard_plugin: None) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_it(request):
            assert request.config.pluginmanager.has_plugin("whycam")
            own = sorted(name for name in sys.modules if name.split(".")[0] == "whycam")
            assert own == ["whycam", "whycam.testing", "whycam.testing.plugin", "whycam.testing.session"]
            assert not {"torch", "numpy", "PIL", "pydantic", "jinja2", "onnxruntime"} & sys.modules.keys()
        """
    )
    done = pytester.runpytest_subprocess("-p", "no:hypothesis", "-p", "no:schemathesis", "-p", "no:anyio")
    done.assert_outcomes(passed=1)
    done.stdout.no_fnmatch_line("*= whycam =*")


def test_the_asserts_need_no_pytest(root: Path, run_python: Callable[[str], str]) -> None:
    code = (
        "import sys; sys.modules['pytest'] = sys.modules['_pytest'] = None\n"
        "from whycam.testing import assert_accuracy, BrokenGuardError\n"
        f"import whycam; model = whycam.load({str(root / 'Colours.onnx')!r}, preprocess='unit', "
        f"class_names={list(NAMES)!r})\n"
        f"print(assert_accuracy(model, {str(root / 'many')!r}, 0.5).told)\n"
        f"try: assert_accuracy(model, {str(root / 'wrong')!r}, 0.9)\n"
        "except BrokenGuardError as error: print(error.verdict.state)\n"
    )
    assert run_python(code).splitlines() == [
        "30 of 30 photos are right: 1.000; at least 0.905 (95% confidence); 0.5 is asked for.",
        "broken",
    ]


@pytest.fixture
def run_python() -> Callable[[str], str]:
    import subprocess

    def run(code: str) -> str:
        env = {**os.environ, "PYTHONPATH": str(Path(whycam.__file__).parents[1])}
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout

    return run


@pytest.mark.browser
def test_the_page_shows_its_pictures(project: pytest.Pytester, page: Page) -> None:
    project.runpytest_inprocess("--whycam-report", "report")
    page.goto((project.path / "report" / "index.html").as_uri())
    assert page.locator("h1").inner_text() == "1 broken, 1 inconclusive, 3 hold"
    assert page.locator("article h2").all_inner_texts() == [
        *("accuracy", "accuracy"),
        *("accuracy", "exact", "evidence-kept"),
    ]
    pictures = page.locator("img")
    assert pictures.count() > 3
    for picture in pictures.all():
        picture.scroll_into_view_if_needed()
        assert picture.evaluate("async one => { await one.decode(); return one.naturalWidth }") > 0
