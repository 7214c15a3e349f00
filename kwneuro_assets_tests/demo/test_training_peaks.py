"""Peaks of the synthetic heads, without an image."""

from __future__ import annotations

import numpy as np
import pytest

from kwneuro_assets.demo.training_heads import Anatomy
from kwneuro_assets.demo.training_peaks import WRONG_FRAME_WEIGHTS, WRONG_FRAMES, random_signs, simulated_peaks
from kwneuro_assets.demo.training_slices import standardized


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return Anatomy.random(np.random.default_rng(3))


def test_the_strongest_peak_is_near_the_only_fiber_of_a_voxel(anatomy: Anatomy) -> None:
    peaks = simulated_peaks(anatomy, np.random.default_rng(0)).reshape(*anatomy.mask.shape, 3, 3)
    single = (anatomy.white > 0.9) & (anatomy.fractions[..., 0] > 0.99)
    cosines = np.abs((peaks[single][:, 0] * anatomy.directions[single][:, 0]).sum(axis=-1))
    angles = np.degrees(np.arccos((cosines / np.linalg.norm(peaks[single][:, 0], axis=-1)).clip(0, 1)))
    assert np.median(angles) < 6


def test_peaks_are_sorted_and_zero_outside_the_mask(anatomy: Anatomy) -> None:
    peaks = simulated_peaks(anatomy, np.random.default_rng(1)).reshape(*anatomy.mask.shape, 3, 3)
    amplitudes = np.linalg.norm(peaks, axis=-1)
    assert (np.diff(amplitudes, axis=-1) < 1e-5).all()
    assert not peaks[~anatomy.mask].any()
    assert (amplitudes[..., 0] > 0)[anatomy.white > 0.9].all()


def test_signs_are_random_or_those_of_a_half_sphere() -> None:
    generator = np.random.default_rng(0)
    axes = generator.normal(size=(500, 3, 3))
    random = half = 0
    for _ in range(200):
        signed = axes * random_signs(axes, generator)
        along = signed.reshape(-1, 3).mean(axis=0)
        # The mean of unit normal vectors in a half sphere is 0.8 long, that of random ones 0.03.
        length = np.linalg.norm(along)
        random += length < 0.2
        half += length > 0.6
    assert random + half == 200
    assert 70 < random < 130


def test_wrong_frames_are_all_signed_permutations_but_the_right_one_up_to_a_common_sign() -> None:
    matrices = {tuple(frame.matrix.ravel()) for frame in WRONG_FRAMES}
    matrices |= {tuple(-frame.matrix.ravel()) for frame in WRONG_FRAMES}
    assert len(matrices) == 46
    assert not any(
        np.array_equal(np.abs(np.reshape(m, (3, 3)).sum()), 3) and m == tuple(np.eye(3).ravel()) for m in matrices
    )
    assert WRONG_FRAME_WEIGHTS.sum() == pytest.approx(1)


def test_in_a_sagittal_slice_negating_x_is_the_other_side_of_the_head(anatomy: Anatomy) -> None:
    piece = anatomy.slice(0, anatomy.mask.shape[0] // 4)
    (frame,) = (frame for frame in WRONG_FRAMES if frame.negates_x)
    found = frame.applied(piece.directions.reshape(*piece.mask.shape, 9).astype(np.float32))
    expected = piece.mirrored(0).directions.astype(np.float32)
    cosines = np.abs((found.reshape(expected.shape) * expected).sum(axis=-1))
    np.testing.assert_allclose(cosines[piece.mask], 1, atol=1e-2)


def test_a_slice_is_standardized_as_by_tractseg() -> None:
    loader = pytest.importorskip("tractseg.data.DLDABG_standalone")
    values = np.random.default_rng(0).normal(3, 2, (9, 30, 30)).astype(np.float32)
    expected = loader.ZeroMeanUnitVarianceTransform(per_channel=False)(data=values[None].copy())["data"][0]
    np.testing.assert_allclose(standardized(values), expected, atol=1e-6)
