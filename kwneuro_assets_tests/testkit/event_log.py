"""Fills a Dagster instance with the event log of a cohort, in the form in which Dagster writes it.

`run_templates.py` lets Dagster execute a few runs of one tiny subject; `bulk_rows.py` fills in the recorded rows for
each subject and writes them in bulk: a cohort of 10,000 subjects takes minutes instead of days. The tests in
`test_event_log.py` compare the result with what Dagster reads and writes.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from dagster import DagsterInstance

from kwneuro_assets.assets import DERIVATIVES
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.versioning.partitions import PARTITIONS
from kwneuro_assets.versioning.staleness import State
from kwneuro_assets_tests.testkit.bulk_rows import CohortWriter, SubjectHistory, copy_snapshots
from kwneuro_assets_tests.testkit.run_templates import FIRST_STEPS, NAMES, OF_WHATEVER_EXISTS, SELECTED, templates

__all__ = ["KINDS", "NAMES", "SELECTED", "Kind", "RunLogs", "SubjectHistory", "write_cohort"]

RunLogs = Literal["unfinished", "all"]

_PARTITIONS_PER_STATEMENT = 1000  # databases limit the number of values in one statement


@dataclass(frozen=True)
class Kind:
    """A kind of history: its fraction of the cohort, its steps in order, and the states that follow.

    A step is the name of a template: `first scan` and `observe` record new content of the source, the others are runs.
    A derivative without a state here is fresh, or stale-upstream below one that is not.
    """

    fraction: float
    steps: tuple[str, ...]
    states: Mapping[str, State] = field(default_factory=dict)


KINDS: dict[str, Kind] = {
    "fresh": Kind(0.0, ("first scan", "complete")),  # the subjects that the other kinds leave
    "rematerialized": Kind(0.10, ("first scan", "complete", "observe", "complete")),
    "changed": Kind(
        0.02,
        ("first scan", "complete", "observe"),
        dict.fromkeys(("denoised_dwi", "fiber_response", "csd_peaks", *OF_WHATEVER_EXISTS), "stale"),
    ),
    "outdated": Kind(0.02, ("first scan", "old settings"), {"dti": "stale", "csd_peaks": "stale"}),
    "failed": Kind(0.01, ("first scan", "complete", "failing"), {"csd_peaks": "failed"}),
    "never_succeeded": Kind(
        0.005,
        ("first scan", "failing"),
        {
            "csd_peaks": "failed",
            **dict.fromkeys(("tract_masks", "tract_endings", "tract_orientations", *OF_WHATEVER_EXISTS), "missing"),
        },
    ),
    "running": Kind(0.002, ("first scan", "in progress"), dict.fromkeys(set(NAMES) - set(FIRST_STEPS), "running")),
    "missing": Kind(0.03, ("first scan", "selection"), dict.fromkeys(set(NAMES) - set(SELECTED), "missing")),
    "new": Kind(0.01, ("first scan",), dict.fromkeys(NAMES, "missing")),
    "not_applicable": Kind(
        0.05,
        ("first scan", "not applicable"),
        dict.fromkeys(set(NAMES) - {*SELECTED, *OF_WHATEVER_EXISTS}, "not-applicable"),
    ),
}


def write_cohort(
    instance: DagsterInstance,
    subjects: int,
    *,
    seed: int = 0,
    figure_bytes: int = 6000,
    run_logs: RunLogs = "unfinished",
    fractions: Mapping[str, float] | None = None,
) -> dict[str, SubjectHistory]:
    """Write the histories of `sub-00001`, `sub-00002`, ... into an instance on SQLite or Postgres; returns them by key.

    `fractions` replaces the fraction of subjects of some of KINDS. A figure has `figure_bytes` bytes in base64.
    `run_logs` says for which runs all events are written; `unfinished` means runs that did not succeed. For the other
    runs only asset events and changes of the run status are written: Dagster reads no others for a cohort.

    Raises ValueError if `fractions` names an unknown kind or the fractions exceed 1, and if the instance already has
    subjects.
    """
    if instance.get_dynamic_partitions(PARTITIONS):
        raise ValueError("the instance already has subjects: expected an empty instance")
    keys = [f"sub-{number:05d}" for number in range(1, subjects + 1)]
    kinds = _draw_kinds(keys, seed, fractions or {})
    cohort = {key: SubjectHistory(kind, _states(KINDS[kind])) for key, kind in kinds.items()}
    for start in range(0, subjects, _PARTITIONS_PER_STATEMENT):
        instance.add_dynamic_partitions(PARTITIONS, keys[start : start + _PARTITIONS_PER_STATEMENT])
    steps = [
        (key, KINDS[history.kind].steps[index])
        for index in range(max(len(kind.steps) for kind in KINDS.values()))
        for key, history in cohort.items()
        if index < len(KINDS[history.kind].steps)
    ]
    by_name, snapshots = templates()
    copy_snapshots(instance, snapshots)
    writer = CohortWriter(instance, cohort, seed, figure_bytes, len(steps))
    for key, step in steps:
        writer.add_step(key, by_name[step], all_events=run_logs == "all" or not by_name[step].succeeded)
    writer.finish()
    return cohort


def _draw_kinds(keys: list[str], seed: int, fractions: Mapping[str, float]) -> dict[str, str]:
    known = set(KINDS) - {"fresh"}
    if not known.issuperset(fractions):
        raise ValueError(f"fractions of {', '.join(sorted(fractions))}: expected some of {', '.join(sorted(known))}")
    counts = {name: round(fractions.get(name, kind.fraction) * len(keys)) for name, kind in KINDS.items()}
    counts["fresh"] = len(keys) - sum(counts.values())
    if counts["fresh"] < 0:
        raise ValueError(f"the fractions add up to more than 1: {counts}")
    kinds = [name for name, count in counts.items() for _ in range(count)]
    random.Random(seed).shuffle(kinds)
    return dict(zip(keys, kinds, strict=True))


def _states(kind: Kind) -> dict[str, State]:
    settings, states = PipelineSettings(), dict[str, State]()
    for derivative in DERIVATIVES:
        upstream = [states[name] for name in derivative.inputs(settings) if name in states]
        inherited: State = "fresh" if {"fresh", "not-applicable"}.issuperset(upstream) else "stale-upstream"
        states[derivative.name] = kind.states.get(derivative.name, inherited)
    return states
