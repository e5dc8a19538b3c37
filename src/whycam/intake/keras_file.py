"""A Keras file: .keras, or a whole model in an old .h5; Keras runs on torch, and none of the file's code is run."""

from __future__ import annotations

from pathlib import Path

from whycam.intake.request import Found, Kind, Request, as_path


def _is_it(request: Request) -> bool:
    path = as_path(request)
    return path is not None and path.suffix.lower() in {".keras", ".h5", ".hdf5"}


def _open(request: Request) -> Found:
    from whycam.intake.module import Known, open_module  # noqa: PLC0415 - torch, which other kinds do without
    from whycam.model.keras.open import open_keras  # noqa: PLC0415 - Keras

    request.refuse("Keras file", "weights")
    file = open_keras(Path(request.name))
    size = None if file.height_px is None or file.width_px is None else (file.height_px, file.width_px)
    known = Known(
        file.preprocess,
        file.preprocess_from,
        size,
        origin={"network": Path(request.name).name},
        channels=file.channels,
        is_multi_label=file.output == "sigmoid" and file.class_count > 1,
    )
    found = open_module(file.network, request, "Keras file", known)
    if not file.activation:
        return found
    told = f"{file.output}, taken off ({file.activation!r})"
    return found.describing(activation=told)


KIND = Kind("a Keras .keras or .h5 file", _is_it, _open)
