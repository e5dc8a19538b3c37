"""The plan of a run: its photos in shards, each of which one worker answers for; written down before work starts.

A resumed run goes on by the plan, whatever photos have come and gone since: its shards, and with them the batches that
go through the network together, are the same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from whycam import __version__
from whycam.data.sources import Source, is_address
from whycam.errors import UserError
from whycam.ray.place import PLAN, PLAN_LINES, TABLE, Place
from whycam.runs import to_json

# Pixels of a shard travel together from the cores that decode to the one that has the model.
_SHARD_BYTES = 64 * 2**20
# So many shards a worker, where photos are few: the last ones then end at about the same time.
_SHARDS_A_WORKER = 4


class Plan(BaseModel):
    """See the module; the photos themselves are in lines of a file beside it.

    Attributes:
        state: what a resumed run must share: model, inputs, options.
        version: of WhyCAM.
        photos: how many.
        doubles: how many were named again, and left out.
        root: the folder that has all photos that lie in files here; empty where there are none.
        starts: the first byte of each shard in the file of lines, and the end of the last one.
        counts: the photos of each shard.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    state: dict[str, Any]
    version: str
    photos: int
    doubles: int
    root: str
    starts: tuple[int, ...]
    counts: tuple[int, ...]

    def read_shard(self, place: Place, shard: int) -> list[Source]:
        """The photos of one shard."""
        lines = place.read(PLAN_LINES, self.starts[shard], self.starts[shard + 1]).splitlines()
        return [_from_line(json.loads(line)) for line in lines]


def make_plan(
    place: Place, found: tuple[Sequence[Source], int], state: Mapping[str, Any], choose: Callable[[int], int]
) -> Plan:
    """Writes down the plan.

    Args:
        place: where.
        found: the photos, and how many were named again.
        state: see Plan.
        choose: of the number of photos, how many make a shard.

    Raises:
        UserError: no right to write.
    """
    sources, doubles = found
    size = choose(len(sources))
    starts, counts, parts = [0], [], []
    for first in range(0, len(sources), size):
        shard = sources[first : first + size]
        parts.append(b"".join(to_json(_to_line(source)) for source in shard))
        starts.append(starts[-1] + len(parts[-1]))
        counts.append(len(shard))
    here = [source.place for source in sources if not is_address(source.place)]
    plan = Plan(
        state=dict(state),
        version=__version__,
        photos=len(sources),
        doubles=doubles,
        root=os.path.commonpath([os.path.dirname(path) for path in here]) if here else "",  # noqa: PTH120
        starts=tuple(starts),
        counts=tuple(counts),
    )
    place.write(PLAN_LINES, b"".join(parts))
    place.write(PLAN, to_json(plan.model_dump()))
    return plan


def read_plan(place: Place, state: Mapping[str, Any]) -> Plan | None:
    """The plan of an interrupted run; None where there is none.

    Raises:
        UserError: it was begun with another model, other photos or options, or by another version.
    """
    if not place.has(PLAN):
        return None
    plan = Plan.model_validate_json(place.read(PLAN))
    begun = {**plan.state, "version of WhyCAM": plan.version}
    asked = json.loads(to_json({**state, "version of WhyCAM": __version__}))
    if other := [name for name, value in asked.items() if begun.get(name) != value]:
        raise UserError(
            f"The unfinished '{place.root}' was begun with another value of: {', '.join(other)}. "
            "Give the same command with --resume, or leave --resume out to start anew."
        )
    return plan


def choose_size(pixels_bytes: int, batch_size: int, workers: int, photos: int) -> int:
    """How many photos make a shard: whole batches, so that a shard's batches are those of a run without a cluster."""
    most = max(1, _SHARD_BYTES // (pixels_bytes * batch_size))
    wanted = -(-photos // (workers * _SHARDS_A_WORKER * batch_size))
    return batch_size * max(1, min(most, wanted))


def name_part(shard: int) -> str:
    """The file of a finished shard."""
    return f"{TABLE}/part-{shard:07}.parquet"


def find_done(place: Place) -> set[int]:
    """The shards that are finished."""
    names = (name.split(".") for name in place.list_names(TABLE))
    return {int(name[0].removeprefix("part-")) for name in names if name[0].startswith("part-")}


def _to_line(source: Source) -> list[Any]:
    """As short as can be: there may be millions."""
    if source.span is not None:
        return [source.path, source.place, *source.span]
    return [source.path] if source.path == source.place else [source.path, source.place]


def _from_line(line: Sequence[Any]) -> Source:
    path, place, *span = line if len(line) > 1 else [line[0], line[0]]
    return Source(path, "", place, (span[0], span[1]) if span else None)
