"""The check of the gradient table, on curved bundles with known directions and on real anatomy."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from functools import cache
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kwneuro_assets.derivations.gradient_check import GradientCheck, Verdict, _cell_edges
from kwneuro_assets.imaging import GradientTable
from kwneuro_assets_tests.testkit import small_dataset
from kwneuro_assets_tests.testkit.small_dataset import AFFINES, Table, load, rotation, table, to_fsl

SHARED = Path(__file__).parents[3] / "shared"
GRID = (40, 36, 28)
UNDECIDED = (None, False)


@pytest.fixture(autouse=True)
def _numpy_warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# ---- curved bundles ---------------------------------------------------------------------------------------------


@cache
def rings(name: str, grid: tuple[int, int, int] = GRID, seed: int = 4) -> tuple[NDArray[np.float64], Any]:
    """Tilted rings of fibers in world mm, 10 mm thick: unit tangents (x, y, z, 3), and the mask of all rings."""
    generator = np.random.default_rng(seed)
    affine = AFFINES[name]
    voxels = np.stack(np.meshgrid(*[np.arange(size) for size in grid], indexing="ij"), axis=-1)
    world = voxels @ affine[:3, :3].T
    size = np.array(grid) * np.linalg.norm(affine[:3, :3], axis=0)
    tangents, inside = np.zeros((*grid, 3)), np.zeros(grid, bool)
    for _ in range(14):
        normal = generator.normal(size=3)
        normal /= np.linalg.norm(normal)
        center = affine[:3, :3] @ (generator.uniform(0.25, 0.75, 3) * grid)
        radius = generator.uniform(0.2, 0.4) * size.min()
        arm = world - center
        height = arm @ normal
        flat = np.linalg.norm(arm - height[..., None] * normal, axis=-1)
        here = (np.hypot(height, flat - radius) < 5) & ~inside
        tangent = np.cross(normal, arm[here])
        tangents[here] = tangent / np.linalg.norm(tangent, axis=1, keepdims=True)
        inside |= here
    return tangents, inside


def tensor_signal(directions: Table, fiber: NDArray[np.float64], inside: Any, noise: float = 20) -> Any:
    """(x, y, z, n): tensors along `fiber` (world frame) in tissue without direction; S0 = 1000, Rician noise."""
    generator = np.random.default_rng(0)
    along, across = small_dataset.EIGENVALUES[:2]
    cosines = (fiber @ directions.world.T) ** 2
    diffusivity = np.where(inside[..., None], across + (along - across) * cosines, 0.8e-3)
    clean = 1000 * np.exp(-directions.bvals * diffusivity)
    return np.hypot(clean + generator.normal(0, noise, clean.shape), generator.normal(0, noise, clean.shape))


ONE_SHELL = table((1000,), directions=12)


@cache
def ring_series(name: str) -> NDArray[np.float32]:
    return np.asarray(tensor_signal(ONE_SHELL, *rings(name)), np.float32)


def checked(gradients: GradientTable, series: NDArray[Any], affine: NDArray[np.float64]) -> Verdict:
    check = GradientCheck(gradients, series.shape[:3], affine)  # type: ignore[arg-type]
    for index in range(series.shape[3]):
        check.add(index, series[..., index])
    return check.verdict()


def fsl_table(directions: Table, affine: NDArray[np.float64]) -> GradientTable:
    return GradientTable(directions.bvals, to_fsl(directions.world, affine))


# ---- wrong gradient tables, and the correction that the message describes ----------------------------------------


def wrong_tables(gradients: GradientTable) -> list[GradientTable]:
    """The correct table first, then the 23 tables with flipped or swapped axes."""
    return [
        GradientTable(gradients.bvals, gradients.bvecs[:, list(axes)] * signs, gradients.frame)
        for axes in permutations(range(3))
        for signs in ((1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1))
    ]


def corrected(gradients: GradientTable, correction: str | None) -> NDArray[np.float64]:
    rows = list(gradients.bvecs.T)
    number = {"first": 0, "second": 1, "third": 2}
    for part in [] if correction is None else correction.split(" and then "):
        named = [number[word] for word in re.findall("first|second|third", part)]
        axes = ["xyz".index(letter) for letter in re.findall(r"\b[xyz]\b", part)]
        if part.startswith("flip"):
            assert axes == named
            rows[named[0]] = -rows[named[0]]
        elif part.startswith("swap"):
            assert axes == named
            rows[named[0]], rows[named[1]] = rows[named[1]], rows[named[0]]
        else:
            assert part.startswith("rotate x, y and z")
            rows = [rows[row] for row in named]
    return np.array(rows).T


def assert_corrects(gradients: GradientTable, correction: str | None, right: GradientTable) -> None:
    vectors = corrected(gradients, correction)
    assert np.allclose(vectors, right.bvecs) or np.allclose(vectors, -right.bvecs)


# ---- errors that are found --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AFFINES)
def test_each_of_the_23_wrong_tables_gets_its_correction_and_the_correct_one_none(name: str) -> None:
    right = fsl_table(ONE_SHELL, AFFINES[name])
    for wrong in wrong_tables(right):
        verdict = checked(wrong, ring_series(name), AFFINES[name])
        assert verdict.decided
        assert_corrects(wrong, verdict.correction, right)
        if wrong.bvecs.tobytes() == right.bvecs.tobytes():
            assert verdict.correction is None
            assert verdict.coherence == verdict.best > 0.2
        else:
            assert verdict.correction
            assert verdict.coherence < 0.75 * verdict.best


@pytest.mark.parametrize("edge", [25.0, 2.5, 0.5, 0.1], ids="{} mm".format)
def test_the_result_does_not_depend_on_the_voxel_size(edge: float) -> None:
    affine = AFFINES["oblique"].copy()
    affine[:3, :3] *= edge / np.cbrt(np.linalg.det(affine[:3, :3]))
    right = fsl_table(ONE_SHELL, AFFINES["oblique"])
    for wrong in wrong_tables(right)[::5]:
        expected = checked(wrong, ring_series("oblique"), AFFINES["oblique"])
        found = checked(wrong, ring_series("oblique"), affine)
        assert (found.correction, found.decided) == (expected.correction, True)
        assert found.coherence == pytest.approx(expected.coherence, abs=1e-6)


@pytest.mark.parametrize(
    ("voxel", "edges"),
    [
        ((2.5, 2.5, 2.5), (8, 8, 8)),  # 20 mm, for which the rule was measured
        ((0.1, 0.1, 0.1), (8, 8, 8)),
        ((1, 1, 3), (12, 12, 4)),
        ((0.05, 0.05, 0.5), (17, 17, 2)),
        ((1, 1, 100), (37, 37, 1)),
    ],
)
def test_a_cell_is_nearly_a_cube_of_voxels(voxel: tuple[float, ...], edges: tuple[int, ...]) -> None:
    affine = AFFINES["permuted"].copy()
    affine[:3, :3] *= np.array(voxel) / np.linalg.norm(affine[:3, :3], axis=0)
    assert tuple(_cell_edges(affine)) == edges


@pytest.mark.parametrize("known", [True, False], ids=["directions", "trace images"])
@pytest.mark.parametrize("b0", [5, 50])
def test_the_fit_uses_the_real_b_values_of_b0_volumes(b0: float, known: bool) -> None:
    """With b=0 instead of 50, S0 and the diffusivities would be too low."""
    affine = AFFINES["oblique"]
    fibers, inside = rings("oblique")
    vectors = np.concatenate([[[0.6, 0.8, 0], [0, 0.6, -0.8]], ONE_SHELL.world[2:]])
    low = Table(np.where(ONE_SHELL.bvals == 0, b0, ONE_SHELL.bvals), vectors)
    series = tensor_signal(low, fibers, inside, noise=0)
    if not known:
        series[..., :2] = 1000 * np.exp(-b0 * np.where(inside, np.mean(small_dataset.EIGENVALUES), 0.8e-3))[..., None]
        vectors[:2] = 0
    for number, wrong in enumerate(wrong_tables(fsl_table(Table(low.bvals, vectors), affine))[::8]):
        check = GradientCheck(wrong, GRID, affine)
        for index in range(series.shape[3]):
            check.add(index, series[..., index])
        verdict = check.verdict()
        assert verdict.decided
        assert (verdict.correction is None) == (number == 0)
        assert check._block is not None
        xx, _, yy, _, _, zz, log_s0 = check._coefficients[:, inside[check._block]]
        np.testing.assert_allclose(np.exp(log_s0), 1000, rtol=1e-4)
        np.testing.assert_allclose(xx + yy + zz, 1000 * np.sum(small_dataset.EIGENVALUES), rtol=1e-4)  # 1e-3 mm^2/s


def test_the_correction_names_axes_and_rows() -> None:
    right = fsl_table(ONE_SHELL, AFFINES["oblique"])
    flipped = GradientTable(right.bvals, right.bvecs * (-1, 1, 1))
    swapped = GradientTable(right.bvals, right.bvecs[:, [1, 0, 2]] * (1, 1, -1))
    series = ring_series("oblique")
    first, second = (checked(wrong, series, AFFINES["oblique"]) for wrong in (flipped, swapped))
    assert first.correction == "flip x (negate the first row of the bvec file)"
    assert second.correction == (
        "swap x and y (the first and second row of the bvec file) and then flip z (negate the third row)"
    )


def test_a_table_in_the_world_frame_has_the_result_of_its_bvec_file() -> None:
    affine = AFFINES["left-handed oblique"]
    right = fsl_table(ONE_SHELL, affine)
    for wrong in (right, GradientTable(right.bvals, right.bvecs * (1, -1, 1))):
        expected = checked(wrong, ring_series("left-handed oblique"), affine)
        found = checked(wrong.to_frame("world", affine), ring_series("left-handed oblique"), affine)
        assert found.correction == expected.correction
        assert found.best == pytest.approx(expected.best, abs=1e-3)


def test_an_image_flipped_without_its_table_is_found() -> None:
    series = ring_series("right-handed")[:, ::-1]
    verdict = checked(fsl_table(ONE_SHELL, AFFINES["right-handed"]), series, AFFINES["right-handed"])
    assert verdict.correction == "flip y (negate the second row of the bvec file)"


def test_higher_shells_are_not_used_if_a_low_one_suffices() -> None:
    affine = AFFINES["oblique"]
    directions = table((1000, 3000), directions=12)
    series = tensor_signal(directions, *rings("oblique")).astype(np.float32)
    verdict = checked(fsl_table(directions, affine), series, affine)
    series[..., directions.bvals == 3000] = 7
    assert checked(fsl_table(directions, affine), series, affine) == verdict
    assert verdict.decided


@pytest.mark.parametrize("dtype", ["int16", ">i2", "uint16", "float64", ">f4", "int32"])
def test_the_data_type_of_the_image_does_not_matter(dtype: str) -> None:
    series = np.rint(ring_series("right-handed"))
    gradients = fsl_table(ONE_SHELL, AFFINES["right-handed"])
    verdict = checked(gradients, np.asfortranarray(series.astype(dtype)), AFFINES["right-handed"])
    expected = checked(gradients, series, AFFINES["right-handed"])
    assert verdict.decided
    assert verdict.best == pytest.approx(expected.best, abs=1e-3)


# ---- undecided cases --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AFFINES)
def test_equal_directions_everywhere_are_undecided(name: str) -> None:
    for grid in (small_dataset.GRID, (50, 48, 30)):
        series = small_dataset.signal(ONE_SHELL, grid)
        for wrong in wrong_tables(fsl_table(ONE_SHELL, AFFINES[name]))[:: 3 if grid[0] == 8 else 11]:
            verdict = checked(wrong, series, AFFINES[name])
            assert (verdict.correction, verdict.decided) == UNDECIDED


def test_noise_and_isotropic_tissue_are_undecided() -> None:
    gradients = fsl_table(ONE_SHELL, AFFINES["oblique"])
    nowhere = np.zeros(GRID, bool)
    for seed, noise in enumerate((400, 2000, 5)):
        series = tensor_signal(ONE_SHELL, np.roll(rings("oblique")[0], seed), nowhere, noise)
        verdict = checked(gradients, series, AFFINES["oblique"])
        assert (verdict.correction, verdict.decided) == UNDECIDED


def test_fewer_than_six_directions_are_undecided() -> None:
    directions = table((1000,), directions=5)
    series = tensor_signal(directions, *rings("oblique"))
    verdict = checked(fsl_table(directions, AFFINES["oblique"]), series, AFFINES["oblique"])
    assert verdict == Verdict(0.0, 0.0, None, decided=False)


def test_an_incomplete_series_is_undecided() -> None:
    check = GradientCheck(fsl_table(ONE_SHELL, AFFINES["oblique"]), GRID, AFFINES["oblique"])
    assert not check.verdict().decided
    for index in range(10):
        check.add(index, ring_series("oblique")[..., index])
    assert check.verdict() == Verdict(0.0, 0.0, None, decided=False)


@pytest.mark.parametrize("thickness", [1, 2])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_or_two_slices_never_report_a_correct_table(axis: int, thickness: int) -> None:
    series = np.take(ring_series("oblique"), range(13, 13 + thickness), axis=axis)
    verdict = checked(fsl_table(ONE_SHELL, AFFINES["oblique"]), series, AFFINES["oblique"])
    assert verdict.correction is None
    assert thickness > 1 or not verdict.decided


def test_zero_negative_and_nan_voxels_are_excluded() -> None:
    gradients = fsl_table(ONE_SHELL, AFFINES["right-handed"])
    series = ring_series("right-handed").copy()
    expected = checked(gradients, series, AFFINES["right-handed"])
    generator = np.random.default_rng(0)
    for value in (0, -3, np.nan, np.inf, -np.inf):
        where = tuple(generator.integers(size, size=200) for size in series.shape)
        series[where] = value
    verdict = checked(gradients, series, AFFINES["right-handed"])
    assert verdict.decided
    assert verdict.correction is None
    assert verdict.best == pytest.approx(expected.best, abs=0.05)


@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf, 1e30, 1e-30])
@pytest.mark.parametrize("grid", [(8, 7, 6), (1, 1, 1), (30, 1, 30)])
def test_a_constant_image_is_undecided(grid: tuple[int, int, int], value: float) -> None:
    series = np.full((*grid, len(ONE_SHELL.bvals)), value)
    verdict = checked(fsl_table(ONE_SHELL, AFFINES["oblique"]), series, AFFINES["oblique"])
    assert verdict == Verdict(verdict.coherence, verdict.best, None, decided=False)
    assert np.isfinite([verdict.coherence, verdict.best]).all()


def test_small_pieces_of_bundles_never_report_a_correct_table() -> None:
    generator = np.random.default_rng(3)
    for name in AFFINES:
        for _ in range(12):
            size = [int(generator.integers(3, grid + 1)) for grid in GRID]
            start = [int(generator.integers(0, grid - edge + 1)) for grid, edge in zip(GRID, size, strict=True)]
            piece = ring_series(name)[tuple(slice(at, at + edge) for at, edge in zip(start, size, strict=True))]
            assert checked(fsl_table(ONE_SHELL, AFFINES[name]), piece, AFFINES[name]).correction is None


# ---- a slow reference implementation ----------------------------------------------------------------------------


def slow_coherences(fibers: NDArray[np.float64], inside: Any, affine: NDArray[np.float64], changes: Any) -> list[float]:
    """The coherence by loops, in world mm: `fibers` (world frame) change as each of `changes` changes FSL vectors."""
    around = [np.array(step) for step in product((-1, 0, 1), repeat=3) if any(step)]
    # Whether each step from each voxel arrives; without steps out of the image.
    arrivals: dict[tuple[int, ...], dict[tuple[int, ...], bool]] = {}
    for voxel in map(tuple, np.argwhere(inside)):
        arrivals[voxel] = {}
        for step in around:
            there = tuple(voxel + step)
            if all(0 <= at < size for at, size in zip(there, inside.shape, strict=True)):
                same = abs(fibers[voxel] @ fibers[there]) > np.cos(np.radians(40))
                arrivals[voxel][tuple(step)] = bool(inside[there] and same)

    def expected_rate(step: Any) -> float:
        results = [found[way] for found in arrivals.values() for way in (tuple(step), tuple(-step)) if way in found]
        return float(np.mean(results))

    rates = {tuple(step): expected_rate(step) for step in around}
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if np.linalg.det(axes) > 0:
        axes = axes @ np.diag([-1, 1, 1])
    ways = [affine[:3, :3] @ step / np.linalg.norm(affine[:3, :3] @ step) for step in around]
    indices = []
    for change in changes:
        excess = possible = 0.0
        for voxel, found in arrivals.items():
            direction = axes @ change @ axes.T @ fibers[voxel]
            nearest = around[int(np.argmax([abs(direction @ way) for way in ways]))]
            for step in (tuple(nearest), tuple(-nearest)):
                if step in found:
                    excess += found[step] - rates[step]
                    possible += 1 - rates[step]
        indices.append(excess / possible)
    return indices


@pytest.mark.parametrize("name", ["oblique", "left-handed", "permuted and flipped"])
def test_the_coherence_agrees_with_a_loop_over_voxels(name: str) -> None:
    # 1e-3: one step in a thousand to another neighbor, because the fit is in float32.
    affine = AFFINES[name]
    fibers, inside = rings(name, (9, 8, 7), seed=1)
    fibers = fibers @ rotation(3, 5, 7).T  # no direction is midway between two neighbors
    series = tensor_signal(ONE_SHELL, fibers, inside, noise=0)
    changes = [
        np.diag(signs) @ np.eye(3)[list(axes)]
        for axes in permutations(range(3))
        for signs in ((1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1))
    ]
    expected = slow_coherences(fibers, inside, affine, changes)
    found = [checked(wrong, series, affine) for wrong in wrong_tables(fsl_table(ONE_SHELL, affine))]
    # A changed table changes the tensors: its coherence is that of the changed fibers.
    np.testing.assert_allclose([verdict.coherence for verdict in found], expected, atol=1e-3)
    np.testing.assert_allclose([verdict.best for verdict in found], max(expected), atol=1e-3)


# ---- real anatomy -----------------------------------------------------------------------------------------------


def read(image: Path) -> tuple[GradientTable, NDArray[Any], NDArray[np.float64]]:
    stem = str(image).removesuffix(".nii.gz")
    loaded = load(image)
    gradients = GradientTable(np.loadtxt(f"{stem}.bval"), np.loadtxt(f"{stem}.bvec").T)
    return gradients, np.asarray(loaded.dataobj), loaded.affine


@pytest.mark.skipif(not (SHARED / "reference").is_dir(), reason="the reference peaks are not available")
@pytest.mark.parametrize("storage", ["as stored", "sagittal"])
def test_real_anatomy_distinguishes_all_24_tables(storage: str) -> None:
    reference = SHARED / "reference" / "tractseg"
    image = load(reference / "peaks.nii.gz")
    peaks = np.nan_to_num(np.asarray(image.dataobj[:, :, 28:42, :3]))  # decompresses only this part of the file
    clear = np.asarray(load(reference / "FA.nii.gz").dataobj[:, :, 28:42]) > 0.3
    affine = image.affine
    if storage == "sagittal":  # other voxel axes, the same world directions
        peaks, clear = peaks.transpose(1, 2, 0, 3), clear.transpose(1, 2, 0)
        affine = affine[:, [1, 2, 0, 3]]
    fibers = peaks / np.maximum(np.linalg.norm(peaks, axis=-1, keepdims=True), 1e-9)
    series = tensor_signal(ONE_SHELL, fibers, clear, noise=60).astype(np.float32)
    right = fsl_table(ONE_SHELL, affine)
    for wrong in wrong_tables(right):
        verdict = checked(wrong, series, affine)
        assert verdict.decided
        assert_corrects(wrong, verdict.correction, right)


@pytest.mark.skipif(not (SHARED / "reference").is_dir(), reason="the real patch is not available")
def test_a_small_patch_of_a_real_brain_is_undecided() -> None:
    right, series, affine = read(SHARED / "reference" / "real-patch" / "sub-real_dwi.nii.gz")
    for wrong in wrong_tables(right):
        verdict = checked(wrong, series, affine)
        assert (verdict.correction, verdict.decided) == UNDECIDED
