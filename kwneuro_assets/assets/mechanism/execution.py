"""One step: skip what is up to date, else load the inputs, compute, draw the figure and record the provenance."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

from dagster import AssetExecutionContext, BetaWarning, DataVersion, Failure, MaterializeResult

from kwneuro_assets.assets.derivative import Derivative, Inputs, Project, own_parameters
from kwneuro_assets.assets.mechanism.check_results import check_results
from kwneuro_assets.assets.mechanism.event_metadata import event_metadata
from kwneuro_assets.assets.mechanism.freshness import SKIPPED, is_forced, up_to_date_record
from kwneuro_assets.assets.mechanism.group_inputs import Previous, values_by_subject
from kwneuro_assets.assets.mechanism.input_steps import missing_step, recorded_step
from kwneuro_assets.assets.mechanism.memory import PeakMemory
from kwneuro_assets.assets.mechanism.provenance import provenance_of, store_key
from kwneuro_assets.errors import ActionableError
from kwneuro_assets.imaging import NotApplicable
from kwneuro_assets.imaging.content_hash import Value
from kwneuro_assets.launchers.liveness import mark_process
from kwneuro_assets.reports.content import Step
from kwneuro_assets.resources.deferred_input import Deferred
from kwneuro_assets.resources.derivative_io_manager import DerivativeOutput, MissingFromStore
from kwneuro_assets.resources.step_networks import StepNetworks
from kwneuro_assets.settings import PipelineSettings, Section, SettingsError
from kwneuro_assets.versioning.code import Code
from kwneuro_assets.versioning.records import (
    CODE_VERSION_TAG,
    INPUT_DATA_VERSION_TAG,
    Recorded,
    recorded,
    report_missing_from_store,
)
from kwneuro_assets.versioning.source_names import SOURCES

# Beta, and needed: without `data_version`, Dagster generates a version that changes with every run.
warnings.filterwarnings("ignore", "Parameter `data_version` of initializer `Output", BetaWarning)


def run_step(
    context: AssetExecutionContext,
    derivative: Derivative,
    code: Code,
    settings: PipelineSettings,
    inputs: Mapping[str, Deferred],
) -> MaterializeResult[DerivativeOutput]:
    """Materialize a derivative of one subject, or of the group, unless it is up to date.

    Raises Failure, with the message alone, for an error that the user can act on.
    """
    mark_process(context)
    partition = context.partition_key if derivative.is_partitioned else None
    key = store_key(partition)
    inputs = {name: one for name, one in inputs.items() if one.known or name not in derivative.may_be_missing}
    known = {label: one.known or _raise_not_recorded(one) for label, one in inputs.items()}
    networks = StepNetworks(settings, derivative.network_names(settings))
    is_computed = not any(_rules_out(derivative, label, one) for label, one in known.items())
    code = _with_weights(code, networks.digests) if is_computed else code
    if not (is_forced(derivative, context.run.tags) or derivative.is_snapshot):
        versions = {label: event.data_version for label, event in known.items()}
        before = up_to_date_record(context, derivative, code, partition, key, versions)
        if before is not None:
            return _skipped(context, derivative, settings, before, known, code)

    def progress(fraction: float) -> None:
        context.resources.progress.report(context, fraction)

    progress(0.0)
    code = _with_weights(code, networks.verified_digests) if is_computed else code
    values = _load_all(context, derivative, inputs)
    provided: dict[str, Callable[[], Any]] = {
        "subject": lambda: str(key),
        "progress": lambda: progress,
        "networks": lambda: networks,
        "steps": lambda: _steps(derivative, settings, inputs),
        "stored_file": lambda: context.resources.derivatives.store.read_file,
        "previous": lambda: _previous(context, derivative, code),
        "project": lambda: Project(context.instance, settings),
    }
    injected: dict[str, Any] = derivative.own_settings(settings)
    injected |= {name: provided[name]() for name in derivative.injected if name in provided}
    started = time.perf_counter()
    with PeakMemory() as memory:
        value = not_applicable(derivative, values) or compute_value(derivative, values, injected, code)
    seconds = time.perf_counter() - started
    provenance = provenance_of(derivative, code, key, value, inputs, known, networks.used())
    is_applicable = not isinstance(value, NotApplicable)
    title = f"{key}  {derivative.name}" + (f"  ({networks.note})" if networks.note else "")
    figure = draw_figure(derivative, context, value, values, title) if is_applicable else None
    summary = derivative.summary(value, values) if is_applicable else {}
    metadata = event_metadata(value, provenance, figure, summary, seconds, memory.peak)
    progress(1.0)
    return MaterializeResult(
        value=DerivativeOutput(value, provenance, figure),
        data_version=DataVersion(provenance.data_version),
        metadata=metadata,
        tags=_version_tags(known, code),
        check_results=check_results(derivative, settings, value),
    )


def compute_value(derivative: Derivative, inputs: Inputs, injected: Mapping[str, Any], code: Code) -> Value:
    """The derivative's value.

    Raises SettingsError, as Failure, if a file that a setting names has changed since the run read it.
    """
    with _actionable_errors_as_failure():
        value = derivative.compute(**inputs, **injected)
        if own_parameters(one for one in injected.values() if isinstance(one, Section)) != code.parameters:
            raise SettingsError("a file that the settings name changed while the run used it: run again")
        return value


def draw_figure(
    derivative: Derivative, context: AssetExecutionContext, value: Value, inputs: Inputs, title: str
) -> bytes | None:
    """The figure as PNG; None if the derivative has none.

    If drawing fails, the error is logged and the derivative is stored without a figure.
    """
    if derivative.figure is None:
        return None
    try:
        return derivative.figure(value, inputs, title)
    except Exception:
        context.log.exception(f"{derivative.name}: the figure cannot be drawn; the derivative itself is complete")
        return None


def load_input(context: AssetExecutionContext, deferred: Deferred) -> Value:
    """The value of an input. If it is missing from the store, that is recorded, so that it counts as missing."""
    with _actionable_errors_as_failure():
        try:
            return deferred.load()
        except MissingFromStore as error:
            report_missing_from_store(context.instance, deferred.asset, deferred.partition, str(error))
            raise


def _load_all(context: AssetExecutionContext, derivative: Derivative, inputs: Mapping[str, Deferred]) -> Inputs:
    """The inputs as the derivative's function takes them: those of a group are loaded when the function asks."""
    if not derivative.is_partitioned:
        return values_by_subject(derivative.required_inputs, inputs.values(), partial(load_input, context))
    unread = derivative.unread_inputs
    return {label: recorded_step(one) if label in unread else load_input(context, one) for label, one in inputs.items()}


