from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from kwneuro_assets.derivations.noddi import fit_noddi
from kwneuro_assets.derivations.noddi_dictionary import noddi_dictionary
from kwneuro_assets.derivations.tensor import fit_tensor
from kwneuro_assets.imaging import Dwi, GradientTable, InvalidData, MapSet, NotApplicable, Volume
from kwneuro_assets_tests.derivations.slab import Slab, read_slab
from kwneuro_assets_tests.derivations.test_tensor import AXES, affine, directions, table

# DIPY's, of the spherical harmonics that AMICO uses; thousands of times.
pytestmark = pytest.mark.filterwarnings("ignore:The legacy descoteaux07:PendingDeprecationWarning")

DPAR, DISO, DIRECTIONS = 1.7e-3, 3.0e-3, 500
SHELLS = table((1000, 20), (2500, 40), b0s=2)


@pytest.fixture(scope="module")
def slab(phantom_tool: Path) -> Slab:
    return read_slab(phantom_tool)


@pytest.fixture(scope="module")
def sample(slab: Slab) -> Volume:
    """A mask of 600 voxels strewn over the slab's brain."""
    inside = np.flatnonzero(slab.mask.array)
    chosen = np.zeros(slab.mask.array.size, np.uint8)
    chosen[np.random.default_rng(0).choice(inside, 600, replace=False)] = 1
    return Volume(chosen.reshape(slab.mask.shape), slab.mask.affine)


@pytest.fixture(scope="module")
def maps(slab: Slab, sample: Volume) -> MapSet:
    return fitted(slab.dwi, sample, optional=True)


def fitted(dwi: Dwi, mask: Volume, *, optional: bool = False) -> MapSet:
    result = fit_noddi(dwi, mask, DPAR, DISO, DIRECTIONS, rmse=optional, tissue_weighted=optional)
    assert isinstance(result, MapSet)
    return result


def bundle(axis: NDArray[np.float64], density: float = 0.6, gradients: GradientTable = SHELLS) -> NDArray[np.float32]:
    """The signal (n,) of parallel neurites along a world-frame axis, S0 = 800."""
    squared = (gradients.bvecs @ axis) ** 2
    inner = np.exp(-gradients.bvals * DPAR * squared)
    across = DPAR * (1 - density)
    outer = np.exp(-gradients.bvals * (across + (DPAR - across) * squared))
    return (800 * (density * inner + (1 - density) * outer)).astype(np.float32)


def dataset(voxels: list[NDArray[np.float32]], kind: str = "las") -> tuple[Dwi, Volume]:
    array = np.asfortranarray(np.stack(voxels)[:, None, None])
    return Dwi(Volume(array, affine(kind)), SHELLS), Volume(np.ones(array.shape[:3], np.uint8), affine(kind))


def test_the_phantoms_free_water_and_neurite_density_are_found(slab: Slab, sample: Volume, maps: MapSet) -> None:
    # SNR 30 and a grey matter that the model does not know; measured: r = 0.91, mean error 0.034 and r = 0.97.
    inside = sample.array > 0
    assert np.corrcoef(maps["fwf"].array[inside], slab.fwf[inside])[0, 1] > 0.85
    white = inside & (slab.white > 0.95)
    assert np.abs(maps["ndi"].array[white] - slab.ndi[white]).mean() < 0.05
    assert np.corrcoef(maps["ndi"].array[white], slab.ndi[white])[0, 1] > 0.9


def test_every_map_is_in_its_range_and_zero_outside_the_mask(sample: Volume, maps: MapSet) -> None:
    inside = sample.array > 0
    assert list(maps) == ["ndi", "odi", "fwf", "direction", "rmse", "ndiweighted", "odiweighted"]
    for name in ("ndi", "odi", "fwf", "ndiweighted", "odiweighted"):
        assert maps[name].array.dtype == np.float32
        assert maps[name].array.min() >= 0
        assert maps[name].array.max() <= 1
        assert not maps[name].array[~inside].any()
    np.testing.assert_allclose(np.linalg.norm(maps["direction"].array[inside], axis=1), 1, atol=1e-6)
    assert not maps["direction"].array[~inside].any()


