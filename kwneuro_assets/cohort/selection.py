"""Selection of derivatives by name or by Dagster's selection syntax, with or without upstream derivatives."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from dagster import AssetSelection

from kwneuro_assets.assets import COHORT_DERIVATIVES, GROUP_DERIVATIVE, build_assets, derivatives
from kwneuro_assets.assets.group_response import OF
from kwneuro_assets.errors import ActionableError
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.storage.names import NAMES
from kwneuro_assets.subjects import GROUP, StoreKey


class SelectionError(ActionableError, ValueError):
    """A selection of assets that is not valid or selects nothing."""


def select(settings: PipelineSettings, selection: str | None) -> list[str]:
    """The selected derivatives of a subject, in topological order.

    `selection` is a comma-separated list of assets or Dagster's selection syntax; None selects all.
    Raises SelectionError if it is not valid or selects none.
    """
    names = _of_subjects(settings)
    chosen = _chosen(settings, selection, names) if selection else list(names)
    if not chosen:
        raise SelectionError(
            f"selection {selection!r} selects no derivative of a subject. The derivatives are: {', '.join(names)}"
        )
    return chosen


def select_with_group(settings: PipelineSettings, selection: str | None) -> list[str]:
    """As `select`, including the group's derivatives if they are selected.

    Without a selection, it is all derivatives of a subject, and the group response if the settings use it.
    """
    if not selection:
        of_cohort = {derivative.name for derivative in COHORT_DERIVATIVES}
        names = _with_group(settings) if settings.csd.group_response else _of_subjects(settings)
        return [name for name in names if name not in of_cohort]
    names = _with_group(settings)
    chosen = _chosen(settings, selection, names)
    if not chosen:
        raise SelectionError(f"selection {selection!r} selects no derivative. The assets are: {', '.join(names)}")
    return chosen


def select_for(settings: PipelineSettings, selection: str, keys: Collection[StoreKey]) -> list[str]:
    """The selected derivatives, for a command about these subjects or the group.

    Raises SelectionError as `select` does, if none of `keys` can have a derivative that is named, and if one of `keys`
    can have none of the selected derivatives.
    """
    chosen = select_with_group(settings, selection)
    for name in chosen:
        if not any(NAMES[name].is_of(key) for key in keys) and name in [part.strip() for part in selection.split(",")]:
            remedy = f"add --subject {GROUP}" if NAMES[name].of_group else "name a subject"
            raise SelectionError(f"{name} is no derivative of {', '.join(map(str, keys))}: {remedy}")
    for key in keys:
        if not any(NAMES[name].is_of(key) for name in chosen):
            raise SelectionError(f"selection {selection!r} selects no derivative of {key}")
    return chosen


def with_upstream(settings: PipelineSettings, names: Collection[str]) -> list[str]:
    """These derivatives and all derivatives upstream of them under these settings, in topological order.

    That includes the group's derivatives, but not what is upstream of these only: that is of all subjects.
    """
    wanted = set(names)
    of_cohort = {derivative.name for derivative in COHORT_DERIVATIVES}
    for derivative in reversed(COHORT_DERIVATIVES):
        if derivative.name in wanted:
            wanted.update(of_cohort.intersection(derivative.inputs(settings)))
    for derivative in reversed(derivatives(settings)):
        if derivative.name in wanted:
            wanted.update(derivative.inputs(settings))
    return [name for name in _with_group(settings) if name in wanted]


def to_compute(settings: PipelineSettings, assets: Sequence[str], wanted: Collection[str]) -> list[str]:
    """Those of `assets` that are wanted, and those that were up to date without an input that is computed now."""
    chosen = set(wanted)
    for derivative in derivatives(settings):
        if derivative.name in assets and chosen.intersection(derivative.may_be_missing):
            chosen.add(derivative.name)
    return [name for name in assets if name in chosen]


def _of_subjects(settings: PipelineSettings) -> tuple[str, ...]:
    return tuple(derivative.name for derivative in derivatives(settings))


def _with_group(settings: PipelineSettings) -> tuple[str, ...]:
    """The group response follows its input; derivatives of the cohort come last."""
    names = _of_subjects(settings)
    where = names.index(OF) + 1
    last = (derivative.name for derivative in COHORT_DERIVATIVES)
    return (*names[:where], GROUP_DERIVATIVE.name, *names[where:], *last)


def _chosen(settings: PipelineSettings, selection: str, names: tuple[str, ...]) -> list[str]:
    assets = build_assets(settings)
    try:
        keys = AssetSelection.from_coercible([part.strip() for part in selection.split(",")]).resolve(assets)
    except Exception as error:  # Dagster's parser raises several types, all about this text
        raise SelectionError(f"selection {selection!r}: {error}. The assets are: {', '.join(names)}") from None
    return [name for name in names if any(key.to_user_string() == name for key in keys)]
