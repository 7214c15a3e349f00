"""What one ingest found, by subject key."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_OUTCOMES = ("added", "changed", "unchanged", "removed", "quarantined", "arriving")


@dataclass
class IngestReport:
    """The outcome of one ingest.

    Attributes:
        added: New subjects.
        changed: Subjects whose source files have a new data version.
        unchanged: Subjects whose data versions are the recorded ones.
        removed: Partitions that are no longer in the source.
        quarantined: Subjects whose files cannot be used, with the reason.
        arriving: Subjects whose files cannot be used yet, with the reason.
        warnings: What was repaired or is doubtful, by subject.
        ignored: Files that look like DWI series and are none, with the reason, by their path in the source.
        no_subjects: What the source contains instead, if it has no subject at all.
        remaining: How many subjects the time limit left for the next ingest.
        recorded_events: How many observations were recorded.
        is_listing: Whether the time limit ended the listing of the source.
        is_busy: Whether another process had the lock, so that nothing was ingested.
    """

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    quarantined: dict[str, str] = field(default_factory=dict)
    arriving: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    no_subjects: str = ""
    remaining: int = 0
    recorded_events: int = 0
    is_listing: bool = False
    is_busy: bool = False

    @property
    def usable(self) -> list[str]:
        """The subjects that can be used, sorted."""
        return sorted([*self.added, *self.changed, *self.unchanged])

    def to_json(self) -> dict[str, Any]:
        """The report for scripts; subjects whose files are arriving are listed as quarantined."""
        return {
            **{name: sorted(getattr(self, name)) for name in ("added", "changed", "removed")},
            "quarantined": {**self.quarantined, **self.arriving},
            "warnings": {key: list(warnings) for key, warnings in self.warnings.items()},
            "ignored": self.ignored,
            **({"nothing": self.no_subjects} if self.no_subjects else {}),
        }

    def summary(self) -> str:
        """The numbers of subjects on one line."""
        if self.is_busy:
            return "another process is ingesting"
        if self.is_listing:
            return "the source is still being listed"
        counts = [f"{len(getattr(self, name))} {name}" for name in _OUTCOMES if getattr(self, name)]
        counts += [f"{self.remaining} left for the next scan"] if self.remaining else []
        counts += [f"{len(self.ignored)} files ignored"] if self.ignored else []
        return ", ".join(counts) or self.no_subjects or "there are no subjects"
