"""How workers come by the model: its exported graph is sent to them, or they open it by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from whycam import __version__
from whycam.config import ModelOptions
from whycam.intake.door import open_classifier
from whycam.model.classifier import Classifier
from whycam.model.sent import SentClassifier, SentGraph
from whycam.ray.explainer import check_version


def name_everywhere(model: str) -> str:
    """The model as workers find it, whose working folder is another one."""
    file, sign, attribute = model.rpartition(":")
    if sign and Path(file).is_file():
        return f"{Path(file).absolute()}:{attribute}"
    return str(Path(model).absolute()) if Path(model).exists() else model


def describe_files(options: ModelOptions) -> dict[str, Path | str]:
    """The files that were named beside the model, likewise."""
    found: dict[str, Path | str] = {
        name: path.absolute() for name in ("weights", "classes") if (path := getattr(options, name))
    }
    if options.preprocess and Path(options.preprocess).is_file():
        found["preprocess"] = str(Path(options.preprocess).absolute())
    return found


def put(ray: ModuleType, thing: Any) -> Callable[[], Any]:
    """What gets the thing on any machine of the cluster, where it is kept once."""
    return partial(ray.get, ray.put(thing))


@dataclass(frozen=True)
class Opening:
    """Opens the same classifier on a worker.

    Attributes:
        name: of the model.
        words: what is said of it beside.
        card_name: what it is called in results.
        engine: onnx or torch: what answers is decided where the command runs, and once.
        sent: gets the classifier that answers; None: it is opened by its name.
        kept: get graphs that lie in the cache before it is opened, so that no worker makes one.
        version: of WhyCAM there.
    """

    name: str
    words: Mapping[str, Any]
    card_name: str
    engine: str
    sent: Callable[[], SentClassifier] | None = None
    kept: tuple[Callable[[], SentGraph], ...] = ()
    version: str = __version__

    def __call__(self) -> Classifier:
        """The classifier, whose graphs take one core.

        Raises:
            UserError: another version of WhyCAM, or no such model on this machine.
        """
        check_version(self.version, __version__)
        if self.sent is not None:
            return self.sent().open(threads=1)
        for graph in self.kept:
            graph().open(threads=1)
        found = open_classifier(self.name, **self.words, engine=self.engine, threads=1)
        return found.having(name=self.card_name)
