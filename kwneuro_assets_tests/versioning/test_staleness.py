"""States of derivatives, with real runs of the cheap ones on a tiny dataset."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from dagster import DagsterInstance

from kwneuro_assets.cohort.run import run_subject
from kwneuro_assets.imaging import NotApplicable
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets.versioning.staleness import Status
from kwneuro_assets_tests.testkit.small_dataset import AFFINES, head, table, write_series
from kwneuro_assets_tests.versioning.lab import CHEAP, COMPUTED, NEW, Lab


def states(*four: str) -> dict[str, str]:
    return dict(zip(CHEAP, four, strict=True))


def test_materialized_derivatives_are_fresh_and_others_missing(computed_lab: Lab) -> None:
    assert computed_lab.states() == states("fresh", "fresh", "fresh", "fresh")
    assert computed_lab.status()["noddi"] == Status("missing", ("it has not been materialized",))
    assert Lab(computed_lab.root, computed_lab.instance, NEW).states() == states(
        "missing", "missing", "missing", "missing"
    )


def test_versions_in_the_status_are_those_in_the_store(computed_lab: Lab) -> None:
    for name in CHEAP:
        sidecar = computed_lab.store.sidecar(name, SubjectKey.parse(COMPUTED))
        status = computed_lab.status()[name]
        assert sidecar is not None
        assert (status.data_version, status.code_version) == (sidecar.data_version, sidecar.provenance.code_version)


def test_a_changed_setting_makes_only_its_users_stale(computed_lab: Lab) -> None:
    changed = Lab(computed_lab.root, computed_lab.instance, COMPUTED, {"dti": {"max_bvalue": 900}})
    assert changed.states() == states("fresh", "fresh", "fresh", "stale")
    [why] = changed.status()["dti"].why
    assert why == "dti.max_bvalue: was 1500, now 900"
    above = Lab(computed_lab.root, computed_lab.instance, COMPUTED, {"denoising": {"method": "auto"}})
    assert above.states() == states("stale", "stale-upstream", "stale-upstream", "stale-upstream")
    assert above.status()["mean_b0"].why == ("denoised_dwi is stale",)


def test_an_input_that_settings_add_or_remove_makes_its_user_stale(computed_lab: Lab) -> None:
    changed = Lab(computed_lab.root, computed_lab.instance, COMPUTED, {"brain_mask": {"method": "median-otsu"}})
    assert changed.states() == states("fresh", "fresh", "stale", "stale-upstream")
    assert "provided_mask is no longer an input" in changed.status()["brain_mask"].why


def test_a_corrected_bvec_makes_the_derivatives_of_the_dwi_stale(lab: Lab) -> None:
    path = lab.folder / f"{lab.key}_dwi.bvec"
    original = path.read_text()
    np.savetxt(path, np.loadtxt(path) * [[-1], [1], [1]])
    assert lab.states() == states("fresh", "fresh", "fresh", "fresh"), "the change is not ingested yet"
    lab.ingest()
    assert lab.states() == states("stale", "stale-upstream", "stale-upstream", "stale-upstream")
    assert "dwi changed: version " in lab.status()["denoised_dwi"].why[0]
    path.write_text(original)
    lab.ingest()
    assert lab.states() == states("fresh", "fresh", "fresh", "fresh")


def test_a_step_with_an_unchanged_result_leaves_downstream_fresh(lab: Lab) -> None:
    """Rotated b-vectors change the DWI and the tensor, but not the mean b=0."""
    path = lab.folder / f"{lab.key}_dwi.bvec"
    np.savetxt(path, np.loadtxt(path) * [[-1], [1], [1]])
    lab.run(("denoised_dwi",))
    assert lab.states() == states("fresh", "stale", "stale-upstream", "stale")
    lab.run(("mean_b0",))
    assert lab.states() == states("fresh", "fresh", "fresh", "stale")
    lab.run(("dti",))
    assert lab.states() == states("fresh", "fresh", "fresh", "fresh")


def test_a_corrected_mask_makes_the_mask_and_its_users_stale(lab: Lab) -> None:
    path = lab.folder / f"{lab.key}_desc-brain_mask.nii.gz"
    smaller = head()
    smaller[:4] = False
    nibabel.save(nibabel.Nifti1Image(smaller.astype(np.uint8), AFFINES["right-handed"]), path)
    lab.ingest()
    assert lab.states() == states("fresh", "fresh", "stale", "stale-upstream")
    assert "provided_mask changed" in lab.status()["brain_mask"].why[0]


def test_a_failure_is_reported_until_an_attempt_succeeds_and_the_old_value_remains(lab: Lab) -> None:
    path = lab.folder / f"{lab.key}_desc-brain_mask.nii.gz"
    intact = path.read_bytes()
    nibabel.save(nibabel.Nifti1Image(np.ones(head().shape, np.uint8), AFFINES["right-handed"]), path)
    before = lab.files()
    results = run_subject(lab.instance, lab.settings, lab.key, ("brain_mask", "dti"), force=True)
    assert [result.outcome for result in results] == ["failed", "upstream-failed"]
    assert "has changed since it was observed" in results[0].reason
    assert lab.files() == before
    assert lab.states()["brain_mask"] == "failed"
    assert lab.states()["mean_b0"] == "fresh"
    path.write_bytes(intact)
    assert {result.outcome for result in lab.run(("brain_mask", "dti")).values()} == {"skipped"}
    assert lab.states() == states("fresh", "fresh", "fresh", "fresh")


def test_a_second_run_gives_the_same_versions_and_byte_identical_files(lab: Lab) -> None:
    before = lab.files()
    first = {name: status.data_version for name, status in lab.status().items()}
    again = lab.run(force=True)
    assert {result.outcome for result in again.values()} == {"materialized"}
    assert {name: result.data_version for name, result in again.items()} == {name: first[name] for name in CHEAP}
    assert lab.files() == before
    assert lab.states() == states("fresh", "fresh", "fresh", "fresh")


def test_another_instance_and_store_give_the_same_files_and_figures(computed_lab: Lab, tmp_path: Path) -> None:
    with DagsterInstance.ephemeral() as instance:
        other = Lab(computed_lab.root, instance, COMPUTED, {"store": {"url": str(tmp_path)}})
        other.run()
    assert other.files() == computed_lab.files()
    assert any(name.endswith("_figure.png") for name in computed_lab.files())


def test_a_store_that_is_ahead_of_the_log_is_reported_and_not_used(lab: Lab) -> None:
    """The store has the files of a run whose events are not in the log: here, of another instance."""
    with DagsterInstance.ephemeral() as instance:
        Lab(lab.root, instance, lab.key, {"source": {"subsample": 2}}).run(("denoised_dwi",))
    result = lab.run(("mean_b0",), force=True)["mean_b0"]
    assert result.outcome == "failed"
    assert "the event log records" in result.reason
    assert f"kwneuro-assets run --subject {lab.key} --select denoised_dwi" in result.reason
    assert lab.status()["denoised_dwi"].state == "missing", "so that it is computed again"
    assert lab.status()["denoised_dwi"].why == (result.reason,)


def test_a_store_that_cannot_be_written_is_the_reason_of_the_failure(lab: Lab, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.write_text("notes")
    results = Lab(lab.root, lab.instance, lab.key, {"store": {"url": str(store)}}).run(force=True)
    assert [result.outcome for result in results.values()] == [
        "failed",
        "upstream-failed",
        "upstream-failed",
        "upstream-failed",
    ]
    assert results["denoised_dwi"].reason.startswith(f"the store {store} is a file, or is below one")
    assert store.read_text() == "notes"


def test_noddi_of_a_single_shell_is_not_applicable(lab: Lab) -> None:
    write_series(lab.root / "source", lab.key, directions=table((1000.0,)))
    results = lab.run((*CHEAP, "noddi"))
    assert results["noddi"].outcome == "not-applicable"
    assert "shell" in results["noddi"].reason
    assert lab.status()["noddi"].state == "not-applicable"
    assert lab.status()["noddi"].why == (results["noddi"].reason,)
    assert lab.states() == states("fresh", "fresh", "fresh", "fresh")
    value, _ = lab.store.read("noddi", SubjectKey.parse(lab.key))
    assert value == NotApplicable(results["noddi"].reason)
