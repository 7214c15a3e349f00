"""`dagster_internals` reads the same as Dagster's public interface, in each kind of storage.

If a test fails with a new version of Dagster, correct `kwneuro_assets/versioning/dagster_internals.py`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import AssetKey, AssetMaterialization, AssetObservation, DagsterInstance, DagsterRunStatus, MetadataValue

import kwneuro_assets
from kwneuro_assets.versioning.dagster_internals import (
    MATERIALIZED,
    OBSERVED,
    PLANNED,
    acquire_lock,
    add_backfill,
    event_texts,
    newest_events,
    newest_with_metadata,
    read_values,
    release_lock,
    run_ends,
    run_statuses,
    steps_of_ended_runs,
    write_values,
)
from kwneuro_assets.versioning.history import read_history
from kwneuro_assets.versioning.partitions import PARTITIONS, subject_partitions
from kwneuro_assets.versioning.records import CODE_VERSION_TAG, DATA_VERSION_TAG, recorded
from kwneuro_assets_tests.testkit.event_log import KINDS, NAMES, SubjectHistory, write_cohort

PACKAGE = Path(kwneuro_assets.__file__).parent
TWO_OF_EACH = {name: 0.1 for name in KINDS if name != "fresh"}


@pytest.fixture(scope="module", params=["a file for each run", "one table", "Postgres"])
def instance(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterInstance]:
    home = tmp_path_factory.mktemp("home")
    if request.param == "Postgres":
        from kwneuro_assets_tests.testkit.postgres_server import instance_on

        opened = instance_on(request.getfixturevalue("postgres_server"), home)
    elif request.param == "one table":
        opened = DagsterInstance.ephemeral()
    else:
        opened = DagsterInstance.local_temp(str(home))
    with opened as one:
        yield one


@pytest.fixture(scope="module")
def cohort(instance: DagsterInstance) -> dict[str, SubjectHistory]:
    return write_cohort(instance, 20, fractions=TWO_OF_EACH)


def test_only_one_module_imports_private_modules_of_dagster() -> None:
    private = re.compile(r"^\s*(from|import) (dagster\._|dagster_shared)", re.M)
    found = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if private.search(path.read_text())}
    assert found == {"versioning/dagster_internals.py"}


def test_a_history_equals_the_records_that_dagster_returns_one_by_one(
    instance: DagsterInstance, cohort: dict[str, SubjectHistory]
) -> None:
    history = read_history(instance, NAMES, ["dwi"], cohort)
    for subject in cohort:
        for name in ("dwi", *NAMES):
            one, of_all = recorded(instance, name, subject, observed=name == "dwi"), history.records[name].get(subject)
            if one is None:
                assert of_all is None
                continue
            assert of_all is not None
            assert of_all.event_id == one.event_id
            assert of_all.data_version == one.data_version
            assert of_all.code_version == (one.code_version or "")
            assert of_all.input_data_versions == one.input_data_versions
            assert of_all.not_applicable == one.not_applicable


def test_few_subjects_are_read_like_all(
    instance: DagsterInstance, cohort: dict[str, SubjectHistory], monkeypatch: pytest.MonkeyPatch
) -> None:
    of_few = read_history(instance, NAMES, ["dwi"], cohort)
    monkeypatch.setattr("kwneuro_assets.versioning.history.FEW", 0)
    assert read_history(instance, NAMES, ["dwi"], cohort) == of_few
    [subject] = [key for key, written in cohort.items() if written.kind == "failed"][:1]
    assert read_history(instance, NAMES, ["dwi"], [subject]).attempts["csd_peaks"] == {
        subject: of_few.attempts["csd_peaks"][subject]
    }


def test_runs_and_their_steps_equal_those_of_dagster(
    instance: DagsterInstance, cohort: dict[str, SubjectHistory]
) -> None:
    run_ids = [run_id for written in cohort.values() for run_id in written.runs]
    statuses = run_statuses(instance, [*run_ids, "no-such-run"])
    assert statuses == {run.run_id: run.status for run in instance.get_runs()}
    failed = [run_id for run_id in run_ids if statuses[run_id] == DagsterRunStatus.FAILURE]
    assert failed
    assert set(run_ends(instance, run_ids)) == set(failed)
    steps = steps_of_ended_runs(instance, failed)
    for run_id in failed:
        stats = {one.step_key: one.status.value for one in instance.get_run_step_stats(run_id) if one.status}
        assert steps[run_id].failed.keys() == {name for name, status in stats.items() if status == "FAILURE"}
        assert steps[run_id].succeeded == {name for name, status in stats.items() if status == "SUCCESS"}
        assert steps[run_id].started == {name for name, status in stats.items() if status in ("FAILURE", "SUCCESS")}
        assert steps[run_id].failed["csd_peaks"].startswith("the response function is larger than the signal")


@pytest.mark.parametrize("text", ['"label": "input_data_versions"', 'a "quoted" {"data": "x"}', "Ä \\ \n\t%_'"])
def test_user_texts_do_not_confuse_the_parser(instance: DagsterInstance, text: str) -> None:
    """Labels in texts that users can write must not be found as labels."""
    event = AssetMaterialization(
        "probe",
        partition="p",
        description=text,
        metadata={
            "figure": MetadataValue.md(text),
            "before": text,
            "input_data_versions": MetadataValue.json({"dwi": text}),
            "not_applicable": text,
            "after": text,
        },
        tags={DATA_VERSION_TAG: "d" * 64, CODE_VERSION_TAG: "1-c"},
    )
    instance.report_runless_asset_event(event)
    [found] = newest_events(instance, {MATERIALIZED: ["probe"], PLANNED: ["probe"]}, ["p"])
    assert (found.asset, found.partition, found.kind) == ("probe", "p", MATERIALIZED)
    [(event_id, event_text)] = event_texts(instance, [found.id])
    assert event_id == found.id
    assert event_text.tag(DATA_VERSION_TAG) == "d" * 64
    assert event_text.tag(CODE_VERSION_TAG) == "1-c"
    assert event_text.tag("dagster/absent") is None
    assert event_text.metadata("input_data_versions") == {"dwi": text}
    assert event_text.metadata("not_applicable") == text
    assert event_text.metadata("absent") is None


def test_newer_events_without_a_label_do_not_hide_the_newest_one_with_it(instance: DagsterInstance) -> None:
    for metadata in ({"broken": "once"}, {"broken": "twice"}, {"found": "broken"}):
        instance.report_runless_asset_event(AssetObservation("thing", partition="p", metadata=metadata))
    instance.report_runless_asset_event(AssetObservation("thing", partition="q", metadata={"found": "x"}))
    [newest] = newest_events(instance, {OBSERVED: ["thing"]}, ["p"])
    assert newest_with_metadata(instance, OBSERVED, "thing", "broken") == {"p": newest.id - 1}
    assert newest_with_metadata(instance, OBSERVED, "thing", "broken", ["q"]) == {}


def test_dagster_reads_the_backfill(instance: DagsterInstance) -> None:
    instance.add_dynamic_partitions(PARTITIONS, ["sub-a", "sub-b"])
    wanted = {"dti": ["sub-b", "sub-a"], "noddi": ["sub-a"]}
    backfill = instance.get_backfill(add_backfill(instance, subject_partitions, wanted, "of two", {"why": "test"}))
    assert backfill is not None
    assert (backfill.title, backfill.tags) == ("of two", {"why": "test"})
    assert backfill.is_valid_serialization is not None
    subsets = backfill.asset_backfill_data.target_subset.partitions_subsets_by_asset_key  # type: ignore[union-attr]
    assert {key: set(subset.get_partition_keys()) for key, subset in subsets.items()} == {
        AssetKey("dti"): {"sub-a", "sub-b"},
        AssetKey("noddi"): {"sub-a"},
    }


def test_values_are_stored_by_key_and_read_by_prefix(instance: DagsterInstance) -> None:
    write_values(instance, {"notes/a%b_/1": "one", "notes/a%b_/2": "two", "notes/axbc/3": "three"})
    write_values(instance, {"notes/a%b_/1": "ONE", "notes/a%b_/2": None, "notes/a%b_/4": "é"})
    assert read_values(instance, "notes/a%b_/") == {"notes/a%b_/1": "ONE", "notes/a%b_/4": "é"}
    many = {f"notes/many/{number}": str(number) for number in range(12000)}
    write_values(instance, many)
    assert read_values(instance, "notes/many/") == many
    assert "notes/many/7" in instance.daemon_cursor_storage.get_cursor_values({"notes/many/7"}), "Dagster's own table"
    write_values(instance, dict.fromkeys(many))
    assert read_values(instance, "notes/many/") == {}


def test_a_lock_has_one_holder_until_it_is_released_or_expires(instance: DagsterInstance) -> None:
    assert acquire_lock(instance, "lock", "mine", 60)
    assert not acquire_lock(instance, "lock", "yours", 60)
    assert acquire_lock(instance, "lock", "mine", 60), "again, for longer"
    release_lock(instance, "lock", "yours")
    assert not acquire_lock(instance, "lock", "yours", 60), "only the holder releases it"
    release_lock(instance, "lock", "mine")
    assert acquire_lock(instance, "lock", "yours", 0.05)
    time.sleep(0.1)
    assert acquire_lock(instance, "lock", "mine", 60)
    assert not acquire_lock(instance, "lock", "yours", 60)
    release_lock(instance, "lock", "mine")
