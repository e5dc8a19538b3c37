"""A Keras file, opened without running any code in it; what can't be opened is told with the remedy."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from whycam.errors import UserError, as_clause
from whycam.model.keras.library import import_keras
from whycam.model.keras.old import mended

_HDF5 = b"\x89HDF\r\n\x1a\n"
_MOST_OF_A_REASON = 200
# Operations of TensorFlow's that Keras 2 wrote into functional models.
_TENSORFLOW = {"TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer", "ClassMethod", "InstanceMethod", "TFSMLayer"}


def read_file(path: Path) -> Any:
    """The Keras model of a .keras file or of a whole model in an .h5 file.

    Raises:
        UserError: no such file, none of Keras's, weights without a model, a Lambda layer or an unknown class, damage.
    """
    keras = import_keras()
    kind = _find_kind(path)
    config = _read_zip_config(path) if kind == ".keras" else _read_h5_config(path)
    if path.suffix.lower() not in ({".keras"} if kind == ".keras" else {".h5", ".hdf5"}):
        raise UserError(
            f"'{path.absolute()}' is a Keras {kind} file by its content; Keras goes by the name. "
            f"Rename it: '{path.with_suffix(kind).name}'."
        )
    try:
        with ExitStack() as scopes:
            scopes.enter_context(keras.device("cpu"))
            scopes.enter_context(torch.inference_mode(mode=False))
            scopes.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # of how an old file might have been written better
            place, own = path, {}
            if kind == ".h5":
                place = scopes.enter_context(mended(path, config))
                # A class of Keras's own, which it finds in its .keras files alone.
                own = {"LayerScale": keras.src.applications.convnext.LayerScale}
            return keras.saving.load_model(place, custom_objects=own, compile=False, safe_mode=True)
    except Exception as error:  # noqa: BLE001 - what Keras raises for a file's content has no common class
        raise _explain_failure(path, config, error) from None


def _find_kind(path: Path) -> str:
    where = f"'{path.absolute()}'"
    if not path.is_file():
        raise UserError(f"Found no file at {where}; expected a Keras .keras or .h5 file. Check the path.")
    try:
        with path.open("rb") as file:
            start = file.read(len(_HDF5))
    except OSError as error:
        raise UserError(f"{where} can't be read: {error.strerror}. Check its permissions.") from None
    if start == _HDF5:
        return ".h5"
    if zipfile.is_zipfile(path):
        return ".keras"
    raise UserError(
        f"{where} is neither a .keras nor an .h5 file by its content ({path.stat().st_size:,} bytes). "
        "Expected what model.save('model.keras') writes: save it again, or fetch the whole file."
    )


def _read_zip_config(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            content = json.loads(archive.read("config.json"))
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f"'{path.absolute()}' is an archive without a Keras model in it ({as_clause(error)}). "
            "Expected what model.save('model.keras') writes: save it again."
        ) from None
    return content if isinstance(content, dict) else {}


def _read_h5_config(path: Path) -> dict[str, Any]:
    import h5py  # noqa: PLC0415 - of the extra `keras`

    try:
        with h5py.File(path, "r") as file:
            config = file.attrs.get("model_config")
            layers = len(file.attrs.get("layer_names", file.get("layers", ())))
        content = None if config is None else json.loads(config)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"'{path.absolute()}' can't be read as .h5 ({as_clause(error)}). Fetch the whole file again."
        ) from None
    if content is None:
        raise UserError(
            f"'{path.absolute()}' holds weights of {layers} layers, and no model that they belong to. Build the model "
            f"in Python, model.load_weights('{path.name}'), then model.save('model.keras'), and give that. To train on "
            f"VGG16's: whycam train FOLDER --recipe vgg16-gap --weights {path.name}"
        )
    return content if isinstance(content, dict) else {}


def _explain_failure(path: Path, config: dict[str, Any], error: Exception) -> UserError:
    where = f"'{path.absolute()}'"
    entries = list(_iter_entries(config))
    python = (
        "give a Python file instead, which runs its code: net.py:make, where make() returns "
        f"keras.saving.load_model('{path.name}', "
    )
    for entry in entries:
        name, title = entry["class_name"], _title(entry)
        if name == "Lambda":
            return UserError(
                f"{where} has a Lambda layer, {title}: code inside the file, which is never run. Replace it by "
                f"Rescaling or another layer and save again; or, if you trust the file, {python}safe_mode=False)."
            )
        if name in _TENSORFLOW:
            return UserError(
                f"{where} has an operation of TensorFlow's, {title} ({name}), which Keras 3 doesn't have. "
                "Build the model in Keras 3, load the weights, and save it again as .keras."
            )
        if name == "LayerScale" and path.suffix.lower() != ".keras":
            return UserError(
                f"{where} is a ConvNeXt of keras.applications ({title}), which Keras itself can't read from an .h5 "
                "file. Build it in Python, model.load_weights of the file, and save it again as .keras."
            )
    for entry in entries:
        if _is_custom(entry):
            return UserError(
                f"{where} has a class of its author's own, {entry['class_name']} (layer {_title(entry)}); a file can't "
                "bring its code. In Python: decorate the class with @keras.saving.register_keras_serializable() and "
                f"import it before whycam.load; or {python}custom_objects={{...}})."
            )
    reason = as_clause(str(error).strip().split("\n")[0][:_MOST_OF_A_REASON])
    return UserError(
        f"Keras can't open {where}: {type(error).__name__}: {reason}. "
        "Open it with keras.saving.load_model where it was made, and save it again as .keras."
    )


def _iter_entries(tree: Any) -> Iterator[dict[str, Any]]:
    """Every description of an object in a model's config, in the file's order."""
    queue = [tree]
    while queue:
        found = queue.pop()
        if isinstance(found, dict):
            if isinstance(found.get("class_name"), str):
                yield found
            queue.extend(reversed(list(found.values())))
        elif isinstance(found, list):
            queue.extend(reversed(found))


def _title(entry: dict[str, Any]) -> str:
    config = entry.get("config")
    name = entry.get("name") or (config.get("name") if isinstance(config, dict) else None)
    return repr(name or entry["class_name"])


def _is_custom(entry: dict[str, Any]) -> bool:
    keras = import_keras()
    name = entry["class_name"]
    if name.startswith("__") or keras.saving.get_registered_object(entry.get("registered_name") or name) is not None:
        return False
    if name == "function":
        return not hasattr(keras.activations, str(entry.get("config")))
    if "module" in entry:
        return str(entry["module"] or "custom").split(".")[0] not in {"keras", "builtins"}
    # As Keras 2 wrote it, and as .h5 files still have it.
    known = (keras, keras.layers, keras.initializers, keras.regularizers, keras.constraints)
    return name not in {"Functional", "Policy"} and not any(hasattr(place, name) for place in known)
