"""The tensor fit: against DIPY and MRtrix3, and on known tensors."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from kwneuro_assets.derivations.tensor import BLOCK, fit_tensor, not_positive, tensor_volumes
from kwneuro_assets.imaging import Dwi, GradientTable, InvalidData, MapSet, NotApplicable, StreamedVolume, Volume
from kwneuro_assets.imaging.gradients import parse_bvals, parse_bvecs

TILT = np.linalg.qr(np.array([[0.9, -0.2, 0.3], [0.2, 0.95, -0.1], [-0.3, 0.2, 0.9]]))[0]
TILT *= np.sign(np.diag(TILT))
AXES = {
    "las": np.diag([-1.0, 1, 1]),
    "ras": np.eye(3),
    "oblique": TILT,
    "oblique-left": TILT @ np.diag([-1.0, 1, 1]),
    "permuted": np.array([[0.0, 0, 1], [-1, 0, 0], [0, 1, 0]]),
}
TENSOR = np.array([[1.2, 0.3, -0.2], [0.3, 0.6, 0.1], [-0.2, 0.1, 0.4]]) * 1e-3


def affine(kind: str, size: float = 2.0) -> NDArray[np.float64]:
    matrix = np.eye(4)
    matrix[:3, :3] = AXES[kind] * size
    return matrix


def directions(count: int, seed: int = 0) -> NDArray[np.float64]:
    vectors = np.random.default_rng(seed).normal(size=(count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def table(*shells: tuple[float, int], b0s: int = 2) -> GradientTable:
    """The gradient table of b=0 volumes and shells (b-value, number of directions), in the world frame."""
    bvals = np.concatenate([np.zeros(b0s), *(np.full(count, bvalue) for bvalue, count in shells)])
    return GradientTable(bvals, directions(bvals.size), "world")


def signals(gradients: GradientTable, tensors: NDArray[np.float64], s0: float = 900) -> NDArray[np.float32]:
    quadratic = np.einsum("ni,...ij,nj->...n", gradients.bvecs, tensors, gradients.bvecs)
    return (s0 * np.exp(-gradients.bvals * quadratic)).astype(np.float32)


def dataset(gradients: GradientTable, voxels: NDArray[np.float32], kind: str = "las") -> tuple[Dwi, Volume]:
    array = np.asfortranarray(voxels.reshape(*voxels.shape[:-1], *(1,) * (4 - voxels.ndim), voxels.shape[-1]))
    array = array.reshape(array.shape[0], -1, 1, array.shape[-1])
    dwi = Dwi(Volume(array, affine(kind)), gradients)
    return dwi, Volume(np.ones(array.shape[:3], np.uint8), affine(kind))


def fitted(dwi: Dwi, mask: Volume, max_bvalue: float = 1500) -> MapSet:
    maps = fit_tensor(dwi, mask, max_bvalue)
    assert isinstance(maps, MapSet)
    return maps


@pytest.fixture(scope="module")
def noisy() -> tuple[Dwi, Volume]:
    """400 voxels of random tensors, with Rician noise at SNR 25."""
    rng = np.random.default_rng(5)
    gradients = table((700, 12), (1300, 30), (3000, 40))
    frames = np.linalg.qr(rng.normal(size=(400, 3, 3)))[0]
    evals = rng.uniform(0.1e-3, 2.5e-3, (400, 1, 3))
    clean = signals(gradients, (frames * evals) @ frames.swapaxes(1, 2))
    noise = rng.normal(0, 900 / 25, (2, *clean.shape))
    return dataset(gradients, np.hypot(clean + noise[0], noise[1]).astype(np.float32))


@pytest.mark.parametrize("kind", AXES)
def test_a_noise_free_tensor_is_found_in_the_world_frame_with_any_affine(kind: str) -> None:
    # 1e-5 relative: float32 signals.
    maps = fitted(*dataset(table((1000, 30)), signals(table((1000, 30)), TENSOR[None]), kind))
    expected = TENSOR[[0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]
    np.testing.assert_allclose(maps["tensor"].array[0, 0, 0], expected, atol=1e-5 * np.abs(TENSOR).max())
    evals, columns = np.linalg.eigh(TENSOR)
    np.testing.assert_allclose(maps["evals"].array[0, 0, 0], evals[::-1], rtol=1e-4)
    evecs = maps["evecs"].array[0, 0, 0].reshape(3, 3)
    np.testing.assert_allclose(np.abs(evecs @ columns[:, ::-1]), np.eye(3), atol=1e-4)
    np.testing.assert_allclose(maps["md"].array[0, 0, 0], np.trace(TENSOR) / 3, rtol=1e-5)
    np.testing.assert_allclose(maps["ad"].array[0, 0, 0], evals[2], rtol=1e-4)
    np.testing.assert_allclose(maps["rd"].array[0, 0, 0], evals[:2].mean(), rtol=1e-4)
    deviator = TENSOR - np.eye(3) * np.trace(TENSOR) / 3
    anisotropy = np.sqrt(1.5) * np.linalg.norm(deviator) / np.linalg.norm(TENSOR)
    np.testing.assert_allclose(maps["fa"].array[0, 0, 0], anisotropy, rtol=1e-4)


LOW_VECTORS = np.array([[1.0, 0, 0], [0.6, 0.8, 0], [0, 0, 1], [0.48, -0.6, 0.64]])  # of four b=0 volumes
LOW: dict[str, tuple[list[float], NDArray[np.float64]]] = {
    **{f"b={b}": ([b] * 4, LOW_VECTORS) for b in (5, 15, 50, 65)},
    "b=0 and 50": ([0, 50, 50, 0], LOW_VECTORS),
    "jittered": ([4.7, 12.3, 44.0, 51.9], LOW_VECTORS),
    "a trace image at b=50": ([50, 50, 0, 5], np.zeros((4, 3))),
    "a trace image beside directions": ([65, 50, 50, 65], LOW_VECTORS * [[0], [1], [0], [1]]),
}


@pytest.mark.parametrize("shells", [(700,), (1000,), (3000,), (700, 1000, 3000)], ids=str)
@pytest.mark.parametrize(("bvals", "bvecs"), LOW.values(), ids=list(LOW))
def test_the_fit_uses_the_real_b_values_of_b0_volumes(
    bvals: list[float], bvecs: NDArray[np.float64], shells: tuple[float, ...]
) -> None:
    weighted = [np.full(20, shell) for shell in shells]
    gradients = GradientTable(
        np.concatenate([bvals, *weighted]), np.concatenate([bvecs, directions(20 * len(shells))]), "world", 70
    )
    voxels = signals(gradients, TENSOR[None])
    trace = ~gradients.bvecs.any(axis=1)  # the geometric mean of three orthogonal directions
    voxels[:, trace] = 900 * np.exp(-gradients.bvals[trace] * np.trace(TENSOR) / 3)
    evals = np.linalg.eigvalsh(TENSOR)[::-1]
    dwi, mask = dataset(gradients, voxels)
    streamed = StreamedVolume(dwi.array.shape, dwi.affine, lambda chosen: (dwi.image(index) for index in chosen))
    for series in (dwi, Dwi(streamed, dwi.gradients)):
        maps = fitted(series, mask)
        np.testing.assert_allclose(maps["evals"].array[0, 0, 0], evals, rtol=5e-4)
        np.testing.assert_allclose(maps["md"].array[0, 0, 0], evals.mean(), rtol=5e-4)
        anisotropy = np.sqrt(1.5 * ((evals - evals.mean()) ** 2).sum() / (evals**2).sum())
        np.testing.assert_allclose(maps["fa"].array[0, 0, 0], anisotropy, rtol=5e-4)


def test_volumes_with_low_b_values_add_no_directions() -> None:
    """Six directions at b=51, above the threshold, show only noise: b=3000 is used, too."""
    gradients = table((51, 6), (3000, 20))
    assert set(gradients.bvals[tensor_volumes(gradients, 1500)]) == {0, 51, 3000}
    low = GradientTable(np.repeat([50.0, 1000], [6, 5]), directions(11), "world")
    assert tensor_volumes(low, 1500) == NotApplicable(
        "a diffusion tensor needs at least 6 independent directions; this dataset has 5 of them"
    )


def test_noisy_voxels_agree_with_dipys_weighted_least_squares(noisy: tuple[Dwi, Volume]) -> None:
    # The same estimator by another algorithm (pseudo-inverse of each weighted design): only float32 rounding differs.
    from dipy.core.gradients import gradient_table
    from dipy.reconst.dti import TensorModel

    dwi, mask = noisy
    used = dwi.bvals <= 1500
    model = TensorModel(gradient_table(dwi.bvals[used], bvecs=dwi.world_bvecs[used]), fit_method="WLS")
    peer = model.fit(dwi.array[..., used].astype(np.float64))
    maps = fitted(dwi, mask)
    np.testing.assert_allclose(maps["fa"].array, peer.fa, atol=1e-5)
    np.testing.assert_allclose(maps["md"].array, peer.md, atol=1e-5 * 1e-3)
    np.testing.assert_allclose(maps["evals"].array, peer.evals, atol=1e-5 * 1e-3)
    cosines = (maps["evecs"].array[..., :3] * peer.evecs[..., 0]).sum(axis=-1)
    clear = peer.evals[..., 0] > 1.05 * peer.evals[..., 1]
    np.testing.assert_allclose(np.abs(cosines[clear]), 1, atol=1e-6)


def test_a_real_patch_agrees_with_mrtrix3(reference: Path) -> None:
    # The patch has one shell, b=3000. Measured: FA 0.004, 0.3 degrees.
    folder = reference / "real-patch"

    def load(name: str) -> NDArray[np.float32]:
        return np.asarray(nibabel.load(folder / f"{name}.nii.gz").get_fdata(dtype=np.float32))

    image = nibabel.load(folder / "sub-real_dwi.nii.gz")
    bvals = parse_bvals((folder / "sub-real_dwi.bval").read_text())
    bvecs = parse_bvecs((folder / "sub-real_dwi.bvec").read_text(), len(bvals))
    dwi = Dwi(Volume(load("sub-real_dwi"), image.affine), GradientTable(bvals, bvecs))
    inside = load("mask") > 0
    maps = fitted(dwi, Volume(inside, image.affine))
    assert np.abs(maps["fa"].array - load("mrtrix_fa"))[inside].mean() <= 0.01
    assert np.abs(maps["md"].array - load("mrtrix_md"))[inside].mean() <= 0.02 * load("mrtrix_md")[inside].mean()
    anisotropic = inside & (load("mrtrix_fa") > 0.2)
    cosines = np.abs((maps["evecs"].array[..., :3] * load("mrtrix_v1_world")).sum(axis=-1))[anisotropic]
    assert np.median(np.degrees(np.arccos(np.minimum(cosines, 1)))) <= 2


def test_maps_are_consistent(noisy: tuple[Dwi, Volume]) -> None:
    maps = {name: volume.array.astype(np.float64) for name, volume in fitted(*noisy).items()}
    assert [volume.shape[3:] for volume in maps.values()] == [(), (), (), (), (6,), (3,), (9,)]
    evals, evecs = maps["evals"], maps["evecs"].reshape(*maps["fa"].shape, 3, 3)
    assert (np.diff(evals) <= 0).all()
    np.testing.assert_allclose(evecs @ evecs.swapaxes(-1, -2), np.broadcast_to(np.eye(3), evecs.shape), atol=1e-6)
    assert (np.take_along_axis(evecs, np.abs(evecs).argmax(-1)[..., None], -1) > 0).all()
    rebuilt = np.einsum("...ki,...k,...kj->...ij", evecs, evals, evecs)
    np.testing.assert_allclose(maps["tensor"], rebuilt[..., [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]], atol=1e-9)
    np.testing.assert_allclose(maps["md"], evals.mean(-1), rtol=1e-6)


def test_the_scale_of_the_signal_does_not_change_the_tensor(noisy: tuple[Dwi, Volume]) -> None:
    # A power of two is exact in float32: only the logarithm is rounded.
    dwi, mask = noisy
    scaled = fitted(dwi.with_array(dwi.array * np.float32(2.0**-20)), mask)
    np.testing.assert_allclose(scaled["tensor"].array, fitted(dwi, mask)["tensor"].array, atol=1e-9)


def test_zero_and_negative_signals_give_finite_maps_and_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    gradients = table((1000, 30))
    voxels = np.repeat(signals(gradients, TENSOR[None]), 8, axis=0)
    voxels[1, ::3] = 0
    voxels[2, 5:20] = -40
    voxels[3] = 0
    voxels[4] = -1
    voxels[5, gradients.b0_mask] = 100  # brighter with diffusion weighting than without: negative diffusivities
    voxels[6] = np.where(gradients.b0_mask, 1e-30, 1e30)
    voxels[7, gradients.b0_mask] = (-20, 10)  # a mean below zero
    with caplog.at_level(logging.WARNING):
        maps = fitted(*dataset(gradients, voxels))
    fa, evals = maps["fa"].array.ravel(), maps["evals"].array.reshape(-1, 3)
    raised = not_positive(evals)
    assert raised[5]
    assert not raised[[0, 3, 4, 7]].any()
    expected = f"{np.count_nonzero(raised)} of 8 voxels have a tensor with an eigenvalue that is not positive"
    assert expected in caplog.text
    assert "3 of 8 voxels of the mask have no signal at b=0" in caplog.text
    assert ((fa >= 0) & (fa <= 1)).all()
    for name in maps:
        assert not maps[name].array.reshape(8, -1)[[3, 4, 7]].any()
    assert (evals[[0, 1, 2, 5, 6]] > 0).all()


def test_voxels_outside_the_mask_are_zero_and_have_no_effect_inside(noisy: tuple[Dwi, Volume]) -> None:
    dwi, mask = noisy
    every, part = fitted(dwi, mask), mask.array.copy()
    part[::3] = 0
    some = fitted(dwi, Volume(part, mask.affine))
    for name in every:
        assert not some[name].array[part == 0].any()
        np.testing.assert_array_equal(some[name].array[part > 0], every[name].array[part > 0])


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    gradients = table((1000, 64))
    voxels = (signals(gradients, TENSOR[None]) * rng.uniform(0.5, 1.5, (BLOCK + 2000, 66))).astype(np.float32)
    monkeypatch.setenv("KWNEURO_THREADS", "1")
    one = fitted(*dataset(gradients, voxels))
    monkeypatch.setenv("KWNEURO_THREADS", "3")
    three = fitted(*dataset(gradients, voxels))
    for name in one:
        np.testing.assert_array_equal(one[name].array, three[name].array)


@pytest.mark.parametrize(
    ("shells", "max_bvalue", "expected"),
    [
        (((1000, 20), (3000, 20)), 1500, {0, 1000}),
        (((3000, 20),), 1500, {0, 3000}),  # no lower shell: the next one
        (
            ((300, 3), (2000, 10), (3000, 20)),
            1500,
            {0, 300, 2000},
        ),  # too few directions: the next shell, but no further one
        (((1000, 6), (3000, 20)), 1500, {0, 1000}),  # six suffice
        (((1520, 20), (3000, 20)), 1500, {0, 1520}),  # nominally 1500
        (((1600, 20), (1000, 20)), 1500, {0, 1000}),
    ],
)
def test_the_fit_uses_low_shells_and_the_next_one_if_directions_are_few(
    shells: tuple[tuple[float, int], ...], max_bvalue: float, expected: set[float]
) -> None:
    gradients = table(*shells)
    assert set(gradients.bvals[tensor_volumes(gradients, max_bvalue)]) == expected


def test_a_jittered_shell_at_the_limit_is_used_completely() -> None:
    bvals = np.concatenate([[0, 5], 1500 + np.random.default_rng(0).uniform(-30, 30, 30), np.full(30, 3000)])
    gradients = GradientTable(bvals, directions(bvals.size), "world")
    np.testing.assert_array_equal(tensor_volumes(gradients, 1500), np.arange(32))


def test_fewer_than_six_directions_are_not_applicable() -> None:
    five = table((1000, 5))
    dwi, mask = dataset(five, signals(five, TENSOR[None]))
    assert fit_tensor(dwi, mask, 1500) == NotApplicable(
        "a diffusion tensor needs at least 6 independent directions; this dataset has 5 of them"
    )


def test_repeated_and_opposite_directions_count_once() -> None:
    repeated = np.round(np.tile(directions(5), (6, 1)), 6) * np.repeat([1, -1], 15)[:, None]
    gradients = GradientTable(np.r_[0, np.full(30, 1000)], np.r_[[[0, 0, 0]], repeated], "world")
    assert isinstance(tensor_volumes(gradients, 1500), NotApplicable)


def test_a_mask_on_another_grid_raises_an_error(noisy: tuple[Dwi, Volume]) -> None:
    dwi, mask = noisy
    with pytest.raises(InvalidData, match="grid of mask"):
        fit_tensor(dwi, Volume(mask.array, affine("ras")), 1500)


def test_progress_increases_to_one(noisy: tuple[Dwi, Volume]) -> None:
    reported: list[float] = []
    fit_tensor(*noisy, 1500, progress=reported.append)
    assert reported == sorted(reported)
    assert reported[-1] == 1
