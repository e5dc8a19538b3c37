"""`whycam explain --on ray` and `whycam.ray.Explainer`: the same numbers as on one machine, whatever dies meanwhile."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import whycam
from conftest import Run
from whycam.config import ExplainOptions
from whycam.data.images import content_hash
from whycam.data.sources import gather_sources
from whycam.errors import UserError
from whycam.jobs.explain import explain_files
from whycam.ray import Explainer, cluster
from whycam.ray import explain as job
from whycam.ray.explain import explain_on_ray
from whycam.ray.place import Place
from whycam.ray.plan import choose_size, find_done, make_plan, read_plan
from whycam.ray.stages import Decoder, Writer
from whycam.ray.table import make_table, pack_maps, to_parquet, unpack_maps

Row = dict[str, Any]
# Of the cluster that is started here: others of this machine are not to use it.
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
# Ray reads it once, when it is first imported.
os.environ.update(TOKEN)


def read_rows(out: Path) -> list[Row]:
    rows: list[Row] = pq.read_table(out / "explanations").to_pylist()
    return rows


def read_photos(folder: Path) -> dict[str, np.ndarray]:
    """Columns as a pipeline of the user's has them."""
    files = sorted(folder.rglob("*.jpg"))
    return {
        "path": np.array([str(path) for path in files], dtype=object),
        "bytes": np.array([path.read_bytes() for path in files], dtype=object),
    }


@pytest.fixture
def shapes(shapes_folder: Path, tmp_path: Path) -> Path:
    """A list of the photos, one of them twice, one damaged, one that is not there."""
    (tmp_path / "bad.jpg").write_text("no photo")
    files = sorted(shapes_folder.rglob("*.jpg"))
    lines = [*files[:7], tmp_path / "bad.jpg", *files[7:], tmp_path / "gone.jpg", files[3]]
    (tmp_path / "list.txt").write_text("\n".join(map(str, lines)))
    return tmp_path / "list.txt"


def explain_here(model: str, photos: Path, out: Path, **options: Any) -> list[Row]:
    explain_files(model, [str(photos)], str(out), ExplainOptions(maps_only=True, **options))
    rows: list[Row] = pq.read_table(out / "explanations.parquet").to_pylist()
    return rows


def test_maps_pack_into_int8_to_half_a_scale() -> None:
    maps = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    maps[1] = 0
    levels, scales = pack_maps(maps)
    back = unpack_maps(levels.tobytes(), scales, maps.shape)
    assert levels.dtype == np.int8
    assert scales.tolist() == [np.abs(maps[0]).max() / np.float32(127), 0, np.abs(maps[2]).max() / np.float32(127)]
    assert (np.abs(back - maps) <= scales[:, None, None] * 0.5001).all()
    assert np.abs(levels[0]).max() == 127
    maps[0, 0, 0] = np.inf
    levels, scales = pack_maps(maps)
    assert np.isnan(unpack_maps(levels.tobytes(), scales, maps.shape)[0]).all()


