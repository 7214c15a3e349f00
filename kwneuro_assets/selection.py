"""Which derivatives a text names."""

from __future__ import annotations

from dagster import AssetsDefinition, AssetSelection, SourceAsset

from kwneuro_assets.assets import DERIVATIVES
from kwneuro_assets.errors import ActionableError
from kwneuro_assets.ingestion.source import source_assets
from kwneuro_assets.settings import PipelineSettings


class SelectionError(ActionableError, ValueError):
    """A selection of assets that selects nothing, or names what there is not."""


def select(settings: PipelineSettings, selection: str | None) -> list[str]:
    """The derivatives that a selection names, in the order in which they follow from one another.

    `selection` is a comma-separated list of assets or Dagster's selection syntax; None selects all.
    Raises SelectionError.
    """
    names = [derivative.name for derivative in DERIVATIVES]
    if not selection:
        return names
    assets: list[AssetsDefinition | SourceAsset] = [
        *source_assets(settings),
        *(derivative.build(settings) for derivative in DERIVATIVES),
    ]
    try:
        keys = AssetSelection.from_coercible([part.strip() for part in selection.split(",")]).resolve(assets)
    except Exception as error:  # Dagster's parser raises several kinds, all of them about this text
        raise SelectionError(f"selection {selection!r}: {error}. The assets are: {', '.join(names)}") from None
    chosen = [name for name in names if any(key.to_user_string() == name for key in keys)]
    if not chosen:
        raise SelectionError(f"selection {selection!r} selects no derivative. The assets are: {', '.join(names)}")
    return chosen
