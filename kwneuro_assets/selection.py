"""Which derivatives a text names."""

from __future__ import annotations

from dagster import AssetsDefinition, AssetSelection, SourceAsset

from kwneuro_assets.assets import DERIVATIVES, GROUP_DERIVATIVE
from kwneuro_assets.assets.group_response import OF
from kwneuro_assets.errors import ActionableError
from kwneuro_assets.ingestion.source import source_assets
from kwneuro_assets.settings import PipelineSettings

_SUBJECTS = tuple(derivative.name for derivative in DERIVATIVES)


class SelectionError(ActionableError, ValueError):
    """A selection of assets that selects nothing, or names what there is not."""


def select(settings: PipelineSettings, selection: str | None) -> list[str]:
    """The derivatives of a subject that a selection names, in the order in which they follow from one another.

    `selection` is a comma-separated list of assets or Dagster's selection syntax; None selects all.
    Raises SelectionError.
    """
    chosen = _chosen(settings, selection, _SUBJECTS) if selection else list(_SUBJECTS)
    if not chosen:
        raise SelectionError(
            f"selection {selection!r} selects no derivative of a subject. These are: {', '.join(_SUBJECTS)}"
        )
    return chosen


def select_with_group(settings: PipelineSettings, selection: str | None) -> list[str]:
    """As `select`, with that of the group in its place where the selection names it, or where all are selected and the
    settings use it."""
    where = _SUBJECTS.index(OF) + 1
    names = (*_SUBJECTS[:where], GROUP_DERIVATIVE.name, *_SUBJECTS[where:])
    if not selection:
        return list(names if settings.csd.group_response else _SUBJECTS)
    chosen = _chosen(settings, selection, names)
    if not chosen:
        raise SelectionError(f"selection {selection!r} selects no derivative. The assets are: {', '.join(names)}")
    return chosen


def _chosen(settings: PipelineSettings, selection: str, names: tuple[str, ...]) -> list[str]:
    assets: list[AssetsDefinition | SourceAsset] = [
        *source_assets(settings),
        *(derivative.build(settings) for derivative in (*DERIVATIVES, GROUP_DERIVATIVE)),
    ]
    try:
        keys = AssetSelection.from_coercible([part.strip() for part in selection.split(",")]).resolve(assets)
    except Exception as error:  # Dagster's parser raises several kinds, all of them about this text
        raise SelectionError(f"selection {selection!r}: {error}. The assets are: {', '.join(names)}") from None
    return [name for name in names if any(key.to_user_string() == name for key in keys)]
