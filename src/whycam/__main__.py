"""`whycam`, and `python -m whycam`: runs a command, and tells what a person can put right."""

from __future__ import annotations

import os
import sys
import warnings
from typing import NoReturn

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from whycam import config
from whycam.cli import app
from whycam.config.wrong import tell_wrong_option
from whycam.errors import EXIT_CODE, UserError
from whycam.jobs.interrupt import hold_interrupts_in_logging


def main() -> None:
    """Runs the command line; what a person can put right is told without a traceback, with exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        # Names of photos and classes need not be in the terminal's encoding.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    # Pillow reads this when it is imported. glibc keeps no block over 32 MB for later: what a large photo filled is
    # free again, where blocks of the usual 16 MB stay with the thread that had them.
    os.environ.setdefault("PILLOW_BLOCK_SIZE", "64m")
    # Pillow's remarks on damaged metadata, which no one needs to see a photo: what matters it raises.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    hold_interrupts_in_logging()
    try:
        app()
    except UserError as error:
        _tell(str(error))
    except ValidationError as error:
        _tell("\n".join(_describe(error.title, fault) for fault in error.errors()))
    except RuntimeError as error:
        # By name: torch's class is not there where torch was not needed.
        if type(error).__name__ != "OutOfMemoryError":
            raise
        first = str(error).split(". ", maxsplit=1)[0]
        _tell(f"The GPU's memory is full: {first}. Give a smaller --batch-size or --image-size, or --device cpu.")


def _describe(model: str, fault: ErrorDetails) -> str:
    """One wrong option: what was given, and what it may be."""
    name = str(fault["loc"][0])
    fields = getattr(config, model).model_fields if hasattr(config, model) else {}
    return tell_wrong_option(name, fault["input"], fields.get(name, FieldInfo(default=None)), fault)


def _tell(message: str) -> NoReturn:
    sys.stderr.write(f"whycam: {message}\n")
    raise SystemExit(EXIT_CODE) from None


if __name__ == "__main__":
    main()
