"""KServe's protocols: the numbers are the app's own, mean(map) + bias is the logit, and errors are the protocols'."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import whycam
from conftest import change
from whycam.config import ServeOptions
from whycam.data.walk import find_images
from whycam.errors import UserError
from whycam.jobs.serve import serve
from whycam.show.app.draining import Drain
from whycam.show.app.served import ServedModel
from whycam.show.app.site import make_app

HERE = "http://127.0.0.1"
Make = Callable[..., TestClient]


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> whycam.Model:
    return whycam.load(tiny_folder, engine="torch")


@pytest.fixture(scope="module")
def served(model: whycam.Model) -> Iterator[ServedModel]:
    with ServedModel(model) as made:
        yield made


@pytest.fixture(scope="module")
def make_client(served: ServedModel) -> Iterator[Make]:
    with ExitStack() as open_clients:

        def make(of: ServedModel | None = None, drain: Drain | None = None, **options: Any) -> TestClient:
            app = make_app(of or served, ServeOptions(**{"rate": 0, "api": "kserve", **options}), drain)
            return open_clients.enter_context(TestClient(app, HERE, raise_server_exceptions=False))

        yield make


@pytest.fixture(scope="module")
def client(make_client: Make) -> TestClient:
    return make_client(model_name="shapes")


@pytest.fixture(scope="module")
def photos(shapes_folder: Path) -> list[bytes]:
    """Files of four photos."""
    return [path.read_bytes() for path in find_images([shapes_folder])[::9]]


@pytest.fixture(scope="module")
def pixels(shapes_folder: Path) -> np.ndarray:
    """The same four (4, 96, 96, 3) uint8."""
    return np.stack([np.asarray(Image.open(path)) for path in find_images([shapes_folder])[::9]])


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def ask(client: TestClient, call: str, instances: list[Any], **parameters: Any) -> Any:
    return client.post(f"/v1/models/shapes:{call}", json={"instances": instances, "parameters": parameters})


def ask_v2(client: TestClient, tensor: dict[str, Any], *outputs: str | dict[str, Any], **parameters: Any) -> Any:
    wanted = [{"name": output} if isinstance(output, str) else output for output in outputs]
    body = {"id": "7", "inputs": [tensor], "outputs": wanted, "parameters": parameters}
    return client.post("/v2/models/shapes/infer", json=body)


def make_files(photos: list[bytes]) -> dict[str, Any]:
    return {"name": "photos", "datatype": "BYTES", "shape": [len(photos)], "data": [encode(data) for data in photos]}


def make_pixels(pixels: np.ndarray) -> dict[str, Any]:
    return {"name": "pixels", "datatype": "UINT8", "shape": list(pixels.shape), "data": pixels.ravel().tolist()}


def read_tensors(answer: Any) -> dict[str, np.ndarray]:
    assert answer.status_code == 200, answer.text
    return {one["name"]: np.array(one["data"]).reshape(one["shape"]) for one in answer.json()["outputs"]}


def read_app(client: TestClient, photo: bytes, **form: str) -> tuple[dict[str, Any], np.ndarray]:
    """What /api/explain says of a photo, and its maps."""
    answer = client.post("/api/explain", files=[("files", ("a.jpg", photo))], data=form).json()["results"][0]
    entry = answer["entry"]
    packed = np.frombuffer(base64.b64decode(entry["maps"]["data"]), "<i2").reshape(entry["maps"]["shape"])
    return answer, packed / 32767 * np.array(entry["maps"]["scale"])[:, None, None]


def check_error(answer: Any, status: int, *words: str) -> None:
    assert answer.status_code == status, answer.text
    said = answer.json()
    assert list(said) == ["error"]
    for word in words:
        assert word in said["error"], said


# ---- V1


def test_v1_numbers_are_those_of_the_app(client: TestClient, photos: list[bytes], model: whycam.Model) -> None:
    answer = ask(client, "explain", [{"b64": encode(photos[0])}, {"image": {"b64": encode(photos[3])}}], target="all")
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert list(said) == ["predictions", "explanations"]
    for photo, prediction, explanation in zip(
        (photos[0], photos[3]), said["predictions"], said["explanations"], strict=True
    ):
        app, maps = read_app(client, photo, target="all")
        entry = app["entry"]
        assert (prediction["index"], prediction["name"]) == (app["prediction"]["index"], app["prediction"]["name"])
        assert explanation["method"] == "cam"
        assert [one["name"] for one in explanation["targets"]] == list(model.class_names)
        for own, asked in zip(explanation["targets"], app["targets"], strict=True):
            at = entry["classes"].index(own["index"])
            assert own["logit"] == pytest.approx(entry["logits"][at], abs=1e-5)
            assert own["probability"] == pytest.approx(entry["probabilities"][at], abs=1e-5)
            assert np.abs(np.array(own["map"]) - maps[at]).max() < entry["maps"]["scale"][at] / 65534 + 1e-4
            assert own["boxes"] == asked["boxes"]
            assert abs(np.mean(own["map"]) + own["bias"] - prediction["logits"][own["index"]]) < 1e-5


def test_v1_predict_is_explain_without_maps(client: TestClient, photos: list[bytes]) -> None:
    instances = [{"b64": encode(data)} for data in photos]
    alone, both = ask(client, "predict", instances).json(), ask(client, "explain", instances).json()
    assert list(alone) == ["predictions"]
    for one, other in zip(alone["predictions"], both["predictions"], strict=True):
        assert one["name"] == other["name"]
        assert np.allclose(one["logits"], other["logits"], atol=1e-4)
        assert sum(one["probabilities"]) == pytest.approx(1)
    # Without a target it is the predicted class.
    targets = [[one["index"] for one in explanation["targets"]] for explanation in both["explanations"]]
    assert targets == [[one["index"]] for one in alone["predictions"]]


def test_v1_of_two_classes_the_map_adds_up_to_the_difference(client: TestClient, photos: list[bytes]) -> None:
    said = ask(client, "explain", [{"b64": encode(photos[0])}], target="square", versus="circle").json()
    (one,), logits = said["explanations"][0]["targets"], said["predictions"][0]["logits"]
    assert np.mean(one["map"]) + one["bias"] == pytest.approx(logits[1] - logits[0], abs=1e-5)


def test_v1_pixels_give_what_their_file_gives(client: TestClient, photos: list[bytes], pixels: np.ndarray) -> None:
    rows = pixels[0].tolist()
    said = ask(client, "explain", [rows, {"image": rows}, {"b64": encode(photos[0])}], target=1).json()
    maps = [np.array(one["targets"][0]["map"]) for one in said["explanations"]]
    assert [one["targets"][0]["name"] for one in said["explanations"]] == ["square"] * 3
    assert np.allclose(maps[0], maps[1], atol=1e-4)
    assert np.allclose(maps[0], maps[2], atol=1e-4)


def test_v1_names(client: TestClient, make_client: Make, model: whycam.Model) -> None:
    assert client.get("/v1/models").json() == {"models": ["shapes"]}
    assert client.get("/v1/models/shapes").json() == {"name": "shapes", "ready": True}
    assert make_client().get("/v1/models").json() == {"models": [Path(model.name).name]}


# ---- V2


def test_v2_tells_of_itself(client: TestClient, model: whycam.Model) -> None:
    assert client.get("/v2").json() == {
        "name": "whycam",
        "version": whycam.__version__,
        "extensions": ["binary_tensor_data"],
    }
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/shapes/ready").json() == {"name": "shapes", "ready": True}
    about = client.get("/v2/models/shapes").json()
    assert about["inputs"][0] == {"name": "photos", "datatype": "BYTES", "shape": [-1]}
    assert about["outputs"][0] == {"name": "logits", "datatype": "FP32", "shape": [-1, 3]}
    assert about["parameters"]["class_names"] == list(model.class_names)


def test_v2_files_and_pixels_give_the_same(client: TestClient, photos: list[bytes], pixels: np.ndarray) -> None:
    outputs = ("logits", "probabilities", "maps", "targets", "biases")
    answers = [ask_v2(client, tensor, *outputs) for tensor in (make_files(photos), make_pixels(pixels))]
    of_files, of_pixels = map(read_tensors, answers)
    about = client.get("/v2/models/shapes").json()
    assert (answers[0].json()["model_name"], answers[0].json()["id"]) == ("shapes", "7")
    assert {one["name"]: one["datatype"] for one in answers[0].json()["outputs"]} == {
        one["name"]: one["datatype"] for one in about["outputs"]
    }
    assert list(of_files) == list(outputs)
    assert of_files["maps"].shape == (4, 3, 2, 2)
    assert of_files["targets"].tolist() == [[0, 1, 2]] * 4
    assert np.allclose(of_files["biases"], about["parameters"]["bias"])
    assert np.abs(of_files["maps"].mean((2, 3)) + of_files["biases"] - of_files["logits"]).max() < 1e-5
    for name in outputs:
        assert np.allclose(of_files[name], of_pixels[name], atol=1e-4)
    said = ask(client, "predict", [{"b64": encode(data)} for data in photos]).json()["predictions"]
    assert np.allclose(of_files["logits"], [one["logits"] for one in said], atol=1e-4)


def test_v2_without_outputs_it_is_scores(client: TestClient, photos: list[bytes]) -> None:
    assert list(read_tensors(ask_v2(client, make_files(photos)))) == ["logits", "probabilities"]


@pytest.mark.parametrize("at_output", [False, True])
def test_v2_target_of_the_request_or_of_its_output(client: TestClient, photos: list[bytes], at_output: bool) -> None:
    question = {"target": "square", "method": "grad-cam"}
    outputs = [{"name": "maps", "parameters": question}, "targets"] if at_output else ["maps", "targets"]
    found = read_tensors(ask_v2(client, make_files(photos), *outputs, **({"target": 0} if at_output else question)))
    assert found["targets"].tolist() == [[1]] * 4
    _, maps = read_app(client, photos[0], **question)
    assert np.allclose(found["maps"][0], maps, atol=1e-4 * np.ptp(maps) + 1e-6)


def test_v2_tensors_as_bytes(client: TestClient, photos: list[bytes], pixels: np.ndarray) -> None:
    as_json = read_tensors(ask_v2(client, make_files(photos), "logits", "maps"))
    files = b"".join(len(data).to_bytes(4, "little") + data for data in photos)
    for name, datatype, shape, data in (
        ("photos", "BYTES", [4], files),
        ("pixels", "UINT8", list(pixels.shape), pixels.tobytes()),
    ):
        tensor = {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(data)}}
        outputs = [{"name": "logits"}, {"name": "maps", "parameters": {"binary_data": True}}]
        head = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
        answer = client.post(
            "/v2/models/shapes/infer",
            content=head + data,
            headers={"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"},
        )
        assert answer.status_code == 200, answer.text
        length = int(answer.headers["Inference-Header-Content-Length"])
        logits, maps = json.loads(answer.content[:length])["outputs"]
        assert np.allclose(np.array(logits["data"]).reshape(4, 3), as_json["logits"], atol=1e-4)
        assert maps["parameters"]["binary_data_size"] == len(answer.content) - length == 4 * np.prod(maps["shape"])
        assert "data" not in maps
        values = np.frombuffer(answer.content[length:], "<f4").reshape(maps["shape"])
        assert np.allclose(values, as_json["maps"], atol=1e-4)


def test_null_is_what_was_not_said(client: TestClient, photos: list[bytes]) -> None:
    tensor = make_files(photos) | {"parameters": None}
    body = {"id": None, "inputs": [tensor], "outputs": None, "parameters": {"target": None}}
    answer = client.post("/v2/models/shapes/infer", json=body)
    assert list(read_tensors(answer)) == ["logits", "probabilities"]
    assert "id" not in answer.json()


def test_all_outputs_as_bytes(client: TestClient, photos: list[bytes]) -> None:
    answer = ask_v2(client, make_files(photos), binary_data_output=True)
    length = int(answer.headers["Inference-Header-Content-Length"])
    sizes = [one["parameters"]["binary_data_size"] for one in json.loads(answer.content[:length])["outputs"]]
    assert sizes == [48, 48]
    assert len(answer.content) == length + 96


# ---- Models without exact maps, and of one logit


def test_without_exact_maps_it_is_the_method_of_the_app(
    model: whycam.Model, make_client: Make, photos: list[bytes]
) -> None:
    with ServedModel(change(model, no_exact_map="It has none.")) as inexact:
        client = make_client(inexact, model_name="shapes")
        said = ask(client, "explain", [{"b64": encode(photos[0])}], target="square").json()
        (one,) = said["explanations"][0]["targets"]
        _, maps = read_app(client, photos[0], target="square")
        assert (said["explanations"][0]["method"], one["bias"]) == ("grad-cam", None)
        assert np.allclose(one["map"], maps[0], atol=1e-4 * np.ptp(maps[0]) + 1e-6)
        scores = ask(client, "predict", [{"b64": encode(photos[0])}]).json()["predictions"]
        assert np.allclose(scores[0]["logits"], said["predictions"][0]["logits"], atol=1e-4)
        assert read_tensors(ask_v2(client, make_files(photos), "logits", "maps"))["maps"].shape == (4, 3, 2, 2)
        check_error(ask_v2(client, make_files(photos), "biases"), 422, "'biases' belongs to exact maps", "Leave biases")
        assert "biases" not in str(client.get("/v2/models/shapes").json()["outputs"])


def test_a_single_logit_adds_up_on_both_sides(make_client: Make, pixels: np.ndarray) -> None:
    import torch
    from torch import nn

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
    for bias in (-30.0, 30.0):
        nn.init.constant_(net[4].bias, bias)
        with ServedModel(whycam.load(net, preprocess="unit", image_size=32, class_names=["shape"])) as single:
            client = make_client(single, model_name="shapes")
            said = ask(client, "explain", [pixels[0].tolist()]).json()
            (one,) = said["explanations"][0]["targets"]
            assert one["logit"] * bias > 0
            assert np.mean(one["map"]) + one["bias"] == pytest.approx(abs(one["logit"]), abs=1e-4)


# ---- Errors


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, ["The body is no JSON"]),
        (b"", 400, ["The body is no JSON"]),
        (b"[]", 422, ["The body is not what was expected", "'instances'"]),
        (b"{}", 422, ["instances: field required"]),
        (b'{"instances": []}', 422, ["at least 1"]),
        (b'{"instances": [5]}', 422, ["instances[0] is of type int", '{"b64"']),
        (b'{"instances": [{"url": "x"}]}', 422, ["instances[0] is an object of 'url'"]),
        (b'{"instances": [{"b64": "%"}]}', 422, ["instances[0] is no base64"]),
        (b'{"instances": [{"b64": "aGVsbG8K"}]}', 422, ["'instances[0]' holds text"]),
        (b'{"instances": [[[1, 2, 3]]]}', 422, ["shape (1, 3)", "(H, W, 3)"]),
        (b'{"instances": [[[[1, 2, 3], [1, 2]]]]}', 422, ["lists of different lengths"]),
        (b'{"instances": [[[[1, 2, 300]]]]}', 422, ["1 to 300", "0 to 255"]),
        (b'{"instances": [[[[0.1, 0.2, 0.3]]]]}', 422, ["0.1 to 0.3", "before any normalisation"]),
        (b'{"instances": [[[["a", "b", "c"]]]]}', 422, ["something else than numbers"]),
        (b'{"instances": [[[[1, 2, 3]]]], "parameters": {"target": "squre"}}', 422, ["Did you mean 'square'"]),
        (b'{"instances": [[[[1, 2, 3]]]], "parameters": {"target": 7}}', 422, ["Class index 7 is outside 0..2"]),
        (b'{"instances": [[[[1, 2, 3]]]], "parameters": {"method": "rise"}}', 422, ["Unknown method 'rise'"]),
    ],
    ids=lambda value: value.decode()[:60] if isinstance(value, bytes) else "",
)
def test_v1_errors(client: TestClient, body: bytes, status: int, words: list[str]) -> None:
    check_error(client.post("/v1/models/shapes:explain", content=body), status, *words)


@pytest.mark.parametrize(
    ("tensor", "outputs", "words"),
    [
        ({"datatype": "FP32", "shape": [1], "data": [1.0]}, [], ["datatype 'FP32'", "BYTES", "UINT8"]),
        ({"datatype": "UINT8", "shape": [1, 3, 2, 2], "data": [0] * 12}, [], ["[1, 3, 2, 2]", "channels last"]),
        ({"datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [0] * 11}, [], ["11 values; expected 12"]),
        ({"datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [-1] * 12}, [], ["-1 to -1", "0 to 255"]),
        ({"datatype": "BYTES", "shape": [2], "data": ["aGVsbG8K"]}, [], ["1 photo files; expected 2"]),
        ({"datatype": "BYTES", "shape": [1], "data": ["aGVsbG8K"]}, [], ["'x[0]' holds text"]),
        ({"datatype": "BYTES", "shape": [0], "data": []}, [], ["no photos"]),
        ({"datatype": "BYTES", "shape": [1], "data": [7]}, [], ["x[0] is of type int"]),
        ({"datatype": "BYTES", "shape": [1], "data": ["aGVsbG8K"]}, ["map"], ["Unknown output 'map'", "'maps'"]),
    ],
    ids=str,
)
def test_v2_errors(client: TestClient, tensor: dict[str, Any], outputs: list[str], words: list[str]) -> None:
    check_error(ask_v2(client, {"name": "x", **tensor}, *outputs), 422, *words)


def test_v2_wants_one_input(client: TestClient, photos: list[bytes]) -> None:
    inputs = [make_files(photos)] * 2
    check_error(client.post("/v2/models/shapes/infer", json={"inputs": inputs}), 422, "2 inputs; expected one")


@pytest.mark.parametrize(
    ("length", "size", "status", "words"),
    [
        ("x", 4, 400, ["'x'"]),
        ("100000", 4, 400, ["'100000'"]),
        (None, 4, 400, ["The body is no JSON"]),
        ("right", 5, 400, ["expected the same"]),
        ("right", 3, 400, ["expected the same"]),
        ("right", 4, 422, ["ends within its element 0"]),
    ],
)
def test_bytes_that_are_not_as_long_as_they_say(
    client: TestClient, length: str | None, size: int, status: int, words: list[str]
) -> None:
    tensor = {"name": "x", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [tensor]}).encode()
    said = {"right": str(len(head))}.get(length or "", length)
    headers = {} if said is None else {"Inference-Header-Content-Length": said}
    answer = client.post("/v2/models/shapes/infer", content=head + b"\xff\x00\x00\x00", headers=headers)
    check_error(answer, status, *words)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["b64", "image", "x"]), inner),
    max_leaves=8,
)
TENSOR = st.fixed_dictionaries(
    {"name": st.text(max_size=5), "datatype": st.sampled_from(["BYTES", "UINT8", "FP32"])},
    optional={
        "shape": st.lists(st.integers(0, 3), max_size=4) | st.just([1, 1, 1, 3]) | ANY,
        "data": st.lists(st.integers(-1, 256), max_size=4) | st.just([1, 2, 3]) | ANY,
        "parameters": ANY,
    },
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(instances=st.lists(ANY, max_size=2) | ANY, tensors=st.lists(TENSOR, max_size=2), more=ANY)
def test_no_body_is_a_fault_of_the_program(client: TestClient, instances: Any, tensors: Any, more: Any) -> None:
    for path, body in (
        ("/v1/models/shapes:explain", {"instances": instances, "parameters": more}),
        ("/v2/models/shapes/infer", {"inputs": tensors, "parameters": more}),
        ("/v2/models/shapes/infer", {"inputs": tensors[:1], "outputs": more}),
    ):
        answer = client.post(path, json=body)
        assert answer.status_code in {200, 422}, (body, answer.text)
        assert ("error" in answer.json()) is (answer.status_code == 422)


def test_other_names_are_unknown(client: TestClient, photos: list[bytes]) -> None:
    body = {"instances": [{"b64": encode(photos[0])}]}
    for call in ("predict", "explain"):
        check_error(client.post(f"/v1/models/cats:{call}", json=body), 404, "'cats'", "'shapes'", "--model-name")
    for path in ("/v1/models/cats", "/v2/models/cats", "/v2/models/cats/ready"):
        check_error(client.get(path), 404, "'cats'")
    check_error(client.get("/v2/models"), 404)
    check_error(client.post("/v2/models/cats/infer", json={"inputs": []}), 404, "'cats'")


@pytest.mark.parametrize("name", ["", "a/b", "a b", "a" * 101, "a:predict"])
def test_a_name_that_no_address_can_hold(name: str) -> None:
    with pytest.raises(UserError, match=r"expected 1 to 100 letters.*Give a plain name"):
        serve("no-such-model", ServeOptions(model_name=name), print)


def test_limits_are_the_apps(make_client: Make, photos: list[bytes], pixels: np.ndarray) -> None:
    few = make_client(model_name="shapes", max_files=3)
    check_error(ask(few, "predict", [{"b64": encode(data)} for data in photos]), 413, "4 photos; expected 3")
    check_error(ask_v2(few, make_files(photos)), 413, "4 photos; expected 3", "--max-files")
    check_error(ask_v2(few, make_pixels(pixels)), 413, "4 photos; expected 3")
    small = make_client(model_name="shapes", max_pixels=9000, max_upload_mb=1)
    check_error(ask(small, "predict", [{"b64": encode(photos[0])}]), 422, "9,216 pixels; the limit is 9,000")
    check_error(ask(small, "predict", [pixels[0].tolist()]), 422, "9,216 pixels; the limit is 9,000", "--max-pixels")
    check_error(small.post("/v1/models/shapes:predict", content=bytes(2**20 + 1)), 413, "--max-upload-mb")
    check_error(small.post("/v1/models/shapes:predict", content=iter([bytes(2**20 + 1)])), 413, "--max-upload-mb")
    slow = make_client(model_name="shapes", rate=1)
    assert ask(slow, "predict", [{"b64": encode(photos[0])}]).status_code == 200
    check_error(ask(slow, "predict", [{"b64": encode(photos[0])}]), 429, "More than 1 requests")
    assert slow.get("/v2/health/ready").status_code == 200
    check_error(client_of(slow).get("/v2"), 403, "expected this machine's own name")


def client_of(client: TestClient) -> TestClient:
    """The same app under another host's name."""
    return TestClient(client.app, "http://evil.example")


