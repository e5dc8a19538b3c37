"""`whycam explain --on ray` and `whycam.ray.Explainer`: the same numbers as on one machine, whatever dies meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import whycam
from conftest import Run
from ray_cases import Cluster, start_cluster
from whycam.audit.asker import Asker
from whycam.config import EvaluateOptions, ExplainOptions
from whycam.data.images import content_hash
from whycam.data.sources import gather_sources
from whycam.errors import UserError
from whycam.jobs.explain import explain_files
from whycam.made import LIST
from whycam.ray import Explainer, cluster, workers
from whycam.ray import explain as job
from whycam.ray.audit import AskerOfMany
from whycam.ray.explain import explain_on_ray
from whycam.ray.opening import Opening, name_everywhere
from whycam.ray.place import Place
from whycam.ray.plan import choose_size, find_done, make_plan, read_plan
from whycam.ray.stages import Decoder, Writer
from whycam.ray.table import make_table, pack_maps, to_parquet, unpack_maps

Row = dict[str, Any]


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


@pytest.mark.parametrize("command", ["evaluate", "audit"])
def test_evaluate_and_audit_say_so_too_and_pass_over_no_word(
    *, command: str, cached: str, shapes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call_whycam: Run
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    words = [command, cached, shapes_folder, "-o", tmp_path / "out"]
    assert "pip install 'whycam[ray]'" in call_whycam(*words, "--on", "ray").stderr
    assert "--workers is about a cluster, and the work is done here. Add --on ray" in (
        call_whycam(*words, "--workers", "2").stderr
    )
    assert not list(tmp_path.iterdir())


def test_a_worker_opens_the_model_from_any_folder_and_of_the_same_version(
    cached: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = Opening(cached, {}, "tiny", "torch")
    assert opening().card.name == "tiny"
    with pytest.raises(UserError, match=r"^A worker has WhyCAM .*; expected 0.0.1"):
        replace(opening, version="0.0.1")()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text("")
    assert name_everywhere("net.py:make") == f"{tmp_path}/net.py:make"
    assert name_everywhere("net.py") == f"{tmp_path}/net.py"
    assert name_everywhere("hf:org/name") == "hf:org/name"


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


def test_what_ray_says_of_its_log_level_is_left_out_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), cluster._without_its_first_line():  # noqa: PT012 - both are the point
        os.write(2, b"[I 1] logging.cc:303: Set ray log level from environment variable RAY_BACKEND_LOG_LEVEL to 3\n")
        os.write(2, b"the core: no room\n")
        sys.stderr.write("slow to start\n")
        sys.stderr.flush()
        assert "slow to start" in capfd.readouterr().err
        raise ZeroDivisionError
    assert capfd.readouterr().err == "the core: no room\n"


@pytest.fixture(scope="module")
def nodes(tiny_cache: Path) -> Iterator[Cluster]:
    with start_cluster(tiny_cache) as made:
        yield made


@pytest.fixture(scope="module")
def joined(nodes: Cluster) -> Iterator[Cluster]:
    """The same, which this process is a part of from here on: joining it, and its first workers, take seconds each."""
    import ray

    with cluster.connect(ray, nodes.address):
        yield nodes


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


def choose(nodes: Cluster, *, workers: int = 2, **options: Any) -> ExplainOptions:
    return ExplainOptions(on="ray", address=nodes.address, workers=f"{workers}:{workers}", batch_size=4, **options)


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
    assert sorted(path.name for path in out.iterdir()) == [LIST, "explanations", "record.json"]
    assert [path.name for path in out.rglob(".*")] == [LIST]
    assert "is there already" in call_whycam(*words, "--address", nodes.address).stderr
    few = call_whycam(*words[:-2], "--overwrite", "--on", "ray", "--address", nodes.address, "--workers", "40")
    assert "room for 6 workers" in few.stderr
    assert read_rows(out) == rows


@pytest.mark.slow
def test_an_interrupted_run_goes_on_by_finished_shards(
    joined: Cluster, cached: str, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = explain_here(cached, shapes, tmp_path / "here", batch_size=4)
    out = tmp_path / "out"

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cluster.Watch, "beat", interrupt)
        with pytest.raises(UserError, match=r"Interrupted.*--resume goes on"):
            explain_on_ray(cached, [str(shapes)], str(out), choose(joined, workers=1))
    assert not out.exists()
    place = Place(str(tmp_path / "out.partial"))
    done = find_done(place)
    assert done
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out.partial" / "explanations").glob("*.parquet")}
    with shapes.open("a") as file:
        file.write("\nanother.jpg")
    explain_on_ray(cached, [str(shapes)], str(out), choose(joined, workers=1, resume=True))
    after = {path.name: path.stat().st_mtime_ns for path in (out / "explanations").iterdir()}
    assert {path.name: when for path, when in before.items()}.items() <= after.items()
    check_same(read_rows(out), here, tmp_path / "here")
    assert json.loads((out / "record.json").read_text())["unreadable"] == 2


@pytest.mark.slow
def test_killed_workers_lose_nothing_and_double_nothing(
    joined: Cluster, cached: str, shapes: Path, tmp_path: Path, by_value: pytest.MonkeyPatch
) -> None:
    here = explain_here(cached, shapes, tmp_path / "here", batch_size=4)
    killed = []

    def kill() -> None:
        for pid in joined.find_processes("ray::MapWorker"):
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    by_value.setattr(job, "Explainer", Slow)
    thread = after_first_part(tmp_path / "out", kill)
    explain_on_ray(cached, [str(shapes)], str(tmp_path / "out"), choose(joined))
    thread.join()
    assert killed
    check_same(read_rows(tmp_path / "out"), here, tmp_path / "here")


@pytest.mark.slow
def test_workers_that_die_again_and_again_end_it_with_a_remedy(
    joined: Cluster, cached: str, shapes: Path, tmp_path: Path, by_value: pytest.MonkeyPatch
) -> None:
    by_value.setattr(job, "Explainer", Dying)
    by_value.setattr(job, "TRIES", 1)
    with pytest.raises(UserError, match=r"Workers died 2 times at the same work.*too little memory.*--resume goes on"):
        explain_on_ray(cached, [str(shapes)], str(tmp_path / "out"), choose(joined, workers=1))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "message"), [(Refusing, "^A worker has WhyCAM .*; expected 0.0.1"), (Failing, "^The machine does not see")]
)
def test_what_a_worker_says_is_told_as_it_says_it(
    *,
    joined: Cluster,
    cached: str,
    shapes: Path,
    tmp_path: Path,
    by_value: pytest.MonkeyPatch,
    kind: type,
    message: str,
) -> None:
    by_value.setattr(job, "Explainer", kind)
    with pytest.raises(UserError, match=message):
        explain_on_ray(cached, [str(shapes)], str(tmp_path / "out"), choose(joined, workers=1))


@pytest.mark.slow
def test_a_cluster_that_wants_a_token_says_how_to_give_it(
    nodes: Cluster, cached: str, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # joins anew
    with pytest.raises(UserError, match=r"takes no one without its token.*RAY_AUTH_TOKEN"):
        explain_on_ray(cached, [str(shapes)], str(tmp_path / "out"), choose(nodes))


@pytest.mark.slow
def test_a_pipeline_of_the_users_own(joined: Cluster, cached: str, shapes_folder: Path) -> None:
    import ray

    photos = read_photos(shapes_folder)
    with cluster.connect(ray, joined.address):
        rows = ray.data.from_items([{"path": path} for path in photos["path"]])
        found = rows.map_batches(Explainer, fn_constructor_kwargs={"model": cached}, batch_size=8, concurrency=1)
        maps = {row["path"]: row["maps"] for row in found.take_all()}
    whole = Explainer(cached)(photos)
    for path, values in zip(whole["path"], whole["maps"], strict=True):
        np.testing.assert_array_equal(maps[path], values)


class Pupil:
    """What a worker makes: twice a number. Who is asked for 7 falls the first time, who is asked for 8 each time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> Callable[[int], int]:
        def answer(number: int) -> int:
            with (self.folder / str(number)).open("a") as file:
                file.write("x")
            time.sleep(0.1 * (number % 3 == 0))
            if number == 8 or (number == 7 and (self.folder / "7").read_text() == "x"):
                os.kill(os.getpid(), signal.SIGKILL)
            if number == 9:
                raise UserError("Found 9; expected less.")
            return 2 * number

        return answer


