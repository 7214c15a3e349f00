"""How good the denoising is: against the exact fit by another library, and against the truth where it is known.

    python -m benchmarks.accuracy FOLDER SUBJECT [DIPY]

DIPY is the folder in which `dipy_peer` left its denoised signals, where it did.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.dataset import Dataset
from benchmarks.process import tell, tell_problem
from benchmarks.steps import SETTINGS, denoised, load_brain, load_dwi, load_mask, noddi, tensor
from kwneuro_assets.derivations.denoise import denoising_plan, foreground
from kwneuro_assets.imaging import Dwi, NotApplicable, Volume
from kwneuro_assets.storage.nifti import read_nifti

ORACLE_VOXELS, ORACLE_VOLUMES = 200, 5
SEED = 0


def oracle_difference(noisy: Dwi, ours: Dwi) -> dict[str, float]:
    """Mean and largest difference from scikit-learn's leave-one-out fit, as shares of the root mean square signal.

    Of seeded voxels of the foreground and seeded volumes, each fitted on the whole foreground from all other
    diffusion-weighted ones; a prediction below zero counts as zero, as a signal is never negative.
    """
    from sklearn.linear_model import LinearRegression

    random = np.random.default_rng(SEED)
    weighted = np.flatnonzero(~noisy.b0_mask)
    inside = foreground(noisy)
    signals = noisy.signals(inside, weighted).astype(np.float64)
    found = ours.signals(inside, weighted)
    voxels = random.choice(len(signals), min(ORACLE_VOXELS, len(signals)), replace=False)
    apart, expected = [], []
    for volume in random.choice(weighted.size, ORACLE_VOLUMES, replace=False):
        others = np.delete(signals, volume, axis=1)
        fit = LinearRegression(copy_X=False).fit(others.copy(), signals[:, volume])
        expected.append(np.maximum(fit.predict(others[voxels]), 0))
        apart.append(np.abs(found[voxels, volume] - expected[-1]))
    scale = float(np.sqrt(np.mean(np.square(expected))))
    return {"mean": float(np.mean(apart)) / scale, "largest": float(np.max(apart)) / scale}


def rms_errors(series: Mapping[str, NDArray[np.float32]], truth: NDArray[np.float32]) -> dict[str, float]:
    """Root mean square difference of signals (voxels, n) from those without noise."""
    return {
        name: float(np.sqrt(np.mean(np.square(values - truth, dtype=np.float64)))) for name, values in series.items()
    }


def biases(series: Mapping[str, Dwi], truth: Dwi, mask: Volume) -> dict[str, dict[str, float]]:
    """Mean difference of MD, FA and NDI in the mask from their values on the series without noise."""
    inside = mask.array > 0
    expected = _models(truth, mask, inside)
    return {
        name: {what: float((found - expected[what]).mean()) for what, found in _models(dwi, mask, inside).items()}
        for name, dwi in series.items()
    }


def _models(dwi: Dwi, mask: Volume, inside: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    found: dict[str, NDArray[np.float64]] = {}
    for fit, names in ((tensor, ("md", "fa")), (noddi, ("ndi",))):
        maps = fit(dwi, mask)
        if not isinstance(maps, NotApplicable):
            found |= {name: maps[name].array[inside].astype(np.float64) for name in names}
    return found


def _within(brain: NDArray[np.bool_], dwi: Dwi, signals: NDArray[np.float32]) -> Dwi:
    """A series that is known in the brain only."""
    array = np.zeros(dwi.array.shape, np.float32, order="F")
    array[brain] = signals
    return dwi.with_array(array)


def main(folder: str, subject: str, dipy: str = "") -> None:
    dataset = Dataset(Path(folder), subject)
    noisy = load_dwi(dataset)
    plan = denoising_plan(noisy, "patch2self", SETTINGS.denoising.minimum_ratio)
    if plan.method == "none":
        tell_problem(plan.reason)
        return
    ours = denoised(noisy)
    told: dict[str, Any] = {"oracle": oracle_difference(noisy, ours)}
    if dataset.truth.exists():
        brain, mask = load_brain(dataset), load_mask(dataset)
        truth = noisy.with_array(read_nifti(dataset.truth).array)
        series = {"noisy": noisy, "ours": ours}
        signals = Path(dipy) / "signal.npy"
        if dipy and signals.exists():
            series["DIPY patch2self version 3"] = _within(brain, noisy, np.load(signals))
        weighted = np.flatnonzero(~noisy.b0_mask)
        told["rms_error_weighted"] = rms_errors(
            {name: dwi.signals(brain, weighted) for name, dwi in series.items()}, truth.signals(brain, weighted)
        )
        told["rms_error"] = rms_errors({name: dwi.signals(brain) for name, dwi in series.items()}, truth.signals(brain))
        told["bias"] = biases(series, truth, mask)
    tell({"seconds": 0, **told})


if __name__ == "__main__":
    main(*sys.argv[1:])
