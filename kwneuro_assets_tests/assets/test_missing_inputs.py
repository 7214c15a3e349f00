"""Derivatives that are computed from whatever exists: `dwi_qc` and `subject_report` without NODDI, and the checks."""

from __future__ import annotations

import functools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from dagster import AssetCheckKey, AssetCheckSeverity, AssetKey, DagsterInstance
from dagster._core.event_api import PartitionKeyFilter

from kwneuro_assets.assets.derivative import Derivative
from kwneuro_assets.assets.dwi_qc import dwi_qc
from kwneuro_assets.assets.mechanism import execution
from kwneuro_assets.assets.noddi import noddi
from kwneuro_assets.automation.stale_sensor import requests
from kwneuro_assets.cli.exit_codes import FAILED
from kwneuro_assets.imaging import InvalidData, NotApplicable, Report, Table
from kwneuro_assets.imaging.content_hash import Value
from kwneuro_assets.qc.checks import DESCRIPTIONS
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets.versioning.staleness import cohort_status
from kwneuro_assets_tests.cli.test_staleness_commands import Home
from kwneuro_assets_tests.testkit.small_dataset import write_dataset
from kwneuro_assets_tests.versioning.lab import CHEAP, SPARE, Lab

KEY = "sub-01"
FROM_WHATEVER_EXISTS = ("dwi_qc", "subject_report")
NAMES = (*CHEAP, "noddi", *FROM_WHATEVER_EXISTS)
RUN = ("run", "--only", "--select", ",".join(NAMES))
MINUTE = 60.0


@contextmanager
def computing(derivative: Derivative, compute: Callable[..., Value]) -> Iterator[None]:
    """Within the block, another function computes the derivative; its settings and inputs stay the same."""
    before = derivative.compute

    @functools.wraps(before)
    def other(**arguments: Any) -> Value:
        return compute(**arguments)

    object.__setattr__(derivative, "compute", other)
    try:
        yield
    finally:
        object.__setattr__(derivative, "compute", before)


def fails(**_: Any) -> Value:
    raise InvalidData("the shells", expected="two", found="one")


@pytest.fixture(scope="module", autouse=True)
def _without_figures() -> Iterator[None]:
    """Figures take most of the time of a run on so few voxels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution, "draw_figure", lambda *_: None)
        yield


# The commands


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A subject whose NODDI failed in the first run."""
    home = Home(tmp_path_factory.mktemp("failed"))
    write_dataset(home.folder / "source", [KEY])
    with computing(noddi, fails):
        done = home(*RUN)
    assert done.exit_code == FAILED, done.output
    assert outcomes(done.stdout) == {
        **dict.fromkeys(CHEAP, "materialized"),
        "noddi": "failed",
        **dict.fromkeys(FROM_WHATEVER_EXISTS, "materialized"),
    }
    return home


@pytest.fixture
def home(failed: Home, tmp_path: Path) -> Home:
    """A copy of that subject for one test."""
    shutil.copytree(failed.folder, tmp_path / "home")
    return Home(tmp_path / "home")


def outcomes(printed: str) -> dict[str, str]:
    rows = [line.split() for line in printed.splitlines()]
    return {row[1]: row[2] for row in rows if len(row) >= 3 and row[0] == KEY and row[1] in NAMES}


def states(home: Home) -> dict[str, Any]:
    tree: dict[str, dict[str, Any]] = json.loads(home("status", "--json").stdout)
    return tree[KEY]


def qc_of(home: Home) -> dict[str, Any]:
    value, _ = DerivativeStore(home.folder / "store").read("dwi_qc", SubjectKey.parse(KEY))
    assert isinstance(value, Table)
    return dict(next(value.rows()))


def test_the_command_in_which_noddi_fails_still_writes_the_qc_row_and_the_report(failed: Home) -> None:
    row = qc_of(failed)
    assert row["wm_ndi_median"] is None
    assert row["wm_fa_median"] is not None, "that of DTI is there"
    store = DerivativeStore(failed.folder / "store")
    sidecar = store.check("dwi_qc", SubjectKey.parse(KEY))
    assert set(sidecar.provenance.input_data_versions) == {"dwi", *CHEAP}
    report, _ = store.read("subject_report", SubjectKey.parse(KEY))
    assert isinstance(report, Report)
    assert "noddi" in report.html
    found = states(failed)
    assert found["noddi"]["state"] == "failed"
    assert {found[name]["state"] for name in FROM_WHATEVER_EXISTS} == {"fresh"}


