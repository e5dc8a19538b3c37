"""Kills: every command that writes is ended at random file operations and moments; nothing may be lost or left."""

from __future__ import annotations

import random
import shutil
import signal
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from campaign.findings import Fault, Part, check_end, compare, describe, list_state
from campaign.process import Room, Stop, run, spread
from campaign.scene import Scene
from whycam.made import add_to_list


@dataclass(frozen=True)
class Command:
    """A command that writes.

    Attributes:
        out: what it makes.
        share: of all kills, how many it gets.
        has_resume: an interrupted result of it can be gone on with.
        is_cold: it starts with an empty cache.
    """

    name: str
    words: tuple[object, ...]
    out: str
    share: int
    has_resume: bool = False
    is_cold: bool = False
    seconds: float = 0
    operations: int = 0


@dataclass(frozen=True)
class Case:
    """One kill; `has_old`: an earlier result has the final name, and --overwrite is given."""

    command: Command
    stop: Stop
    has_old: bool
    number: int

    @property
    def name(self) -> str:
        """In words."""
        when = f"operation {self.stop.operation}" if self.stop.operation else f"{self.stop.after_s:.2f} s"
        words = " --overwrite" if self.has_old else ""
        return f"{self.command.name}{words}, {signal.Signals(self.stop.number).name} at {when}"


def list_commands(scene: Scene) -> list[Command]:
    """Each command that writes, some of them in several ways."""
    photos, model = scene.photos, scene.run
    fine = ("--unfreeze", "last", "--finetune-epochs", 2)
    return [
        Command("train", tuple(scene.train_words(photos, "out")), "out", 12, has_resume=True),
        Command("train, cold cache", tuple(scene.train_words(photos, "out")), "out", 12, has_resume=True, is_cold=True),
        Command("train --unfreeze last", tuple(scene.train_words(photos, "out", *fine)), "out", 14, has_resume=True),
        Command("explain", ("explain", model, photos, "-o", "out", "--engine", "torch"), "out", 18, has_resume=True),
        Command("explain, graph", ("explain", model, photos, "-o", "out", "--engine", "onnx"), "out", 10, True),
        Command(
            "explain, cold cache", ("explain", model, photos, "-o", "out", "--engine", "onnx"), "out", 10, True, True
        ),
        Command(
            "evaluate",
            ("evaluate", model, photos, "-o", "out", "--engine", "torch", "--metrics", "deletion-auc", "--limit", 4),
            "out",
            14,
        ),
        Command("audit", ("audit", model, photos, "-o", "out", "--engine", "torch", "--limit", 8), "out", 12),
        Command("localize", ("localize", model, photos, "-o", "out"), "out", 16),
        Command("units", ("units", model, "circle", photos, "-o", "out"), "out", 14),
        Command("report", ("report", model, "-o", "out.html", "--no-audit"), "out.html", 14),
        Command("export onnx", ("export", model, "-o", "out.onnx"), "out.onnx", 8),
        Command("export safetensors", ("export", model, "-o", "out", "--format", "safetensors"), "out", 14),
        Command("export torchscript", ("export", model, "-o", "out.pt", "--format", "torchscript"), "out.pt", 8),
    ]


def kill(scene: Scene, root: Path, *, share: float, seed: int, workers: int, names: Sequence[str] = ()) -> Part:
    """Runs each command once undisturbed, then ends it again and again; `share` 1 is about 170 kills."""
    part = Part("kills at random file operations and times")
    commands = [command for command in list_commands(scene) if not names or command.name in names]
    wanted: dict[str, dict[str, str]] = {}
    measured = []
    for command, faults, found in spread(partial(_measure, scene, root), commands, workers):
        part.faults += faults
        if found:
            wanted[command.name] = found
            measured.append(command)
    measured.sort(key=lambda command: command.name)
    cases = _draw(measured, share, random.Random(seed))
    for faults in spread(partial(_check, scene, root, wanted), cases, workers):
        part.cases += 1
        part.faults += faults
    part.told = f"{len(commands)} commands"
    return part


def _draw(commands: Sequence[Command], share: float, draw: random.Random) -> list[Case]:
    """Half at file operations, spread over all of them; half at moments, a few of those by Ctrl+C or SIGTERM."""
    cases = []
    for command in commands:
        count = max(2, round(command.share * share))
        for i in range(count):
            if i % 2 == 0:
                stop = Stop(operation=1 + int((i + draw.random() * 2) / (count + 1) * command.operations))
            else:
                number = {3: signal.SIGINT, 7: signal.SIGTERM}.get(i % 8, signal.SIGKILL)
                stop = Stop(after_s=draw.random() * command.seconds, number=number)
            cases.append(Case(command, stop, has_old=i % 4 >= 2, number=len(cases)))
    draw.shuffle(cases)
    return cases


