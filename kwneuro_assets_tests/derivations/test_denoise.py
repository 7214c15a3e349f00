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
    """A bright ball of mono-exponential voxels in a dark background, with noise."""
    rng = np.random.default_rng(seed)
    bvecs = rng.normal(size=(weighted + b0s, 3))
    bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
    bvals = np.full(weighted + b0s, 1000.0)
    bvals[np.linspace(0, bvals.size - 1, b0s, dtype=int)] = 0
    centre = (np.array(shape) - 1) / 2
    inside = (((np.indices(shape).T - centre) / (centre + 0.5)) ** 2).sum(-1).T < 1
    axes = rng.normal(size=(*shape, 3))
    axes /= np.linalg.norm(axes, axis=-1, keepdims=True)
    decay = np.exp(-bvals * (0.3e-3 + 1.4e-3 * (axes @ bvecs.T) ** 2))
    signal = np.where(inside[..., None], 800 * decay, 0) + rng.normal(0, 20, (*shape, bvals.size))
    array = np.asfortranarray(np.abs(signal).astype(np.float32))
    return Dwi(Volume(array, np.diag([2.0, 2, 2, 1])), GradientTable(bvals, bvecs))


def test_predictions_are_those_of_a_linear_regression_on_all_other_volumes(slab: Slab, denoised: Dwi) -> None:
    # scikit-learn solves each regression by itself through an SVD; 1e-4 leaves room for float32 storage and for
    # the ridge of 1e-10 where volumes are nearly collinear.
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


def test_the_phantom_comes_nearer_to_its_truth(slab: Slab, denoised: Dwi) -> None:
    # Half: measured is 10.9 against 23.3 on 12 slices.
    inside, weighted = slab.mask.array > 0, ~slab.dwi.b0_mask
    truth = slab.noise_free[inside][:, weighted]
    noisy = np.sqrt(np.mean((slab.dwi.array[inside][:, weighted] - truth) ** 2))
    assert np.sqrt(np.mean((denoised.array[inside][:, weighted] - truth) ** 2)) < 0.5 * noisy


@pytest.mark.slow
def test_the_phantom_comes_nearer_to_its_truth_than_with_dipys_sketch(slab: Slab) -> None:
    from dipy.denoise.patch2self import patch2self as sketched

    window = (slice(30, 90), slice(30, 90))
    dwi = slab.dwi.with_array(np.asfortranarray(slab.dwi.array[window]))
    np.random.seed(0)
    peer = sketched(np.array(dwi.array), dwi.bvals, model="ols", shift_intensity=False, b0_denoising=False)
    inside, weighted = slab.mask.array[window] > 0, ~dwi.b0_mask
    truth = slab.noise_free[window][inside][:, weighted]
    ours, theirs = (np.mean((array[inside][:, weighted] - truth) ** 2) for array in (patch2self(dwi).array, peer))
    assert ours < theirs


def test_volumes_with_b_0_are_left_exactly_as_they_are(slab: Slab, denoised: Dwi) -> None:
    dwi = series(b0s=3)
    np.testing.assert_array_equal(patch2self(dwi).array[..., dwi.b0_mask], dwi.array[..., dwi.b0_mask])
    np.testing.assert_array_equal(denoised.array[..., 0], slab.dwi.array[..., 0])


def test_volumes_with_b_0_predict_nothing() -> None:
    dwi = series(b0s=3)
    others = dwi.array.copy(order="F")
    # Twice the b=0 signal keeps the foreground where it is.
    others[..., dwi.b0_mask] *= 2
    weighted = ~dwi.b0_mask
    np.testing.assert_array_equal(
        patch2self(dwi.with_array(others)).array[..., weighted], patch2self(dwi).array[..., weighted]
    )


def test_no_signal_is_negative_and_voxels_without_any_stay_zero() -> None:
    array = series().array.copy(order="F")
    array[:2] = 0
    array[2, 2, 2, ::2] = 4000
    array[2, 2, 2, 1::2] = 0
    denoised = patch2self(series().with_array(array)).array
    assert denoised.min() == 0
    assert not denoised[:2].any()
    assert denoised[2, 2, 2].any()


