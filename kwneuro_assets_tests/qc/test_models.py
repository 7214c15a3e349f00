"""QC metrics of the fitted models, in white matter."""

from __future__ import annotations

import numpy as np
import pytest

from kwneuro_assets.derivations.tensor import fit_tensor
from kwneuro_assets.imaging import Dwi, GradientTable, MapSet, NotApplicable, ResponseFunction, TissueResponses, Volume
from kwneuro_assets.qc.microstructure import NODDI_METRICS, noddi_metrics
from kwneuro_assets.qc.peaks import PEAK_METRICS, peak_metrics
from kwneuro_assets.qc.response import RESPONSE_METRICS, response_metrics
from kwneuro_assets.qc.tensor_fit import TENSOR_METRICS, tensor_metrics
from kwneuro_assets.qc.white_matter import white_matter, white_matter_metrics

AFFINE = np.diag([-2.0, 2, 2.5, 1])
SHAPE = (6, 5, 4)
WHITE, GRAY, FLUID = (1.4e-3, 0.4e-3, 0.3e-3), (0.8e-3, 0.8e-3, 0.8e-3), (3e-3, 3e-3, 3e-3)  # eigenvalues, mm^2/s


def volume(values):
    return Volume(np.asarray(values, np.float32), AFFINE)


def dwi_of_layers(layers):
    """A series in which the voxels of layer x have the tensor `layers[x]`, without noise."""
    generator = np.random.default_rng(4)
    directions = generator.normal(size=(20, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    bvals = np.array([0, *[1000] * 20], float)
    vectors = np.vstack([np.zeros(3), directions])
    exponent = np.array([(vectors**2) @ evals for evals in layers])
    signal = 1000 * np.exp(-bvals * exponent)[:, None, None, :] * np.ones((1, *SHAPE[1:], 1))
    return Dwi(volume(signal), GradientTable(bvals, vectors, "world"))


MASK = Volume(np.ones(SHAPE, np.uint8), AFFINE)
LAYERS = [WHITE, WHITE, WHITE, GRAY, GRAY, FLUID]


@pytest.fixture(scope="module")
def dti():
    return fit_tensor(dwi_of_layers(LAYERS), MASK, 1500)


def peaks_of(fractions=None, counts=(1, 2, 3, 0, 0, 0)):
    """Layer x has `counts[x]` peaks of equal amplitude and one of a third of it; and a fraction of white matter."""
    amplitudes = np.zeros((*SHAPE, 5), np.float32)
    for layer, count in enumerate(counts):
        amplitudes[layer, ..., :count] = 0.6
        amplitudes[layer, ..., count : count + 1] = 0.2 if count else 0
    maps = {"peaks": volume(np.zeros((*SHAPE, 15))), "peakvalues": volume(amplitudes)}
    if fractions is not None:
        filled = np.broadcast_to(np.array(fractions, np.float32)[:, None, None], SHAPE)
        maps |= {"wmfraction": volume(filled), "gmfraction": volume(1 - filled), "csffraction": volume(0 * filled)}
    return MapSet(maps)


def test_without_tissue_fractions_white_matter_is_where_fa_is_high_and_md_low(dti):
    white = white_matter(MASK, dti, peaks_of())
    assert white.source == "FA"
    assert white.mask.array.any(axis=(1, 2)).tolist() == [True, True, True, False, False, False]
    assert white_matter_metrics(white) == {"wm_source": "FA", "wm_volume_ml": 0.6}


def test_with_tissue_fractions_white_matter_is_where_it_is_above_half(dti):
    white = white_matter(MASK, dti, peaks_of([0.4, 0.5, 0.6, 0.9, 0, 0]))
    assert white.source == "tissue fraction"
    assert white.mask.array.any(axis=(1, 2)).tolist() == [False, False, True, True, False, False]


def test_white_matter_is_in_the_brain_mask_only(dti):
    half = MASK.array.copy()
    half[:, :, 2:] = 0
    assert white_matter_metrics(white_matter(Volume(half, AFFINE), dti, None))["wm_volume_ml"] == 0.3
    assert white_matter_metrics(white_matter(None, dti, None))["wm_volume_ml"] == 0.6


def test_white_matter_is_unknown_without_maps_on_the_grid_of_the_mask(dti):
    elsewhere = Volume(MASK.array, np.diag([-2.0, 2, 3, 1]))
    for white in (
        white_matter(MASK, None, NotApplicable("one shell")),
        white_matter(elsewhere, dti, peaks_of([1] * 6)),
    ):
        assert white is None
        assert white_matter_metrics(white) == {"wm_source": None, "wm_volume_ml": None}


def test_fa_and_md_are_the_medians_of_white_matter(dti):
    row = tensor_metrics(dti, MASK, white_matter(MASK, dti, None))
    spread = np.var(WHITE) * 3
    assert row["wm_fa_median"] == pytest.approx(np.sqrt(1.5 * spread / np.square(WHITE).sum()), rel=1e-4)  # float32
    assert row["wm_md_median"] == pytest.approx(np.mean(WHITE), rel=1e-4)
    assert row["tensor_not_positive_ppm"] == row["fa_degenerate"] == 0


def test_impossible_tensors_are_counted():
    # Along y the signal rises with b: a negative diffusivity, as of noise or corrupt voxels.
    layers = [WHITE, WHITE, (1e-3, -0.3e-3, 0.2e-3), (1e-3, -0.3e-3, -0.2e-3), GRAY, GRAY]
    dti = fit_tensor(dwi_of_layers(layers), MASK, 1500)
    row = tensor_metrics(dti, MASK, white_matter(MASK, dti, None))
    assert row["tensor_not_positive_ppm"] == pytest.approx(1e6 / 3, rel=1e-4)
    assert row["fa_degenerate"] == pytest.approx(1e6 / 6, rel=1e-4), "only one eigenvalue is left in one layer"


def test_voxels_without_a_tensor_do_not_count():
    series = dwi_of_layers([WHITE, WHITE, (1e-3, -0.3e-3, 0.2e-3), GRAY, GRAY, GRAY])
    dark = series.array.copy()
    dark[3:] = 0
    dti = fit_tensor(series.with_array(dark), MASK, 1500)
    row = tensor_metrics(dti, MASK, white_matter(MASK, dti, None))
    assert row["tensor_not_positive_ppm"] == pytest.approx(1e6 / 3, rel=1e-4), "one of three layers with a signal"


def test_tensor_metrics_are_unknown_without_a_tensor_or_without_white_matter(dti):
    unknown = dict.fromkeys(metric.name for metric in TENSOR_METRICS)
    assert tensor_metrics(NotApplicable("5 directions"), MASK, None) == unknown
    assert tensor_metrics(None, None, None) == unknown
    row = tensor_metrics(dti, MASK, None)
    assert row["wm_fa_median"] is row["wm_md_median"] is None
    assert row["tensor_not_positive_ppm"] == 0
    empty = Volume(np.zeros(SHAPE, np.uint8), AFFINE)
    assert tensor_metrics(dti, empty, white_matter(empty, dti, None)) == unknown


def noddi_of(**maps):
    layers = {name: volume(np.broadcast_to(np.array(one)[:, None, None], SHAPE)) for name, one in maps.items()}
    direction = np.zeros((*SHAPE, 3), np.float32)
    direction[:5, ..., 2] = 1  # the last layer was not fitted
    return MapSet({**layers, "direction": volume(direction)})


def test_noddi_metrics_are_medians_of_fitted_white_matter(dti):
    noddi = noddi_of(ndi=[0.5, 0.6, 0.8, 0, 0, 0], odi=[0.1, 0.2, 0.2, 0, 0, 0], fwf=[0, 0, 0.3, 0, 0, 0])
    white = white_matter(MASK, None, peaks_of([1, 1, 1, 0, 0, 1]))
    row = noddi_metrics(noddi, white)
    assert row == {"wm_ndi_median": 0.6, "wm_odi_median": 0.2, "wm_fwf_median": 0, "wm_noddi_rmse_median": None}
    with_error = noddi_of(ndi=[0] * 6, odi=[0] * 6, fwf=[0] * 6, rmse=[0.02, 0.04, 0.03, 0, 0, 0])
    assert noddi_metrics(with_error, white)["wm_noddi_rmse_median"] == 0.03


def test_noddi_metrics_are_unknown_without_noddi_or_white_matter(dti):
    unknown = dict.fromkeys(metric.name for metric in NODDI_METRICS)
    white = white_matter(MASK, dti, None)
    assert noddi_metrics(NotApplicable("one shell"), white) == unknown
    assert noddi_metrics(noddi_of(ndi=[0.5] * 6, odi=[0] * 6, fwf=[0] * 6), None) == unknown
    no_white = white_matter(MASK, None, peaks_of([0] * 6))
    assert noddi_metrics(noddi_of(ndi=[0.5] * 6, odi=[0] * 6, fwf=[0] * 6), no_white) == unknown


def test_peaks_above_half_of_the_largest_are_counted(dti):
    white = white_matter(MASK, dti, peaks_of())
    assert peak_metrics(peaks_of(), white) == {"wm_peaks_per_voxel": 2, "wm_with_peak_fraction": 1}
    row = peak_metrics(peaks_of(counts=(0, 1, 1, 5, 5, 5)), white)
    assert row == {"wm_peaks_per_voxel": 0.66667, "wm_with_peak_fraction": 0.66667}


def test_peak_metrics_are_unknown_without_peaks_or_white_matter(dti):
    unknown = dict.fromkeys(metric.name for metric in PEAK_METRICS)
    white = white_matter(MASK, dti, None)
    assert peak_metrics(None, white) == unknown
    assert peak_metrics(peaks_of(), None) == unknown
    assert peak_metrics(peaks_of([0] * 6), white_matter(MASK, dti, peaks_of([0] * 6))) == unknown


def test_the_response_ratio_is_the_signal_along_the_fiber_over_that_across():
    # Y_0^0 = sqrt(1/4pi); Y_2^0 = sqrt(5/16pi) (3 cos^2 - 1): 2 along, -1 across.
    along, across = np.sqrt(1 / (4 * np.pi)) * 1000 + np.sqrt(5 / (16 * np.pi)) * -300 * np.array([2, -1])
    row = response_metrics(ResponseFunction([1000, -300], 3000, voxels=412))
    assert row["response_ratio"] == pytest.approx(along / across, rel=1e-4)  # five significant digits
    assert row["response_voxels"] == 412
    assert row["response_gm_voxels"] is row["response_csf_voxels"] is None


def test_the_response_ratio_of_three_tissues_is_that_of_white_matter_at_the_highest_bvalue():
    single = response_metrics(ResponseFunction([500, -200], 3000, voxels=300))
    three = TissueResponses(
        [0, 1000, 3000], [[1500, 0], [900, -200], [500, -200]], [1200, 800, 400], [3000, 500, 50], 300, 250, 0
    )
    row = response_metrics(three)
    assert row["response_ratio"] == single["response_ratio"]
    assert (row["response_voxels"], row["response_gm_voxels"]) == (300, 250)
    assert row["response_csf_voxels"] is None, "0: it was read from a file"


@pytest.mark.parametrize("missing", [None, NotApplicable("no contrast")])
def test_response_metrics_are_unknown_without_a_response(missing):
    assert response_metrics(missing) == dict.fromkeys(metric.name for metric in RESPONSE_METRICS)