def _make_room(scene: Scene, root: Path, command: Command) -> Room:
    room = Room(Path(tempfile.mkdtemp(prefix="kill-", dir=root))).make()
    if not command.is_cold:
        shutil.copytree(scene.cache, room.cache, dirs_exist_ok=True)
    (room.work / "mine").mkdir()
    (room.work / "mine" / "letter.txt").write_text("not yours")
    (room.work / "out.txt").write_text("not yours either")
    return room


def _measure(scene: Scene, root: Path, command: Command) -> tuple[Command, list[Fault], dict[str, str]]:
    """The command with its length, and what it makes undisturbed."""
    room = _make_room(scene, root, command)
    end = run(command.words, room)
    faults = check_end(end, f"{command.name}, undisturbed", codes=[0])
    found = describe(room.work / command.out)
    shutil.rmtree(room.root)
    return replace(command, seconds=end.seconds, operations=end.operations), faults, found


def _check(scene: Scene, root: Path, wanted: Mapping[str, dict[str, str]], case: Case) -> list[Fault]:
    command = case.command
    room, whole = _make_room(scene, root, command), wanted[command.name]
    out = room.work / command.out
    old = _place_old(scene, room, command) if case.has_old else None
    foreign = (scene.photos, scene.run, room.work / "mine")
    before = list_state(*foreign)
    words = (*command.words, "--overwrite") if old else command.words
    end = run(words, room, stop=case.stop)
    # Ctrl+C is for the command to answer; of the two others nothing can be asked at that moment.
    codes = (0, 2, 130) if case.stop.number == signal.SIGINT else (0, -case.stop.number)
    faults = check_end(end, case.name, codes=codes)
    if case.stop.number == signal.SIGINT and "Exception ignored in" in end.err:
        # Python drops an interrupt that falls into a callback of its own, and says so: the command then goes on.
        faults = [fault for fault in faults if fault.kind == "hang"]
    faults += _check_names(room, out, whole, old, case)
    again = [*command.words, *(["--overwrite"] if old or out.exists() else [])]
    if command.has_resume and not out.exists():
        again.append("--resume")
    second = run(again, room)
    faults += check_end(second, f"{case.name}, and again", codes=[0])
    if second.code == 0 and (told := compare(describe(out), whole)):
        faults.append(Fault("wrong", case.name, f"the second run's result is another one: {told}"))
    if list_state(*foreign) != before or (room.work / "out.txt").read_text() != "not yours either":
        faults.append(Fault("lost", case.name, "a file that is not of the result was touched"))
    own = {"mine", "out.txt", command.out}
    left = [path.name for path in room.work.iterdir() if path.name not in own]
    left += [path.name for path in room.cache.rglob("*") if ".part" in path.name or path.suffix == ".note"]
    if left and second.code == 0:
        faults.append(Fault("left behind", case.name, ", ".join(sorted(left)[:4])))
    shutil.rmtree(room.root, ignore_errors=True)
    return faults


def _place_old(scene: Scene, room: Room, command: Command) -> dict[str, str]:
    """An earlier result of the same kind under the final name."""
    out = room.work / command.out
    if out.suffix:
        # Known as WhyCAM's by its mark, or --overwrite would leave it.
        out.write_text('<!doctype html><meta name="generator" content="WhyCAM 0.1.0"> an earlier result')
    else:
        shutil.copytree(scene.run, out)
        (out / "old.txt").write_text("an earlier result")
        add_to_list(out, "old.txt")
    return describe(out)


def _check_names(room: Room, out: Path, whole: dict[str, str], old: dict[str, str] | None, case: Case) -> list[Fault]:
    """Under the final name there is a whole result or none; an earlier one is there as long as the new one is not."""
    found = describe(out)
    if not old:
        told = compare(found, whole) if found else ""
        return [Fault("wrong", case.name, f"half a result has the final name: {told}")] if told else []
    if found in (whole, old) or (not found and old in map(describe, out.parent.glob(f"{out.name}.*.old"))):
        return []
    return [Fault("lost", case.name, f"the earlier result is gone, the new one not there: {sorted(found)[:4]}")]
