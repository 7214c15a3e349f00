"""The group's response as a person makes and uses it: commands, states, automation, the store."""

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

from kwneuro_assets.assets.group_response import members
from kwneuro_assets.automation import requests
from kwneuro_assets.cli import FAILED, MISUSED, UNSETTLED
from kwneuro_assets.cohort import following_group, status_of, waiting_for_group
from kwneuro_assets.definitions import build
from kwneuro_assets.imaging import MapSet, ResponseFunction
from kwneuro_assets.settings import PipelineSettings, load_settings
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import GROUP, SubjectKey
from kwneuro_assets_tests.small_dataset import SIGNAL, load, table, write_dataset, write_series
from kwneuro_assets_tests.test_staleness_commands import Home

SUBJECTS = ("sub-01", "sub-02", "sub-03")
RESPONSES = "denoised_dwi,mean_b0,brain_mask,fiber_response"
ALL = f"{RESPONSES},group_response,csd_peaks"
QUICK = "checks: {gradients: false}\n"
CSD = QUICK + "csd: {minimum_voxels: 10, group_response: true}\n"
SHELL = table((2000.0,), directions=24)


def write_subject(source: Path, key: str) -> None:
    """One fibre in every voxel. That of sub-02 diffuses less, and the images of sub-03 are brighter ones of sub-01."""
    image = write_series(source, key, directions=SHELL, brightness=40.0 if key == "sub-03" else 1.0)
    if key == "sub-02":
        before = load(image)
        slower = SIGNAL * (np.asarray(before.dataobj) / SIGNAL) ** 0.7
        nibabel.save(nibabel.Nifti1Image(slower.astype(np.float32), before.affine), image)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Home:
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
def home(made: Home, tmp_path: Path) -> Home:
    """A copy of them for one test, at a place of its own."""
    shutil.copytree(made.folder, tmp_path / "home")
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
    """Of the median voxel's largest peak."""
    maps, _ = store_of(home).read("csd_peaks", SubjectKey.parse(key))
    assert isinstance(maps, MapSet)
    largest = maps["peakvalues"].array[..., 0]
    return float(np.median(largest[largest > 0]))


@contextmanager
def opened(home: Home) -> Iterator[tuple[DagsterInstance, PipelineSettings]]:
    home("status")  # makes the instance's own settings
    environment = {"KWNEURO_SOURCE": str(home.folder / "source"), "KWNEURO_STORE": str(home.folder / "store")}
    settings = load_settings(home.folder / "settings.yaml", environment)
    with DagsterInstance.from_config(str(home.folder / "dagster")) as instance:
        yield instance, settings


def test_amplitudes_compare_across_subjects_whatever_the_gain(home: Home) -> None:
    done = home("run", "--select", ALL)
    assert done.exit_code == 0, done.output
    assert outcomes(done)["group", "group_response"] == "made"
    assert {outcomes(done)[key, "csd_peaks"] for key in SUBJECTS} == {"made"}
    assert response_of_group(home).coefficients[0] > 5 * SIGNAL, "in the units of the mean"

    _, sidecar = store_of(home).read("csd_peaks", SubjectKey.parse("sub-01"))
    assert "group_response" in sidecar.provenance.input_data_versions
    assert "bids::group_model-csd_desc-mean_response.json" in sidecar.provenance.sources
    first, other, brighter = (amplitude(home, key) for key in SUBJECTS)
    assert brighter == pytest.approx(first, rel=1e-4)
    by_group = other / first
    home.settings(QUICK + "csd: {minimum_voxels: 10}\n")
    assert home("run", "--select", "csd_peaks").exit_code == 0
    first, other, brighter = (amplitude(home, key) for key in SUBJECTS)
    assert brighter == pytest.approx(first, rel=1e-4)
    # With one response for all, a fibre that attenuates less has a lower amplitude than by its own response.
    assert by_group < 0.9 * other / first
    assert "group" not in states(home)


def test_the_sidecar_says_who_is_in_it_and_the_command_line_shows_it(home: Home) -> None:
    assert home("run", "--select", "group_response").exit_code == 0
    sidecar = store_of(home).check("group_response", GROUP)
    assert sidecar.provenance.input_data_versions == {
        key: states(home)[key]["fiber_response"]["data_version"] for key in SUBJECTS
    }
    assert sidecar.provenance.sources == tuple(f"bids::{key}/dwi/{key}_model-csd_response.json" for key in SUBJECTS)
    assert list((home.folder / "store").glob("group_*_figure.png"))
    assert "group_response of all subjects: fresh" in home("status").stdout
    assert states(home)["group"]["group_response"]["state"] == "fresh"
    told = home("verify").stdout
    assert "13 derivatives of 4 subjects" in told, "the group is verified, too"


def test_a_run_of_one_subject_does_not_decide_who_is_in_the_group(home: Home) -> None:
    done = home("run", "--subject", "sub-01", "--select", f"{RESPONSES},csd_peaks")
    assert done.exit_code == FAILED
    assert outcomes(done)["sub-01", "csd_peaks"] == "failed"
    assert "Make it with: kwneuro-assets run --select group_response" in done.stdout
    assert states(home)["group"]["group_response"]["state"] == "missing"
    assert home("status", "--fail-if-stale").exit_code == UNSETTLED


