"""Volumes of the viewer: values, places and sizes against the derivatives."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from kwneuro_assets.figures.colors import direction_colors
from kwneuro_assets.imaging import MapSet, NotApplicable, Volume
from kwneuro_assets.reports import viewer_volumes as module
from kwneuro_assets.reports.viewer_grid import MARGIN, ViewerGrid
from kwneuro_assets.reports.viewer_volumes import ViewerVolumes, viewer_volumes
from kwneuro_assets_tests.testkit.viewer_subjects import GRIDS, affine_of, subject_on

ABSENT: Mapping[str, Any] = {
    "mean_b0": None,
    "brain_mask": None,
    "dti": None,
    "noddi": None,
    "csd_peaks": None,
    "tract_masks": None,
}


def decoded(nifti: bytes) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Scaled values and affine, as nibabel reads them."""
    image: Any = nib.Nifti1Image.from_bytes(gzip.decompress(nifti))
    if image.get_data_dtype().names:
        return np.stack([image.dataobj[...][color] for color in "RGB"], axis=-1), image.affine
    return image.get_fdata(), image.affine


def source_voxels(grid: ViewerGrid) -> NDArray[np.intp]:
    """The voxel of the derivatives (3, x, y, z) under each voxel of the viewer, by way of the world."""
    voxels = np.indices(grid.shape).reshape(3, -1)
    world = grid.affine[:3, :3] @ voxels + grid.affine[:3, 3:]
    inverse = np.linalg.inv(grid.affine @ np.linalg.inv(grid.to_source.astype(float)))
    return np.rint(inverse[:3, :3] @ world + inverse[:3, 3:]).astype(np.intp).reshape(3, *grid.shape)


@pytest.mark.parametrize("orientation", GRIDS)
def test_a_voxel_has_the_value_that_the_derivative_has_at_its_place(orientation: str) -> None:
    subject = subject_on(orientation)
    volumes = viewer_volumes(**subject)
    source = Volume(subject["mean_b0"].array, subject["mean_b0"].affine)
    inverse = np.linalg.inv(source.affine)
    expected = {
        "b0": source.array,
        "fa": subject["dti"]["fa"].array,
        "ndi": subject["noddi"]["ndi"].array,
        "csffraction": subject["csd_peaks"]["csffraction"].array,
    }
    for one in volumes.backgrounds:
        if one.name not in expected:
            continue
        values, affine = decoded(one.nifti)
        world = affine[:3, :3] @ np.indices(values.shape).reshape(3, -1) + affine[:3, 3:]
        voxels = np.rint(inverse[:3, :3] @ world + inverse[:3, 3:]).astype(int)
        there = expected.pop(one.name)[tuple(voxels)].reshape(values.shape)
        saturated = (there < one.intercept) | (there > one.intercept + one.steps * one.slope)
        # Rounding to the nearest of 256 steps; float32 adds less than a thousandth of a step.
        assert np.abs(values - there)[~saturated].max() <= 0.501 * one.slope
        assert one.clipped == (
            (there < one.intercept).any(),
            (there > one.intercept + (one.steps + 0.5) * one.slope).any(),
        )
    assert not expected


@pytest.mark.parametrize("orientation", GRIDS)
def test_axes_point_to_right_anterior_and_superior_and_reach_three_voxels_beyond_the_mask(orientation: str) -> None:
    subject = subject_on(orientation)
    grid = viewer_volumes(**subject).grid
    assert grid is not None
    assert nib.aff2axcodes(grid.affine) == ("R", "A", "S")
    assert grid.voxel_size == pytest.approx((2.0, 2.0, 2.5), abs=1e-5)
    inside = np.argwhere(grid.image(subject["brain_mask"].array))
    assert inside.min(axis=0).tolist() == [MARGIN] * 3
    assert (np.array(grid.shape) - 1 - inside.max(axis=0)).tolist() == [MARGIN] * 3


def test_the_number_of_the_source_voxel_is_that_of_the_stored_array() -> None:
    subject = subject_on("permuted")
    grid = viewer_volumes(**subject).grid
    assert grid is not None
    voxels = np.indices(grid.shape).reshape(3, -1)
    numbers = (grid.to_source[:3, :3] @ voxels + grid.to_source[:3, 3:]).reshape(3, *grid.shape)
    array = subject["mean_b0"].array
    np.testing.assert_array_equal(array[tuple(numbers)], grid.image(array))


def test_colors_are_those_of_the_world_direction() -> None:
    subject = subject_on("oblique")
    volumes = viewer_volumes(**subject)
    grid = volumes.grid
    assert grid is not None
    (colored,) = (one for one in volumes.backgrounds if one.colors == "rgb")
    image, _ = decoded(colored.nifti)
    vectors, fa = grid.image(subject["dti"]["evecs"].array[..., :3]), grid.image(subject["dti"]["fa"].array)
    expected = 255 * direction_colors(vectors, fa / 0.8)
    assert np.abs(image - expected).max() <= 0.501 * 255 / 63 + 0.5  # rounded to 64 values, then to a byte


