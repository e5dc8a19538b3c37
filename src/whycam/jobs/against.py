"""`whycam train --against`: a finding of an audit to the exchange of its cause between photos."""

from __future__ import annotations

from whycam.config import TrainOptions
from whycam.data.exchange import Change, Exchange, read_exchange
from whycam.data.folder import PhotoFolder
from whycam.data.preprocess import Preprocess
from whycam.errors import UserError


def make_exchange(options: TrainOptions, photos: PhotoFolder, preprocess: Preprocess) -> Exchange | None:
    """What `--against` names; None where it names nothing.

    Raises:
        UserError: no such finding, or one whose cause can't be exchanged.
    """
    if options.against is None:
        return None
    at_least = (2 * preprocess.width_px, 2 * preprocess.height_px)
    return read_exchange(options.against, photos, at_least, options.seed, make_ground_change)


def make_ground_change() -> Change:
    """The change of grounds."""
    raise UserError("Grounds can't be exchanged yet.")
