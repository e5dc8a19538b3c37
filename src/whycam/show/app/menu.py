"""The methods that an app offers: those that explain its model within seconds, tried once and kept in the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from whycam.cam.about import CAM, CONTRAST, About, Needs
from whycam.errors import UserError
from whycam.model.cache import CacheError, find_cache, open_or_make, prune_cached
from whycam.model.classifier import Classifier

# Kinds of methods that take seconds, not minutes, the preferred first.
_KINDS: tuple[Needs, ...] = ("linear head", "gradients", "features", "attention")
_MENU = TypeAdapter(tuple[About, ...])
_CACHE_LIMIT_BYTES = 2**20


def find_methods(classifier: Classifier) -> tuple[About, ...]:
    """The methods that give maps of this model within seconds, exact ones first; one of each kind is tried.

    To try them takes torch. Where a graph answers for the model, what was found is kept, and read without torch.

    Raises:
        UserError: there is none.
    """
    if classifier.is_torch_free and classifier.card.is_exact:
        return (CAM,)
    graph = classifier.find_graph("maps")
    if graph is None:
        return _try_methods(classifier)
    place = find_cache() / "menus" / f"{graph.stem}-{_hash_methods()}.menu"

    def make() -> Mapping[str, Any]:
        place.write_bytes(_MENU.dump_json(_try_methods(classifier)))
        return {"graph": graph.stem}

    try:
        found, was_there = open_or_make(place, make, _read)
    except CacheError:
        return _try_methods(classifier)
    if not was_there:
        prune_cached(place, _CACHE_LIMIT_BYTES)
    return found


def _read(path: Path, _: Mapping[str, Any]) -> tuple[About, ...]:
    try:
        return _MENU.validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"'{path}' names no methods. Remove it.") from error


def _hash_methods() -> str:
    """Changes with the files of `cam/`, which say which methods there are and what is told of them."""
    files = sorted((one for one in resources.files("whycam.cam").iterdir() if one.name.endswith(".py")), key=str)
    digest = hashlib.blake2b(digest_size=8)
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _try_methods(classifier: Classifier) -> tuple[About, ...]:
    from whycam.cam.registry import iter_methods  # noqa: PLC0415 - torch, which exact maps do without
    from whycam.explainer.model import Model  # noqa: PLC0415 - torch

    model, every = Model(classifier), list(iter_methods())
    faults, found = [], []
    for kind in _KINDS:
        # A contrast is cam with a second class.
        of_kind = [method for method in every if method.needs == kind and method.name != CONTRAST.name]
        fault = model.find_fault(of_kind[0].name)
        faults += [fault] if fault else []
        found += [] if fault else of_kind
    if not found and classifier.card.answers_for("scores"):
        # The only one of its kind that takes no minute.
        found = [method for method in every if method.name == "occlusion"]
    if not found:
        raise UserError(f"No map method works for {classifier.card.name!r}. {faults[0]}")
    return tuple(About(**{name: getattr(method, name) for name in About.__dataclass_fields__}) for method in found)
