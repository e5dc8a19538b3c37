"""Bodies of KServe's protocols: JSON, and after it tensors as bytes, as the extension for binary data has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from fastapi import HTTPException
from pydantic import BaseModel, ValidationError

from whycam.errors import UserError, tell_wrong_value
from whycam.show.app.kserve_answers import OUTPUTS, InferAnswer, InferRequest, TensorAnswer

LENGTH_HEADER = "Inference-Header-Content-Length"
_TYPES = {"FP32": "<f4", "INT64": "<i8"}

M = TypeVar("M", bound=BaseModel)


def read_json(body: bytes, model: type[M]) -> M:
    """What the body says.

    Raises:
        HTTPException: 400, it is no JSON.
        UserError: it lacks a field, or has one that is not what was expected.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        found = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the body'}: {tell_wrong_value(e)}" for e in faults[:5])
        if faults[0]["type"] == "json_invalid":
            raise HTTPException(400, f"The body is no JSON ({found}); expected an object. Send valid JSON.") from None
        needed = " and ".join(repr(name) for name, field in model.model_fields.items() if field.is_required())
        raise UserError(
            f"The body is not what was expected ({found}); it has {needed}. Send these as the protocol has them."
        ) from None


def read_request(body: bytes, length: str | None) -> tuple[InferRequest, list[bytes | None]]:
    """A request of V2, and the bytes of each input that has any.

    Args:
        body: all of it.
        length: of its JSON in bytes, as `LENGTH_HEADER` says it; None: it is JSON to its end.

    Raises:
        HTTPException: 400, it is no JSON, or its lengths are not those that it says.
        UserError: as `read_json`.
    """
    if length is not None and not (length.isdecimal() and int(length) <= len(body)):
        raise HTTPException(
            400,
            f"{LENGTH_HEADER} is {length!r}, and the body has {len(body)} bytes; expected the length of its JSON. "
            "Send the number of bytes before the tensors.",
        )
    start = len(body) if length is None else int(length)
    request = read_json(body[:start], InferRequest)
    parts: list[bytes | None] = []
    for tensor in request.inputs:
        size = tensor.parameters.binary_data_size
        parts.append(None if size is None else body[start : start + size])
        start += size or 0
    if start != len(body):
        raise HTTPException(
            400,
            f"The tensors and the JSON before them have {start} bytes by what is said of them, and the body has "
            f"{len(body)}; expected the same. Send binary_data_size for each tensor that comes as bytes, and "
            f"{LENGTH_HEADER}.",
        )
    return request, parts


def pack_answer(
    name: str, key: str | None, tensors: Mapping[str, np.ndarray], as_bytes: Sequence[str]
) -> tuple[bytes, dict[str, str]]:
    """The body of an answer and its headers; the tensors named in `as_bytes` come after the JSON."""
    outputs, tail = [], []
    for output, values in tensors.items():
        kind = OUTPUTS[output]
        packed = np.ascontiguousarray(values, _TYPES[kind])
        about: dict[str, Any] = {"name": output, "datatype": kind, "shape": list(values.shape)}
        if output in as_bytes:
            tail.append(packed.tobytes())
            outputs.append(TensorAnswer(**about, parameters={"binary_data_size": packed.nbytes}))
        else:
            outputs.append(TensorAnswer(**about, data=packed.ravel().tolist()))
    head = InferAnswer(model_name=name, id=key, outputs=outputs).model_dump_json(exclude_none=True).encode()
    if not tail:
        return head, {"Content-Type": "application/json"}
    return head + b"".join(tail), {"Content-Type": "application/octet-stream", LENGTH_HEADER: str(len(head))}
