"""The source assets: observed through Dagster, they are recorded as by `kwneuro-assets ingest`, and loaded by steps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dagster import AssetKey, AssetRecordsFilter, DagsterInstance, Definitions
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.definitions.observe import observe
from dagster._core.loader import LoadingContextForTest

from kwneuro_assets.assets import build_assets
from kwneuro_assets.assets.source import build_source_assets
from kwneuro_assets.cohort.run import run_subject
from kwneuro_assets.ingestion.ingest import ingest
from kwneuro_assets.resources import build_resources
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.versioning.partitions import PARTITIONS
from kwneuro_assets.versioning.records import recorded
from kwneuro_assets_tests.testkit.small_dataset import dwi_folder, small_settings, write_dataset

KEYS = ["sub-01", "sub-02"]
SOURCES = ("dwi", "provided_mask")


@pytest.fixture
def settings(tmp_path: Path) -> PipelineSettings:
    write_dataset(tmp_path / "source", KEYS)
    return small_settings(tmp_path / "source", tmp_path / "store")


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as instance:
        yield instance


def definitions_of(settings: PipelineSettings) -> Definitions:
    return Definitions(assets=build_assets(settings), resources=build_resources(settings))


def observe_source(instance: DagsterInstance, settings: PipelineSettings, partition: str | None = None) -> None:
    observe(
        build_source_assets(settings),
        instance=instance,
        resources=build_resources(settings),
        partition_key=partition,
    )


def observations(instance: DagsterInstance, asset: str, key: str) -> list[tuple[dict[str, str], dict[str, Any]]]:
    """Tags and metadata of all observations of an asset's partition."""
    wanted = AssetRecordsFilter(AssetKey(asset), asset_partitions=[key])
    found = [record.asset_observation for record in instance.fetch_observations(wanted, limit=100).records]
    return [
        (dict(one.tags), {label: entry.value for label, entry in one.metadata.items()})
        for one in found
        if one is not None
    ]


def raise_bvalues(settings: PipelineSettings, key: str) -> None:
    file = dwi_folder(Path(settings.source.url), key) / f"{key}_dwi.bval"
    file.write_text(" ".join(f"{float(value) * 1.1:g}" for value in file.read_text().split()))


def test_observing_records_the_same_as_ingest(instance: DagsterInstance, settings: PipelineSettings) -> None:
    observe_source(instance, settings)
    assert sorted(instance.get_dynamic_partitions(PARTITIONS)) == KEYS
    with DagsterInstance.ephemeral() as other:
        ingest(other, settings)
        for asset in SOURCES:
            for key in KEYS:
                found = observations(instance, asset, key)
                assert found == observations(other, asset, key)
                [(tags, metadata)] = found
                assert tags["dagster/data_version"]
                assert metadata["files"]


def test_observing_unchanged_data_records_nothing(instance: DagsterInstance, settings: PipelineSettings) -> None:
    observe_source(instance, settings)
    observe_source(instance, settings)
    observe_source(instance, settings, "sub-01")
    assert {len(observations(instance, asset, key)) for asset in SOURCES for key in KEYS} == {1}


def test_observing_one_partition_leaves_the_others(instance: DagsterInstance, settings: PipelineSettings) -> None:
    observe_source(instance, settings)
    for key in KEYS:
        raise_bvalues(settings, key)
    observe_source(instance, settings, "sub-01")
    assert [len(observations(instance, "dwi", key)) for key in KEYS] == [2, 1]


def test_one_source_asset_alone_can_be_observed(instance: DagsterInstance, settings: PipelineSettings) -> None:
    """As the UI does: a run of the implicit job with that asset selected, without a partition."""
    job = definitions_of(settings).resolve_implicit_global_asset_job_def().get_subset(asset_selection={AssetKey("dwi")})
    assert job.execute_in_process(instance=instance).success
    assert {len(observations(instance, "dwi", key)) for key in KEYS} == {1}


def test_a_step_loads_what_was_observed_and_dagster_shows_it_as_stale_after_a_change(
    instance: DagsterInstance, settings: PipelineSettings
) -> None:
    def status() -> StaleStatus:
        graph = definitions_of(settings).resolve_asset_graph()
        return CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance)).get_status(
            AssetKey("denoised_dwi"), "sub-01"
        )

    def run() -> str:
        [result] = run_subject(instance, settings, "sub-01", ["denoised_dwi"])
        return result.outcome

    observe_source(instance, settings)
    assert run() == "materialized"
    assert status() == StaleStatus.FRESH
    raise_bvalues(settings, "sub-01")
    assert status() == StaleStatus.FRESH, "not observed yet"
    observe_source(instance, settings, "sub-01")
    assert status() == StaleStatus.STALE
    assert run() == "materialized"
    record = recorded(instance, "denoised_dwi", "sub-01")
    observed = recorded(instance, "dwi", "sub-01", observed=True)
    assert record is not None
    assert observed is not None
    assert record.input_data_versions == {"dwi": observed.data_version}
    assert status() == StaleStatus.FRESH


def test_a_subject_that_cannot_be_used_is_quarantined_and_the_run_succeeds(
    instance: DagsterInstance, settings: PipelineSettings
) -> None:
    (dwi_folder(Path(settings.source.url), "sub-02") / "sub-02_dwi.bvec").write_text("no numbers\n")
    observe_source(instance, settings)
    assert instance.get_dynamic_partitions(PARTITIONS) == ["sub-01"]


def test_the_provided_mask_is_an_asset_only_if_the_settings_use_it(settings: PipelineSettings) -> None:
    def names(settings: PipelineSettings) -> set[str]:
        [definition] = build_source_assets(settings)
        return {key.to_user_string() for key in definition.keys}

    assert names(settings) == set(SOURCES)
    assert names(PipelineSettings.model_validate({"brain_mask": {"method": "median-otsu"}})) == {"dwi"}
