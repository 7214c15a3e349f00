"""The group response: commands, states, automation and store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from click.testing import Result
from dagster import AssetKey, DagsterInstance

import kwneuro_assets
from kwneuro_assets.assets.group_response import members
from kwneuro_assets.assets.mechanism import execution
from kwneuro_assets.automation.stale_sensor import requests
from kwneuro_assets.cli.exit_codes import FAILED, OUT_OF_DATE, USAGE_ERROR
from kwneuro_assets.cohort.status import blocked_by_group, downstream_of_group, status_of
from kwneuro_assets.definitions import build
from kwneuro_assets.imaging import InvalidData, MapSet, ResponseFunction
from kwneuro_assets.settings import PipelineSettings, load_settings
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import GROUP, SubjectKey
from kwneuro_assets_tests.cli.test_staleness_commands import Home
from kwneuro_assets_tests.testkit.small_dataset import SIGNAL, load, table, write_dataset, write_series

SUBJECTS = ("sub-01", "sub-02", "sub-03")
RESPONSES = "denoised_dwi,mean_b0,brain_mask,fiber_response"
ALL = f"{RESPONSES},group_response,csd_peaks"
QUICK = "checks: {gradients: false}\n"
CSD = QUICK + "csd: {min_voxels: 10, group_response: true}\n"
SHELL = table((2000.0,), directions=24)


def write_subject(source: Path, key: str) -> None:
    """One fiber in every voxel. sub-02 diffuses less; the images of sub-03 are those of sub-01 with a higher gain."""
    image = write_series(source, key, directions=SHELL, brightness=40.0 if key == "sub-03" else 1.0)
    if key == "sub-02":
        before = load(image)
        slower = SIGNAL * (np.asarray(before.dataobj) / SIGNAL) ** 0.7
        nibabel.save(nibabel.Nifti1Image(slower.astype(np.float32), before.affine), image)


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Three subjects, with their responses."""
    home = Home(tmp_path_factory.mktemp("group"))
    source = write_dataset(home.folder / "source", SUBJECTS)
    for key in SUBJECTS:
        write_subject(source, key)
    home.settings(CSD)
    done = home("run", "--select", RESPONSES)
    assert done.exit_code == 0, done.output
    return home


@pytest.fixture
def home(computed: Home, tmp_path: Path) -> Home:
    """A copy of the three subjects for one test."""
    shutil.copytree(computed.folder, tmp_path / "home")
    copy = Home(tmp_path / "home")
    copy.settings(CSD)
    return copy


def outcomes(done: Result) -> dict[tuple[str, str], str]:
    rows = [line.split() for line in done.stdout.splitlines()]
    return {(row[0], row[1]): row[2] for row in rows if len(row) >= 3 and row[1] in ALL.split(",")}


def states(home: Home) -> dict[str, dict[str, Any]]:
    tree: dict[str, dict[str, Any]] = json.loads(home("status", "--json").stdout)
    return tree


def store_of(home: Home) -> DerivativeStore:
    return DerivativeStore(home.folder / "store")


def response_of_group(home: Home) -> ResponseFunction:
    value, _ = store_of(home).read("group_response", GROUP)
    assert isinstance(value, ResponseFunction)
    return value


def amplitude(home: Home, key: str) -> float:
    """The amplitude of the largest peak, median over voxels."""
    maps, _ = store_of(home).read("csd_peaks", SubjectKey.parse(key))
    assert isinstance(maps, MapSet)
    largest = maps["peakvalues"].array[..., 0]
    return float(np.median(largest[largest > 0]))


@contextmanager
def opened(home: Home) -> Iterator[tuple[DagsterInstance, PipelineSettings]]:
    home("status")  # writes dagster.yaml
    environment = {"KWNEURO_SOURCE": str(home.folder / "source"), "KWNEURO_STORE": str(home.folder / "store")}
    settings = load_settings(home.folder / "settings.yaml", environment)
    with DagsterInstance.from_config(str(home.folder / "dagster")) as instance:
        yield instance, settings


