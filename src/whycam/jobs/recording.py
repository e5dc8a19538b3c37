"""`whycam report RECORDING`: a recording of a training to one page with a slider over the epochs."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from whycam.callbacks.recording import read_recording
from whycam.errors import UserError, as_clause
from whycam.jobs.outcome import Outcome, write_page
from whycam.show.recording_page import RecordedPhoto, RecordingPage, render_recording


def make_recording_page(folder: Path, photos: Path | None, out: Path) -> Outcome:
    """Writes the page of a recording, finished or not.

    Raises:
        UserError: photos beside it, no recording, a file of it that can't be read, or a full disk.
    """
    if photos is not None:
        raise UserError(f"'{folder}' is a recording, which holds its photos; found '{photos}' beside it. Leave it out.")
    recording = read_recording(folder)
    shown = []
    for row in recording.about["photos"]:
        place = recording.folder / row["picture"]
        try:
            with Image.open(place) as picture:
                shown.append(RecordedPhoto(row["name"], row["class"], tuple(row["size_px"]), picture.convert("RGB")))
        except OSError as error:
            raise UserError(
                f"'{place.absolute()}' can't be read as a recording's photo ({as_clause(error)}); expected what a "
                "training with whycam.callbacks wrote. Copy the whole folder of the recording."
            ) from None
    page = render_recording(
        RecordingPage(
            recording.folder.resolve().name, recording.about, shown, [recording.read(line) for line in recording.epochs]
        )
    )
    return Outcome(len(shown), len(recording.about["unreadable"]), write_page(page, out))