def _steps(derivative: Derivative, settings: PipelineSettings, inputs: Mapping[str, Deferred]) -> dict[str, Step]:
    """How each input of a subject was computed, those that are missing included."""
    return {
        name: recorded_step(inputs[name]) if name in inputs else missing_step(name)
        for name in derivative.inputs(settings)
    }


def _previous(context: AssetExecutionContext, derivative: Derivative, code: Code) -> Previous | None:
    """The value of the group that this one replaces, if the same code computed it and the store has it."""
    before = recorded(context.instance, derivative.name, None)
    if before is None or before.code_version != code.version:
        return None
    deferred = context.resources.derivatives.deferred(derivative.name, None, before)
    try:
        return Previous(deferred.load(), before.input_data_versions)
    except MissingFromStore:
        return None


def not_applicable(derivative: Derivative, inputs: Inputs) -> NotApplicable | None:
    """The value of a derivative with an input that is not applicable; None if all inputs are usable."""
    for name, value in inputs.items():
        if isinstance(value, NotApplicable) and name not in derivative.accepts_not_applicable:
            return NotApplicable(f"needs {name}, which is not applicable: {value.reason}")
    return None


def _rules_out(derivative: Derivative, label: str, known: Recorded) -> bool:
    """Whether an input makes the derivative not applicable, as `not_applicable` finds from the values."""
    return known.not_applicable is not None and label not in derivative.accepts_not_applicable


def _with_weights(code: Code, digests: Callable[[], Mapping[str, str]]) -> Code:
    """The code with the weights that the step uses: when the asset was defined, they may not have been installed."""
    with _actionable_errors_as_failure():
        return replace(code, weights=digests())


def _skipped(
    context: AssetExecutionContext,
    derivative: Derivative,
    settings: PipelineSettings,
    before: Recorded,
    known: Mapping[str, Recorded],
    code: Code,
) -> MaterializeResult[DerivativeOutput]:
    """A materialization without a value: nothing is computed or stored; the metadata is recorded again.

    Only a derivative with checks is loaded: their limits may have changed, and Dagster requires a result of each.
    """
    context.log.info(f"{context.asset_key.to_user_string()} is up to date: skipped")
    results = []
    if derivative.checks:
        partition = context.partition_key if derivative.is_partitioned else None
        results = check_results(
            derivative,
            settings,
            load_input(context, context.resources.derivatives.deferred(derivative.name, partition, before)),
        )
    return MaterializeResult(
        data_version=DataVersion(before.data_version),
        metadata={**before.metadata, SKIPPED: True},
        tags=_version_tags(known, code),
        check_results=results,
    )


def _version_tags(known: Mapping[str, Recorded], code: Code) -> dict[str, str]:
    """What Dagster would record otherwise.

    For source assets, it takes the hash of an empty value as their data version. As the code version, it takes that of
    the definition, from before the step downloaded its weights.
    """
    sources = {f"{INPUT_DATA_VERSION_TAG}/{name}": one.data_version for name, one in known.items() if name in SOURCES}
    return {**sources, CODE_VERSION_TAG: code.version}


def _raise_not_recorded(deferred: Deferred) -> NoReturn:
    """Raise the error of the I/O manager for an input that was never materialized or observed."""
    with _actionable_errors_as_failure():
        deferred.load()
    raise AssertionError(f"{deferred.asset} was loaded without a record in the event log")


@contextmanager
def _actionable_errors_as_failure() -> Iterator[None]:
    """Convert an error that the user can act on into a Dagster Failure with its message and no traceback."""
    try:
        yield
    except ActionableError as error:
        raise Failure(str(error), allow_retries=False) from None
