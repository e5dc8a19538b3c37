"""KServe's own client against a running server: does each of its calls get what it expects?

The client pins many packages: give it an environment of its own. With a server that shows MODEL and a photo of 8 bit:

    python -m venv /tmp/kserve-env && /tmp/kserve-env/bin/pip install kserve
    whycam serve MODEL --api kserve --model-name model --port 8080
    /tmp/kserve-env/bin/python benchmarks/kserve_client.py http://127.0.0.1:8080 model PHOTO
"""

from __future__ import annotations

import asyncio
import base64
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput
from PIL import Image


async def check_v1(url: str, name: str, photo: Path) -> np.ndarray:
    client = InferenceRESTClient(RESTConfig(protocol="v1"))
    assert await client.is_model_ready(url, name)
    instances = {"instances": [{"image": {"b64": base64.b64encode(photo.read_bytes()).decode()}}]}
    (prediction,) = (await client.infer(url, instances, model_name=name))["predictions"]
    answer = await client.explain(url, name, {**instances, "parameters": {"target": "top:2"}})
    for one in answer["explanations"][0]["targets"]:
        print(f"V1 {one['name']}: mean(map) + bias {np.mean(one['map']) + one['bias']:.5f}, logit {one['logit']:.5f}")
        assert abs(np.mean(one["map"]) + one["bias"] - one["logit"]) < 1e-3
    await client.close()
    return np.array(prediction["logits"])


async def check_v2(url: str, name: str, photo: Path, logits: np.ndarray) -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    assert await client.is_server_live(url)
    assert await client.is_server_ready(url)
    assert await client.is_model_ready(url, name)
    pixels = np.asarray(Image.open(photo).convert("RGB"))[None]
    for is_binary in (False, True):
        tensor = InferInput("pixels", list(pixels.shape), "UINT8")
        tensor.set_data_from_numpy(pixels, binary_data=is_binary)
        files = InferInput("photos", [1], "BYTES")
        data = photo.read_bytes() if is_binary else base64.b64encode(photo.read_bytes())
        files.set_data_from_numpy(np.array([data], dtype=np.object_), binary_data=is_binary)
        for one in (tensor, files):
            how = {"binary_data": is_binary}
            wanted = [RequestedOutput(word, parameters=how) for word in ("logits", "maps", "biases")]
            request = InferRequest(name, [one], request_outputs=wanted, parameters={"target": "top:2"})
            answer = await client.infer(url, request, model_name=name)
            found = {output.name: output.as_numpy() for output in answer.outputs}
            assert np.abs(found["logits"][0] - logits).max() < 1e-3
            sums = found["maps"].mean((2, 3)) + found["biases"]
            assert np.abs(np.sort(sums[0])[::-1] - np.sort(logits)[::-1][:2]).max() < 1e-3
            print(f"V2 {one.datatype}, {'bytes' if is_binary else 'JSON'}: maps {found['maps'].shape}, as V1")
    await client.close()


async def check(url: str, name: str, photo: Path) -> None:
    print(f"kserve {version('kserve')}")
    await check_v2(url, name, photo, await check_v1(url, name, photo))


if __name__ == "__main__":
    address, model, path = sys.argv[1:]
    asyncio.run(check(address, model, Path(path)))
