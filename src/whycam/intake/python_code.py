"""The user's own code: `file.py:attribute` or `package.module:attribute`. It is run, as any import is."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from whycam.errors import UserError, as_clause, make_unknown_name
from whycam.intake.request import Found, Kind, Request, as_path

if TYPE_CHECKING:
    from torch import nn

_MODULE = re.compile(r"[A-Za-z_][\w.]*")


def _is_it(request: Request) -> bool:
    if (path := as_path(request)) is not None and path.suffix == ".py":
        return True
    where, sign, attribute = request.name.rpartition(":")
    is_named = isinstance(request.model, str | Path) and bool(sign) and attribute.isidentifier()
    return is_named and (where.endswith(".py") or bool(_MODULE.fullmatch(where)))


def _open(request: Request) -> Found:
    where, _, attribute = request.name.rpartition(":")
    if request.name.endswith(".py"):
        raise UserError(
            f"Found the Python file '{request.name}'; expected what in it is the model, or makes it. Name that behind "
            f"a colon: {request.name}:make_model."
        )
    module = _import(where, request.name)
    if not hasattr(module, attribute):
        raise make_unknown_name(
            f"attribute of '{where}'", attribute, [n for n in vars(module) if not n.startswith("_")]
        )
    made = _make(getattr(module, attribute), request)
    from torch import nn  # noqa: PLC0415 - slow, and other kinds do without

    if isinstance(made, nn.Module):
        from whycam.intake.module import open_module, read_known  # noqa: PLC0415 - torch

        if request.weights is not None:
            _load_weights(made, request)
        known = replace(read_known(made, request), origin={"network": request.name, **_describe_weights(request)})
        return open_module(made, request, "module of your code", known)
    if callable(made):
        from whycam.intake.function import open_function  # noqa: PLC0415 - other kinds do without

        request.refuse("function", "weights")
        return open_function(request, made, "function of your code", None, 3)
    raise UserError(
        f"{request.name!r} gives {type(made).__name__}; expected a torch module, a function that makes one, or a "
        "function of images."
    )


def _import(where: str, name: str) -> ModuleType:
    path = Path(where)
    if where.endswith(".py") and not path.is_file():
        raise UserError(f"Found no file '{path.absolute()}' for {name!r}; expected your own code. Check the path.")
    # Its own imports look beside it, as where it is run; a module is looked for here first, as `python -m` does.
    beside = str(path.absolute().parent if where.endswith(".py") else Path.cwd())
    sys.path.insert(0, beside)
    try:
        return _run_file(path) if where.endswith(".py") else importlib.import_module(where)
    except (Exception, SystemExit) as error:
        told = f"{type(error).__name__}: {as_clause(error)}"
        raise UserError(f"The code of {name!r} fails when it is imported: {told}. Run it by itself first.") from error
    finally:
        sys.path.remove(beside)


def _run_file(path: Path) -> ModuleType:
    """The module of a file, whatever else has that name; its classes are found where they are pickled."""
    spec = importlib.util.spec_from_file_location(f"whycam_user_{path.stem}", path.absolute())
    if spec is None or spec.loader is None:
        raise RuntimeError(f"'{path}' has no loader.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _make(found: Any, request: Request) -> Any:
    """The model: the attribute itself, or what it makes where it can be called without arguments."""
    from torch import nn  # noqa: PLC0415 - slow, and other kinds do without

    if isinstance(found, nn.Module) or not callable(found):
        return found
    try:
        needed = [
            one.name
            for one in inspect.signature(found).parameters.values()
            if one.default is one.empty
            and one.kind in {one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY}
        ]
    except (TypeError, ValueError):
        needed = []
    if needed and not isinstance(found, type):
        return found
    if needed:
        raise UserError(
            f"{request.name!r} is a class that needs {', '.join(needed)}; expected a model. Write a function without "
            "arguments that makes it, and name that."
        )
    try:
        return found()
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{request.name!r} fails when it is called: {type(error).__name__}: {as_clause(error)}."
        ) from error


def _load_weights(network: nn.Module, request: Request) -> None:
    from whycam.model.backbone import read_weights  # noqa: PLC0415 - timm

    assert request.weights is not None  # noqa: S101 - the caller has looked
    tensors, own = read_weights(request.weights), network.state_dict()
    missing, extra = [k for k in own if k not in tensors], [k for k in tensors if k not in own]
    misfit = [k for k in own if k in tensors and own[k].shape != tensors[k].shape]
    if missing or extra or misfit:
        told = [f"it lacks {len(missing)} tensors, such as {missing[0]!r}"] if missing else []
        told += [f"it has {len(extra)} more, such as {extra[0]!r}"] if extra else []
        told += [
            f"{k!r} is {tuple(tensors[k].shape)} in it and {tuple(own[k].shape)} in the network" for k in misfit[:1]
        ]
        raise UserError(
            f"'{request.weights}' does not fit {request.name!r}: {'; '.join(told)}. Give the weights of this very "
            "network; another number of classes is another network."
        )
    network.load_state_dict(tensors)


def _describe_weights(request: Request) -> dict[str, str]:
    return {"weights": f"file {request.weights.name}" if request.weights else "as made by the code"}


KIND = Kind("your code, as file.py:attribute or package.module:attribute", _is_it, _open)