@pytest.mark.slow
def test_calls_come_back_in_order_each_once_whoever_dies(
    joined: Cluster, tmp_path: Path, by_value: pytest.MonkeyPatch
) -> None:
    options = EvaluateOptions(on="ray", address=joined.address, workers="2:2")
    with workers.hire(options, lambda *_: Pupil(tmp_path), 9) as hired:
        assert list(hired.map((k,) for k in range(8))) == [2 * k for k in range(8)]
        assert {path.name: len(path.read_text()) for path in tmp_path.iterdir()} == {
            str(k): 2 if k == 7 else 1 for k in range(8)
        }
        assert list(hired.map([])) == []
        with pytest.raises(UserError, match=r"^Found 9; expected less\.$"):
            hired(9)
        assert hired(3) == 6
        by_value.setattr(workers, "TRIES", 1)
        with pytest.raises(UserError, match=r"Workers died 2 times at the same work.*too little memory"):
            hired(8)


def kill_at_first(nodes: Cluster, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From now on all workers are killed once, when the first answer is there."""
    killed: list[int] = []

    def kill(_: object) -> None:
        if not killed:
            killed.extend(nodes.find_processes("ray::Worker"))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    monkeypatch.setattr(cluster.Watch, "beat", kill)
    return killed


@pytest.fixture
def labelled(shapes_folder: Path, tmp_path: Path) -> Path:
    """Class folders of the photos, one of them damaged."""
    copied = shutil.copytree(shapes_folder, tmp_path / "photos")
    (copied / "circle" / "05.jpg").write_text("no photo")
    return copied


def read_result(path: Path) -> dict[str, Any]:
    """Without what was asked and where."""
    return {name: value for name, value in json.loads(path.read_text()).items() if name not in {"command", "options"}}


@pytest.mark.slow
def test_an_evaluation_on_a_cluster_gives_the_same_bits_though_its_workers_die(
    *,
    joined: Cluster,
    cached: str,
    labelled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call_whycam: Run,
) -> None:
    words = ["evaluate", cached, labelled, "--methods", "cam,grad-cam", "--metrics", "deletion-auc,max-sensitivity"]
    words += ["--limit", 12, "--baseline-photos", 6, "--batch-size", 4]
    assert call_whycam(*words, "-o", tmp_path / "here").returncode == 0
    killed = kill_at_first(joined, monkeypatch)
    done = call_whycam(*words, "-o", tmp_path / "out", "--on", "ray", "--address", joined.address, "--workers", "1:1")
    assert done.returncode == 0, done.stderr
    assert killed
    for name in ("photos.parquet", "classes.parquet"):
        assert pq.read_table(tmp_path / "out" / name).equals(pq.read_table(tmp_path / "here" / name))
    assert read_result(tmp_path / "out" / "overall.json") == read_result(tmp_path / "here" / "overall.json")


def test_workers_are_asked_every_question_that_an_audit_asks() -> None:
    from whycam.ray.audit import AskerOfMany

    questions = {name for name in vars(Asker) if not name.startswith("_")}
    assert "map_classes" in questions
    assert questions <= set(vars(AskerOfMany))


@pytest.mark.slow
def test_an_audit_on_a_cluster_finds_the_same_though_its_workers_die(
    *,
    joined: Cluster,
    cached: str,
    labelled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call_whycam: Run,
) -> None:
    words = ["audit", cached, labelled, "--kinds", "label,fragile,confusion"]
    asked: list[np.ndarray] = []
    plain = Asker.score
    monkeypatch.setattr(Asker, "score", lambda self, pixels: asked.append(plain(self, pixels)) or asked[-1])
    assert call_whycam(*words, "-o", tmp_path / "here").returncode == 0
    killed = kill_at_first(joined, monkeypatch)
    on_ray: list[np.ndarray] = []
    far = AskerOfMany.score
    monkeypatch.setattr(AskerOfMany, "score", lambda self, pixels: on_ray.append(far(self, pixels)) or on_ray[-1])
    done = call_whycam(*words, "-o", tmp_path / "out", "--on", "ray", "--address", joined.address, "--workers", "2:2")
    assert done.returncode == 0, done.stderr
    assert killed
    assert read_result(tmp_path / "out" / "audit.json") == read_result(tmp_path / "here" / "audit.json")
    assert [part.tobytes() for part in on_ray] == [part.tobytes() for part in asked]
    assert asked


@pytest.mark.slow
def test_a_lost_machine_loses_nothing_and_doubles_nothing(
    joined: Cluster, cached: str, shapes: Path, tmp_path: Path, by_value: pytest.MonkeyPatch
) -> None:
    here = explain_here(cached, shapes, tmp_path / "here", batch_size=4)
    by_value.setattr(job, "Explainer", Slow)
    thread = after_first_part(tmp_path / "out", lambda: joined.kill_node(1))
    explain_on_ray(cached, [str(shapes)], str(tmp_path / "out"), choose(joined))
    thread.join()
    check_same(read_rows(tmp_path / "out"), here, tmp_path / "here")
