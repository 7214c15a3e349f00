"""What a cache of results must do, here by data versions: what is computed again, and what is not."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from dagster import AssetKey, AssetRecordsFilter, DagsterInstance

from kwneuro_assets.assets.derivative import KEPT, Derivative
from kwneuro_assets.storage.io_manager import DerivativeIOManager
from kwneuro_assets.subjects import PARTITIONS, SubjectKey
from kwneuro_assets_tests.small_dataset import AFFINES, head, load
from kwneuro_assets_tests.versioning.lab import CHEAP, Lab

MADE_ALL = dict.fromkeys(CHEAP, "made")
FRESH = dict.fromkeys(CHEAP, "fresh")


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The derivatives that are computed, in their order."""
    names: list[str] = []
    real = Derivative._computed
    monkeypatch.setattr(Derivative, "_computed", lambda self, *rest: names.append(self.name) or real(self, *rest))
    return names


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The derivatives that are read from the store, in their order."""
    names: list[str] = []
    real = DerivativeIOManager._load
    monkeypatch.setattr(DerivativeIOManager, "_load", lambda self, *rest: names.append(rest[0]) or real(self, *rest))
    return names


def turn_bvecs(lab: Lab) -> None:
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


def test_the_first_run_computes_and_the_second_computes_nothing(
    made: Lab, computed: list[str], loaded: list[str], tmp_path: Path
) -> None:
    with DagsterInstance.ephemeral() as instance:
        lab = Lab(made.root, instance, sections={"store": {"url": str(tmp_path)}})
        assert lab.update() == MADE_ALL
        assert computed == list(CHEAP)
        computed.clear()
        loaded.clear()
        assert lab.update() == FRESH
        assert (computed, loaded) == ([], [])


def test_a_run_of_what_is_fresh_neither_loads_nor_computes_and_what_follows_finds_it(
    lab: Lab, computed: list[str], loaded: list[str]
) -> None:
    """As a run from the UI goes: every step is reached, and looks."""
    before = lab.files(), lab.status()
    assert {result.outcome for result in lab.run().values()} == {"fresh"}
    assert (computed, loaded) == ([], [])
    assert (lab.files(), lab.status()) == before
    event = newest(lab, "dti")
    assert event.metadata[KEPT].value is True
    assert {"mean_fa", "parameters", "input_data_versions", "path", "files"} <= event.metadata.keys()


def newest(lab: Lab, asset: str) -> object:
    wanted = AssetRecordsFilter(AssetKey(asset), asset_partitions=[lab.key])
    [record] = lab.instance.fetch_materializations(wanted, limit=1).records
    return record.asset_materialization


def test_a_changed_parameter_computes_its_step_alone_and_what_follows(lab: Lab, computed: list[str]) -> None:
    assert lab.under(dti={"max_bvalue": 900}).update() == {**FRESH, "dti": "made"}
    assert computed == ["dti"]


def test_a_changed_parameter_whose_step_gives_the_same_computes_nothing_further(lab: Lab, computed: list[str]) -> None:
    """Denoising is off for so few voxels either way."""
    assert lab.under(denoising={"method": "auto"}).update() == {**FRESH, "denoised_dwi": "made"}
    assert computed == ["denoised_dwi"]


@pytest.mark.parametrize(
    ("change", "remade"),
    [
        (brighten, ["denoised_dwi", "mean_b0", "dti"]),  # the mask is the provided one
        (raise_bvalues, ["denoised_dwi", "mean_b0", "dti"]),
        (turn_bvecs, ["denoised_dwi", "mean_b0", "dti"]),
        (shrink_mask, ["brain_mask", "dti"]),
    ],
    ids=["voxels", "b-values", "b-vectors", "mask"],
)
def test_changed_data_compute_what_used_them(lab: Lab, computed: list[str], change: object, remade: list[str]) -> None:
    change(lab)  # type: ignore[operator]
    lab.update()
    assert [name for name in computed if name != "brain_mask" or name in remade] == remade
    assert lab.update() == FRESH


def test_a_change_that_is_taken_back_is_found_in_no_cache_but_in_the_store(lab: Lab, computed: list[str]) -> None:
    """Only the newest value is kept: what was made before the change is made again."""
    before = lab.files()
    turn_bvecs(lab)
    lab.update()
    turn_bvecs(lab)
    computed.clear()
    lab.update()
    assert "denoised_dwi" in computed
    own = f"{lab.key}_desc-denoised_dwi.json"  # it names the file that was read, whose numbers are now spelt otherwise
    assert {**lab.files(), own: b""} == {**before, own: b""}


def test_force_computes_one_step_or_all(lab: Lab, computed: list[str]) -> None:
    assert lab.update(("mean_b0",), force=True) == {"mean_b0": "made"}
    assert computed == ["mean_b0"]
    computed.clear()
    assert lab.update(force=True) == MADE_ALL
    assert computed == list(CHEAP)


def test_a_person_can_read_the_parameters_in_the_sidecar_and_in_the_log(lab: Lab) -> None:
    sidecar = json.loads((lab.store.root / lab.key / "dwi" / f"{lab.key}_model-tensor_dwimap.json").read_text())
    assert sidecar["Parameters"] == {"max_bvalue": 1500.0}
    assert {"numpy", "python", "kwneuro-assets"} <= sidecar["Libraries"].keys()
    event = newest(lab, "dti")
    assert event.metadata["parameters"].value == sidecar["Parameters"]  # type: ignore[attr-defined]
    assert event.metadata["libraries"].value == sidecar["Libraries"]  # type: ignore[attr-defined]


def test_what_the_store_has_lost_is_made_again_and_nothing_else(lab: Lab, computed: list[str]) -> None:
    next((lab.root / "store" / lab.key / "dwi").glob("*meanb0*.nii.gz")).unlink()
    assert lab.update(trust_log=True) == FRESH, "which goes by the event log alone"
    assert lab.update() == {**FRESH, "mean_b0": "made"}
    assert computed == ["mean_b0"]


def test_damage_that_is_met_while_loading_is_mended_in_the_same_command(lab: Lab, computed: list[str]) -> None:
    before = lab.files()
    path = next((lab.root / "store" / lab.key / "dwi").glob("*desc-denoised_dwi.nii.gz"))
    path.write_bytes(path.read_bytes()[:-9] + b"vandalism")
    outcomes = lab.under(dti={"max_bvalue": 900}).update()
    assert outcomes == {**FRESH, "denoised_dwi": "made", "dti": "made"}
    assert computed == ["denoised_dwi", "dti"]
    assert lab.update() == {**FRESH, "dti": "made"}
    assert lab.files() == before


def test_a_store_that_is_not_there_at_all_is_an_error_and_loses_nothing(lab: Lab, tmp_path: Path) -> None:
    """An unmounted disk must not have a whole cohort made again."""
    elsewhere = lab.under(store={"url": str(tmp_path / "unmounted")}, dti={"max_bvalue": 900})
    assert elsewhere.update(trust_log=True)["dti"] == "failed"
    assert lab.states() == FRESH | {"dti": "failed"}


def test_a_subject_that_is_removed_and_returns_starts_as_missing(lab: Lab) -> None:
    lab.instance.delete_dynamic_partition(PARTITIONS, lab.key)
    lab.look()
    assert lab.states() == dict.fromkeys(CHEAP, "missing")
    alone = lab.run(("dti",))["dti"]
    assert alone.outcome == "failed", "what an earlier life left is no input"
    assert alone.reason.startswith(f"brain_mask of {lab.key} has not been made. Make it with: kwneuro-assets run")
    assert lab.update() == MADE_ALL


def test_another_process_of_the_subject_is_left_to_it_unless_by_force(lab: Lab) -> None:
    from kwneuro_assets.definitions import build

    settings = lab.under(dti={"max_bvalue": 900}).settings
    job = build(settings).resolve_implicit_global_asset_job_def()
    run = lab.instance.create_run_for_job(
        job, tags={"dagster/partition": lab.key}, asset_selection=frozenset({AssetKey("dti")})
    )
    assert run.run_id
    assert lab.states()["dti"] == "running"
    assert set(lab.under(dti={"max_bvalue": 900}).update().values()) == {"skipped"}
    assert lab.update(("dti",), force=True) == {"dti": "made"}
    lab.instance.delete_run(run.run_id)


def test_one_run_has_one_snapshot_of_the_settings(lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The file changes while the first step runs; the steps after it are made as the run began."""
    from kwneuro_assets.running import update_subject
    from kwneuro_assets.settings import load_settings

    file = tmp_path / "settings.yaml"
    text = (
        f"source: {{url: {lab.root}/source}}\nstore: {{url: {lab.root}/store}}\n"
        "denoising: {method: none}\nbrain_mask: {method: provided}\ndti: {max_bvalue: 900}\n"
    )
    file.write_text(text)
    real = Derivative._computed

    def meddled(self: Derivative, *rest: object) -> object:
        file.write_text(text.replace("900", "1200"))
        return real(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Derivative, "_computed", meddled)
    brighten(lab)
    lab.look()
    update_subject(lab.instance, load_settings(file), lab.key, CHEAP)
    sidecar = lab.store.sidecar("dti", SubjectKey.parse(lab.key))
    assert sidecar is not None
    assert sidecar.provenance.parameters == {"max_bvalue": 900}


def test_a_file_that_the_settings_name_may_not_change_while_it_is_used(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from kwneuro_assets.assets import fiber_response

    response = tmp_path / "response.txt"
    response.write_text("1000 -300 50\n")
    real = fiber_response.compute

    @functools.wraps(real)
    def meddled(**arguments: object) -> object:
        response.write_text("2000 -300 50\n")
        return real(**arguments)

    monkeypatch.setitem(fiber_response.__dict__, "compute", meddled)
    results = lab.under(csd={"response": str(response)}).run(("fiber_response",))
    assert results["fiber_response"].outcome == "failed"
    assert "changed while the run used it" in results["fiber_response"].reason
