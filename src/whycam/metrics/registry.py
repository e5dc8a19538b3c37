"""One table of metrics; a new one is one decorated function in the file of its category."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor

from whycam.errors import make_unknown_name
from whycam.metrics.case import Case
from whycam.metrics.pooling import MEAN, Pool

Better = Literal["higher", "lower"]
Category = Literal["faithfulness", "localization", "sanity", "complexity"]
# Of a photo: boxes, either of boxes and masks, a mask; of the model: weights that can be drawn anew.
Needs = Literal["nothing", "boxes", "region", "mask", "weights"]
ARROWS: dict[Better, str] = {"higher": "↑", "lower": "↓"}
# The files that hold metrics; importing them fills the table.
_FILES = ("faithfulness", "regions", "localization", "sanity", "complexity")


@dataclass(frozen=True)
class Metric:
    """A metric, and what a person should know before quoting it.

    Attributes:
        name: with its baseline: `insertion-auc-blur`.
        family: without: `insertion-auc`.
        run: case -> one number a photo, (N,), or the row of numbers (N, ...) that `pool` needs; NaN: not defined.
        better: which direction is.
        category: what is measured.
        paper: arXiv id or venue.
        differs: each departure from the paper; empty where there is none.
        baseline: what stands where pixels are taken away; empty where none are.
        pool: from the rows of photos to the one number.
        needs: what has to be known of a photo, or had of the model.
        is_quick: it asks the network for a few dozen changed photos at the most.
        home: the module that holds it.
    """

    name: str
    family: str
    run: Callable[[Case], Tensor]
    better: Better
    category: Category
    paper: str
    differs: str
    baseline: str
    pool: Pool
    needs: Needs
    is_quick: bool
    home: str = ""

    @property
    def title(self) -> str:
        """The name with its direction."""
        return f"{self.name} {ARROWS[self.better]}"


_metrics: dict[str, Metric] = {}


def metric(
    name: str,
    *,
    better: Better,
    category: Category,
    paper: str,
    differs: str = "",
    baselines: Sequence[str] = (),
    pool: Pool = MEAN,
    needs: Needs = "nothing",
    is_quick: bool = True,
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Enters a function in the table, once for each baseline, the usual one first; the function is returned unchanged.

    With `baselines` the function is `(case, baseline)`, else `(case)`. See `Metric` for the arguments.
    """

    def enter(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
        for baseline in baselines or ("",):
            full = f"{name}-{baseline}" if baseline else name
            if full in _metrics:
                raise RuntimeError(f"Two metrics are named {full!r}: {_metrics[full].run} and {run}.")
            bound = partial(run, baseline=baseline) if baseline else run
            _metrics[full] = Metric(
                full, name, bound, better, category, paper, differs, baseline, pool, needs, is_quick, run.__module__
            )
        return run

    return enter


def _load() -> dict[str, Metric]:
    files = [f"whycam.metrics.{file}" for file in _FILES]
    for file in files:
        importlib.import_module(file)
    # Whichever file was imported first.
    places = {name: place for place, name in enumerate(files)}
    return dict(sorted(_metrics.items(), key=lambda item: places.get(item[1].home, len(files))))


def iter_metrics() -> Iterator[Metric]:
    """All metrics, in the order of the files and of the functions in them."""
    return iter(_load().values())


def get_metrics(words: Sequence[str]) -> list[Metric]:
    """The metrics that words name: `all`, `quick`, a category, a name, or a name without its baseline.

    Where no baseline is named, the usual one of each is taken.

    Raises:
        UserError: no such name; the nearest ones are in the message.
    """
    table = _load()
    usual: dict[str, Metric] = {}
    for one in table.values():
        usual.setdefault(one.family, one)
    categories: dict[str, list[Metric]] = {}
    for one in usual.values():
        categories.setdefault(one.category, []).append(one)
    chosen: dict[str, Metric] = {}
    for word in words:
        if word in table:
            found = [table[word]]
        elif word in usual:
            found = [usual[word]]
        elif word in categories:
            found = categories[word]
        elif word == "all":
            found = list(usual.values())
        elif word == "quick":
            found = [one for one in usual.values() if one.is_quick]
        else:
            raise make_unknown_name("metric", word, ["all", "quick", *categories, *usual, *table])
        chosen |= {one.name: one for one in found}
    return list(chosen.values())
