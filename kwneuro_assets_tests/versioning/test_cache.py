"""Caching by data versions: which steps are computed again, and which are skipped."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from dagster import AssetKey, AssetRecordsFilter, DagsterInstance

from kwneuro_assets.assets import DERIVATIVES
from kwneuro_assets.assets.derivative import Derivative
from kwneuro_assets.assets.mechanism import execution
from kwneuro_assets.assets.mechanism.freshness import FORCE_TAG, SKIPPED, is_forced
from kwneuro_assets.cohort.run import update_subject
from kwneuro_assets.resources.derivative_io_manager import DerivativeIOManager
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets.versioning.partitions import PARTITIONS
from kwneuro_assets_tests.testkit.small_dataset import AFFINES, head, load
from kwneuro_assets_tests.versioning.lab import CHEAP, Lab

ALL_MATERIALIZED = dict.fromkeys(CHEAP, "materialized")
ALL_SKIPPED = dict.fromkeys(CHEAP, "skipped")


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the computed derivatives, in order."""
    names: list[str] = []
    real = execution.compute_value
    monkeypatch.setattr(execution, "compute_value", lambda one, *rest: names.append(one.name) or real(one, *rest))
    return names


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the derivatives that are read from the store, in order."""
    names: list[str] = []
    real = DerivativeIOManager._load
    monkeypatch.setattr(DerivativeIOManager, "_load", lambda self, *rest: names.append(rest[0]) or real(self, *rest))
    return names


def rotate_bvecs(lab: Lab) -> None:
    path = lab.folder / f"{lab.key}_dwi.bvec"
    np.savetxt(path, np.loadtxt(path) * [[-1], [1], [1]])


def raise_bvalues(lab: Lab) -> None:
    path = lab.folder / f"{lab.key}_dwi.bval"
    np.savetxt(path, np.loadtxt(path)[None] * 1.1, fmt="%g")


def brighten(lab: Lab) -> None:
    path = lab.folder / f"{lab.key}_dwi.nii.gz"
    image = load(path)
    nibabel.save(nibabel.Nifti1Image(image.get_fdata(dtype=np.float32) * 2, image.affine), path)


def shrink_mask(lab: Lab) -> None:
    path = lab.folder / f"{lab.key}_desc-brain_mask.nii.gz"
    smaller = head()
    smaller[:4] = False
    nibabel.save(nibabel.Nifti1Image(smaller.astype(np.uint8), AFFINES["right-handed"]), path)


def test_the_first_run_computes_everything_and_the_second_nothing(
    computed_lab: Lab, computed: list[str], loaded: list[str], tmp_path: Path
) -> None:
    with DagsterInstance.ephemeral() as instance:
        lab = Lab(computed_lab.root, instance, sections={"store": {"url": str(tmp_path)}})
        assert lab.update() == ALL_MATERIALIZED
        assert computed == list(CHEAP)
        computed.clear()
        loaded.clear()
        assert lab.update() == ALL_SKIPPED
        assert (computed, loaded) == ([], [])


def test_a_run_of_fresh_derivatives_neither_loads_nor_computes(
    lab: Lab, computed: list[str], loaded: list[str]
) -> None:
    """As a run from the UI: every step starts and checks its state."""
    before = lab.files(), lab.status()
    assert {result.outcome for result in lab.run().values()} == {"skipped"}
    assert (computed, loaded) == ([], [])
    assert (lab.files(), lab.status()) == before
    event = newest(lab, "dti")
    assert event.metadata[SKIPPED].value is True
    assert {"mean_fa", "parameters", "input_data_versions", "path", "files"} <= event.metadata.keys()


def newest(lab: Lab, asset: str) -> object:
    wanted = AssetRecordsFilter(AssetKey(asset), asset_partitions=[lab.key])
    [record] = lab.instance.fetch_materializations(wanted, limit=1).records
    return record.asset_materialization


def test_a_changed_parameter_recomputes_its_step_and_downstream(lab: Lab, computed: list[str]) -> None:
    assert lab.under(dti={"max_bvalue": 900}).update() == {**ALL_SKIPPED, "dti": "materialized"}
    assert computed == ["dti"]


def test_an_unchanged_result_skips_the_steps_downstream(lab: Lab, computed: list[str]) -> None:
    """Neither setting denoises so few voxels."""
    assert lab.under(denoising={"method": "auto"}).update() == {**ALL_SKIPPED, "denoised_dwi": "materialized"}
    assert computed == ["denoised_dwi"]


@pytest.mark.parametrize(
    ("change", "recomputed"),
    [
        (brighten, ["denoised_dwi", "mean_b0", "dti"]),  # the mask is the provided one
        (raise_bvalues, ["denoised_dwi", "mean_b0", "dti"]),
        (rotate_bvecs, ["denoised_dwi", "mean_b0", "dti"]),
        (shrink_mask, ["brain_mask", "dti"]),
    ],
    ids=["voxels", "b-values", "b-vectors", "mask"],
)
def test_changed_data_recompute_their_users(
    lab: Lab, computed: list[str], change: object, recomputed: list[str]
) -> None:
    change(lab)  # type: ignore[operator]
    lab.update()
    assert [name for name in computed if name != "brain_mask" or name in recomputed] == recomputed
    assert lab.update() == ALL_SKIPPED


def test_a_reverted_change_is_computed_again_with_the_same_result(lab: Lab, computed: list[str]) -> None:
    """The store has only the newest value, so the earlier one is computed again."""
    before = lab.files()
    rotate_bvecs(lab)
    lab.update()
    rotate_bvecs(lab)
    computed.clear()
    lab.update()
    assert "denoised_dwi" in computed
    own = f"{lab.key}_desc-denoised_dwi.json"  # it names the bvec file, whose numbers have another format
    assert {**lab.files(), own: b""} == {**before, own: b""}


def test_force_computes_one_step_or_all(lab: Lab, computed: list[str]) -> None:
    assert lab.update(("mean_b0",), force=True) == {"mean_b0": "materialized"}
    assert computed == ["mean_b0"]
    computed.clear()
    assert lab.update(force=True) == ALL_MATERIALIZED
    assert computed == list(CHEAP)


def test_added_derivatives_are_not_forced(lab: Lab, computed: list[str]) -> None:
    def outcomes(*added: str) -> dict[str, tuple[str, bool]]:
        results = update_subject(lab.instance, lab.settings, lab.key, CHEAP, added=added, force=True)
        return {result.asset: (result.outcome, result.added) for result in results}

    assert outcomes("denoised_dwi", "mean_b0", "brain_mask") == {"dti": ("materialized", False)}
    assert computed == ["dti"]
    rotate_bvecs(lab)
    lab.ingest()
    assert outcomes("denoised_dwi", "brain_mask") == {
        "denoised_dwi": ("materialized", True),
        "mean_b0": ("materialized", False),
        "brain_mask": ("skipped", True),  # it ran, and was up to date
        "dti": ("materialized", False),
    }


@pytest.mark.parametrize(
    ("tag", "forced"),
    [(None, []), ("true", ["dti", "noddi"]), ("", ["dti", "noddi"]), ("dti", ["dti"]), ("noddi,dti", ["dti", "noddi"])],
)
def test_the_run_tag_forces_all_or_the_named_derivatives(tag: str | None, forced: list[str]) -> None:
    tags = {} if tag is None else {FORCE_TAG: tag}
    assert [one.name for one in DERIVATIVES if one.name in ("dti", "noddi") and is_forced(one, tags)] == forced


def test_sidecar_and_event_log_have_the_parameters(lab: Lab) -> None:
    sidecar = json.loads((lab.store.root / lab.key / "dwi" / f"{lab.key}_model-tensor_dwimap.json").read_text())
    assert sidecar["Parameters"] == {"max_bvalue": 1500.0}
    assert {"numpy", "python", "kwneuro-assets"} <= sidecar["Libraries"].keys()
    event = newest(lab, "dti")
    assert event.metadata["parameters"].value == sidecar["Parameters"]  # type: ignore[attr-defined]
    assert event.metadata["libraries"].value == sidecar["Libraries"]  # type: ignore[attr-defined]


def test_only_what_is_missing_from_the_store_is_computed_again(lab: Lab, computed: list[str]) -> None:
    next((lab.root / "store" / lab.key / "dwi").glob("*meanb0*.nii.gz")).unlink()
    assert lab.update(trust_log=True) == ALL_SKIPPED, "it uses only the event log"
    assert lab.update() == {**ALL_SKIPPED, "mean_b0": "materialized"}
    assert computed == ["mean_b0"]


def test_a_damaged_input_is_recomputed_by_the_same_command(lab: Lab, computed: list[str]) -> None:
    before = lab.files()
    path = next((lab.root / "store" / lab.key / "dwi").glob("*desc-denoised_dwi.nii.gz"))
    path.write_bytes(path.read_bytes()[:-9] + b"vandalism")
    outcomes = lab.under(dti={"max_bvalue": 900}).update()
    assert outcomes == {**ALL_SKIPPED, "denoised_dwi": "materialized", "dti": "materialized"}
    assert computed == ["denoised_dwi", "dti"]
    assert lab.update() == {**ALL_SKIPPED, "dti": "materialized"}
    assert lab.files() == before


def test_an_absent_store_is_an_error_and_changes_no_other_state(lab: Lab, tmp_path: Path) -> None:
    """An unmounted disk must not cause the recomputation of a cohort."""
    elsewhere = lab.under(store={"url": str(tmp_path / "unmounted")}, dti={"max_bvalue": 900})
    assert elsewhere.update(trust_log=True)["dti"] == "failed"
    assert lab.states() == dict.fromkeys(CHEAP, "fresh") | {"dti": "failed"}


def test_a_subject_that_is_removed_and_returns_starts_as_missing(lab: Lab) -> None:
    lab.instance.delete_dynamic_partition(PARTITIONS, lab.key)
    lab.ingest()
    assert lab.states() == dict.fromkeys(CHEAP, "missing")
    alone = lab.run(("dti",))["dti"]
    assert alone.outcome == "failed", "files of the removed subject are no input"
    assert alone.reason.startswith(
        f"brain_mask of {lab.key} has not been materialized. Materialize it with: kwneuro-assets run"
    )
    assert lab.update() == ALL_MATERIALIZED


def test_nothing_runs_beside_another_run_of_the_subject_unless_forced(lab: Lab) -> None:
    from kwneuro_assets.definitions import build

    settings = lab.under(dti={"max_bvalue": 900}).settings
    job = build(settings).resolve_implicit_global_asset_job_def()
    run = lab.instance.create_run_for_job(
        job, tags={"dagster/partition": lab.key}, asset_selection=frozenset({AssetKey("dti")})
    )
    assert run.run_id
    assert lab.states()["dti"] == "running"
    assert set(lab.under(dti={"max_bvalue": 900}).update().values()) == {"upstream-failed"}
    assert lab.update(("dti",), force=True) == {"dti": "materialized"}
    lab.instance.delete_run(run.run_id)


def test_one_run_has_one_snapshot_of_the_settings(lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The settings file changes during the first step; later steps use the settings of the start."""
    from kwneuro_assets.settings import load_settings

    file = tmp_path / "settings.yaml"
    text = (
        f"source: {{url: {lab.root}/source}}\nstore: {{url: {lab.root}/store}}\n"
        "denoising: {method: none}\nbrain_mask: {method: provided}\ndti: {max_bvalue: 900}\n"
    )
    file.write_text(text)
    real = execution.compute_value

    def with_edit(derivative: Derivative, *rest: object) -> object:
        file.write_text(text.replace("900", "1200"))
        return real(derivative, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(execution, "compute_value", with_edit)
    brighten(lab)
    lab.ingest()
    update_subject(lab.instance, load_settings(file), lab.key, CHEAP)
    sidecar = lab.store.sidecar("dti", SubjectKey.parse(lab.key))
    assert sidecar is not None
    assert sidecar.provenance.parameters == {"max_bvalue": 900}


def test_a_change_of_a_settings_file_during_its_use_is_an_error(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from kwneuro_assets.assets import fiber_response

    response = tmp_path / "response.txt"
    response.write_text("1000 -300 50\n")
    real = fiber_response.compute

    @functools.wraps(real)
    def with_edit(**arguments: object) -> object:
        response.write_text("2000 -300 50\n")
        return real(**arguments)

    monkeypatch.setitem(fiber_response.__dict__, "compute", with_edit)
    results = lab.under(csd={"wm_response": str(response)}).run(("fiber_response",))
    assert results["fiber_response"].outcome == "failed"
    assert "changed while the run used it" in results["fiber_response"].reason
