"""The QC rows of many subjects in one table."""

from __future__ import annotations

from collections.abc import Mapping

from kwneuro_assets.imaging import Table
from kwneuro_assets.imaging.table import Cell, Kind
from kwneuro_assets.qc.catalog import metric_of, ordered
from kwneuro_assets.subjects import SubjectKey

PARTICIPANT, SESSION = "participant_id", "session_id"


def key_of(row: Mapping[str, Cell]) -> str:
    """The subject key of a row: `sub-01`, or `sub-01_ses-02` if it has a session."""
    participant, session = row[PARTICIPANT], row.get(SESSION)
    return f"{participant}_{session}" if session else str(participant)


def identity(key: str) -> dict[str, Cell]:
    """The columns that name a subject.

    >>> identity("sub-01_ses-02")
    {'participant_id': 'sub-01', 'session_id': 'ses-02'}
    """
    parsed = SubjectKey.parse(key)
    return {PARTICIPANT: f"sub-{parsed.subject}", SESSION: f"ses-{parsed.session}" if parsed.session else None}


def cohort_table(rows: Mapping[str, Mapping[str, Cell]]) -> Table:
    """One row per subject, sorted by key; the columns are those that any subject has, in the order of the catalog.

    There is a column `session_id` if any subject has a session. A metric that a subject lacks is missing.
    """
    metrics = ordered({name for row in rows.values() for name in row if name not in (PARTICIPANT, SESSION)})
    with_sessions = any(identity(key)[SESSION] for key in rows)
    kinds: dict[str, Kind] = {PARTICIPANT: "text", **({SESSION: "text"} if with_sessions else {})}
    kinds |= {name: metric_of(name).kind for name in metrics}
    found = []
    for key in sorted(rows):
        cells = {**rows[key], **identity(key)}
        found.append({name: cells.get(name) for name in kinds})
    return Table.from_rows(found, kinds)