def test_the_order_of_the_array_and_the_number_of_threads_change_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    # 200 volumes by 600 voxels a slice: large enough for BLAS to split it between threads.
    dwi = series(weighted=200, shape=(30, 20, 5))
    monkeypatch.setenv("KWNEURO_THREADS", "1")
    expected = patch2self(dwi).array
    assert expected.flags.f_contiguous
    assert expected.dtype == np.float32
    monkeypatch.setenv("KWNEURO_THREADS", "3")
    np.testing.assert_array_equal(patch2self(dwi.with_array(np.ascontiguousarray(dwi.array))).array, expected)


@pytest.mark.parametrize("trouble", ["repeated", "constant", "zero", "proportional"])
def test_volumes_that_determine_each_other_give_finite_results(trouble: str) -> None:
    dwi = series()
    array = dwi.array.copy(order="F")
    first, second = np.flatnonzero(~dwi.b0_mask)[:2]
    array[..., second] = {
        "repeated": array[..., first],
        "constant": 7,
        "zero": 0,
        "proportional": 3 * array[..., first],
    }[trouble]
    denoised = patch2self(dwi.with_array(array)).array
    # What repeats is predicted by its repetition, what is constant is left alone: both stay what they were.
    np.testing.assert_allclose(denoised[..., second], array[..., second], rtol=1e-3, atol=0.1)


def test_an_image_without_contrast_is_refused() -> None:
    dwi = series()
    with pytest.raises(InvalidData, match="foreground"):
        patch2self(dwi.with_array(np.ones_like(dwi.array)))


