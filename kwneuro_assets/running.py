"""Making derivatives in this process: what the command line and a notebook call."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from dagster import AssetSelection, DagsterInstance, ExecuteInProcessResult
from dagster import DagsterEventType as Event

from kwneuro_assets.assets import DERIVATIVES
from kwneuro_assets.assets.progress import ProgressReporter
from kwneuro_assets.definitions import build
from kwneuro_assets.errors import ActionableError
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.versioning.records import CODE_VERSION_TAG, DATA_VERSION_TAG

Outcome = Literal["made", "not-applicable", "failed", "skipped"]


class SelectionError(ActionableError, ValueError):
    """A selection of assets that selects nothing, or names what there is not."""


@dataclass(frozen=True)
class Result:
    """What became of one derivative of one subject in a run; `reason` where it was not made."""

    subject: str
    asset: str
    outcome: Outcome
    reason: str = ""
    seconds: float | None = None
    data_version: str = ""
    code_version: str = ""


def select(settings: PipelineSettings, selection: str | None) -> list[str]:
    """The derivatives that a selection names, in the order in which they follow from one another.

    `selection` is a comma-separated list of assets or Dagster's selection syntax; None selects all.
    Raises SelectionError.
    """
    names = [derivative.name for derivative in DERIVATIVES]
    if not selection:
        return names
    graph = build(settings).resolve_asset_graph()
    try:
        keys = AssetSelection.from_coercible([part.strip() for part in selection.split(",")]).resolve(graph)
    except Exception as error:  # Dagster's parser raises several kinds, all of them about this text
        raise SelectionError(f"selection {selection!r}: {error}. The assets are: {', '.join(names)}") from None
    chosen = [name for name in names if any(key.to_user_string() == name for key in keys)]
    if not chosen:
        raise SelectionError(f"selection {selection!r} selects no derivative. The assets are: {', '.join(names)}")
    return chosen


def run_subject(
    instance: DagsterInstance,
    settings: PipelineSettings,
    subject: str,
    assets: Collection[str],
    progress: ProgressReporter | None = None,
) -> list[Result]:
    """Materialize derivatives of one subject in this process; one that fails stops only what follows from it."""
    definitions = build(settings, progress)
    job = definitions.resolve_implicit_global_asset_job_def()
    result = job.get_subset(
        asset_selection=AssetSelection.assets(*assets).resolve(definitions.resolve_asset_graph())
    ).execute_in_process(
        instance=instance,
        partition_key=subject,
        raise_on_error=False,
        # What matters is told by the caller; Dagster's own account is in the event log.
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
    )
    return _results(result, subject, assets)


def _results(result: ExecuteInProcessResult, subject: str, assets: Collection[str]) -> list[Result]:
    made: dict[str, Result] = {}
    for event in result.all_events:
        if event.event_type == Event.ASSET_MATERIALIZATION:
            materialization = event.step_materialization_data.materialization
            metadata = {key: value.value for key, value in materialization.metadata.items()}
            tags = materialization.tags or {}
            name = materialization.asset_key.to_user_string()
            reason = str(metadata.get("not_applicable", ""))
            made[name] = Result(
                subject,
                name,
                "not-applicable" if reason else "made",
                reason,
                metadata.get("seconds"),  # type: ignore[arg-type]  # the mechanism's own number
                tags.get(DATA_VERSION_TAG, ""),
                tags.get(CODE_VERSION_TAG, ""),
            )
        elif event.event_type == Event.STEP_FAILURE and event.step_key:
            made[event.step_key] = Result(subject, event.step_key, "failed", _cause(event))
    return [made.get(name) or Result(subject, name, "skipped", "something above it failed") for name in assets]


def _cause(event: Any) -> str:
    """The message of the error at the bottom of the chain, without its class and traceback."""
    failure = event.step_failure_data
    if failure.user_failure_data is not None and failure.user_failure_data.description:
        return str(failure.user_failure_data.description)
    error = failure.error
    while error is not None and error.cause is not None:
        error = error.cause
    if error is None:
        return "failed without an error"
    # Dagster puts the class in front of the message, with its module where it is not a built-in one.
    return re.sub(rf"^[\w.]*{re.escape(error.cls_name or '')}: ", "", str(error.message).strip())
