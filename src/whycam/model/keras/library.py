"""Keras itself, on its torch backend, or a sentence on what stands in the way."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from whycam.errors import UserError

# Before it, an .h5 file was loaded without safe mode, and could read other files of the machine.
OLDEST = (3, 13, 2)


def import_keras() -> Any:
    """The module `keras` on torch.

    Raises:
        UserError: not installed, too old, or already at work on another backend.
    """
    is_new = "keras" not in sys.modules
    wanted = os.environ.get("KERAS_BACKEND")
    if is_new:
        # Keras reads it once, at import, and takes TensorFlow if it is told nothing.
        os.environ["KERAS_BACKEND"] = "torch"
        # What an import that stopped halfway left, as it does without TensorFlow, would go on with that backend.
        for name in [name for name in sys.modules if name.startswith("keras.")]:
            del sys.modules[name]
    try:
        importlib.import_module("h5py")
        keras = importlib.import_module("keras")
    except ImportError as error:
        raise UserError(
            f"A Keras model needs Keras 3 and h5py; {error.name or 'one of them'} is not installed. "
            "Install them: pip install 'whycam[keras]' (TensorFlow is not needed)."
        ) from None
    finally:
        if is_new:
            _restore("KERAS_BACKEND", wanted)
    _check(keras)
    return keras


def _restore(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _check(keras: Any) -> None:
    version = tuple(int(part) for part in keras.__version__.split(".")[:3] if part.isdigit())
    oldest = ".".join(map(str, OLDEST))
    if version < OLDEST:
        raise UserError(
            f"Keras {keras.__version__} is installed; expected {oldest} or later, which opens files in a mode that "
            "runs none of their code. Install it: pip install -U 'whycam[keras]'."
        )
    if keras.config.backend() != "torch":
        raise UserError(
            f"Keras already runs on {keras.config.backend()} in this process; a map needs its torch backend. Set "
            "KERAS_BACKEND=torch in the environment before the first `import keras`, or let whycam load it first."
        )
