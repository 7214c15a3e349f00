"""Removal of subjects that are no longer in the source."""

from __future__ import annotations

import shutil
from pathlib import Path

from dagster import DagsterInstance

from kwneuro_assets.cohort.prune import find_orphaned, remove_orphaned
from kwneuro_assets.cohort.run import run_subject
from kwneuro_assets.ingestion.ingest import ingest
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets.versioning.partitions import PARTITIONS
from kwneuro_assets_tests.testkit.small_dataset import settings_for, write_dataset
from kwneuro_assets_tests.testkit.ticking import create_run


def dataset_with_two_orphaned(folder: Path, instance: DagsterInstance) -> PipelineSettings:
    """Three ingested subjects; two of them have a derivative and are no longer in the source."""
    source = write_dataset(folder / "source", ["sub-01", "sub-02", "sub-03"])
    settings = settings_for(source)
    ingest(instance, settings)
    for key in ("sub-02", "sub-03"):
        run_subject(instance, settings, key, ["denoised_dwi"])
        shutil.move(source / key, folder / key)
    return settings


def test_a_subject_whose_run_started_after_listing_is_not_removed(tmp_path: Path, instance: DagsterInstance) -> None:
    settings = dataset_with_two_orphaned(tmp_path, instance)
    store = DerivativeStore(tmp_path / "store")
    orphaned = find_orphaned(instance, settings, store)
    assert [(one.subject, one.busy) for one in orphaned] == [("sub-02", False), ("sub-03", False)]
    create_run(instance, "sub-02", "dti")
    assert [one.subject for one in remove_orphaned(instance, settings, store, orphaned)] == ["sub-03"]
    assert sorted(instance.get_dynamic_partitions(PARTITIONS)) == ["sub-01", "sub-02"]
    assert store.assets(SubjectKey("02")) == ["denoised_dwi"]
    assert store.assets(SubjectKey("03")) == []


def test_a_subject_that_returned_is_not_removed_and_later_derivatives_of_others_are(
    tmp_path: Path, instance: DagsterInstance
) -> None:
    settings = dataset_with_two_orphaned(tmp_path, instance)
    store = DerivativeStore(tmp_path / "store")
    orphaned = find_orphaned(instance, settings, store)
    shutil.move(tmp_path / "sub-02", tmp_path / "source" / "sub-02")
    value, sidecar = store.read("denoised_dwi", SubjectKey("03"))
    store.write("noddi", SubjectKey("03"), value, sidecar.provenance)
    [removed] = remove_orphaned(instance, settings, store, orphaned)
    assert (removed.subject, removed.derivatives) == ("sub-03", ("denoised_dwi", "noddi"))
    assert sorted(instance.get_dynamic_partitions(PARTITIONS)) == ["sub-01", "sub-02"]
    assert store.assets(SubjectKey("02")) == ["denoised_dwi"]
    assert store.assets(SubjectKey("03")) == []
