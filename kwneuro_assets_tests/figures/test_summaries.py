"""The summary numbers of each derivative."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import sph_harm_y

from kwneuro_assets.derivations.group_response import mean_response
from kwneuro_assets.figures import summaries
from kwneuro_assets.imaging import Dwi, MapSet, NotApplicable, ResponseFunction, Volume
from kwneuro_assets_tests.derivations.tissues import ACROSS, ALONG, true_responses
from kwneuro_assets_tests.figures.heads import counted, every_value, head, three_tissues

ROUNDING = 1e-4  # numbers are given to five significant digits


@pytest.fixture(scope="module")
def values():
    return every_value((10, 11, 12), "oblique")


def test_the_residual_is_relative_to_the_mean_signal_of_the_head(values):
    noisy, denoised = values["dwi"], values["denoised_dwi"]
    # All voxels of this DWI have signal, and denoising removed a tenth of each.
    expected = np.sqrt(np.mean((0.1 * noisy.array.astype(float)) ** 2)) / noisy.array.mean(dtype=float)
    found = summaries.denoised_summary(denoised, {"dwi": noisy})
    assert found["residual_rms_fraction_of_mean_signal"] == pytest.approx(expected, rel=ROUNDING)
    assert summaries.denoised_summary(noisy, {"dwi": noisy})["residual_rms_fraction_of_mean_signal"] == 0


def test_numbers_do_not_depend_on_the_memory_order_of_an_array(values):
    def fortran(volume):
        return Volume(np.asfortranarray(volume.array), volume.affine, volume.names)

    noisy, denoised = (Dwi(fortran(values[name].volume), values[name].gradients) for name in ("dwi", "denoised_dwi"))
    assert summaries.denoised_summary(denoised, {"dwi": noisy}) == summaries.denoised_summary(
        values["denoised_dwi"], {"dwi": values["dwi"]}
    )
    for name in ("tract_masks", "tract_endings"):
        summary = summaries.tracts_summary if name == "tract_masks" else summaries.endings_summary
        assert summary(fortran(values[name]), {}) == summary(values[name], {})
    orientations = values["tract_orientations"]
    assert summaries.orientations_summary(fortran(orientations), {}) == summaries.orientations_summary(orientations, {})


def test_the_median_of_the_mean_b0_excludes_air():
    volume = head()
    image = Volume(np.minimum(volume.array, 150), volume.affine)
    assert summaries.mean_b0_summary(image, {}) == {"median_signal": 100.0}


def test_a_mask_has_the_volume_of_its_voxels(values):
    mask = values["brain_mask"]
    voxels = int(mask.array.sum())
    # Voxels of 2 x 2 x 2.5 mm.
    assert summaries.brain_mask_summary(mask, {}) == {
        "volume_ml": pytest.approx(voxels * 0.01, rel=ROUNDING),
        "voxels": voxels,
    }


def test_means_are_over_the_brain_mask(values):
    inside = values["brain_mask"].array > 0
    found = summaries.tensor_summary(values["dti"], values) | summaries.noddi_summary(values["noddi"], values)
    expected = {
        "mean_fa": values["dti"]["fa"],
        "mean_md_mm2_per_s": values["dti"]["md"],
        **{f"mean_{name}": values["noddi"][name] for name in ("ndi", "odi", "fwf")},
    }
    assert found.pop("voxels_not_positive_definite") == 0
    assert found == {
        name: pytest.approx(volume.array[inside].mean(dtype=float), rel=ROUNDING) for name, volume in expected.items()
    }


def test_tensors_that_were_not_positive_definite_are_counted(values):
    maps = values["dti"]
    evals = maps["evals"].array.copy()
    evals[2:4, 5, 5] = 1.7e-3, 4e-4, 1e-9
    evals[6, 5, 5] = 0  # no signal, no tensor
    changed = MapSet({**{name: maps[name] for name in maps}, "evals": Volume(evals, maps["evals"].affine)})
    assert summaries.tensor_summary(changed, values)["voxels_not_positive_definite"] == 2


def test_the_anisotropy_of_a_response_is_that_of_its_spherical_harmonics():
    response = ResponseFunction(np.array([200.0, -130, 40, -9, 2]), 3000, 300)
    # The oracle: SciPy's orthonormal harmonics with m = 0, degree by degree.
    along, across = sum(
        coefficient * sph_harm_y(2 * index, 0, np.array([0, np.pi / 2]), 0).real
        for index, coefficient in enumerate(response.coefficients)
    )
    assert summaries.response_summary(response, {}) == {
        "order": 8,
        "bvalue_s_per_mm2": 3000.0,
        "voxels": 300,
        "ratio_along_to_across": pytest.approx(along / across, rel=ROUNDING),
    }


def test_the_anisotropy_of_three_tissues_is_that_of_white_matter_at_the_highest_shell():
    assert summaries.response_summary(counted(true_responses(order=20)), {}) == {
        "order": 20,
        "bvalues_s_per_mm2": "0, 1000, 3000",
        "wm_voxels": 300,
        "gm_voxels": 142,
        "csf_voxels": 100,
        "ratio_along_to_across": pytest.approx(np.exp(-3000 * (ALONG - ACROSS)), rel=ROUNDING),
    }


def test_the_summary_of_a_group_counts_the_subjects_in_the_mean_and_the_others():
    own = counted(true_responses())
    subjects = {
        "sub-01": own,
        "sub-02": own.scaled(3),
        "sub-03": replace(own, bvalues=np.array([0.0, 1000, 2000])),
        "sub-04": ResponseFunction(np.array([200.0, -130]), 3000, 300),
        "sub-05": NotApplicable("too few directions"),
    }
    mean = mean_response(subjects)
    assert summaries.group_response_summary(mean, {"fiber_response": subjects}) == {
        "subjects": 2,
        "subjects_left_out": 2,
        "subjects_not_applicable": 1,
        **summaries.response_summary(mean, {}),
    }
    assert summaries.group_response_summary(mean, {})["subjects"] == 0


def test_peaks_above_half_of_the_largest_are_counted():
    amplitudes = np.zeros((2, 2, 1, 3), np.float32)
    amplitudes[0, 0, 0] = [1, 0.6, 0.5]
    amplitudes[0, 1, 0] = [0.1, 0.09, 0.08]
    amplitudes[1, 0, 0] = [2, 0.9, 0]
    peaks = MapSet({"peakvalues": Volume(amplitudes, np.eye(4))})
    everywhere = {"brain_mask": Volume(np.ones((2, 2, 1), np.uint8), np.eye(4))}
    assert summaries.peaks_summary(peaks, everywhere) == {
        "mean_peaks_per_voxel": (2 + 3 + 1 + 0) / 4,
        "fraction_of_mask_with_peak": 0.75,
    }


def test_the_mean_tissue_fractions_are_over_the_mask(values):
    tissues = three_tissues((10, 11, 12), "oblique")
    peaks, inside = tissues["csd_peaks"], tissues["brain_mask"].array > 0
    found = summaries.peaks_summary(peaks, tissues)
    expected = {
        f"mean_{name}": pytest.approx(peaks[key].array[inside].mean(dtype=float), rel=ROUNDING)
        for name, key in (("wm_fraction", "wmfraction"), ("gm_fraction", "gmfraction"), ("csf_fraction", "csffraction"))
    }
    assert found == summaries.peaks_summary(values["csd_peaks"], values) | expected


def test_without_a_mask_a_voxel_of_csf_alone_counts_as_brain():
    def row(*numbers):
        return Volume(np.array(numbers, np.float32).reshape(3, 1, 1), np.eye(4))

    tissues = {"wmfraction": row(1, 0, 0), "gmfraction": row(0, 0, 0), "csffraction": row(0, 1, 0)}
    amplitudes = Volume(np.array([1, 0, 0], np.float32).reshape(3, 1, 1, 1), np.eye(4))
    found = summaries.peaks_summary(MapSet({"peakvalues": amplitudes, **tissues}), {})
    assert found["mean_csf_fraction"] == 0.5
    assert found["fraction_of_mask_with_peak"] == 0.5


def test_empty_bundles_are_named_and_overlaps_count_once():
    masks = np.zeros((4, 4, 4, 3), np.uint8)
    masks[0, :, :, 0] = 1
    masks[0:2, :, :, 2] = 1
    stack = Volume(masks, np.diag([10.0, 10, 10, 1]), ("AF_left", "FX_left", "CC"))
    assert summaries.tracts_summary(stack, {}) == {
        "bundles_found": 2,
        "bundles_of": 3,
        "bundles_empty": "FX_left",
        "total_ml": 32.0,
        "bundles_one_sided": "none",
        "bundles_outside_brain": "none",
        "bundle_volumes_ml": {"AF_left": 16.0, "CC": 32.0},
    }
    assert summaries.endings_summary(stack, {})["endings_found"] == 2


def test_a_bundle_has_directions_if_any_component_is_nonzero():
    vectors = np.zeros((3, 3, 3, 12), np.float32)
    vectors[1, 1, 1, 5] = -1  # z of the second bundle
    vectors[2, 0, 0, 9] = 1  # x of the fourth
    assert summaries.orientations_summary(Volume(vectors, np.eye(4)), {}) == {
        "bundles_with_directions": 2,
        "fraction_of_bundles_with_directions": 0.5,
    }


def test_empty_values_give_zeros_and_no_warning(recwarn):
    empty = every_value((3, 3, 3), "ras")
    nothing = Volume(np.zeros((3, 3, 3), np.float32), np.eye(4))
    maps = MapSet(dict.fromkeys(("fa", "md", "evals", "ndi", "odi", "fwf"), nothing))
    assert set(summaries.tensor_summary(maps, {}).values()) == {0.0}
    assert set(summaries.noddi_summary(maps, {"brain_mask": NotApplicable("no brain")}).values()) == {0.0}
    peaks = MapSet({"peakvalues": Volume(np.zeros((3, 3, 3, 5), np.float32), np.eye(4))})
    assert set(summaries.peaks_summary(peaks, {}).values()) == {0.0}
    assert summaries.denoised_summary(empty["dwi"], {}) == {"volumes": 7}
    assert not recwarn.list


def test_every_number_is_plain_and_finite(values):
    for name, summary in (
        ("denoised_dwi", summaries.denoised_summary),
        ("mean_b0", summaries.mean_b0_summary),
        ("brain_mask", summaries.brain_mask_summary),
        ("dti", summaries.tensor_summary),
        ("noddi", summaries.noddi_summary),
        ("fiber_response", summaries.response_summary),
        ("csd_peaks", summaries.peaks_summary),
        ("tract_masks", summaries.tracts_summary),
        ("tract_endings", summaries.endings_summary),
        ("tract_orientations", summaries.orientations_summary),
    ):
        for inputs in (values, three_tissues((10, 11, 12), "oblique")):
            found = summary(inputs[name], inputs)
            tables = [table for table in found.values() if isinstance(table, dict)]
            numbers = [number for number in found.values() if not isinstance(number, dict)]
            for number in [*numbers, *(number for table in tables for number in table.values())]:
                assert type(number) in (int, float, str)
                assert isinstance(number, str) or np.isfinite(number)
