"""Rigid alignment with MNI space: what moves, what moves back, and that tilted heads profit from it."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from kwneuro_assets.derivations.alignment import (
    aligned,
    aligned_masks,
    reduced_template,
    register_to_mni,
    resampled,
    similarity,
    unaligned,
    vectors_unaligned,
)
from kwneuro_assets.imaging import InvalidData, RigidTransform, Volume

pytest.importorskip("tractseg")

AFFINE = np.array([[-2.0, 0, 0, 20], [0, 2, 0, -30], [0, 0, 2.5, -10], [0, 0, 0, 1]])


def rigid(rotation_vector: tuple[float, float, float], shift: tuple[float, float, float]) -> NDArray[np.float64]:
    """A rotation, in degrees about its axis, and a shift in mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(rotation_vector, degrees=True).as_matrix()
    matrix[:3, 3] = shift
    return matrix


def quarter_turn() -> NDArray[np.float64]:
    """A rotation by 90 degrees about z and a shift: exact in floating point."""
    return np.array([[0.0, -1, 0, 16], [1, 0, 0, -8], [0, 0, 1, 4], [0, 0, 0, 1]])


def random_peaks() -> Volume:
    return Volume(np.random.default_rng(0).normal(size=(5, 6, 7, 9)).astype(np.float32), AFFINE)


def moved_head(peaks: Volume, movement: NDArray[np.float64]) -> Volume:
    """The peaks of a head that was moved: another place of its voxels, and rotated vectors."""
    vectors = peaks.array.reshape(*peaks.grid, -1, 3) @ movement[:3, :3].T
    return Volume(vectors.reshape(peaks.shape), movement @ peaks.affine)


def test_the_peaks_of_a_rotated_head_are_those_of_the_straight_head_once_aligned() -> None:
    straight, movement = random_peaks(), quarter_turn()
    found = aligned(moved_head(straight, movement), RigidTransform(movement))
    assert np.array_equal(found.array, straight.array)
    assert np.array_equal(found.affine, straight.affine)


def test_results_are_brought_back_to_the_grid_and_the_frame_of_the_subject() -> None:
    straight, transform = random_peaks(), RigidTransform(rigid((20, -10, 30), (30, -20, 10)))
    peaks = moved_head(straight, transform.matrix)
    moved = aligned(peaks, transform)
    assert moved.array == pytest.approx(straight.array, abs=1e-6)
    back = vectors_unaligned(moved, peaks, transform)
    assert np.array_equal(back.affine, peaks.affine)
    assert back.array == pytest.approx(peaks.array, abs=1e-6)
    masks = Volume((moved.array > 0).astype(np.uint8), moved.affine, tuple("abcdefghi"))
    on_subject = unaligned(masks, peaks)
    assert on_subject.names == masks.names
    assert on_subject.array.dtype == np.uint8
    assert np.array_equal(on_subject.affine, peaks.affine)
    assert aligned_masks(on_subject, peaks, transform).same_grid(moved)


def test_without_a_transform_nothing_changes() -> None:
    peaks = random_peaks()
    assert aligned(peaks, None) is peaks
    assert np.array_equal(vectors_unaligned(peaks, peaks, None).array, peaks.array)
    masks = Volume((peaks.array > 0).astype(np.uint8), peaks.affine)
    assert np.array_equal(aligned_masks(masks, peaks, None).affine, peaks.affine)


def test_masks_of_another_grid_are_refused() -> None:
    peaks = random_peaks()
    with pytest.raises(InvalidData, match="grid of the tract masks: expected that of the peaks"):
        aligned_masks(Volume(np.ones((5, 6, 8, 2), np.uint8), peaks.affine), peaks, RigidTransform(quarter_turn()))


def small_template() -> tuple[Volume, Volume]:
    """TractSeg's template at 5 mm and its mask, as if it were a subject."""
    fa = reduced_template(4)
    return fa, Volume(fa.array > 0.02, fa.affine)


def moved(image: Volume, movement: NDArray[np.float64]) -> Volume:
    return Volume(image.array, movement @ image.affine, image.names)


def test_resampling_before_and_after_the_transform_shows_the_head_where_it_is_and_in_mni_space() -> None:
    fa, mask = small_template()
    movement = rigid((0, 0, 25), (20, 0, 0))
    head, brain = moved(fa, movement), moved(mask, movement)
    assert resampled(head, fa, RigidTransform(movement)).array == pytest.approx(fa.array, abs=1e-4)
    assert similarity(head, brain) < 0.6 < 0.95 < similarity(head, brain, RigidTransform(movement))


def test_an_fa_without_a_value_and_a_mask_of_another_grid_are_refused() -> None:
    fa, mask = small_template()
    with pytest.raises(InvalidData, match="FA: expected values above 0 in the brain mask, found 0 in every voxel"):
        register_to_mni(Volume(np.zeros_like(fa.array), fa.affine), mask)
    with pytest.raises(InvalidData, match="grid of the brain mask"):
        register_to_mni(fa, Volume(mask.array[1:], mask.affine))