@settings(max_examples=25, deadline=None)
@given(variables=st.integers(2, 12), seed=st.integers(0, 2**31))
def test_weights_are_those_of_least_squares_without_the_variable_itself(variables: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Scales far apart, as between shells.
    samples = rng.normal(size=(100, variables)) * 10.0 ** rng.uniform(-2, 3, variables)
    samples -= samples.mean(axis=0)
    weights = leave_one_out_weights(samples.T @ samples)
    for variable in range(variables):
        others = np.arange(variables) != variable
        expected = np.linalg.lstsq(samples[:, others], samples[:, variable], rcond=None)[0]
        np.testing.assert_allclose(weights[others, variable], expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
        assert weights[variable, variable] == 0


def test_the_foreground_is_the_head_whatever_lies_around_it_or_shines_in_it() -> None:
    dwi = series(shape=(20, 20, 20))
    ball = dwi.mean_b0().array > 300
    assert np.mean(foreground(dwi) == ball) > 0.99
    masked = np.asfortranarray(dwi.array * ball[..., None])
    masked[10, 10, 10] = 1e7
    np.testing.assert_array_equal(foreground(dwi.with_array(masked)), ball)


def test_auto_denoises_raw_data_and_leaves_interpolated_data_alone() -> None:
    dwi = series()
    assert denoising_plan(dwi, "auto", 20).method == "patch2self"
    assert "ratio of" in denoising_plan(dwi, "auto", 20).reason
    interpolated = replace(dwi, interpolated=True)
    assert denoise(interpolated, "auto", 20) is interpolated
    assert "interpolated" in denoising_plan(interpolated, "auto", 20).reason
    assert denoising_plan(interpolated, "patch2self", 20).method == "patch2self"
    np.testing.assert_array_equal(denoise(dwi, "auto", 20).array, patch2self(dwi).array)


def test_none_returns_the_series_itself() -> None:
    dwi = series()
    assert denoise(dwi, "none", 20) is dwi


def test_too_few_voxels_for_the_volumes_leave_the_series_as_it_is() -> None:
    dwi = series(shape=(6, 6, 6))
    voxels = np.count_nonzero(foreground(dwi))
    assert denoising_plan(dwi, "patch2self", voxels / 20).method == "patch2self"
    plan = denoising_plan(dwi, "patch2self", voxels / 20 + 0.01)
    assert plan.method == "none"
    assert f"{voxels} foreground voxels for 20" in plan.reason
    assert denoise(dwi, "patch2self", voxels / 20 + 0.01) is dwi


@pytest.mark.parametrize(("weighted", "method"), [(1, "none"), (9, "none"), (10, "patch2self")])
def test_too_few_volumes_leave_the_series_as_it_is(weighted: int, method: str) -> None:
    dwi = series(weighted=weighted, b0s=1)
    assert denoising_plan(dwi, "patch2self", 1).method == method


def test_progress_rises_to_one() -> None:
    seen: list[float] = []
    denoise(series(), "auto", 20, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1


def apart(dwi: Dwi) -> Dwi:
    """The same series, volume by volume."""
    array = dwi.array
    return replace(
        dwi,
        volume=StreamedVolume(array.shape, dwi.affine, lambda chosen: (array[..., index] for index in chosen)),
    )


@pytest.mark.parametrize("slices", [1, 3, 8])
@pytest.mark.parametrize("threads", ["1", "3"])
def test_a_series_that_is_streamed_slab_by_slab_gives_the_very_bits_of_one_in_memory(
    slices: int, threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 200 volumes: large enough for BLAS to split its work between threads.
    dwi = series(weighted=200, shape=(30, 20, 8))
    expected = patch2self(dwi)
    monkeypatch.setattr(streamed, "LARGE", slices * 30 * 20 * len(dwi.bvals) * 4)
    monkeypatch.setenv("KWNEURO_THREADS", threads)
    seen: list[float] = []
    denoised = patch2self(apart(dwi), progress=seen.append)
    assert isinstance(denoised.volume, StreamedVolume)
    assert denoised.interpolated == dwi.interpolated
    np.testing.assert_array_equal(denoised.array, expected.array)
    np.testing.assert_array_equal(denoised.mean_b0().array, expected.mean_b0().array)
    assert seen == sorted(seen)
    assert seen[-1] == 1


def test_a_streamed_series_is_left_as_it_is_for_the_same_reasons() -> None:
    dwi = apart(series(weighted=9, b0s=1))
    assert denoise(dwi, "auto", 1) is dwi
    interpolated = replace(apart(series()), interpolated=True)
    assert denoise(interpolated, "auto", 20) is interpolated
    with pytest.raises(InvalidData, match="foreground"):
        patch2self(apart(series().with_array(np.ones_like(series().array))))


@pytest.mark.parametrize("streams", [False, True], ids=["in memory", "streamed"])
@pytest.mark.parametrize(
    "shape", [(12, 10, 1), (1, 12, 10), (40, 1, 1), (2, 1, 1)], ids=["one slice", "one sagittal", "a row", "two voxels"]
)
def test_a_slice_or_a_few_voxels_give_finite_results(shape: tuple[int, int, int], streams: bool) -> None:
    dwi = series(weighted=14, b0s=1, shape=shape)
    array = dwi.array.copy(order="F")
    array[0] /= 50  # something for the foreground to stand out from
    dwi = dwi.with_array(array)
    denoised = patch2self(apart(dwi) if streams else dwi).array
    assert denoised.shape == dwi.array.shape
    assert np.isfinite(denoised).all()
    assert denoised.min() >= 0
    # With fewer voxels than volumes each volume is predicted to the bit that the ridge leaves.
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
    "trouble", ["all alike", "pairs", "constant voxels", "zero voxels", "negative", "huge", "tiny"]
)
@pytest.mark.parametrize("streams", [False, True], ids=["in memory", "streamed"])
def test_signals_that_no_scanner_gives_are_denoised_to_finite_ones(trouble: str, streams: bool) -> None:
    dwi = series()
    array = dwi.array.copy(order="F")
    weighted = np.flatnonzero(~dwi.b0_mask)
    if trouble == "all alike":
        array[..., weighted] = array[..., weighted[:1]]
    elif trouble == "pairs":
        array[..., weighted[::2]] = array[..., weighted[1::2]]
    elif trouble == "constant voxels":
        array[4:8, 3:7, 2:6] = 700
    elif trouble == "zero voxels":
        array[4:8, 3:7, 2:6] = 0
    elif trouble == "negative":
        array[4:8, 3:7, 2:6] *= -1
    elif trouble == "huge":
        array *= np.float32(1e32)
    else:
        array *= np.float32(1e-30)
    dwi = dwi.with_array(array)
    denoised = patch2self(apart(dwi) if streams else dwi).array
    assert np.isfinite(denoised).all()
    assert denoised[..., weighted].min() >= 0
    if trouble in ("all alike", "pairs"):  # each is predicted by what is the same
        np.testing.assert_allclose(denoised, array, rtol=1e-3, atol=0.1)
    if trouble in ("zero voxels",):
        assert not denoised[4:8, 3:7, 2:6][..., weighted].any()