def test_amplitudes_are_comparable_across_subjects_whatever_the_gain(home: Home) -> None:
    done = home("run", "--select", ALL)
    assert done.exit_code == 0, done.output
    assert outcomes(done)["group", "group_response"] == "materialized"
    assert {outcomes(done)[key, "csd_peaks"] for key in SUBJECTS} == {"materialized"}
    assert response_of_group(home).coefficients[0] > 5 * SIGNAL, "in the units of the mean"

    _, sidecar = store_of(home).read("csd_peaks", SubjectKey.parse("sub-01"))
    assert "group_response" in sidecar.provenance.input_data_versions
    assert "bids::group_model-csd_desc-mean_response.json" in sidecar.provenance.sources
    first, other, brighter = (amplitude(home, key) for key in SUBJECTS)
    assert brighter == pytest.approx(first, rel=1e-4)
    by_group = other / first
    home.settings(QUICK + "csd: {min_voxels: 10}\n")
    assert home("run", "--select", "csd_peaks").exit_code == 0
    first, other, brighter = (amplitude(home, key) for key in SUBJECTS)
    assert brighter == pytest.approx(first, rel=1e-4)
    # With one response for all, a fiber that attenuates less has a lower amplitude than by its own response.
    assert by_group < 0.9 * other / first
    assert "group" not in states(home)


def test_the_sidecar_lists_the_members_and_status_and_verify_include_the_group(home: Home) -> None:
    assert home("run", "--select", "group_response").exit_code == 0
    sidecar = store_of(home).check("group_response", GROUP)
    assert sidecar.provenance.input_data_versions == {
        key: states(home)[key]["fiber_response"]["data_version"] for key in SUBJECTS
    }
    assert sidecar.provenance.sources == tuple(f"bids::{key}/dwi/{key}_model-csd_response.json" for key in SUBJECTS)
    assert list((home.folder / "store").glob("group_*_figure.png"))
    assert "group_response of the group: fresh" in home("status").stdout
    assert states(home)["group"]["group_response"]["state"] == "fresh"
    assert "13 derivatives of 4 subjects" in home("verify").stdout, "the group counts as one"


