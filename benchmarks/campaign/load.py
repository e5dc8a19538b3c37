"""Thousands of requests at once, large photos among them, and SIGTERM in the middle: right answers, bounded memory."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

from campaign.corpus import encode
from campaign.findings import Fault, Part, check_end
from campaign.pictures import Answer, post
from campaign.process import End, Room, in_fork
from campaign.scene import Scene

AT_ONCE = 32
_GROWTH = 1.3
_EXPLAIN_LIMIT_MB = 3000
_GB = 2**30


def ask(scene: Scene, root: Path, *, rounds: int, requests: int, large: int) -> Part:
    """Rounds of requests, then `large` overlays of 49 megapixels; and a server stopped while it is asked."""
    part = Part(f"{rounds} x {requests:,} requests, {AT_ONCE} at once, and {large} large overlays")
    cases, faults, told = in_fork(partial(_ask_all, scene, root, rounds, requests, large))
    part.cases, part.faults, part.told = cases, faults, told
    return part


def _ask_all(scene: Scene, root: Path, rounds: int, requests: int, large: int) -> tuple[int, list[Fault], str]:
    room = Room(root / "load").make()
    shutil.copytree(scene.cache, room.cache, dirs_exist_ok=True)
    # A process of its own, not a forked one: its memory is measured.
    words = [sys.executable, "-m", "whycam", "serve", scene.run, "--port", "0", "--rate", "0"]
    server, port = _start_server(words, room)
    photos = _make_photos(scene)
    faults: list[Fault] = []
    wanted = [_read_answer(post(port, "/api/explain", "files", name, data)) for name, data in photos]
    _ask_round(port, photos, wanted, requests // 4)
    first, memory = read_memory_mb(server.pid), []
    for number in range(rounds):
        faults += _ask_round(port, photos, wanted, requests, f"round {number + 1}")
        memory.append(read_memory_mb(server.pid))
    if memory and memory[-1] > _GROWTH * first:
        faults.append(Fault("memory", "requests", f"{first:.0f} MB before, after each round {_list(memory)}"))
    told = f"the app held {first:.0f} MB before, {_list(memory)} after each round"
    if large:
        grown, after, peak = _ask_overlays(server.pid, port, large)
        faults += grown
        told += f", {after:.0f} MB after the overlays (peak {peak:.0f} MB)"
    faults += _stop_in_the_middle(server, port, photos, room)
    shutil.rmtree(room.root, ignore_errors=True)
    return rounds * requests + large + 1, faults, told


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.0f}" for value in values)


def _start_server(words: Sequence[object], room: Room) -> tuple[subprocess.Popen[bytes], int]:
    err = (room.root / "err").open("wb")
    server = subprocess.Popen(
        list(map(str, words)), env={**os.environ, **room.variables()}, cwd=room.work, stdout=subprocess.PIPE, stderr=err
    )
    assert server.stdout is not None
    found = re.search(rb":(\d+) ", server.stdout.readline())
    if not found:
        raise RuntimeError((room.root / "err").read_text())
    return server, int(found[1])


def _make_photos(scene: Scene) -> list[tuple[str, bytes]]:
    """Small ones, two of 12 megapixels, and a damaged one."""
    small = [(path.name, path.read_bytes()) for path in sorted(scene.photos.rglob("*.jpg"))]
    large = [Image.open(io.BytesIO(small[i][1])).resize((4000, 3000)) for i in (0, 9)]
    broken = [("cut.jpg", small[0][1][:300])]
    few = [("large.jpg", encode(large[0], "JPEG")), ("large.png", encode(large[1], "PNG"))]
    return small * 4 + few + broken


def _read_answer(answer: Answer) -> tuple[int, str]:
    """Status and the prediction with its score, to tell one photo's answer from another's."""
    if answer.status != 200:
        return answer.status, ""
    found = json.loads(answer.body)["results"][0]["prediction"]
    return 200, f"{found['name']} {found['logit']:.4f}"


def _ask_round(
    port: int, photos: Sequence[tuple[str, bytes]], wanted: Sequence[tuple[int, str]], requests: int, case: str = ""
) -> list[Fault]:
    numbers, faults = count(), []
    lock = threading.Lock()

    def work(_: int) -> None:
        while (number := _next(numbers, lock)) < requests:
            which = number % len(photos)
            try:
                found = _read_answer(post(port, "/api/explain", "files", *photos[which]))
            except (OSError, ValueError) as error:
                faults.append(Fault("lost", f"{case}, {photos[which][0]}", f"no answer: {error!r}"))
                continue
            if found[0] >= 500:
                faults.append(Fault("traceback", f"{case}, {photos[which][0]}", f"status {found[0]}"))
            elif found != wanted[which]:
                faults.append(Fault("wrong", f"{case}, {photos[which][0]}", f"{found}, alone {wanted[which]}"))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(work, range(AT_ONCE)))
    return faults


def _next(numbers: count[int], lock: threading.Lock) -> int:
    with lock:
        return next(numbers)


def read_memory_mb(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]


def _ask_overlays(server: int, port: int, number: int) -> tuple[list[Fault], float, float]:
    """Overlays of a photo of 7,000 x 7,000; what is held afterwards, and the most."""
    photo = encode(Image.fromarray(np.full((7000, 7000, 3), (90, 140, 60), np.uint8)), "PNG")
    post(port, "/api/overlay", "file", "large.png", photo)
    before, peak, is_on = read_memory_mb(server), 0.0, True

    def watch() -> None:
        nonlocal peak
        while is_on:
            peak = max(peak, read_memory_mb(server))
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: post(port, "/api/overlay", "file", "large.png", photo).status, range(number)))
    is_on = False
    watcher.join()
    after = read_memory_mb(server)
    faults = []
    if set(answers) != {200}:
        faults.append(Fault("exit code", "overlays of 49 megapixels", str(Counter(answers))))
    if after > _GROWTH * before:
        faults.append(
            Fault("memory", "overlays of 49 megapixels", f"{before:.0f} MB after the first, then {after:.0f}")
        )
    return faults, after, peak


def _stop_in_the_middle(
    server: subprocess.Popen[bytes], port: int, photos: Sequence[tuple[str, bytes]], room: Room
) -> list[Fault]:
    """SIGTERM while 32 ask: what is under way is answered, what comes later finds nobody, and the end is quiet."""
    statuses: Counter[object] = Counter()
    is_on = True

    def work(start: int) -> None:
        number = start
        while is_on:
            number += 1
            try:
                statuses[post(port, "/api/explain", "files", *photos[number % len(photos)]).status] += 1
            except OSError as error:
                statuses[type(error).__name__] += 1
                return

    with ThreadPoolExecutor(AT_ONCE) as pool:
        asked = [pool.submit(work, number) for number in range(AT_ONCE)]
        time.sleep(1)
        server.send_signal(signal.SIGTERM)
        try:
            code, is_overdue = server.wait(30), False
        except subprocess.TimeoutExpired:
            server.kill()
            code, is_overdue = server.wait(), True
        is_on = False
        for one in asked:
            one.result()
    end = End(code, "", (room.root / "err").read_text(errors="replace"), 30, 0, is_overdue=is_overdue)
    faults = check_end(end, "SIGTERM while it is asked", codes=[0])
    if bad := {
        status: n for status, n in statuses.items() if isinstance(status, int) and status not in {200, 422, 503}
    }:
        faults.append(Fault("exit code", "SIGTERM while it is asked", str(bad)))
    return faults


def explain_large(scene: Scene, root: Path, *, photos: int, side_px: int) -> Part:
    """Peak memory of `explain` on PNGs that are small on the disk and huge in memory."""
    part = Part(f"explain of {photos} PNGs of {side_px:,} x {side_px:,}", cases=photos)
    folder = root / "huge"
    folder.mkdir()
    data = in_fork(partial(_draw_large, side_px))
    for number in range(photos):
        (folder / f"{number:02}.png").write_bytes(data)
    room = Room(root / "huge-room").make()
    words = [sys.executable, "-m", "whycam", "explain", scene.run, folder, "-o", "out", "--engine", "torch"]
    with (room.root / "err").open("wb") as err:
        process = subprocess.Popen(
            list(map(str, words)),
            env={**os.environ, **room.variables()},
            cwd=room.work,
            stdout=subprocess.DEVNULL,
            stderr=err,
            preexec_fn=_limit_memory,  # noqa: PLW1509 - there are no threads here
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    peak_mb = usage.ru_maxrss / 1024
    end = End(process.returncode, "", (room.root / "err").read_text(errors="replace"), 0, peak_mb)
    part.faults += check_end(end, part.name, codes=[0])
    if peak_mb > _EXPLAIN_LIMIT_MB:
        part.faults.append(
            Fault("memory", part.name, f"peak of {peak_mb:.0f} MB, at most {_EXPLAIN_LIMIT_MB} expected")
        )
    part.told = f"peak of {peak_mb:.0f} MB"
    return part


def _draw_large(side_px: int) -> bytes:
    return encode(Image.new("RGB", (side_px, side_px), (90, 140, 60)), "PNG")


def _limit_memory() -> None:
    # The machine is not to suffer with the command.
    resource.setrlimit(resource.RLIMIT_AS, (12 * _GB, 12 * _GB))