def test_a_second_command_tries_noddi_again_and_computes_nothing_else(home: Home) -> None:
    with computing(noddi, fails):
        done = home(*RUN)
    assert done.exit_code == FAILED
    assert outcomes(done.stdout) == {**dict.fromkeys(NAMES, "skipped"), "noddi": "failed"}


def test_the_report_is_written_if_noddi_and_the_qc_row_fail(tmp_path: Path) -> None:
    home = Home(tmp_path)
    write_dataset(home.folder / "source", [KEY])
    with computing(noddi, fails), computing(dwi_qc, fails):
        done = home(*RUN)
    assert done.exit_code == FAILED, done.output
    assert outcomes(done.stdout) == {
        **dict.fromkeys(CHEAP, "materialized"),
        "noddi": "failed",
        "dwi_qc": "failed",
        "subject_report": "materialized",
    }


def test_status_says_that_noddi_exists_now_and_a_run_brings_the_qc_row_up_to_date(home: Home) -> None:
    done = home("run", "--only", "--select", "noddi")
    assert done.exit_code == 0, done.output
    assert states(home)["dwi_qc"]["state"] == "stale"
    assert "noddi was missing, and exists now" in home("status", "--why").stdout
    assert states(home)["dwi_qc"]["why"] == ["noddi was missing, and exists now"]
    assert states(home)["subject_report"]["why"] == ["noddi was missing, and exists now"]

    done = home(*RUN)
    assert done.exit_code == 0, done.output
    assert outcomes(done.stdout) == {
        **dict.fromkeys(NAMES, "skipped"),
        **dict.fromkeys(FROM_WHATEVER_EXISTS, "materialized"),
    }
    assert isinstance(qc_of(home)["wm_ndi_median"], float)
    assert {states(home)[name]["state"] for name in FROM_WHATEVER_EXISTS} == {"fresh"}


# Runs of one subject in an instance


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    root = tmp_path_factory.mktemp("cohort")
    write_dataset(root / "source", SPARE)
    with DagsterInstance.ephemeral() as instance:
        yield Lab(root, instance)


@pytest.fixture
def lab(cohort: Lab, spare: Iterator[str]) -> Lab:
    """A subject that no other test uses."""
    return Lab(cohort.root, cohort.instance, next(spare))


@pytest.fixture(scope="module")
def spare() -> Iterator[str]:
    return iter(SPARE)


def requested(lab: Lab, *, minutes: float) -> list[str]:
    """What the sensor requests for the subject, so many minutes after its last run ended."""
    automation = {"select": ",".join(NAMES), "retry_minutes": 5, "attempts": 2}
    settings = lab.under(automation=automation).settings
    found = cohort_status(lab.instance, settings, _derivatives(lab), ["dwi", "provided_mask"], [lab.key])
    ended = [status.attempt.failures[-1].ended.moment for status in found[lab.key].values() if status.attempt]
    return requests(found, settings, max(ended) + minutes * MINUTE).get(lab.key, [])


def _derivatives(lab: Lab) -> tuple[Derivative, ...]:
    from kwneuro_assets.assets import derivatives

    return derivatives(lab.settings)


def test_the_sensor_requests_the_qc_row_without_noddi_only_while_no_attempt_at_noddi_is_due(lab: Lab) -> None:
    with computing(noddi, fails):
        first = lab.run(NAMES)
        assert {name: first[name].outcome for name in ("noddi", *FROM_WHATEVER_EXISTS)} == {
            "noddi": "failed",
            **dict.fromkeys(FROM_WHATEVER_EXISTS, "upstream-failed"),
        }, "one run of Dagster, as the sensor starts it"
        assert requested(lab, minutes=1) == list(FROM_WHATEVER_EXISTS)
        assert requested(lab, minutes=6) == ["noddi", *FROM_WHATEVER_EXISTS], "together, in the order of dependencies"
        lab.run(("noddi", *FROM_WHATEVER_EXISTS))
        assert requested(lab, minutes=60 * 24) == list(FROM_WHATEVER_EXISTS), "all attempts at noddi are used up"
        assert {one.outcome for one in lab.run(FROM_WHATEVER_EXISTS).values()} == {"materialized"}
        assert requested(lab, minutes=60 * 24) == []
    lab.run(("noddi",))
    now = cohort_status(lab.instance, lab.settings, _derivatives(lab), ["dwi", "provided_mask"], [lab.key])
    assert requests(now, lab.under(automation={"select": ",".join(NAMES)}).settings, 0) == {
        lab.key: list(FROM_WHATEVER_EXISTS)
    }