def apart(transform: RigidTransform, movement: NDArray[np.float64]) -> tuple[float, float]:
    """The angle in degrees and the distance at the center of the template between a result and the truth."""
    error = RigidTransform(np.linalg.inv(movement) @ transform.matrix)
    center = np.array([0, -18, 18])
    return error.degrees, float(np.linalg.norm(error.matrix[:3, :3] @ center + error.matrix[:3, 3] - center))


@pytest.mark.slow
@pytest.mark.parametrize("degrees", [0.0, 30.0, 55.0])
def test_a_head_is_found_in_any_usual_pose_and_at_any_place(degrees: float) -> None:
    """Trilinear interpolation makes mutual information rough below a degree; the voxels here are 5 mm large."""
    movement = rigid(tuple(degrees * np.array([2, -1, 2]) / 3), (60, -80, 100))
    fa, mask = (moved(image, movement) for image in small_template())
    fractions: list[float] = []
    angle, distance = apart(register_to_mni(fa, mask, progress=fractions.append), movement)
    assert angle < 1.5
    assert distance < 1.5
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)


@pytest.mark.slow
def test_the_transform_does_not_depend_on_the_number_of_threads() -> None:
    code = (
        "from kwneuro_assets_tests.derivations.test_alignment import *\n"
        "fa, mask = (moved(image, rigid((9, -20, 5), (5, 9, 2))) for image in small_template())\n"
        "print(register_to_mni(fa, mask).matrix.tobytes().hex())"
    )
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "KWNEURO_THREADS")
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **dict.fromkeys(variables, count)},
            capture_output=True, text=True, check=True,
        ).stdout
        for count in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1


def anisotropy(peaks: Volume, brain: NDArray[np.bool_]) -> Volume:
    """The FA of a brain whose fibers, and how many, are known: fibers of 1.7 and 0.3 um^2/ms, 0.8 elsewhere."""
    axes = peaks.array[brain].reshape(-1, 3, 3)
    lengths = np.linalg.norm(axes, axis=2)
    units = np.divide(axes, lengths[..., None], out=np.zeros_like(axes), where=lengths[..., None] > 0)
    fibers = np.einsum("nf,nfi,nfj->nij", lengths, units, units)
    white = lengths.sum(axis=1)[:, None, None]
    values = np.linalg.eigvalsh(1.4 * fibers + (0.3 * white + 0.8 * (1 - white)) * np.eye(3))
    spread = values - values.mean(axis=1, keepdims=True)
    fa = np.zeros(brain.shape, np.float32)
    fa[brain] = np.sqrt(1.5 * np.square(spread).sum(axis=1) / np.square(values).sum(axis=1))
    return Volume(fa, peaks.affine)


@pytest.mark.slow
def test_tilted_and_shifted_heads_are_segmented_like_straight_ones_once_aligned() -> None:
    """With the demo's networks, which were trained on heads within 15 degrees of MNI space.

    The head lies in the scanner as if it had been rotated by 30 degrees about an oblique axis and shifted, so the
    gradients' frame is that of the scanner, too. With noisy peaks of that head, the mean Dice of the known bundles was
    0.87 straight, 0.52 tilted and shifted, and 0.80 after the alignment, which also resamples peaks.
    """
    from kwneuro_assets.demo.anatomy import Cortex, head
    from kwneuro_assets.demo.head_shape import HeadShape
    from kwneuro_assets.demo.networks import FOLDER
    from kwneuro_assets.derivations.tracts import segment_tracts
    from kwneuro_assets_tests.testkit.formula_heads import formula_head, grid_around_the_brain, mean_dice

    def score(movement: NDArray[np.float64], align: bool) -> float:
        shape, in_head = grid_around_the_brain(3.2, movement[:3, :3].T)  # along the axes of the scanner
        peaks, bundles = formula_head(shape, in_head)
        peaks = moved_head(peaks, movement)
        points = np.indices(shape).reshape(3, -1).T @ in_head[:3, :3].T + in_head[:3, 3]
        brain = head(HeadShape.standard().adult(points), Cortex.random(np.random.default_rng(7))).brain.reshape(shape)
        transform = register_to_mni(anisotropy(peaks, brain), Volume(brain, peaks.affine)) if align else None
        found = unaligned(segment_tracts(aligned(peaks, transform), weights=FOLDER), peaks)
        return mean_dice(found, moved(bundles, movement))

    tilt = rigid((20, 10, 20), (25, -30, 40))
    straight, tilted, helped = (score(np.eye(4), False), score(tilt, False), score(tilt, True))
    assert tilted < straight - 0.2
    assert helped > straight - 0.15
