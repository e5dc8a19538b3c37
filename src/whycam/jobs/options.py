"""Options of a command: the fields of a model in `config.py`, as the command line has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from typer.core import TyperCommand, TyperGroup

from whycam.config.wrong import name_option, tell_wrong_option
from whycam.errors import UserError


def with_options(model: type[BaseModel]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command an option for each field of `model`; those that the user gave reach it as the dict `given`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in signature(command, eval_str=True).parameters.values() if p.name != "given"]

        def run(**words: Any) -> None:
            context = words.pop("context")
            fields = {name: words.pop(name) for name in model.model_fields}
            is_given = {
                n
                for n in fields
                if context.get_parameter_source(n) is not None and context.get_parameter_source(n).name != "DEFAULT"
            }
            if fields.get("overwrite"):
                _check_inputs(words)
            command(**words, given={name: fields[name] for name in is_given})

        parameters = [Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context)]
        parameters += [p.replace(kind=Parameter.KEYWORD_ONLY) for p in own]
        parameters += [_to_option(name, field) for name, field in model.model_fields.items()]
        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        run.fields = model.model_fields  # type: ignore[attr-defined]
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


def _check_inputs(words: Mapping[str, Any]) -> None:
    """Refuses to replace what the command is to read: it would be gone for the next one.

    Raises:
        UserError: an argument is the output, or lies in it.
    """
    out = Path(words.get("out") or "")
    if not words.get("out") or not out.exists():
        return
    for name, given in words.items():
        for one in given if isinstance(given, list | tuple) else [given]:
            if name == "out" or not isinstance(one, str | Path) or not Path(one).exists():
                continue
            if out.resolve() in {Path(one).resolve(), *Path(one).resolve().parents}:
                raise UserError(
                    f"'{one}' is read by this command, and --overwrite of '{out}' would throw it away. Take another "
                    "name for the output."
                )


def _to_option(name: str, field: FieldInfo) -> Parameter:
    """One field as a typer option, with the same default, range and help."""
    bounds = {type(bound).__name__.lower(): bound for bound in field.metadata}
    limits = {key: getattr(bounds[word], word) for word, key in (("ge", "min"), ("le", "max")) if word in bounds}
    word = name_option(name)
    words = [f"{word}/--no-{word.removeprefix('--')}" if field.default is True else word]
    option = typer.Option(*words, help=field.description, show_default=field.default is not None, **limits)
    return Parameter(
        name,
        Parameter.KEYWORD_ONLY,
        default=field.default,
        annotation=Annotated[field.annotation, option],
    )


class PlainGroup(TyperGroup):
    """The commands; of an option's wrong value they say what its model says, and nothing of typer's or pydantic's."""

    def invoke(self, ctx: Any) -> Any:
        """As typer does.

        Raises:
            UserError: an option has a value that it can't have.
        """
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            cause, command = error.__cause__, getattr(error.ctx, "command", None)
            fields = getattr(getattr(command, "callback", None), "fields", {})
            name = str(getattr(error.param, "name", ""))
            if name not in fields or not isinstance(cause, ValidationError):
                raise
            fault = cause.errors()[0]
            raise UserError(tell_wrong_option(name, fault["input"], fields[name], fault)) from None


class GreedyCommand(TyperCommand):
    """A command whose lists take all words up to the next option, as a shell writes them: `--noise runs/1 runs/2`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The words as click takes them, `--noise runs/1 --noise runs/2`."""
        lists = {name for one in self.params if getattr(one, "multiple", False) for name in one.opts}
        words: list[str] = []
        option, is_first = "", False
        for word in args:
            if word.startswith("-"):
                option, is_first = (word, True) if word in lists else ("", False)
            elif option and not is_first:
                words.append(option)
            else:
                is_first = False
            words.append(word)
        return super().parse_args(ctx, words)