def test_each_bundle_is_one_bit_of_each_voxel() -> None:
    subject = subject_on("LAS")
    volumes = viewer_volumes(**subject)
    grid, bundles = volumes.grid, volumes.bundles
    assert grid is not None
    assert bundles is not None
    frames, _ = decoded(bundles.nifti)
    assert bundles.names == subject["tract_masks"].names
    for index in range(len(bundles.names)):
        found = frames[..., index // 8].astype(int) >> index % 8 & 1
        np.testing.assert_array_equal(found, grid.image(subject["tract_masks"].array[..., index]))
    counts = np.count_nonzero(subject["tract_masks"].array, axis=(0, 1, 2))
    assert bundles.volumes_ml == pytest.approx(counts * 0.01, rel=1e-3)  # 2 x 2 x 2.5 mm
    assert bundles.colors[bundles.names.index("CST_left")] == bundles.colors[bundles.names.index("CST_right")]


@pytest.mark.parametrize("threads", ["1", "3"])
def test_the_same_values_give_the_same_bytes_on_any_number_of_threads(
    threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KWNEURO_THREADS", "2")
    expected = files_of(viewer_volumes(**subject_on("RAS")))
    monkeypatch.setenv("KWNEURO_THREADS", threads)
    assert files_of(viewer_volumes(**subject_on("RAS"))) == expected


def test_memory_order_does_not_change_the_bytes() -> None:
    subject = subject_on("RAS")
    reordered = {
        **subject,
        "mean_b0": in_c_order(subject["mean_b0"]),
        "tract_masks": in_c_order(subject["tract_masks"]),
    }
    assert files_of(viewer_volumes(**reordered)) == files_of(viewer_volumes(**subject))


def test_a_subject_too_large_for_the_page_has_every_nth_voxel_with_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subject_on("LAS")
    complete = viewer_volumes(**subject)
    monkeypatch.setattr(module, "MAX_BYTES", complete.base64_bytes // 3)
    smaller = viewer_volumes(**subject)
    assert smaller.base64_bytes <= complete.base64_bytes // 3
    grid = smaller.grid
    assert grid is not None
    assert grid.steps == (2, 2, 1)  # the voxels were 2 x 2 x 2.5 mm
    values, affine = decoded(smaller.backgrounds[0].nifti)
    assert nib.affines.voxel_sizes(affine) == pytest.approx((4, 4, 2.5))
    x, y, z = source_voxels(grid)
    there = subject["mean_b0"].array[x, y, z]
    step = smaller.backgrounds[0].slope
    assert np.abs(values - there)[there < 255 * step].max() <= 0.501 * step


def test_a_brain_at_full_size_fits_into_three_megabytes() -> None:
    volumes = viewer_volumes(**subject_on("LAS", shape=(128, 128, 60)))
    assert volumes.grid is not None
    assert len(volumes.backgrounds) == 9
    assert volumes.base64_bytes <= 3_000_000


@pytest.mark.parametrize("present", list(ABSENT))
def test_each_derivative_alone_is_enough(present: str) -> None:
    subject = subject_on("LAS")
    volumes = viewer_volumes(**{**ABSENT, present: subject[present]})
    assert volumes.grid is not None
    shown = [one.name for one in volumes.backgrounds]
    assert (shown, volumes.mask is not None, volumes.bundles is not None) == {
        "mean_b0": (["b0"], False, False),
        "brain_mask": ([], True, False),
        "dti": (["fa", "direction"], False, False),
        "noddi": (["ndi", "odi", "fwf"], False, False),
        "csd_peaks": (["wmfraction", "gmfraction", "csffraction"], False, False),
        "tract_masks": ([], False, True),
    }[present]


def test_without_any_derivative_there_is_no_volume() -> None:
    assert viewer_volumes(**ABSENT).grid is None
    assert viewer_volumes(**dict.fromkeys(ABSENT, NotApplicable("no b=0"))).backgrounds == ()


def test_single_tissue_peaks_have_no_fractions() -> None:
    subject = subject_on("LAS")
    peaks = MapSet({"peakvalues": subject["csd_peaks"]["peakvalues"]})
    assert viewer_volumes(**{**ABSENT, "csd_peaks": peaks}).backgrounds == ()


def test_a_map_on_another_grid_is_left_out() -> None:
    subject = subject_on("LAS")
    shifted = subject["noddi"]["ndi"].affine.copy()
    shifted[0, 3] += 10
    moved = MapSet({name: Volume(image.array, shifted) for name, image in subject["noddi"].items()})
    names = [one.name for one in viewer_volumes(**{**subject, "noddi": moved}).backgrounds]
    assert "ndi" not in names
    assert "fa" in names


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 5, 6)), np.full((4, 5, 6), -3.0), np.full((4, 5, 1), 7.0), np.ones((1, 1, 1))],
    ids=["zero", "negative", "one slice", "one voxel"],
)
def test_degenerate_images_are_shown_all_the_same(array: NDArray[np.float64]) -> None:
    image = Volume(array, affine_of("LAS", array.shape))
    volumes = viewer_volumes(
        **{**ABSENT, "mean_b0": image, "brain_mask": Volume(np.zeros(array.shape, bool), np.eye(4))}
    )
    values, _ = decoded(volumes.backgrounds[0].nifti)
    assert values.shape == array.shape
    assert values.max() == pytest.approx(max(0.0, float(array.max())), rel=0.01)
    low, high = volumes.backgrounds[0].window
    assert low < high


def files_of(volumes: ViewerVolumes) -> list[bytes]:
    assert volumes.mask is not None
    assert volumes.bundles is not None
    return [*(one.nifti for one in volumes.backgrounds), volumes.mask.nifti, volumes.bundles.nifti]


def in_c_order(volume: Volume) -> Volume:
    return Volume(np.ascontiguousarray(volume.array), volume.affine, volume.names)
