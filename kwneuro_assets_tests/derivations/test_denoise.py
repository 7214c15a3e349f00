"""Patch2Self: against scikit-learn and DIPY, on phantoms with known truth, in memory and streamed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression

from kwneuro_assets.derivations.denoise import (
    denoise,
    denoising_plan,
    foreground,
    leave_one_out_weights,
    patch2self,
)
from kwneuro_assets.imaging import Dwi, GradientTable, InvalidData, StreamedVolume, Volume, streamed
from kwneuro_assets_tests.derivations.slab import Slab, read_slab


@pytest.fixture(scope="module")
def slab(phantom_tool: Path) -> Slab:
    return read_slab(phantom_tool)


@pytest.fixture(scope="module")
def denoised(slab: Slab) -> Dwi:
    return patch2self(slab.dwi)


def series(weighted: int = 20, b0s: int = 3, shape: tuple[int, int, int] = (12, 10, 8), seed: int = 0) -> Dwi:
    """A DWI series of a bright ball with mono-exponential signals in a dark background, with noise."""
    rng = np.random.default_rng(seed)
    bvecs = rng.normal(size=(weighted + b0s, 3))
    bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
    bvals = np.full(weighted + b0s, 1000.0)
    bvals[np.linspace(0, bvals.size - 1, b0s, dtype=int)] = 0
    center = (np.array(shape) - 1) / 2
    inside = (((np.indices(shape).T - center) / (center + 0.5)) ** 2).sum(-1).T < 1
    axes = rng.normal(size=(*shape, 3))
    axes /= np.linalg.norm(axes, axis=-1, keepdims=True)
    decay = np.exp(-bvals * (0.3e-3 + 1.4e-3 * (axes @ bvecs.T) ** 2))
    signal = np.where(inside[..., None], 800 * decay, 0) + rng.normal(0, 20, (*shape, bvals.size))
    array = np.asfortranarray(np.abs(signal).astype(np.float32))
    return Dwi(Volume(array, np.diag([2.0, 2, 2, 1])), GradientTable(bvals, bvecs))


def test_predictions_are_those_of_linear_regression_on_all_other_volumes(slab: Slab, denoised: Dwi) -> None:
    # scikit-learn solves each regression separately with an SVD. 1e-4: rounding to float32, and the ridge of 1e-10
    # where volumes are nearly collinear.
    inside = foreground(slab.dwi)
    weighted = np.flatnonzero(~slab.dwi.b0_mask)
    samples = slab.dwi.array[inside].astype(np.float64)
    rng = np.random.default_rng(0)
    voxels = tuple(rng.integers(0, size, 500) for size in inside.shape)
    for volume in (weighted[0], weighted[-1]):
        others = weighted[weighted != volume]
        model = LinearRegression().fit(samples[:, others], samples[:, volume])
        expected = np.maximum(model.predict(slab.dwi.array[voxels][:, others].astype(np.float64)), 0)
        found = denoised.array[voxels][:, volume]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * samples[:, volume].mean())


def test_denoising_halves_the_error_of_a_phantom(slab: Slab, denoised: Dwi) -> None:
    # Half: measured 10.9 instead of 23.3 on 12 slices.
    inside, weighted = slab.mask.array > 0, ~slab.dwi.b0_mask
    truth = slab.noise_free[inside][:, weighted]
    noisy = np.sqrt(np.mean((slab.dwi.array[inside][:, weighted] - truth) ** 2))
    assert np.sqrt(np.mean((denoised.array[inside][:, weighted] - truth) ** 2)) < 0.5 * noisy


@pytest.mark.slow
def test_the_error_of_a_phantom_is_lower_than_with_dipys_sketching(slab: Slab) -> None:
    from dipy.denoise.patch2self import patch2self as dipy_patch2self

    window = (slice(30, 90), slice(30, 90))
    dwi = slab.dwi.with_array(np.asfortranarray(slab.dwi.array[window]))
    np.random.seed(0)
    peer = dipy_patch2self(np.array(dwi.array), dwi.bvals, model="ols", shift_intensity=False, b0_denoising=False)
    inside, weighted = slab.mask.array[window] > 0, ~dwi.b0_mask
    truth = slab.noise_free[window][inside][:, weighted]
    ours, theirs = (np.mean((array[inside][:, weighted] - truth) ** 2) for array in (patch2self(dwi).array, peer))
    assert ours < theirs


def test_b0_volumes_are_unchanged(slab: Slab, denoised: Dwi) -> None:
    dwi = series(b0s=3)
    np.testing.assert_array_equal(patch2self(dwi).array[..., dwi.b0_mask], dwi.array[..., dwi.b0_mask])
    np.testing.assert_array_equal(denoised.array[..., 0], slab.dwi.array[..., 0])


def test_b0_volumes_are_no_predictors() -> None:
    dwi = series(b0s=3)
    others = dwi.array.copy(order="F")
    # Twice the b=0 signal does not change the foreground.
    others[..., dwi.b0_mask] *= 2
    weighted = ~dwi.b0_mask
    np.testing.assert_array_equal(
        patch2self(dwi.with_array(others)).array[..., weighted], patch2self(dwi).array[..., weighted]
    )


def test_no_signal_is_negative_and_voxels_without_signal_stay_zero() -> None:
    array = series().array.copy(order="F")
    array[:2] = 0
    array[2, 2, 2, ::2] = 4000
    array[2, 2, 2, 1::2] = 0
    denoised = patch2self(series().with_array(array)).array
    assert denoised.min() == 0
    assert not denoised[:2].any()
    assert denoised[2, 2, 2].any()


def test_results_do_not_depend_on_array_order_or_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    # 200 volumes x 600 voxels per slice: large enough for BLAS to use several threads.
    dwi = series(weighted=200, shape=(30, 20, 5))
    monkeypatch.setenv("KWNEURO_THREADS", "1")
    expected = patch2self(dwi).array
    assert expected.flags.f_contiguous
    assert expected.dtype == np.float32
    monkeypatch.setenv("KWNEURO_THREADS", "3")
    np.testing.assert_array_equal(patch2self(dwi.with_array(np.ascontiguousarray(dwi.array))).array, expected)


@pytest.mark.parametrize("problem", ["repeated", "constant", "zero", "proportional"])
def test_collinear_volumes_give_finite_results(problem: str) -> None:
    dwi = series()
    array = dwi.array.copy(order="F")
    first, second = np.flatnonzero(~dwi.b0_mask)[:2]
    array[..., second] = {
        "repeated": array[..., first],
        "constant": 7,
        "zero": 0,
        "proportional": 3 * array[..., first],
    }[problem]
    denoised = patch2self(dwi.with_array(array)).array
    # A repeated volume is predicted by its copy, a constant one is not denoised: both are unchanged.
    np.testing.assert_allclose(denoised[..., second], array[..., second], rtol=1e-3, atol=0.1)


def test_an_image_without_contrast_raises_an_error() -> None:
    dwi = series()
    with pytest.raises(InvalidData, match="foreground"):
        patch2self(dwi.with_array(np.ones_like(dwi.array)))


@settings(max_examples=25, deadline=None)
@given(variables=st.integers(2, 12), seed=st.integers(0, 2**31))
def test_weights_are_those_of_least_squares_on_the_other_variables(variables: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Very different scales, as between shells.
    samples = rng.normal(size=(100, variables)) * 10.0 ** rng.uniform(-2, 3, variables)
    samples -= samples.mean(axis=0)
    weights = leave_one_out_weights(samples.T @ samples)
    for variable in range(variables):
        others = np.arange(variables) != variable
        expected = np.linalg.lstsq(samples[:, others], samples[:, variable], rcond=None)[0]
        np.testing.assert_allclose(weights[others, variable], expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
        assert weights[variable, variable] == 0


def test_the_foreground_is_robust_against_background_and_bright_voxels() -> None:
    dwi = series(shape=(20, 20, 20))
    ball = dwi.mean_b0().array > 300
    assert np.mean(foreground(dwi) == ball) > 0.99
    masked = np.asfortranarray(dwi.array * ball[..., None])
    masked[10, 10, 10] = 1e7
    np.testing.assert_array_equal(foreground(dwi.with_array(masked)), ball)


@pytest.mark.parametrize("around", [0, 4, 20], ids=["half", "four fifths", "98 percent"])
def test_zero_padding_does_not_change_the_result(around: int) -> None:
    # 1e-3 of a signal of about 300: BLAS splits its sums depending on the size of a slice.
    dwi = series(shape=(20, 20, 20))
    ball = dwi.mean_b0().array > 300
    masked = dwi.with_array(np.asfortranarray(dwi.array * ball[..., None]))
    wide = np.pad(masked.array, [(around, around)] * 3 + [(0, 0)])
    padded = Dwi(Volume(np.asfortranarray(wide), dwi.affine), dwi.gradients)
    assert np.mean(wide == 0) > (0.45, 0.8, 0.98)[(0, 4, 20).index(around)]
    head = tuple(slice(around, around + 20) for _ in range(3))
    np.testing.assert_array_equal(foreground(padded)[head], ball)
    assert np.count_nonzero(foreground(padded)) == np.count_nonzero(ball)
    found, expected = denoise(padded, "auto", 20).array, denoise(masked, "auto", 20).array
    np.testing.assert_allclose(found[head], expected, atol=1e-3)
    assert not found[~np.pad(ball, around)].any()


def test_auto_denoises_raw_but_not_interpolated_data() -> None:
    dwi = series()
    assert denoising_plan(dwi, "auto", 20).method == "patch2self"
    assert "ratio of" in denoising_plan(dwi, "auto", 20).reason
    interpolated = replace(dwi, interpolated=True)
    assert denoise(interpolated, "auto", 20) is interpolated
    assert "interpolated" in denoising_plan(interpolated, "auto", 20).reason
    assert denoising_plan(interpolated, "patch2self", 20).method == "patch2self"
    np.testing.assert_array_equal(denoise(dwi, "auto", 20).array, patch2self(dwi).array)


def test_none_returns_the_same_series() -> None:
    dwi = series()
    assert denoise(dwi, "none", 20) is dwi


def test_too_few_voxels_per_volume_are_not_denoised() -> None:
    dwi = series(shape=(6, 6, 6))
    voxels = np.count_nonzero(foreground(dwi))
    assert denoising_plan(dwi, "patch2self", voxels / 20).method == "patch2self"
    plan = denoising_plan(dwi, "patch2self", voxels / 20 + 0.01)
    assert plan.method == "none"
    assert f"{voxels} foreground voxels for 20" in plan.reason
    assert denoise(dwi, "patch2self", voxels / 20 + 0.01) is dwi


@pytest.mark.parametrize(("weighted", "method"), [(1, "none"), (9, "none"), (10, "patch2self")])
def test_too_few_volumes_are_not_denoised(weighted: int, method: str) -> None:
    dwi = series(weighted=weighted, b0s=1)
    assert denoising_plan(dwi, "patch2self", 1).method == method


def test_progress_increases_to_one() -> None:
    reported: list[float] = []
    denoise(series(), "auto", 20, progress=reported.append)
    assert reported == sorted(reported)
    assert reported[-1] == 1


def streamed_copy(dwi: Dwi) -> Dwi:
    """The same DWI series, streamed."""
    array = dwi.array
    return replace(
        dwi,
        volume=StreamedVolume(array.shape, dwi.affine, lambda chosen: (array[..., index] for index in chosen)),
    )


@pytest.mark.parametrize("slices", [1, 3, 8])
@pytest.mark.parametrize("threads", ["1", "3"])
def test_streamed_and_in_memory_results_are_bit_identical(
    slices: int, threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 200 volumes: large enough for BLAS to use several threads.
    dwi = series(weighted=200, shape=(30, 20, 8))
    expected = patch2self(dwi)
    monkeypatch.setattr(streamed, "LARGE", slices * 30 * 20 * len(dwi.bvals) * 4)
    monkeypatch.setenv("KWNEURO_THREADS", threads)
    reported: list[float] = []
    denoised = patch2self(streamed_copy(dwi), progress=reported.append)
    assert isinstance(denoised.volume, StreamedVolume)
    assert denoised.interpolated == dwi.interpolated
    np.testing.assert_array_equal(denoised.array, expected.array)
    np.testing.assert_array_equal(denoised.mean_b0().array, expected.mean_b0().array)
    assert reported == sorted(reported)
    assert reported[-1] == 1


def test_the_same_streamed_series_are_not_denoised() -> None:
    dwi = streamed_copy(series(weighted=9, b0s=1))
    assert denoise(dwi, "auto", 1) is dwi
    interpolated = replace(streamed_copy(series()), interpolated=True)
    assert denoise(interpolated, "auto", 20) is interpolated
    with pytest.raises(InvalidData, match="foreground"):
        patch2self(streamed_copy(series().with_array(np.ones_like(series().array))))


@pytest.mark.parametrize("is_streamed", [False, True], ids=["in memory", "streamed"])
@pytest.mark.parametrize(
    "shape", [(12, 10, 1), (1, 12, 10), (40, 1, 1), (2, 1, 1)], ids=["one slice", "one sagittal", "a row", "two voxels"]
)
def test_single_slices_and_few_voxels_give_finite_results(shape: tuple[int, int, int], is_streamed: bool) -> None:
    dwi = series(weighted=14, b0s=1, shape=shape)
    array = dwi.array.copy(order="F")
    array[0] /= 50  # the background
    dwi = dwi.with_array(array)
    denoised = patch2self(streamed_copy(dwi) if is_streamed else dwi).array
    assert denoised.shape == dwi.array.shape
    assert np.isfinite(denoised).all()
    assert denoised.min() >= 0
    np.testing.assert_array_equal(denoised[..., dwi.b0_mask], dwi.array[..., dwi.b0_mask])


def test_a_single_voxel_has_no_foreground() -> None:
    dwi = series(shape=(1, 1, 1))
    assert not foreground(dwi).any()
    assert denoising_plan(dwi, "auto", 20).method == "none"
    assert denoise(dwi, "patch2self", 1) is dwi
    with pytest.raises(InvalidData, match="foreground"):
        patch2self(dwi)


def test_fifteen_volumes_are_denoised() -> None:
    dwi = series(weighted=14, b0s=1)
    assert denoising_plan(dwi, "auto", 20).method == "patch2self"
    assert np.isfinite(denoise(dwi, "auto", 20).array).all()


@pytest.mark.parametrize(
    "problem", ["all equal", "pairs", "constant voxels", "zero voxels", "negative", "huge", "tiny"]
)
@pytest.mark.parametrize("is_streamed", [False, True], ids=["in memory", "streamed"])
def test_unrealistic_signals_give_finite_results(problem: str, is_streamed: bool) -> None:
    dwi = series()
    array = dwi.array.copy(order="F")
    weighted = np.flatnonzero(~dwi.b0_mask)
    if problem == "all equal":
        array[..., weighted] = array[..., weighted[:1]]
    elif problem == "pairs":
        array[..., weighted[::2]] = array[..., weighted[1::2]]
    elif problem == "constant voxels":
        array[4:8, 3:7, 2:6] = 700
    elif problem == "zero voxels":
        array[4:8, 3:7, 2:6] = 0
    elif problem == "negative":
        array[4:8, 3:7, 2:6] *= -1
    elif problem == "huge":
        array *= np.float32(1e32)
    else:
        array *= np.float32(1e-30)
    dwi = dwi.with_array(array)
    denoised = patch2self(streamed_copy(dwi) if is_streamed else dwi).array
    assert np.isfinite(denoised).all()
    assert denoised[..., weighted].min() >= 0
    if problem in ("all equal", "pairs"):  # each is predicted by its copies
        np.testing.assert_allclose(denoised, array, rtol=1e-3, atol=0.1)
    if problem == "zero voxels":
        assert not denoised[4:8, 3:7, 2:6][..., weighted].any()
