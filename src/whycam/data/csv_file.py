"""CSV files of the user's: read, or told what is wrong with their letters or their separator and how to mend it."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from whycam.errors import UserError, as_clause

_SEPARATORS = {";": "';'", "\t": "a tab", "|": "'|'"}


@contextmanager
def open_csv(path: Path, expected: str) -> Iterator[csv.DictReader[str]]:
    """The rows of a CSV in UTF-8 with commas, for the block.

    Args:
        path: the file.
        expected: what it should be, as a clause.

    Raises:
        UserError: no such file, other letters, another separator, a quote that is not closed, or a row that is none.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            # Else a quote that is not closed takes the lines below it into one cell.
            table = csv.DictReader(file, strict=True)
            names = list(table.fieldnames or ())
            if "\0" in "".join(names):
                raise make_letters_error(path, None, expected)
            sign = next((sign for sign in _SEPARATORS if len(names) == 1 and sign in names[0]), None)
            if sign is not None:
                raise UserError(
                    f"'{path.absolute()}' has {_SEPARATORS[sign]} between its columns "
                    f"({', '.join(names[0].split(sign))}); {expected}, with commas between. Save it from a spreadsheet "
                    "as comma separated CSV, or from Python by pandas.read_csv(OLD, sep="
                    f"{sign!r}).to_csv(NEW, index=False)."
                )
            yield table
    except UnicodeDecodeError as error:
        raise make_letters_error(path, error, expected) from None
    except csv.Error as error:
        raise _make_row_error(path, error, expected) from None
    except OSError as error:
        raise UserError(f"'{path.absolute()}' can't be read ({as_clause(error)}); {expected}.") from None


def _make_row_error(path: Path, error: csv.Error, expected: str) -> UserError:
    """Of a row that is none: the line that it begins on, and what is wrong with its quotation marks."""
    if '"' not in str(error) and "end of data" not in str(error):
        return UserError(f"'{path.absolute()}' can't be read ({as_clause(error)}); {expected}.")
    begins = 1
    with path.open(encoding="utf-8-sig", newline="") as file, suppress(csv.Error):
        table = csv.reader(file, strict=True)
        for _ in table:
            begins = table.line_num + 1
    return UserError(
        f"The line {begins} of '{path.absolute()}' has a quotation mark (\") that is not closed, or letters behind a "
        f"closed one; {expected}. Take it away, or write it twice inside of a cell between such marks."
    )


def make_letters_error(path: Path, error: UnicodeDecodeError | None, expected: str) -> UserError:
    """For a file of text that isn't UTF-8: what its letters are, as far as that shows, and how to make them so."""
    with path.open("rb") as file:
        start = file.read(4)
    if error is None or start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in start:
        found, name = "in UTF-16, as Excel's 'Unicode Text' is", "UTF-16"
    else:
        found, name = f"not in UTF-8 (byte 0x{error.object[error.start]:02x}; as old Excel files are)", "WINDOWS-1252"
    return UserError(
        f"'{path.absolute()}' is {found}; {expected}, in UTF-8. Save it as 'CSV UTF-8', or: iconv -f {name} -t UTF-8 "
        "OLD > NEW"
    )