def test_an_explainer_gives_the_float_maps_of_the_command_to_the_last_bit(
    cached: str, shapes_folder: Path, tmp_path: Path
) -> None:
    rows = explain_here(cached, shapes_folder, tmp_path / "here", target="top:2")
    found = Explainer(cached, target="top:2", top=2)(read_photos(shapes_folder))
    assert "bytes" not in found
    for i, row in enumerate(rows):
        values = np.load(tmp_path / "here" / row["map"])
        assert found["path"][i // 2] == row["path"]
        assert found["maps"][i // 2, i % 2].tobytes() == values.tobytes()
        assert found["logit"][i // 2, i % 2] == row["logit"]
        assert found["target_index"][i // 2, i % 2] == found["top_index"][i // 2, i % 2] == row["target_index"]
        assert found["predicted"][i // 2] == row["predicted"]
        assert json.loads(found["boxes"][i // 2])[i % 2] == json.loads(row["boxes"])
    of_paths = Explainer(cached, target="top:2", top=2)({"path": found["path"]})
    assert of_paths["maps"].tobytes() == found["maps"].tobytes()


def test_an_explainer_takes_arrays_and_keeps_other_columns(cached: str, shapes_folder: Path) -> None:
    photos = [np.asarray(Image.open(path)) for path in sorted(shapes_folder.rglob("*.jpg"))[:3]]
    found = Explainer(cached)({"image": np.stack(photos), "label": np.arange(3)})
    whole = whycam.load(cached, engine="onnx").explain([Image.fromarray(photo) for photo in photos])
    np.testing.assert_array_equal(found["maps"][:, 0], whole.maps)
    assert found["label"].tolist() == [0, 1, 2]
    assert found["width_px"].tolist() == [96] * 3
    with pytest.raises(UserError, match=r"Found the columns jpeg; expected one of pixels, image, bytes or path"):
        Explainer(cached)({"jpeg": np.zeros(1)})


def test_a_bad_photo_is_a_row_and_the_others_are_as_without_it(cached: str, shapes_folder: Path) -> None:
    photos = read_photos(shapes_folder)
    whole = Explainer(cached, batch_size=4)(photos)
    photos["bytes"][5] = b"no photo"
    found = Explainer(cached, batch_size=4)(photos)
    assert "Expected a picture" in found["error"][5]
    assert found["top_index"][5].tolist() == [-1, -1, -1]
    assert np.isnan(found["maps"][5]).all()
    others = np.arange(len(found["maps"])) != 5
    np.testing.assert_allclose(found["maps"][others], whole["maps"][others], atol=1e-6)
    rows = make_table({**found, "hash": np.full(len(others), "", dtype=object)}).to_pylist()
    assert rows[5]["map"] is rows[5]["p_top"] is rows[5]["width_px"] is None
    assert rows[4]["error"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "cirle"}, "Did you mean 'circle'"),
        ({"overlays": True}, "--overlays draws on the photos themselves"),
        ({"refine": True}, "--refine draws on the photos themselves"),
        ({"version": "0.0.1"}, r"A worker has WhyCAM .*; expected 0.0.1"),
    ],
)
def test_wrong_words_are_told_before_a_photo_is_read(cached: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Explainer(cached, **options)


def test_a_plan_has_whole_batches_each_photo_once_and_goes_on_as_it_was(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    place = Place(str(tmp_path / "out"))
    found = gather_sources([str(shapes)])
    assert (len(found[0]), found[1]) == (38, 1)
    plan = make_plan(place, found, {"model": "m"}, lambda photos: choose_size(64 * 64 * 3, 4, 2, photos))
    assert plan.counts == (8, 8, 8, 8, 6)
    assert [s for i in range(5) for s in plan.read_shard(place, i)] == found[0]
    assert read_plan(place, {"model": "m"}) == plan
    with pytest.raises(UserError, match=r"was begun with another value of: model"):
        read_plan(place, {"model": "other"})
    assert choose_size(224 * 224 * 3, 8, 4, 10**7) == 440


def test_a_machine_that_does_not_see_a_folder_ends_the_run_and_is_named(
    cached: str, shapes: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    place = Place(str(tmp_path / "out"))
    plan = make_plan(place, gather_sources([str(shapes)]), {}, lambda _: 8)
    preprocess = Explainer(cached).reader.preprocess
    found = Decoder(place, plan, (0,), preprocess)({"id": np.array([0])})
    assert [bool(error) for error in found["error"]] == [False] * 7 + [True]
    assert found["pixels"].shape == (8, 3, preprocess.height_px, preprocess.width_px)
    with pytest.raises(RuntimeError, match="shard 0 came with 2 rows; it has 8"):
        Writer(place, plan)({"shard": np.array([0, 0])})
    elsewhere = plan.model_copy(update={"root": "/not/here"})
    with pytest.raises(UserError, match=r"The machine '.*' does not see '/not/here'.*s3://"):
        Decoder(place, elsewhere, (0,), preprocess)({"id": np.array([0])})
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(UserError, match=r"does not see '.*/out'; expected a folder that every machine"):
        Decoder(place, plan, (0,), preprocess)({"id": np.array([0])})


def test_help_and_import_bring_in_no_ray() -> None:
    code = "import sys, whycam, whycam.cli, whycam.ray; assert not {'ray', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_the_extra_it_is_told_what_to_install(
    cached: str, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'whycam\[ray\]'"):
        explain_on_ray(cached, [str(shapes)], str(tmp_path / "out"), ExplainOptions(on="ray"))


def test_a_bucket_without_rights_is_told_before_a_cluster_is_asked(
    cached: str, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = fsspec.filesystem("memory")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(type(memory), "exists", refuse)
    with pytest.raises(UserError, match=r"memory://.*Access Denied.*rights"):
        explain_on_ray(cached, [str(shapes)], "memory://bucket/maps", ExplainOptions(on="ray"))


def test_a_cluster_that_does_not_answer_is_told_in_time(
    cached: str, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cluster, "PATIENCE_S", 1)
    monkeypatch.setattr(cluster, "LIMIT_S", 3)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(UserError, match=rf"{address}' can't be used: no answer in 3 s\. Expected the HOST:PORT"):
            explain_on_ray(cached, [str(shapes)], str(tmp_path / "out"), ExplainOptions(on="ray", address=address))
    assert time.monotonic() - start < 30
    assert "Waiting for the cluster" in caplog.text
    assert not (tmp_path / "out.partial").exists()


def find_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def find_ip() -> str:
    """This machine's address as Ray has it."""
    import ray

    return str(ray.util.get_node_ip_address())


class Cluster:
    """Two nodes on this machine, processes of their own; each alone has room for two workers and a decoder."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.port, self.folder = find_ports(1)[0], folder
        source = str(Path(whycam.__file__).parents[1])
        self.env = {**os.environ, "PYTHONPATH": source, "WHYCAM_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
        # Workers of the usual niceness would hardly run beside other tests.
        self.env |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
        self.nodes: list[subprocess.Popen[bytes]] = []
        self.add_node("--head", f"--port={self.port}", "--include-dashboard=false", "--disable-usage-stats")
        self.address = f"{find_ip()}:{self.port}"
        self.add_node(f"--address={self.address}")

    def add_node(self, *words: str) -> None:
        # Ports that are given need not be waited for, which a busy machine does in vain.
        names = ("metrics-export-port", "dashboard-agent-grpc-port", "dashboard-agent-listen-port")
        ports = zip((*names, "runtime-env-agent-port"), find_ports(4), strict=True)
        command = [str(Path(sys.executable).with_name("ray")), "start", *words, "--num-cpus=3", "--block"]
        command += ["--object-store-memory=200000000"]
        command += [f"--{name}={port}" for name, port in ports]
        command += [f"--temp-dir={self.folder}"] if "--head" in words else []
        with (self.folder / f"node{len(self.nodes)}.log").open("wb") as log:
            self.nodes.append(subprocess.Popen(command, env=self.env, stdout=log, stderr=log, start_new_session=True))
        self.wait(len(self.nodes))

    def wait(self, nodes: int) -> None:
        """Until so many nodes are up."""
        code = (
            "import ray, sys\n"
            "ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')\n"
            "sys.exit(sum(node['Alive'] for node in ray.nodes()) != int(sys.argv[2]))"
        )
        deadline = time.monotonic() + 120
        while True:
            words = [sys.executable, "-c", code, f"{find_ip()}:{self.port}", str(nodes)]
            try:
                if subprocess.run(words, env=self.env, capture_output=True, timeout=40, check=False).returncode == 0:
                    return
            except subprocess.TimeoutExpired:
                pass
            assert time.monotonic() < deadline, (self.folder / f"node{nodes - 1}.log").read_text()

    def find_processes(self, name: str = "", node: int | None = None) -> list[int]:
        """Those that this cluster, or one node of it, has started and whose command line begins so."""
        children: dict[int, list[int]] = {}
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(path.name))
        waiting = [one.pid for i, one in enumerate(self.nodes) if node in {None, i}]
        found = []
        while waiting:
            pid = waiting.pop()
            waiting += children.get(pid, [])
            with suppress(OSError):
                if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(name.encode()):
                    found.append(pid)
        return found

    def kill_node(self, node: int) -> None:
        """All processes of a node at once, as a machine that loses its power."""
        for pid in self.find_processes(node=node):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.nodes[node].wait()

    def stop(self) -> None:
        for node in reversed(range(len(self.nodes))):
            self.kill_node(node)


@pytest.fixture(scope="module")
def nodes(tiny_cache: Path) -> Iterator[Cluster]:
    # Paths of sockets may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    shutil.copytree(tiny_cache, folder / "cache")
    made = Cluster(folder, folder / "cache")
    yield made
    made.stop()
    shutil.rmtree(folder, ignore_errors=True)


class Slow(Explainer):
    """Time to be killed in."""

    def __call__(self, batch: Any) -> Any:
        time.sleep(0.3)
        return super().__call__(batch)


class Dying(Explainer):
    """As where the machine has no memory left for it."""

    def __call__(self, batch: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


class Refusing(Explainer):
    """As where a worker is of another version."""

    def __init__(self, **words: Any) -> None:
        super().__init__(**{**words, "version": "0.0.1"})


class Failing(Explainer):
    """As where a worker finds no folder."""

    def __call__(self, batch: Any) -> Any:
        raise UserError("The machine does not see it.")


@pytest.fixture
def by_value(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Workers get classes of this file as they stand; they do not find it by name."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield monkeypatch
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def choose(nodes: Cluster, **options: Any) -> ExplainOptions:
    return ExplainOptions(on="ray", address=nodes.address, workers="2:2", batch_size=4, **options)


def after_first_part(out: Path, act: Callable[[], object]) -> threading.Thread:
    """Does it when a shard is finished."""

    def wait() -> None:
        folder = out.with_name(f"{out.name}.partial") / "explanations"
        while not (folder.is_dir() and any(name.suffix == ".parquet" for name in folder.iterdir())):
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def check_same(rows: list[Row], here: list[Row], folder: Path) -> None:
    """The rows of a cluster are those of one machine, in order, each once; maps before int8 to the last bit."""
    assert [row["path"] for row in rows] == [row["path"] for row in here]
    for row, one in zip(rows, here, strict=True):
        if one["error"]:
            assert row["error"] == one["error"]
            assert row["map"] is None
            continue
        levels, scales = pack_maps(np.load(folder / one["map"])[None])
        assert row["map"] == levels.tobytes()
        assert row["scale"] == scales.tolist()
        assert (row["logit"], row["p_target"]) == ([one["logit"]], [one["p_target"]])
        assert (row["predicted"], row["width_px"]) == (one["predicted"], one["width_px"])
        assert json.loads(row["boxes"]) == [json.loads(one["boxes"])]


@pytest.mark.slow
def test_a_cluster_writes_what_one_machine_does(
    nodes: Cluster, cached: str, shapes: Path, tmp_path: Path, call_whycam: Run
) -> None:
    here = explain_here(cached, shapes, tmp_path / "here", batch_size=4)
    out = tmp_path / "out"
    words = ["explain", cached, shapes, "-o", out, "--batch-size", 4, "--on", "ray"]
    done = call_whycam(*words, "--address", nodes.address)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == (
        "Explained 36 photos (2 could not be read: see the table); 1 were named again, and are there once; "
        f"the table is in {out}"
    )
    rows = read_rows(out)
    check_same(rows, here, tmp_path / "here")
    assert rows[0]["hash"] == content_hash(rows[0]["path"])
    assert [Path(row["path"]).name for row in rows if row["error"]] == ["bad.jpg", "gone.jpg"]
    assert len(to_parquet(pq.read_table(out / "explanations"))) < 1000 * len(rows)
    record = json.loads((out / "record.json").read_text())
    assert (record["photos"], record["doubles"], record["unreadable"]) == (38, 1, 2)
    assert sorted(path.name for path in out.iterdir()) == ["explanations", "record.json"]
    assert not list(out.rglob(".*"))
    assert "is there already" in call_whycam(*words, "--address", nodes.address).stderr
    few = call_whycam(*words[:-2], "--overwrite", "--on", "ray", "--address", nodes.address, "--workers", "40")
    assert "room for 5 workers" in few.stderr
    assert read_rows(out) == rows


@pytest.mark.slow
def test_an_interrupted_run_goes_on_by_finished_shards(
    nodes: Cluster, cached: str, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = explain_here(cached, shapes, tmp_path / "here", batch_size=4)
    out = tmp_path / "out"

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cluster.Watch, "beat", interrupt)
        with pytest.raises(UserError, match=r"Interrupted.*--resume goes on"):
            explain_on_ray(cached, [str(shapes)], str(out), choose(nodes))
    assert not out.exists()
    place = Place(str(tmp_path / "out.partial"))
    done = find_done(place)
    assert done
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out.partial" / "explanations").glob("*.parquet")}
    with shapes.open("a") as file:
        file.write("\nanother.jpg")
    explain_on_ray(cached, [str(shapes)], str(out), choose(nodes, resume=True))
    after = {path.name: path.stat().st_mtime_ns for path in (out / "explanations").iterdir()}
    assert {path.name: when for path, when in before.items()}.items() <= after.items()
    check_same(read_rows(out), here, tmp_path / "here")
    assert json.loads((out / "record.json").read_text())["unreadable"] == 2


@pytest.mark.slow
def test_killed_workers_lose_nothing_and_double_nothing(
    nodes: Cluster, cached: str, shapes: Path, tmp_path: Path, by_value: pytest.MonkeyPatch
) -> None:
    here = explain_here(cached, shapes, tmp_path / "here", batch_size=4)
    killed = []

    def kill() -> None:
        for pid in nodes.find_processes("ray::MapWorker"):
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    by_value.setattr(job, "Explainer", Slow)
    thread = after_first_part(tmp_path / "out", kill)
    explain_on_ray(cached, [str(shapes)], str(tmp_path / "out"), choose(nodes))
    thread.join()
    assert killed
    check_same(read_rows(tmp_path / "out"), here, tmp_path / "here")


@pytest.mark.slow
def test_workers_that_die_again_and_again_end_it_with_a_remedy(
    nodes: Cluster, cached: str, shapes: Path, tmp_path: Path, by_value: pytest.MonkeyPatch
) -> None:
    by_value.setattr(job, "Explainer", Dying)
    by_value.setattr(job, "_TRIES", 1)
    with pytest.raises(UserError, match=r"Workers died 2 times at the same work.*too little memory.*--resume goes on"):
        explain_on_ray(cached, [str(shapes)], str(tmp_path / "out"), choose(nodes))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "message"), [(Refusing, "^A worker has WhyCAM .*; expected 0.0.1"), (Failing, "^The machine does not see")]
)
def test_what_a_worker_says_is_told_as_it_says_it(
    *, nodes: Cluster, cached: str, shapes: Path, tmp_path: Path, by_value: pytest.MonkeyPatch, kind: type, message: str
) -> None:
    by_value.setattr(job, "Explainer", kind)
    with pytest.raises(UserError, match=message):
        explain_on_ray(cached, [str(shapes)], str(tmp_path / "out"), choose(nodes))


@pytest.mark.slow
def test_a_cluster_that_wants_a_token_says_how_to_give_it(
    nodes: Cluster, cached: str, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    with pytest.raises(UserError, match=r"takes no one without its token.*RAY_AUTH_TOKEN"):
        explain_on_ray(cached, [str(shapes)], str(tmp_path / "out"), choose(nodes))


@pytest.mark.slow
def test_a_pipeline_of_the_users_own(nodes: Cluster, cached: str, shapes_folder: Path) -> None:
    import ray

    photos = read_photos(shapes_folder)
    with cluster.connect(ray, nodes.address):
        rows = ray.data.from_items([{"path": path} for path in photos["path"]])
        found = rows.map_batches(Explainer, fn_constructor_kwargs={"model": cached}, batch_size=8, concurrency=1)
        maps = {row["path"]: row["maps"] for row in found.take_all()}
    whole = Explainer(cached)(photos)
    for path, values in zip(whole["path"], whole["maps"], strict=True):
        np.testing.assert_array_equal(maps[path], values)


@pytest.mark.slow
def test_a_lost_machine_loses_nothing_and_doubles_nothing(
    nodes: Cluster, cached: str, shapes: Path, tmp_path: Path, by_value: pytest.MonkeyPatch
) -> None:
    here = explain_here(cached, shapes, tmp_path / "here", batch_size=4)
    by_value.setattr(job, "Explainer", Slow)
    thread = after_first_part(tmp_path / "out", lambda: nodes.kill_node(1))
    explain_on_ray(cached, [str(shapes)], str(tmp_path / "out"), choose(nodes))
    thread.join()
    check_same(read_rows(tmp_path / "out"), here, tmp_path / "here")
