"""States of derivatives, with real runs of the cheap ones on a tiny dataset."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from dagster import DagsterInstance

from kwneuro_assets.imaging import NotApplicable
from kwneuro_assets.running import run_subject
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets.versioning.cohort import Status
from kwneuro_assets_tests.small_dataset import AFFINES, head, table, write_series
from kwneuro_assets_tests.versioning.lab import CHEAP, MADE, NEVER_MADE, Lab


def states(*four: str) -> dict[str, str]:
    return dict(zip(CHEAP, four, strict=True))


def test_what_was_made_is_fresh_and_what_was_not_is_missing(made: Lab) -> None:
    assert made.states() == states("fresh", "fresh", "fresh", "fresh")
    assert made.status()["noddi"] == Status("missing", ("it has never been made",))
    assert Lab(made.root, made.instance, NEVER_MADE).states() == states("missing", "missing", "missing", "missing")


def test_versions_in_the_status_are_those_in_the_store(made: Lab) -> None:
    for name in CHEAP:
        sidecar = made.store.sidecar(name, SubjectKey.parse(MADE))
        status = made.status()[name]
        assert sidecar is not None
        assert (status.data_version, status.code_version) == (sidecar.data_version, sidecar.provenance.code_version)


def test_a_changed_setting_makes_only_its_users_stale(made: Lab) -> None:
    changed = Lab(made.root, made.instance, MADE, {"dti": {"max_bvalue": 900}})
    assert changed.states() == states("fresh", "fresh", "fresh", "stale")
    [why] = changed.status()["dti"].why
    assert why == "dti.max_bvalue: was 1500, now 900"
    above = Lab(made.root, made.instance, MADE, {"denoising": {"method": "auto"}})
    assert above.states() == states("stale", "stale-upstream", "stale-upstream", "stale-upstream")
    assert above.status()["mean_b0"].why == ("denoised_dwi is stale",)


def test_an_input_that_settings_add_or_drop_makes_its_user_stale(made: Lab) -> None:
    changed = Lab(made.root, made.instance, MADE, {"brain_mask": {"method": "median-otsu"}})
    assert changed.states() == states("fresh", "fresh", "stale", "stale-upstream")
    assert "provided_mask is no longer among its inputs" in changed.status()["brain_mask"].why


def test_a_corrected_bvec_makes_stale_what_is_made_from_the_series(lab: Lab) -> None:
    path = lab.folder / f"{lab.key}_dwi.bvec"
    original = path.read_text()
    np.savetxt(path, np.loadtxt(path) * [[-1], [1], [1]])
    assert lab.states() == states("fresh", "fresh", "fresh", "fresh"), "nobody has looked yet"
    lab.look()
    assert lab.states() == states("stale", "stale-upstream", "stale-upstream", "stale-upstream")
    assert "dwi changed: version " in lab.status()["denoised_dwi"].why[0]
    path.write_text(original)
    lab.look()
    assert lab.states() == states("fresh", "fresh", "fresh", "fresh")


def test_a_step_that_gives_the_same_again_leaves_what_follows_fresh(lab: Lab) -> None:
    """Turned b-vectors change the series and the tensor, and leave the mean b=0 as it was."""
    path = lab.folder / f"{lab.key}_dwi.bvec"
    np.savetxt(path, np.loadtxt(path) * [[-1], [1], [1]])
    lab.run(("denoised_dwi",))
    assert lab.states() == states("fresh", "stale", "stale-upstream", "stale")
    lab.run(("mean_b0",))
    assert lab.states() == states("fresh", "fresh", "fresh", "stale")
    lab.run(("dti",))
    assert lab.states() == states("fresh", "fresh", "fresh", "fresh")


def test_a_corrected_mask_makes_stale_the_mask_and_what_is_made_within_it(lab: Lab) -> None:
    path = lab.folder / f"{lab.key}_desc-brain_mask.nii.gz"
    smaller = head()
    smaller[:4] = False
    nibabel.save(nibabel.Nifti1Image(smaller.astype(np.uint8), AFFINES["right-handed"]), path)
    lab.look()
    assert lab.states() == states("fresh", "fresh", "stale", "stale-upstream")
    assert "provided_mask changed" in lab.status()["brain_mask"].why[0]


def test_a_failed_attempt_is_told_until_one_succeeds_and_what_stood_before_loads(lab: Lab) -> None:
    path = lab.folder / f"{lab.key}_desc-brain_mask.nii.gz"
    whole = path.read_bytes()
    nibabel.save(nibabel.Nifti1Image(np.ones(head().shape, np.uint8), AFFINES["right-handed"]), path)
    before = lab.files()
    made = run_subject(lab.instance, lab.settings, lab.key, ("brain_mask", "dti"), force=True)
    assert [result.outcome for result in made] == ["failed", "skipped"]
    assert "has changed since it was observed" in made[0].reason
    assert lab.files() == before
    assert lab.states()["brain_mask"] == "failed"
    assert lab.states()["mean_b0"] == "fresh"
    path.write_bytes(whole)
    assert {result.outcome for result in lab.run(("brain_mask", "dti")).values()} == {"fresh"}
    assert lab.states() == states("fresh", "fresh", "fresh", "fresh")


def test_running_again_gives_the_same_versions_and_byte_identical_files(lab: Lab) -> None:
    before = lab.files()
    first = {name: status.data_version for name, status in lab.status().items()}
    again = lab.run(force=True)
    assert {result.outcome for result in again.values()} == {"made"}
    assert {name: result.data_version for name, result in again.items()} == {name: first[name] for name in CHEAP}
    assert lab.files() == before
    assert lab.states() == states("fresh", "fresh", "fresh", "fresh")


def test_another_instance_and_store_give_the_same_files_pictures_and_all(made: Lab, tmp_path: Path) -> None:
    with DagsterInstance.ephemeral() as instance:
        other = Lab(made.root, instance, MADE, {"store": {"url": str(tmp_path)}})
        other.run()
    assert other.files() == made.files()
    assert any(name.endswith("_figure.png") for name in made.files())


def test_a_store_that_is_ahead_of_the_log_is_told_and_never_mixed_in(lab: Lab) -> None:
    """The store of a run whose events were lost: here, of another instance."""
    with DagsterInstance.ephemeral() as instance:
        Lab(lab.root, instance, lab.key, {"source": {"subsample": 2}}).run(("denoised_dwi",))
    result = lab.run(("mean_b0",), force=True)["mean_b0"]
    assert result.outcome == "failed"
    assert "the event log says" in result.reason
    assert f"kwneuro-assets run --subject {lab.key} --select denoised_dwi" in result.reason
    assert lab.status()["denoised_dwi"].state == "missing", "and so it is made again"
    assert lab.status()["denoised_dwi"].why == (result.reason,)


def test_a_store_that_cannot_be_written_is_told_in_its_own_sentence(lab: Lab, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.write_text("notes")
    results = Lab(lab.root, lab.instance, lab.key, {"store": {"url": str(store)}}).run(force=True)
    assert [result.outcome for result in results.values()] == ["failed", "skipped", "skipped", "skipped"]
    assert results["denoised_dwi"].reason.startswith(f"the store {store} is a file, or lies below one")
    assert store.read_text() == "notes"


def test_a_single_shell_has_no_noddi_and_that_is_no_failure(lab: Lab) -> None:
    write_series(lab.root / "source", lab.key, directions=table((1000.0,)))
    results = lab.run((*CHEAP, "noddi"))
    assert results["noddi"].outcome == "not-applicable"
    assert "shell" in results["noddi"].reason
    assert lab.status()["noddi"].state == "not-applicable"
    assert lab.status()["noddi"].why == (results["noddi"].reason,)
    assert lab.states() == states("fresh", "fresh", "fresh", "fresh")
    value, _ = lab.store.read("noddi", SubjectKey.parse(lab.key))
    assert value == NotApplicable(results["noddi"].reason)
