"""The outcome of each derivative in a run."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from dagster import DagsterEventType as Event
from dagster import ExecuteInProcessResult

from kwneuro_assets.assets.mechanism.freshness import SKIPPED
from kwneuro_assets.versioning.dagster_internals import failure_message
from kwneuro_assets.versioning.records import CODE_VERSION_TAG, DATA_VERSION_TAG, NOT_APPLICABLE
from kwneuro_assets.versioning.staleness import Status

Outcome = Literal["materialized", "skipped", "not-applicable", "failed", "upstream-failed"]


@dataclass(frozen=True)
class Result:
    """The outcome of one derivative of one subject.

    Attributes:
        subject: The subject key, or `group`.
        asset: The name of the derivative.
        outcome: `skipped` means that it was already up to date.
        reason: Why it was not materialized, or is not up to date although it was; "" if there is nothing to say.
        seconds: Computing time; None if the step did not run.
        data_version: The data version in the store; "" if there is none.
        code_version: The code version of that; "" if there is none.
        added: Whether it was not requested by name, but added as an upstream derivative.
        note: What the user must know about it, such as that a demo network computed it.
    """

    subject: str
    asset: str
    outcome: Outcome
    reason: str = ""
    seconds: float | None = None
    data_version: str = ""
    code_version: str = ""
    added: bool = False
    note: str = ""

    @property
    def succeeded(self) -> bool:
        """Whether the store has the derivative, or the reason why it is not applicable."""
        return self.outcome in ("materialized", "skipped", "not-applicable")


def skipped_result(subject: str, name: str, status: Status) -> Result:
    """The result of a derivative that no step ran for."""
    outcome: Outcome = "not-applicable" if status.state == "not-applicable" else "skipped"
    reason = status.why[0] if status.why else ""
    return Result(subject, name, outcome, reason, None, status.data_version or "", status.code_version or "")


def run_results(run: ExecuteInProcessResult, subject: str, assets: Collection[str]) -> list[Result]:
    """The result of each of the assets, from the events of the run."""
    results: dict[str, Result] = {}
    for event in run.all_events:
        if event.event_type == Event.ASSET_MATERIALIZATION:
            materialization = event.step_materialization_data.materialization
            metadata = {key: value.value for key, value in materialization.metadata.items()}
            tags = materialization.tags or {}
            name = materialization.asset_key.to_user_string()
            reason = str(metadata.get(NOT_APPLICABLE, ""))
            results[name] = Result(
                subject,
                name,
                "not-applicable" if reason else "skipped" if SKIPPED in metadata else "materialized",
                reason,
                metadata.get("seconds"),  # type: ignore[arg-type]  # this package writes it as a float
                tags.get(DATA_VERSION_TAG, ""),
                tags.get(CODE_VERSION_TAG, ""),
            )
        elif event.event_type == Event.STEP_FAILURE and event.step_key:
            results[event.step_key] = Result(subject, event.step_key, "failed", failure_message(event))
    failed_above = "a derivative upstream failed"
    return [results.get(name) or Result(subject, name, "upstream-failed", failed_above) for name in assets]
