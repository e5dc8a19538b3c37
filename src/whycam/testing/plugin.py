"""The pytest plugin: settings, what a session's guards share, their lines at the end, and the report.

pytest loads it in every run where whycam is installed: it imports nothing of whycam's but the session, until a guard
has been asked.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from whycam.testing.session import Session, begin, end

_REPORT, _STRICT = "whycam_report", "whycam_strict"
_RUN = pytest.StashKey["_Run"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where pictures go, and whether proof is asked for."""
    group = parser.getgroup("whycam", "guards of image classifiers")
    report = "Folder for the pictures of guards that fail, and a page of all"
    strict = "Fail, too, where a guard's photos are too few to tell"
    group.addoption("--whycam-report", metavar="DIR", help=f"{report} [in pytest's temporary folder].")
    group.addoption("--whycam-strict", action="store_true", help=f"{strict}.")
    parser.addini(_REPORT, f"{report}; below the folder of this file.")
    parser.addini(_STRICT, f"{strict}.", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Begins a session of its own: a pytest within a pytest keeps to itself."""
    run = _Run(config)
    run.check_named()
    config.stash[_RUN] = run
    config.pluginmanager.register(run, "whycam-run")
    begin(run.session)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Ends it."""
    if (run := config.stash.get(_RUN, None)) is not None:
        end(run.session)
        config.pluginmanager.unregister(run)


class _Run:
    """One run of pytest; of several workers, one in each, and one where all reports come together."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        is_strict = bool(config.getoption(_STRICT) or config.getini(_STRICT))
        self.session = Session(self.find_root, is_strict=is_strict, is_told=True)
        self.is_worker = hasattr(config, "workerinput")
        self.records: list[dict[str, Any]] = []
        self.page: Path | None = None

    def find_named(self) -> Path | None:
        """The folder for the report that somebody named."""
        given, usual = self.config.getoption(_REPORT), self.config.getini(_REPORT)
        if given:
            return self.config.invocation_params.dir / str(given)
        below = self.config.inipath.parent if self.config.inipath else self.config.rootpath
        return below / usual if usual else None

    def find_root(self) -> Path:
        """The same; else one in pytest's temporary folder, which all workers share."""
        named = self.find_named()
        if named is not None:
            return named
        factory = getattr(self.config, "_tmp_path_factory", None)
        if factory is None:  # -p no:tmpdir
            return Path(tempfile.mkdtemp()) / "whycam"
        base: Path = factory.getbasetemp()
        return (base.parent if self.is_worker else base) / "whycam"

    def check_named(self) -> None:
        """Refuses a folder that holds something else, before any test runs."""
        named = self.find_named()
        # A worker may find another one's first pictures.
        if named is None or self.is_worker or not named.exists():
            return
        from whycam.errors import UserError  # noqa: PLC0415 - for those who name a folder
        from whycam.testing.report import check_root  # noqa: PLC0415 - as above

        try:
            check_root(named)
        except UserError as error:
            raise pytest.UsageError(f"--whycam-report: {error}") from None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """What guards decided goes with their test's report, also from a worker's process; in a word to JUnit's XML."""
        records = self.session.take_records()
        item.user_properties += [(f"whycam-{one['guard']}", f"{one['state']}: {one['told']}") for one in records]
        report = yield
        if records:
            report.whycam = records  # type: ignore[attr-defined]
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collects them."""
        self.records += getattr(report, "whycam", [])

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Writes the page, where there is something to see or a folder was named for it."""
        is_wanted = self.find_named() is not None or any(one["fails"] for one in self.records)
        if self.records and is_wanted and not self.is_worker:
            from whycam.testing.report import write_report  # noqa: PLC0415 - only where a guard was asked

            self.page = write_report(self.find_root(), self.records, command=_tell_command(self.config))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """A line for each guard that the photos can't decide, and where the pictures are."""
        open_ones = [one for one in self.records if one["state"] == "inconclusive" and not one["fails"]]
        if open_ones or self.page:
            terminalreporter.section("whycam")
        for one in open_ones:
            terminalreporter.write_line(f"inconclusive: {one['test']}: {one['guard']}: {one['told']}", yellow=True)
        if self.page:
            terminalreporter.write_line(f"pictures and all verdicts: {self.page}")


def _tell_command(config: pytest.Config) -> str:
    return " ".join(["pytest", *map(str, config.invocation_params.args)])
