"""What is read past Dagster's public interface is what Dagster itself says, in each kind of storage.

Where one of these fails with a new version of Dagster, `kwneuro_assets/dagster_internals.py` is the place to mend.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import AssetKey, AssetMaterialization, AssetObservation, DagsterInstance, DagsterRunStatus, MetadataValue

import kwneuro_assets
from benchmarks.event_log import KINDS, NAMES, Written, write_cohort
from kwneuro_assets.dagster_internals import (
    MADE,
    OBSERVED,
    PLANNED,
    add_backfill,
    event_texts,
    give_up_turn,
    newest_events,
    newest_with,
    read_notes,
    run_ends,
    run_statuses,
    steps_of_ended_runs,
    take_turn,
    write_notes,
)
from kwneuro_assets.subjects import PARTITIONS, subject_partitions
from kwneuro_assets.versioning.history import read_history
from kwneuro_assets.versioning.records import CODE_VERSION_TAG, DATA_VERSION_TAG, recorded

PACKAGE = Path(kwneuro_assets.__file__).parent
TWO_OF_EACH = {name: 0.1 for name in KINDS if name != "fresh"}


@pytest.fixture(scope="module", params=["a file for each run", "one table", "Postgres"])
def instance(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterInstance]:
    home = tmp_path_factory.mktemp("home")
    if request.param == "Postgres":
        from kwneuro_assets_tests.postgres_server import instance_on

        opened = instance_on(request.getfixturevalue("postgres_server"), home)
    elif request.param == "one table":
        opened = DagsterInstance.ephemeral()
    else:
        opened = DagsterInstance.local_temp(str(home))
    with opened as one:
        yield one


@pytest.fixture(scope="module")
def cohort(instance: DagsterInstance) -> dict[str, Written]:
    return write_cohort(instance, 20, shares=TWO_OF_EACH)


def test_one_module_alone_reaches_behind_dagsters_public_interface() -> None:
    private = re.compile(r"^\s*(from|import) (dagster\._|dagster_shared)", re.M)
    found = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if private.search(path.read_text())}
    assert found == {"dagster_internals.py"}


def test_a_whole_history_is_what_dagster_gives_one_by_one(
    instance: DagsterInstance, cohort: dict[str, Written]
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


def test_few_subjects_are_read_as_all_are(
    instance: DagsterInstance, cohort: dict[str, Written], monkeypatch: pytest.MonkeyPatch
) -> None:
    of_few = read_history(instance, NAMES, ["dwi"], cohort)
    monkeypatch.setattr("kwneuro_assets.versioning.history.FEW", 0)
    assert read_history(instance, NAMES, ["dwi"], cohort) == of_few
    [subject] = [key for key, written in cohort.items() if written.kind == "failed"][:1]
    assert read_history(instance, NAMES, ["dwi"], [subject]).attempts["csd_peaks"] == {
        subject: of_few.attempts["csd_peaks"][subject]
    }


def test_runs_and_their_steps_are_those_of_dagster(instance: DagsterInstance, cohort: dict[str, Written]) -> None:
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
        assert steps[run_id].begun == {name for name, status in stats.items() if status in ("FAILURE", "SUCCESS")}
        assert steps[run_id].failed["csd_peaks"].startswith("the response function is larger than the signal")


@pytest.mark.parametrize("text", ['"label": "input_data_versions"', 'a "quoted" {"data": "x"}', "Ä \\ \n\t%_'"])
def test_texts_of_users_lead_nothing_astray(instance: DagsterInstance, text: str) -> None:
    """In every place where a person may write: what is looked for must not be found in it."""
    event = AssetMaterialization(
        "probe",
        partition="p",
        description=text,
        metadata={
            "picture": MetadataValue.md(text),
            "before": text,
            "input_data_versions": MetadataValue.json({"dwi": text}),
            "not_applicable": text,
            "after": text,
        },
        tags={DATA_VERSION_TAG: "d" * 64, CODE_VERSION_TAG: "1-c"},
    )
    instance.report_runless_asset_event(event)
    [found] = newest_events(instance, {MADE: ["probe"], PLANNED: ["probe"]}, ["p"])
    assert (found.asset, found.partition, found.kind) == ("probe", "p", MADE)
    [(event_id, told)] = event_texts(instance, [found.id])
    assert event_id == found.id
    assert told.tag(DATA_VERSION_TAG) == "d" * 64
    assert told.tag(CODE_VERSION_TAG) == "1-c"
    assert told.tag("dagster/absent") is None
    assert told.metadata("input_data_versions") == {"dwi": text}
    assert told.metadata("not_applicable") == text
    assert told.metadata("absent") is None


def test_the_newest_event_with_an_entry_is_found_behind_newer_ones_without_it(instance: DagsterInstance) -> None:
    for metadata in ({"lost": "once"}, {"lost": "twice"}, {"found": "lost"}):
        instance.report_runless_asset_event(AssetObservation("thing", partition="p", metadata=metadata))
    instance.report_runless_asset_event(AssetObservation("thing", partition="q", metadata={"found": "x"}))
    [newest] = newest_events(instance, {OBSERVED: ["thing"]}, ["p"])
    assert newest_with(instance, OBSERVED, "thing", "lost") == {"p": newest.id - 1}
    assert newest_with(instance, OBSERVED, "thing", "lost", ["q"]) == {}


def test_a_backfill_is_one_that_dagster_reads(instance: DagsterInstance) -> None:
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


def test_notes_are_kept_by_key_and_read_by_the_beginning_of_it(instance: DagsterInstance) -> None:
    write_notes(instance, {"notes/a%b_/1": "one", "notes/a%b_/2": "two", "notes/axbc/3": "three"})
    write_notes(instance, {"notes/a%b_/1": "ONE", "notes/a%b_/2": None, "notes/a%b_/4": "é"})
    assert read_notes(instance, "notes/a%b_/") == {"notes/a%b_/1": "ONE", "notes/a%b_/4": "é"}
    many = {f"notes/many/{number}": str(number) for number in range(12000)}
    write_notes(instance, many)
    assert read_notes(instance, "notes/many/") == many
    assert "notes/many/7" in instance.daemon_cursor_storage.get_cursor_values({"notes/many/7"}), "Dagster's own table"
    write_notes(instance, dict.fromkeys(many))
    assert read_notes(instance, "notes/many/") == {}


def test_one_at_a_time_has_the_turn_until_it_gives_it_up_or_its_time_is_over(instance: DagsterInstance) -> None:
    assert take_turn(instance, "turn", "mine", 60)
    assert not take_turn(instance, "turn", "yours", 60)
    assert take_turn(instance, "turn", "mine", 60), "again, for longer"
    give_up_turn(instance, "turn", "yours")
    assert not take_turn(instance, "turn", "yours", 60), "only the holder gives it up"
    give_up_turn(instance, "turn", "mine")
    assert take_turn(instance, "turn", "yours", 0.05)
    time.sleep(0.1)
    assert take_turn(instance, "turn", "mine", 60)
    assert not take_turn(instance, "turn", "yours", 60)
    give_up_turn(instance, "turn", "mine")
