"""What a run's folder and the files about it say, each with its content's hash: what a card and its evidence quote."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whycam import __version__
from whycam.errors import UserError, as_clause, join_words
from whycam.mend.journal import NAME, Journal
from whycam.mend.state import State, replay
from whycam.mend.versions import list_versions
from whycam.runs import find_run, read_result

# What a run must say, by file: JSON Pointers (RFC 6901).
_SAID = {
    "summary.json": (
        *("/val_accuracy", "/classes", "/confusion", "/identity_error", "/command", "/backbone", "/weights", "/head"),
        *("/seed", "/versions", "/data/folder", "/data/fingerprint", "/data/train", "/data/val"),
        *("/data/is_split_by_us", "/data/classes_left_out", "/data/unreadable"),
    ),
    "options.json": ("/class_names",),
    "model/config.json": ("/whycam/sha256", "/whycam/class_names", "/whycam/preprocess"),
}
# What no file says; null is something that a file may say.
_LOST = object()


@dataclass(frozen=True)
class SourceFile:
    """A file that is quoted.

    Attributes:
        name: how it is quoted, from the run's folder, or as it was named on the command line.
        path: where it was read.
        content: its JSON; of a .jsonl a list, an item a line, None where a line is no JSON.
        sha256: of its bytes.
    """

    name: str
    path: Path
    content: Any
    sha256: str

    def get(self, key: str, default: Any = None) -> Any:
        """What stands at a JSON Pointer."""
        found = read_key(self.content, key)
        return default if found is _LOST else found


def read_key(content: Any, key: str) -> Any:
    """What a JSON Pointer (RFC 6901) points to; `_LOST` where nothing is there."""
    for word in key.split("/")[1:]:
        part = word.replace("~1", "/").replace("~0", "~")
        if isinstance(content, dict) and part in content:
            content = content[part]
        elif isinstance(content, list) and part.isdecimal() and int(part) < len(content):
            content = content[int(part)]
        else:
            return _LOST
    return content


def escape_key(word: str) -> str:
    """A name as one step of a JSON Pointer."""
    return word.replace("~", "~0").replace("/", "~1")


@dataclass(frozen=True)
class RunRecord:
    """What is known of a run.

    Attributes:
        folder: the run's.
        summary, options, config: of the version that stands for the run.
        has_same_weights: the weights' file has the hash that config.json says; False where it is not there.
        audit, evaluation: of this model; None where there is none.
        audit_known_by: how it is known to be of this model, in words.
        journal: what people said; None where nobody did.
        state: what that comes to.
        versions: number -> summary.json of each version of the run, the first training first.
        kept: the number of the version that stands for the run.
    """

    folder: Path
    summary: SourceFile
    options: SourceFile
    config: SourceFile
    has_same_weights: bool
    audit: SourceFile | None
    audit_known_by: str
    evaluation: SourceFile | None
    journal: SourceFile | None
    state: State
    versions: Mapping[str, SourceFile]
    kept: str

    @property
    def files(self) -> list[SourceFile]:
        """All that is quoted, each once."""
        listed = (self.summary, self.options, self.config, self.audit, self.evaluation, self.journal)
        return [*filter(None, listed), *(file for number, file in self.versions.items() if number != self.kept)]

    @property
    def class_names(self) -> list[str]:
        """In the order of the logits."""
        return list(self.config.get("/whycam/class_names"))


def read_record(run: Path, audit: Path | None, evaluation: Path | None) -> RunRecord:
    """The record of a run.

    Args:
        run: its folder.
        audit: an audit.json or its folder; None: the run's own, where there is one.
        evaluation: an overall.json or its folder; None: the run's own, where there is one.

    Raises:
        UserError: no run, one of an older version, a damaged file, an audit or evaluation of another model.
    """
    _check_run(run)
    place = find_run(run)
    prefix = "" if place == run else f"{place.relative_to(run).as_posix()}/"
    files = {name: _read(place / name, prefix + name, "whycam train") for name in _SAID}
    _check_several(run, files["summary.json"])
    _check_whole(run, files)
    summary, options, config = files.values()
    found = {
        "audit": _find(audit, place / "audit.json", "audit.json", "record", "whycam audit"),
        "evaluation": _find(
            evaluation, place / "evaluation" / "overall.json", "overall.json", "overall", "whycam evaluate"
        ),
    }
    known_by = {what: _check_model(file, summary, config, what) for what, file in found.items() if file is not None}
    journal, versions = Journal.of(run), list_versions(run)
    reading = journal.read()
    weights = place / "model" / "model.safetensors"
    return RunRecord(
        *(run, summary, options, config),
        has_same_weights=weights.is_file() and _hash(weights.read_bytes()) == config.get("/whycam/sha256"),
        audit=found["audit"],
        audit_known_by=known_by.get("audit", ""),
        evaluation=found["evaluation"],
        journal=_to_source(journal.path, NAME, reading.content) if reading.edits else None,
        state=replay(reading.edits, reading.notes),
        versions={one.number: _read_version(run, one.folder) for one in versions},
        kept=next(one.number for one in versions if one.is_kept),
    )


def _check_several(run: Path, summary: SourceFile) -> None:
    if summary.get("/multi_label"):
        raise UserError(
            f"The photos of the run '{run.absolute()}' have several classes each; a card tells of one class a photo "
            "(accuracy, what is taken for what). summary.json has the figures of each class, and whycam report shows "
            "them."
        )


def _check_run(run: Path) -> None:
    if (run / "summary.json").is_file():
        return
    found = (
        f"Found no folder '{run.absolute()}'" if not run.is_dir() else f"Found no summary.json in '{run.absolute()}'"
    )
    hint = "Name a run's folder; make one with whycam train FOLDER -o RUN."
    if (run / "config.json").is_file():
        hint = f"This is a model's folder; of a run it is the part that is called model: try '{run.absolute().parent}'."
    raise UserError(f"{found}; expected the folder of a run that whycam train made. {hint}")


def _check_whole(run: Path, files: dict[str, SourceFile]) -> None:
    lost = [
        f"{name} ({', '.join(keys)})"
        for name, said in _SAID.items()
        if (keys := [key[1:].replace("/", ".") for key in said if read_key(files[name].content, key) is _LOST])
    ]
    if lost:
        by = files["summary.json"].get("/versions/whycam")
        who = f"whycam {by}" if by else "a version that did not say its number"
        raise UserError(
            f"The run '{run.absolute()}' lacks what a card tells, in {join_words(lost)}; it was made by {who}, and "
            f"expected is a run as whycam {__version__} makes them. Train it again: its summary.json has the command."
        )


def _read_version(run: Path, folder: Path) -> SourceFile:
    path = folder / "summary.json"
    return _read(path, path.relative_to(run).as_posix(), "whycam train")


def _find(given: Path | None, usual: Path, name: str, key: str, maker: str) -> SourceFile | None:
    if given is None and not usual.is_file():
        return None
    path = usual if given is None else given
    read_result(path, name, key, maker)
    path = path / name if path.is_dir() else path
    return _read(path, str(given / name if given and given.is_dir() else given or name), maker)


def _read(path: Path, name: str, maker: str) -> SourceFile:
    try:
        content = path.read_bytes()
        found = _to_source(path, name, content)
    except (OSError, ValueError) as error:
        raise UserError(
            f"'{path.absolute()}' can't be read ({as_clause(error)}); expected what {maker} writes. Run {maker} again."
        ) from None
    if not isinstance(found.content, dict):
        raise UserError(f"'{path.absolute()}' is no JSON object; expected what {maker} writes. Run {maker} again.")
    return found


def _to_source(path: Path, name: str, content: bytes) -> SourceFile:
    text = content.decode("utf-8", "replace" if path.suffix == ".jsonl" else "strict")
    told = [_parse(line) for line in text.split("\n")] if path.suffix == ".jsonl" else json.loads(text)
    return SourceFile(name, path, told, _hash(content))


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _check_model(file: SourceFile, summary: SourceFile, config: SourceFile, what: str) -> str:
    """How a result is known to be of this model; a result that is not is refused."""
    of, own = file.get("/record/sha256"), config.get("/whycam/sha256")
    command = "whycam audit" if what == "audit" else "whycam evaluate"
    remedy = f"Run {command} with this run, and name what it writes by --{what}."
    if of is not None:
        if of != own:
            raise UserError(
                f"'{file.path.absolute()}' is of another model (its weights' SHA-256 is {str(of)[:12]}..., this run's "
                f"{own[:12]}...); expected an {what} of this run, of the version that was kept. {remedy}"
            )
        return "the hash of its weights"
    names, backbone = set(config.get("/whycam/class_names")), file.get("/record/backbone")
    told = {str(one.get("class")) for one in file.get("/findings", []) if one.get("class") is not None}
    if foreign := sorted((told | set(file.get("/record/classes", {}))) - names):
        raise UserError(
            f"'{file.path.absolute()}' speaks of {', '.join(map(repr, foreign[:5]))}, which is no class of this run "
            f"({', '.join(map(repr, sorted(names)[:5]))}); expected an {what} of this run. {remedy}"
        )
    if backbone not in {None, summary.get("/backbone")}:
        raise UserError(
            f"'{file.path.absolute()}' is of a model on {backbone!r}, and this run's is {summary.get('/backbone')!r}; "
            f"expected an {what} of this run. {remedy}"
        )
    return "its classes and backbone alone: it does not say the hash of the weights"