def test_the_app_stays_what_it_is(make_client: Make, client: TestClient, photos: list[bytes]) -> None:
    plain = make_client(api="app")
    for path in ("/v2", "/v2/health/ready", "/v1/models", "/metrics"):
        assert plain.get(path).status_code == 404
    assert plain.get("/openapi.json").json() == client.get("/openapi.json").json()
    refused = client.post("/api/explain", files=[("files", ("a.jpg", b"hello"))])
    assert refused.json()["error"]["reason"].startswith("'a.jpg' holds text")
    assert client.get("/docs").status_code == 200


def test_once_it_drains_it_is_not_ready_and_answers(make_client: Make, photos: list[bytes]) -> None:
    drain = Drain(60)
    client = make_client(drain=drain, model_name="shapes")
    assert drain.begin()
    assert not drain.begin()
    for path, said in {
        "/v2/health/ready": {"ready": False},
        "/v2/models/shapes/ready": {"name": "shapes", "ready": False},
        "/v1/models/shapes": {"name": "shapes", "ready": False},
    }.items():
        answer = client.get(path)
        assert (answer.status_code, answer.json()) == (503, said)
    assert client.get("/v2/health/live").status_code == 200
    assert ask(client, "predict", [{"b64": encode(photos[0])}]).status_code == 200
    assert not drain.is_over