def test_the_group_derivative_is_loaded_verified_and_exported_by_name(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert home("run", "--select", "group_response").exit_code == 0
    monkeypatch.setenv("KWNEURO_STORE", str(home.folder / "store"))
    monkeypatch.delenv("KWNEURO_SETTINGS", raising=False)
    loaded, stored = kwneuro_assets.load("group_response", "group"), response_of_group(home)
    assert isinstance(loaded, ResponseFunction)
    np.testing.assert_array_equal(loaded.coefficients, stored.coefficients)
    with pytest.raises(InvalidData, match="dti: expected a subject, such as 'sub-01', found 'group'"):
        kwneuro_assets.load("dti", "group")
    with pytest.raises(InvalidData, match="group_response: expected 'group', as it is computed from all subjects"):
        kwneuro_assets.load("group_response", "sub-01")
    with pytest.raises(InvalidData, match="group_response: expected 'group'"):
        kwneuro_assets.grid("group_response", "sub-01")

    done = home("verify", "--subject", "group")
    assert done.exit_code == 0, done.output
    assert "1 derivatives of 1 subjects" in done.stdout
    copy = DerivativeStore(tmp_path / "copy")
    assert home("export", "--subject", "group", "--to", str(copy.root)).exit_code == 0
    assert copy.keys() == [GROUP]
    assert copy.check("group_response", GROUP) == store_of(home).check("group_response", GROUP)

    both = DerivativeStore(tmp_path / "both")
    keys = ("--subject", "group", "--subject", "sub-01", "--to", str(both.root))
    done = home("export", *keys, "--select", "group_response,fiber_response,mean_b0")
    assert done.exit_code == 0, done.output
    assert both.assets(GROUP) == ["group_response"]
    assert both.assets(SubjectKey("01")) == ["mean_b0", "fiber_response"]

    path = home.folder / "store" / "group_model-csd_desc-mean_response.json"
    path.write_text(path.read_text().replace("Mean", "Median"))
    done = home("verify", "--subject", "group")
    assert done.exit_code == FAILED
    assert "Materialize it with: kwneuro-assets run --select group_response" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "--subject", "sub-01", "--select", "group_response"), "add --subject group"),
        (("export", "--subject", "group", "--select", "dti"), "dti is no derivative of group: name a subject"),
        (
            ("export", "--subject", "group", "--subject", "sub-01", "--select", "dti"),
            "selection 'dti' selects no derivative of group",
        ),
        (("export", "--subject", "group"), "has no derivative of group"),
        (("verify", "--subject", "group"), "has no derivative of group"),
        (("run", "--subject", "group"), "group is no subject: --select group_response"),
    ],
)
def test_commands_report_what_the_group_does_not_have(
    computed: Home, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    where = ("--to", str(tmp_path / "copy")) if arguments[0] == "export" else ()
    done = computed(*arguments, *where)
    assert done.exit_code == USAGE_ERROR
    assert message in done.stderr
    assert not (tmp_path / "copy").exists()


def test_a_run_of_one_subject_does_not_materialize_the_group_derivative(home: Home) -> None:
    done = home("run", "--subject", "sub-01", "--select", f"{RESPONSES},csd_peaks")
    assert done.exit_code == FAILED
    assert outcomes(done)["sub-01", "csd_peaks"] == "failed"
    assert "Materialize it with: kwneuro-assets run --select group_response" in done.stdout
    assert states(home)["group"]["group_response"]["state"] == "missing"
    assert home("status", "--fail-if-stale").exit_code == OUT_OF_DATE


@pytest.fixture
def new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """The same three subjects without derivatives, and without figures, which take most of the time."""
    monkeypatch.setattr(execution, "draw_figure", lambda *_: None)
    home = Home(tmp_path / "home")
    source = write_dataset(home.folder / "source", SUBJECTS)
    for key in SUBJECTS:
        write_subject(source, key)
    home.settings(CSD)
    return home


def test_peaks_of_a_new_cohort_include_the_group_derivative(new: Home) -> None:
    done = new("run", "--select", "csd_peaks")
    assert done.exit_code == 0, done.output
    of_subjects = {(key, name) for key in SUBJECTS for name in f"{RESPONSES},csd_peaks".split(",")}
    assert outcomes(done) == dict.fromkeys({*of_subjects, ("group", "group_response")}, "materialized")
    assert list(store_of(new).check("group_response", GROUP).provenance.input_data_versions) == list(SUBJECTS)
    [group] = [line for line in done.stdout.splitlines() if line.startswith("group  ") and "materialized" in line]
    assert group.split()[-1] == "upstream"
    again = new("run", "--select", "csd_peaks", "--force")
    assert outcomes(again) == {(key, "csd_peaks"): "materialized" for key in SUBJECTS}, "upstream is up to date"
    assert outcomes(new("run", "--select", "csd_peaks")) == {(key, "csd_peaks"): "skipped" for key in SUBJECTS}


def test_the_group_derivative_of_a_new_cohort_includes_the_responses_of_its_members(new: Home) -> None:
    only = new("run", "--select", "group_response", "--only")
    assert outcomes(only) == {("group", "group_response"): "not-applicable"}
    new.settings(CSD.replace("csd: {", "csd: {group_subjects: 'sub-01, sub-03', "))
    done = new("run", "--select", "group_response")
    assert done.exit_code == 0, done.output
    of_subjects = {(key, name) for key in ("sub-01", "sub-03") for name in RESPONSES.split(",")}
    assert outcomes(done) == dict.fromkeys({*of_subjects, ("group", "group_response")}, "materialized")
    new.settings(CSD.replace("csd: {", "csd: {group_subjects: 'sub-9*', "))
    done = new("run", "--select", "csd_peaks", "--subject", "sub-02")
    assert done.exit_code == 0, "uses the group response of the store, which is not selected"
    done = new("run", "--select", "csd_peaks")
    assert done.exit_code == USAGE_ERROR
    assert outcomes(done) == {}, "nothing is computed if the group has no members"


def test_new_members_are_reported_and_used_only_when_the_user_selects_the_group_derivative(home: Home) -> None:
    assert home("run", "--select", ALL).exit_code == 0
    before = response_of_group(home)
    write_dataset(home.folder / "source", ["sub-04"])
    write_subject(home.folder / "source", "sub-04")
    done = home("run", "--subject", "sub-04", "--select", "csd_peaks")
    assert done.exit_code == 0, done.output
    assert outcomes(done) == {("sub-04", name): "materialized" for name in f"{RESPONSES},csd_peaks".split(",")}
    found = states(home)
    assert found["group"]["group_response"]["state"] == "fresh"
    assert found["group"]["group_response"]["why"] == ["members added since it was materialized: sub-04"]
    assert {found[key]["csd_peaks"]["state"] for key in (*SUBJECTS, "sub-04")} == {"fresh"}
    done = home("run", "--select", "group_response")
    assert outcomes(done) == {("group", "group_response"): "materialized"}
    assert response_of_group(home).voxels > before.voxels
    found = states(home)
    assert {found[key]["csd_peaks"]["state"] for key in (*SUBJECTS, "sub-04")} == {"stale"}
    assert found["sub-01"]["csd_peaks"]["why"][0].startswith("group_response changed: version ")
    done = home("run", "--stale", "--select", ALL)
    assert {key: outcome for (key, name), outcome in outcomes(done).items() if name == "csd_peaks"} == dict.fromkeys(
        (*SUBJECTS, "sub-04"), "materialized"
    )
    assert outcomes(home("run", "--select", "group_response")) == {("group", "group_response"): "skipped"}


def test_changed_data_of_a_member_make_the_group_derivative_stale_and_no_other_subject(home: Home) -> None:
    assert home("run", "--select", ALL).exit_code == 0
    write_subject(home.folder / "source", "sub-02")
    write_series(home.folder / "source", "sub-02", directions=SHELL, brightness=2.0)
    assert home("run", "--subject", "sub-02", "--select", RESPONSES).exit_code == 0
    found = states(home)
    assert found["group"]["group_response"]["state"] == "stale"
    assert found["group"]["group_response"]["why"] == ["fiber_response changed: sub-02"]
    assert [found[key]["csd_peaks"]["state"] for key in SUBJECTS] == ["fresh", "stale", "fresh"]


def test_the_settings_can_select_the_members(home: Home) -> None:
    home.settings(CSD.replace("csd: {", "csd: {group_subjects: 'sub-01, sub-03*', "))
    assert home("run", "--select", "group_response").exit_code == 0
    with opened(home) as (instance, settings):
        assert members(instance, settings) == ["sub-01", "sub-03"]
    assert list(store_of(home).check("group_response", GROUP).provenance.input_data_versions) == ["sub-01", "sub-03"]
    home.settings(CSD)
    assert states(home)["group"]["group_response"]["why"] == [
        "csd.group_subjects: was sub-01, sub-03*, now not set",
        "members added since it was materialized: sub-02",
    ]
    home.settings(CSD.replace("csd: {", "csd: {group_subjects: 'sub-9*', "))
    done = home("run", "--select", "group_response")
    assert done.exit_code == USAGE_ERROR
    assert "csd.group_subjects: expected patterns of subjects, found 'sub-9*', which matches none" in done.stderr


def test_a_group_derivative_that_is_missing_from_the_store_is_recomputed(home: Home) -> None:
    assert home("run", "--select", ALL).exit_code == 0
    (home.folder / "store" / "group_model-csd_desc-mean_response.json").unlink()
    assert home("run", "--subject", "sub-01", "--select", "csd_peaks").exit_code == 0, "it is fresh, so nothing is read"
    done = home("run", "--subject", "sub-01", "--select", "csd_peaks", "--force")
    assert done.exit_code == FAILED
    assert "group_response of group is not in the store" in done.stdout
    assert states(home)["group"]["group_response"]["state"] == "missing"
    done = home("run", "--select", ALL)
    assert done.exit_code == 0, done.output
    assert outcomes(done)["group", "group_response"] == "materialized"
    assert outcomes(done)["sub-01", "csd_peaks"] == "skipped", "the same bytes as before"


def test_automation_does_not_request_what_the_missing_group_derivative_blocks(home: Home) -> None:
    with opened(home) as (instance, settings):
        blocked = blocked_by_group(instance, settings)
        assert blocked == {"csd_peaks", "tract_masks", "tract_endings", "tract_orientations"}
        assert downstream_of_group(settings) == {*blocked, "dwi_qc", "subject_report"}, "these do without it"
        wanted = requests(status_of(instance, settings, SUBJECTS), settings, 0.0, blocked)
        assert wanted == {key: ["dti", "noddi", "dwi_qc", "subject_report"] for key in SUBJECTS}
    assert home("run", "--select", "group_response").exit_code == 0
    with opened(home) as (instance, settings):
        blocked = blocked_by_group(instance, settings)
        assert blocked == set()
        wanted = requests(status_of(instance, settings, SUBJECTS), settings, 0.0, blocked)
        assert all("csd_peaks" in names for names in wanted.values())


def test_in_dagster_the_group_derivative_is_unpartitioned_and_depends_on_all_partitions() -> None:
    for used in (False, True):
        settings = PipelineSettings.model_validate({"csd": {"group_response": used}})
        graph = build(settings).resolve_asset_graph()
        group = graph.get(AssetKey("group_response"))
        assert not group.is_partitioned
        assert {key.to_user_string() for key in group.parent_keys} == {"fiber_response"}
        assert {key.to_user_string() for key in group.child_keys} == ({"csd_peaks"} if used else set())