def test_who_comes_later_is_told_and_changes_nothing_until_a_person_says_so(home: Home) -> None:
    assert home("run", "--select", ALL).exit_code == 0
    before = response_of_group(home)
    write_dataset(home.folder / "source", ["sub-04"])
    write_subject(home.folder / "source", "sub-04")
    done = home("run", "--subject", "sub-04", "--select", f"{RESPONSES},csd_peaks")
    assert done.exit_code == 0, done.output
    found = states(home)
    assert found["group"]["group_response"]["state"] == "fresh"
    assert found["group"]["group_response"]["why"] == ["since it was made, there are also sub-04"]
    assert {found[key]["csd_peaks"]["state"] for key in (*SUBJECTS, "sub-04")} == {"fresh"}
    done = home("run", "--select", "group_response")
    assert outcomes(done) == {("group", "group_response"): "made"}
    assert response_of_group(home).voxels > before.voxels
    found = states(home)
    assert {found[key]["csd_peaks"]["state"] for key in (*SUBJECTS, "sub-04")} == {"stale"}
    assert found["sub-01"]["csd_peaks"]["why"][0].startswith("group_response changed: version ")
    done = home("run", "--stale", "--select", ALL)
    assert {key: outcome for (key, name), outcome in outcomes(done).items() if name == "csd_peaks"} == dict.fromkeys(
        (*SUBJECTS, "sub-04"), "made"
    )
    assert outcomes(home("run", "--select", "group_response")) == {("group", "group_response"): "fresh"}


def test_a_member_whose_data_changed_makes_the_group_stale_and_no_other_subject(home: Home) -> None:
    assert home("run", "--select", ALL).exit_code == 0
    write_subject(home.folder / "source", "sub-02")
    write_series(home.folder / "source", "sub-02", directions=SHELL, brightness=2.0)
    assert home("run", "--subject", "sub-02", "--select", RESPONSES).exit_code == 0
    found = states(home)
    assert found["group"]["group_response"]["state"] == "stale"
    assert found["group"]["group_response"]["why"] == ["fiber_response changed of sub-02"]
    assert [found[key]["csd_peaks"]["state"] for key in SUBJECTS] == ["fresh", "stale", "fresh"]


def test_the_group_may_be_a_choice_of_subjects(home: Home) -> None:
    home.settings(CSD.replace("csd: {", "csd: {group_subjects: 'sub-01, sub-03*', "))
    assert home("run", "--select", "group_response").exit_code == 0
    with opened(home) as (instance, settings):
        assert members(instance, settings) == ["sub-01", "sub-03"]
    assert list(store_of(home).check("group_response", GROUP).provenance.input_data_versions) == ["sub-01", "sub-03"]
    home.settings(CSD)
    assert states(home)["group"]["group_response"]["why"] == [
        "csd.group_subjects: was sub-01, sub-03*, now not set",
        "since it was made, there are also sub-02",
    ]
    home.settings(CSD.replace("csd: {", "csd: {group_subjects: 'sub-9*', "))
    done = home("run", "--select", "group_response")
    assert done.exit_code == MISUSED
    assert "csd.group_subjects: expected patterns of subjects, found 'sub-9*', which fits none" in done.stderr


def test_what_the_store_lost_is_made_again(home: Home) -> None:
    assert home("run", "--select", ALL).exit_code == 0
    (home.folder / "store" / "group_model-csd_desc-mean_response.json").unlink()
    assert home("run", "--subject", "sub-01", "--select", "csd_peaks").exit_code == 0, "it is fresh, and reads nothing"
    done = home("run", "--subject", "sub-01", "--select", "csd_peaks", "--force")
    assert done.exit_code == FAILED
    assert "group_response of group is not in the store" in done.stdout
    assert states(home)["group"]["group_response"]["state"] == "missing"
    done = home("run", "--select", ALL)
    assert done.exit_code == 0, done.output
    assert outcomes(done)["group", "group_response"] == "made"
    assert outcomes(done)["sub-01", "csd_peaks"] == "fresh", "the same bytes as before"


def test_automation_leaves_to_a_person_what_waits_for_the_group(home: Home) -> None:
    with opened(home) as (instance, settings):
        waiting = waiting_for_group(instance, settings)
        assert (
            waiting == {"csd_peaks", "tract_masks", "tract_endings", "tract_orientations"} == following_group(settings)
        )
        wanted = requests(status_of(instance, settings, SUBJECTS), settings, 0.0, waiting)
        assert wanted == {key: ["dti", "noddi"] for key in SUBJECTS}
    assert home("run", "--select", "group_response").exit_code == 0
    with opened(home) as (instance, settings):
        waiting = waiting_for_group(instance, settings)
        assert waiting == set()
        wanted = requests(status_of(instance, settings, SUBJECTS), settings, 0.0, waiting)
        assert all("csd_peaks" in names for names in wanted.values())


def test_dagster_knows_it_as_made_of_all_partitions() -> None:
    for used in (False, True):
        settings = PipelineSettings.model_validate({"csd": {"group_response": used}})
        graph = build(settings).resolve_asset_graph()
        group = graph.get(AssetKey("group_response"))
        assert not group.is_partitioned
        assert {key.to_user_string() for key in group.parent_keys} == {"fiber_response"}
        assert {key.to_user_string() for key in group.child_keys} == ({"csd_peaks"} if used else set())
