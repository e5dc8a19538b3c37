"""What a test session shares: models and their answers, asked once; settings; and the verdicts that were given.

The pytest plugin begins a session and ends it; outside of pytest there is one for the whole process.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Models whose answers are kept; each may hold its weights.
_MODELS = 8


@dataclass
class Session:
    """See the module.

    Attributes:
        find_folder: makes the folder that pictures are written to; None: none are written.
        is_strict: whether a guard that the photos can't decide fails.
        is_told: whether somebody shows the verdicts at the end.
        records: what was decided, as `guards.json` holds it, since it was last asked for.
        kept: by the model's key, what it answered.
        counts: how many verdicts each test has given.
    """

    find_folder: Callable[[], Path] | None = None
    is_strict: bool = False
    is_told: bool = False
    records: list[dict[str, Any]] = field(default_factory=list)
    kept: OrderedDict[Any, Any] = field(default_factory=OrderedDict)
    counts: dict[str, int] = field(default_factory=dict)

    def remember(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, made when it is first asked for; of many models the latest are kept."""
        if key not in self.kept:
            self.kept[key] = make()
            while len(self.kept) > _MODELS:
                self.kept.popitem(last=False)
        self.kept.move_to_end(key)
        return self.kept[key]

    def take_records(self) -> list[dict[str, Any]]:
        """What was decided since this was last called."""
        records, self.records = self.records, []
        return records

    def count(self, test: str) -> int:
        """1 for the first verdict of a test, 2 for the second."""
        self.counts[test] = self.counts.get(test, 0) + 1
        return self.counts[test]


_sessions = [Session()]


def find_session() -> Session:
    """The one that runs."""
    return _sessions[-1]


def begin(session: Session) -> None:
    """Makes it the one that runs."""
    _sessions.append(session)


def end(session: Session) -> None:
    """The one before it runs again."""
    _sessions.remove(session)