# Checks


def verdicts(lab: Lab) -> dict[str, bool]:
    """The newest verdict of each check about the subject."""
    keys = [AssetCheckKey(AssetKey("dwi_qc"), name) for name in DESCRIPTIONS]
    found = lab.instance.event_log_storage.get_latest_asset_check_execution_by_key(
        keys, PartitionKeyFilter(key=lab.key)
    )
    newest: dict[str, bool] = {}
    for key, record in found.items():
        assert record.event
        evaluation = record.event.get_dagster_event().asset_check_evaluation_data
        assert evaluation.partition == lab.key
        assert evaluation.severity == AssetCheckSeverity.WARN
        assert not evaluation.blocking
        newest[key.name] = evaluation.passed
    return newest


def test_checks_are_recorded_for_the_subject_when_the_qc_row_is_computed_and_when_it_is_skipped(lab: Lab) -> None:
    lab.run(CHEAP)
    one = lab.under(checks={"max_mask_flat_face": 1})
    assert one.run(("dwi_qc",))["dwi_qc"].outcome == "materialized"
    assert verdicts(lab).keys() == DESCRIPTIONS.keys()
    assert verdicts(lab)["mask"] is True
    before = lab.store.check("dwi_qc", SubjectKey.parse(lab.key))

    strict = lab.under(checks={"max_mask_flat_face": 0})
    done = strict.run(("dwi_qc", "subject_report"))
    assert done["dwi_qc"].outcome == "skipped"
    assert verdicts(lab)["mask"] is False, "the limit of the current settings"
    assert lab.store.check("dwi_qc", SubjectKey.parse(lab.key)) == before
    assert done["subject_report"].outcome == "materialized", "a check that fails blocks nothing"
    assert {name: strict.status()[name].state for name in FROM_WHATEVER_EXISTS} == dict.fromkeys(
        FROM_WHATEVER_EXISTS, "fresh"
    )


def test_checks_of_a_qc_row_that_is_not_applicable_pass(lab: Lab) -> None:
    lab.run(CHEAP)
    with computing(dwi_qc, lambda **_: NotApplicable("no signal")):
        for outcome in ("not-applicable", "not-applicable"):
            assert lab.run(("dwi_qc",))["dwi_qc"].outcome == outcome
            assert verdicts(lab) == dict.fromkeys(DESCRIPTIONS, True)


def test_the_four_checks_add_at_most_twelve_events_to_the_log_of_a_subject(lab: Lab) -> None:
    lab.run(CHEAP)
    lab.run(("dwi_qc",))
    with_checks = events_of_last_run(lab)
    with without_checks():
        lab.run(("dwi_qc",), force=True)
    without = events_of_last_run(lab)
    assert with_checks - without == {"ASSET_CHECK_EVALUATION": 4, "ASSET_CHECK_EVALUATION_PLANNED": 4, "STEP_OUTPUT": 4}
    assert not without - with_checks


@contextmanager
def without_checks() -> Iterator[None]:
    checks = dwi_qc.checks
    object.__setattr__(dwi_qc, "checks", None)
    try:
        yield
    finally:
        object.__setattr__(dwi_qc, "checks", checks)


def events_of_last_run(lab: Lab) -> Counter[str]:
    """The number of events of each kind in the newest run of all subjects; messages of the steps are no events."""
    [run] = lab.instance.get_runs(limit=1)
    entries = lab.instance.all_logs(run.run_id)
    return Counter(entry.get_dagster_event().event_type_value for entry in entries if entry.is_dagster_event)
