"""What was seen of each subject's files, so that a look opens only those that changed.

It is kept in the Dagster instance beside its cursors, one text a subject, and so shared by all machines that share the
instance. It is no more than a memory: lost, it is made again by reading everything once; the event log says what is.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from dagster import DagsterInstance

from kwneuro_assets.dagster_internals import give_up_turn, read_notes, take_turn, write_notes
from kwneuro_assets.errors import ActionableError
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.versioning.records import SCAN

TURN_SECONDS = 90.0  # without a sign of life, after which another process may look
_PREFIX = "kwneuro_assets/source"
_RENEWED_AFTER = TURN_SECONDS / 6
_POLL = 1.0  # seconds between two tries of who waits for a turn

Mark = Literal["", "quarantined", "removed"]


@dataclass(frozen=True)
class Seen:
    """What was last seen of one subject.

    `stamps` names the state of the files (and of the settings) that were read; "" where none were. `versions` are the
    data versions of the source assets, or `refused` says why they cannot be used. `mark` and `reason` say what is wrong
    with the subject now, `since` when that began (seconds since 1970), `told` what the event log has of it.
    """

    stamps: str = ""
    looked: float = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    refused: str = ""
    mark: Mark = ""
    reason: str = ""
    since: float = 0
    told: str = ""

    def marked(self, mark: Mark, reason: str = "") -> Seen:
        """The same, with this mark from now on where it is another."""
        if (mark, reason) == (self.mark, self.reason):
            return self
        return replace(self, mark=mark, reason=reason, since=time.time())

    @property
    def sentence(self) -> str:
        """Why the subject is set aside."""
        return self.reason or "it is no longer in the source; kwneuro-assets prune removes what was made of it"

    def to_json(self) -> dict[str, Any]:
        """A subject that is set aside, as the states of derivatives are told."""
        version = self.versions.get(SCAN)
        return {"state": self.mark, "why": [self.sentence], "data_version": version, "code_version": None}

    @property
    def to_tell(self) -> str:
        """What the event log is to have of the mark."""
        return f"{self.mark}: {self.reason}" if self.mark else ""


class Ledger:
    """What was seen of the subjects of one source dataset, by key."""

    def __init__(self, instance: DagsterInstance, settings: PipelineSettings) -> None:
        self._instance = instance
        url = settings.source.url.rstrip("/")
        self._prefix = f"{_PREFIX}/{hashlib.sha256(url.encode()).hexdigest()[:16]}/"
        self._changed: dict[str, str | None] = {}
        self.seen: dict[str, Seen] = {}
        for name, text in read_notes(instance, self._prefix).items():
            self.seen[name.removeprefix(self._prefix)] = _seen(text)

    def __getitem__(self, key: str) -> Seen:
        return self.seen.get(key, Seen())

    def __setitem__(self, key: str, seen: Seen) -> None:
        if self.seen.get(key) != seen:
            self.seen[key] = seen
            self._changed[self._prefix + key] = json.dumps(asdict(seen), separators=(",", ":"))

    def forget(self, keys: Collection[str]) -> None:
        for key in keys:
            if self.seen.pop(key, None) is not None:
                self._changed[self._prefix + key] = None

    def save(self) -> None:
        """Keep what changed since the last time."""
        if self._changed:
            write_notes(self._instance, self._changed)
            self._changed = {}


def set_aside(instance: DagsterInstance, settings: PipelineSettings) -> dict[str, Seen]:
    """The subjects in quarantine, and those that are no longer in the source, by key, as they were last seen."""
    return {key: one for key, one in sorted(Ledger(instance, settings).seen.items()) if one.mark}


class TurnLost(ActionableError):
    """This process stood still for so long that another one looks at the source by now."""


@contextmanager
def turn(instance: DagsterInstance, wait: Callable[[int], bool]) -> Iterator[Callable[[], None] | None]:
    """The right to take in what a source holds, for one process at a time; None where another has it.

    While it has, `wait` is asked whether to wait for it, for the first time, the second, and so on. What is given is to
    be called again and again: it keeps the turn, or raises TurnLost.
    """
    holder, name, taken = secrets.token_hex(8), f"{_PREFIX}/turn", 0.0

    def take() -> bool:
        nonlocal taken
        began = time.monotonic()
        if take_turn(instance, name, holder, TURN_SECONDS):
            taken = began
            return True
        return False

    def keep() -> None:
        if time.monotonic() - taken > _RENEWED_AFTER and not take():
            raise TurnLost("another process looks at the source by now: this one gave no sign of life for too long")

    tries = itertools.count(1)
    while not take():
        if not wait(next(tries)):
            yield None
            return
        time.sleep(_POLL)
    try:
        yield keep
    finally:
        give_up_turn(instance, name, holder)


def _seen(text: str) -> Seen:
    tree = json.loads(text)
    return Seen(**{**tree, "warnings": tuple(tree["warnings"])})