def test_voxels_are_those_of_amico_run_as_its_manual_says(
    slab: Slab, sample: Volume, maps: MapSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Files in, Evaluation, results out, with world-frame vectors. One thing is spared: of the tables that
    # amico.setup() writes for two minutes, only the one in use is made. AMICO's dictionary is rounded to float32,
    # ours is not, which now and then makes another atom the best: for 0.1 % of a brain that is more than 0.001.
    import amico

    subject = tmp_path / "subject"
    subject.mkdir()
    monkeypatch.setattr(amico.lut, "dipy_home", str(tmp_path))
    amico.lut.precompute_rotation_matrices(12, DIRECTIONS)
    crop = sample.array.any(axis=(1, 2)), sample.array.any(axis=(0, 2))
    window = np.ix_(*crop, np.ones(sample.shape[2], bool))
    nibabel.save(nibabel.Nifti1Image(slab.dwi.array[window], np.eye(4)), subject / "dwi.nii")
    nibabel.save(nibabel.Nifti1Image(sample.array[window], np.eye(4)), subject / "mask.nii")
    scheme = np.column_stack([slab.dwi.world_bvecs, slab.dwi.bvals])
    np.savetxt(subject / "dwi.scheme", scheme, fmt="%.17g", header="VERSION: BVECTOR", comments="")
    run = amico.Evaluation(str(tmp_path), "subject")
    run.set_config("doComputeRMSE", True)
    run.set_config("doSaveModulatedMaps", True)
    run.load_data("dwi.nii", "dwi.scheme", "mask.nii")
    run.set_model("NODDI")
    run.generate_kernels(ndirs=DIRECTIONS)
    run.load_kernels()
    run.fit()

    inside = sample.array[window] > 0
    for index, name in enumerate(("ndi", "odi", "fwf")):
        error = np.abs(maps[name].array[window][inside] - run.RESULTS["MAPs"][inside, index])
        assert error.mean() < 1e-3
        assert np.percentile(error, 99) < 1e-3
    cosines = (maps["direction"].array[window][inside] * run.RESULTS["DIRs"][inside]).sum(axis=1)
    positive = slab.dwi.array[window][inside].min(axis=1) > 0  # of others DIPY makes what the whole image has as lowest
    assert np.count_nonzero(positive) > 500
    np.testing.assert_allclose(np.abs(cosines[positive]), 1, atol=1e-6)
    error = np.abs(maps["rmse"].array[window][inside] - run.RESULTS["RMSE"][inside])
    assert np.percentile(error, 99) < 1e-4
    for index, name in enumerate(("ndiweighted", "odiweighted")):
        error = np.abs(maps[name].array[window][inside] - run.RESULTS["MAPs_mod"][inside, index])
        assert np.percentile(error, 99) < 1e-3


def test_a_voxel_depends_on_no_other_and_none_is_too_strange(capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    plain = (bundle(directions(1)[0]) * rng.uniform(0.9, 1.1, len(SHELLS))).astype(np.float32)
    unweighted = SHELLS.b0_mask
    strange = [
        np.zeros_like(plain),
        -plain,
        np.where(unweighted, 0, plain).astype(np.float32),
        np.where(unweighted, 800, 0).astype(np.float32),
        np.where(unweighted, 800, -50).astype(np.float32),
        np.where(unweighted, 1e-30, plain).astype(np.float32),
        np.where(unweighted, 1e-42, 1e30).astype(np.float32),
    ]
    dwi, mask = dataset([*strange, plain])
    together = fitted(dwi, mask)
    alone = np.zeros_like(mask.array)
    alone[-1] = 1
    single = fitted(dwi, Volume(alone, mask.affine))
    assert capfd.readouterr().out == ""  # AMICO is silenced
    for name in together:
        np.testing.assert_array_equal(single[name].array[-1], together[name].array[-1])
        assert not together[name].array[[0, 1, 2, 6]].any()  # no S0, no maps
    assert together["ndi"].array[-1].item() == pytest.approx(0.6, abs=0.1)


@pytest.mark.parametrize(
    "kind", ["oblique", *(pytest.param(kind, marks=pytest.mark.slow) for kind in AXES if kind != "oblique")]
)
def test_directions_are_those_of_the_fibres_in_the_world_frame_whatever_the_affine(kind: str) -> None:
    # Half a degree: the tensor is not quite the model of the signal, and the sampling not quite uniform.
    axes = directions(12, seed=3)
    dwi, mask = dataset([bundle(axis) for axis in axes], kind)
    found = fitted(dwi, mask)
    vectors = found["direction"].array[:, 0, 0]
    tensor = fit_tensor(dwi, mask, 1500)
    assert isinstance(tensor, MapSet)
    for expected in (axes, tensor["evecs"].array[:, 0, 0, :3]):
        angles = np.degrees(np.arccos(np.minimum(np.abs((vectors * expected).sum(axis=1)), 1)))
        assert angles.max() < 0.5
    # Parallel neurites against a dictionary of 500 directions, 5 degrees apart, with a dispersion of 0.03 at least:
    # AMICO makes up for both with its density, single voxels are up to 0.3 off.
    assert np.median(np.abs(found["ndi"].array - 0.6)) < 0.1
    assert found["odi"].array.max() < 0.1


@pytest.mark.slow
def test_the_number_of_threads_changes_no_byte(
    slab: Slab, sample: Volume, maps: MapSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for threads in ("1", "3"):
        monkeypatch.setenv("KWNEURO_THREADS", threads)
        again = fitted(slab.dwi, sample, optional=True)
        for name in maps:
            np.testing.assert_array_equal(again[name].array, maps[name].array)


@pytest.mark.slow
def test_jittered_bvalues_and_a_b0_in_the_middle_change_little() -> None:
    # A single b=0 that is not the first volume, and b-values as a scanner reports them.
    axes = directions(3, seed=3)
    rng = np.random.default_rng(0)
    keep = np.r_[2:30, 0, 30 : len(SHELLS)]
    bvals = np.where(SHELLS.b0_mask, 4.0, SHELLS.bvals + rng.uniform(-20, 20, len(SHELLS)))[keep]
    moved = GradientTable(bvals, SHELLS.bvecs[keep], "world")
    array = np.stack([bundle(axis)[keep] for axis in axes])[:, None, None]
    mask = Volume(np.ones((3, 1, 1), np.uint8), affine("las"))
    found = fitted(Dwi(Volume(array, affine("las")), moved), mask)
    assert np.median(np.abs(found["ndi"].array - 0.6)) < 0.1
    assert np.abs((found["direction"].array[:, 0, 0] * axes).sum(axis=1)).min() > np.cos(np.radians(0.5))


def test_few_volumes_all_repeated_and_a_constant_signal_give_finite_maps() -> None:
    # 15 volumes, and the same again: as many equations, half of them new. A constant signal fits no atom.
    gradients = table((1000, 6), (2500, 7))
    twice = gradients.selected(np.tile(np.arange(15), 2))
    plain = bundle(directions(1)[0], gradients=gradients)
    for table_of, voxel in ((gradients, plain), (twice, np.tile(plain, 2))):
        array = np.stack([voxel, np.full_like(voxel, 800)])[:, None, None]
        mask = Volume(np.ones((2, 1, 1), np.uint8), affine("las"))
        found = fitted(Dwi(Volume(array, affine("las")), table_of), mask, optional=True)
        assert found["ndi"].array[0].item() == pytest.approx(0.6, abs=0.15)
        for name in found:
            assert np.isfinite(found[name].array).all()


_ERROR_AFTER_AMICO = """
import logging
from kwneuro_assets_tests.derivations.test_noddi import DISO, DPAR, SHELLS, noddi_dictionary
noddi_dictionary(SHELLS, DPAR, DISO, 1)
logging.getLogger("made after AMICO was loaded").error("an error ends no process")
print("goes on")
"""


def test_loggers_that_are_made_later_are_not_those_of_amico_whose_errors_end_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ERROR_AFTER_AMICO], cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "goes on\n")


def test_every_direction_of_the_dictionary_is_that_of_amico(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # AMICO's own route: fitted to 500 samples, turned, sampled, all as float32. That rounding is the tolerance.
    from amico import lut
    from amico.models import NODDI
    from amico.scheme import Scheme

    monkeypatch.setattr(lut, "dipy_home", str(tmp_path))
    gradients = table((2500, 40), (700, 20), b0s=3)  # the shells not in order, the b=0 not at its place
    gradients = gradients.selected(np.random.default_rng(0).permutation(len(gradients)))
    dictionary = noddi_dictionary(gradients, DPAR, DISO, DIRECTIONS)
    model = NODDI()
    model.scheme = scheme = Scheme(np.column_stack([gradients.bvecs, gradients.bvals])[dictionary.order])
    lut.precompute_rotation_matrices(12, DIRECTIONS)
    rotations = lut.load_precomputed_rotation_matrices(12, DIRECTIONS)
    model.generate(str(tmp_path), rotations, *lut.aux_structures_generate(scheme, 12), DIRECTIONS)
    kernels = model.resample(str(tmp_path), *lut.aux_structures_resample(scheme, 12), False, DIRECTIONS)
    for direction in range(DIRECTIONS):
        atoms = dictionary.atoms(direction)
        np.testing.assert_allclose(atoms[:, :-1], kernels["wm"][:, direction].T, atol=2e-6)
        np.testing.assert_allclose(atoms[:, -1], kernels["iso"], atol=2e-6)
    np.testing.assert_allclose(dictionary.scale, kernels["norms"][0], rtol=1e-5)


def test_a_direction_and_its_opposite_are_the_nearest_of_the_dictionary() -> None:
    # AMICO's table goes by whole degrees, so another direction may be as near but for half a degree each way.
    from amico import lut

    dictionary = noddi_dictionary(SHELLS, DPAR, DISO, DIRECTIONS)
    table_of = lut.load_directions(DIRECTIONS)
    axes = np.concatenate([directions(500), table_of, np.eye(3), [[1, 0.0, 0], [1, -0.0, 0]]])
    angles = np.degrees(np.arccos(np.minimum(np.abs(axes @ table_of.T), 1)))
    for sign in (1, -1):
        found = np.take_along_axis(angles, dictionary.direction_of(sign * axes)[:, None], 1)[:, 0]
        assert (found <= angles.min(axis=1) + 1.5).all()


def test_a_single_shell_is_not_applicable_with_the_reason() -> None:
    gradients = table((3000, 40))
    mask = Volume(np.ones((2, 1, 1), np.uint8), affine("las"))
    dwi = Dwi(Volume(np.ones((2, 1, 1, 42), np.float32), affine("las")), gradients)
    assert fit_noddi(dwi, mask, DPAR, DISO, DIRECTIONS) == NotApplicable(
        "NODDI needs at least two shells besides b=0; this dataset has one, b=3000"
    )


def test_fewer_than_six_directions_are_not_applicable_with_the_reason() -> None:
    gradients = table((1000, 2), (2000, 3))
    mask = Volume(np.ones((2, 1, 1), np.uint8), affine("las"))
    dwi = Dwi(Volume(np.ones((2, 1, 1, 7), np.float32), affine("las")), gradients)
    result = fit_noddi(dwi, mask, DPAR, DISO, DIRECTIONS)
    assert isinstance(result, NotApplicable)
    assert "6 independent directions" in result.reason


def test_a_dictionary_that_amico_lacks_is_refused_with_those_it_has() -> None:
    dwi, mask = dataset([bundle(directions(1)[0])])
    with pytest.raises(InvalidData, match=r"one of 1, 500, .* found 501"):
        fit_noddi(dwi, mask, DPAR, DISO, 501)


def test_a_mask_on_another_grid_is_refused() -> None:
    dwi, mask = dataset([bundle(directions(1)[0])])
    with pytest.raises(InvalidData, match="grid of mask"):
        fit_noddi(dwi, Volume(mask.array, affine("ras")), DPAR, DISO, DIRECTIONS)
