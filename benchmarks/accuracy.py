"""Accuracy of the denoising: against the exact fit of another library, and against the ground truth if it is known.

    python -m benchmarks.accuracy FOLDER SUBJECT [DIPY]

DIPY is the folder with the denoised signals of `dipy_peer`, if there are any.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.dataset import Dataset
from benchmarks.process import report, report_problem
from benchmarks.steps import SETTINGS, denoised, load_brain, load_dwi, load_mask, noddi, tensor
from kwneuro_assets.derivations.denoise import denoising_plan, foreground
from kwneuro_assets.imaging import Dwi, NotApplicable, Volume
from kwneuro_assets.storage.nifti import read_nifti

ORACLE_VOXELS, ORACLE_VOLUMES = 200, 5
SEED = 0


def oracle_difference(noisy: Dwi, ours: Dwi) -> dict[str, float]:
    """Mean and largest difference from scikit-learn's leave-one-out fit, relative to the root mean square signal.

    For seeded random voxels of the foreground and seeded random volumes. Each volume is fitted on the entire foreground
    from all other diffusion-weighted volumes. Negative predictions are set to zero, because a signal is not negative.
    """
    from sklearn.linear_model import LinearRegression

    random = np.random.default_rng(SEED)
    weighted = np.flatnonzero(~noisy.b0_mask)
    inside = foreground(noisy)
    signals = noisy.signals(inside, weighted).astype(np.float64)
    found = ours.signals(inside, weighted)
    voxels = random.choice(len(signals), min(ORACLE_VOXELS, len(signals)), replace=False)
    errors, expected = [], []
    for volume in random.choice(weighted.size, ORACLE_VOLUMES, replace=False):
        others = np.delete(signals, volume, axis=1)
        fit = LinearRegression(copy_X=False).fit(others.copy(), signals[:, volume])
        expected.append(np.maximum(fit.predict(others[voxels]), 0))
        errors.append(np.abs(found[voxels, volume] - expected[-1]))
    scale = float(np.sqrt(np.mean(np.square(expected))))
    return {"mean": float(np.mean(errors)) / scale, "largest": float(np.max(errors)) / scale}


def rms_errors(signals: Mapping[str, NDArray[np.float32]], truth: NDArray[np.float32]) -> dict[str, float]:
    """Root mean square difference between signals (voxels, n) and the noise-free signals."""
    return {
        name: float(np.sqrt(np.mean(np.square(values - truth, dtype=np.float64)))) for name, values in signals.items()
    }


def biases(images: Mapping[str, Dwi], truth: Dwi, mask: Volume) -> dict[str, dict[str, float]]:
    """Mean difference of MD, FA and NDI in the mask from their values for the noise-free DWI."""
    inside = mask.array > 0
    expected = _models(truth, mask, inside)
    return {
        name: {what: float((found - expected[what]).mean()) for what, found in _models(dwi, mask, inside).items()}
        for name, dwi in images.items()
    }


def _models(dwi: Dwi, mask: Volume, inside: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    found: dict[str, NDArray[np.float64]] = {}
    for fit, names in ((tensor, ("md", "fa")), (noddi, ("ndi",))):
        maps = fit(dwi, mask)
        if not isinstance(maps, NotApplicable):
            found |= {name: maps[name].array[inside].astype(np.float64) for name in names}
    return found


def _within(brain: NDArray[np.bool_], dwi: Dwi, signals: NDArray[np.float32]) -> Dwi:
    """A DWI with these signals in the brain, zero outside."""
    array = np.zeros(dwi.array.shape, np.float32, order="F")
    array[brain] = signals
    return dwi.with_array(array)


def main(folder: str, subject: str, dipy: str = "") -> None:
    dataset = Dataset(Path(folder), subject)
    noisy = load_dwi(dataset)
    plan = denoising_plan(noisy, "patch2self", SETTINGS.denoising.min_ratio)
    if plan.method == "none":
        report_problem(plan.reason)
        return
    ours = denoised(noisy)
    result: dict[str, Any] = {"oracle": oracle_difference(noisy, ours)}
    if dataset.truth.exists():
        brain, mask = load_brain(dataset), load_mask(dataset)
        truth = noisy.with_array(read_nifti(dataset.truth).array)
        images = {"noisy": noisy, "ours": ours}
        signals = Path(dipy) / "signal.npy"
        if dipy and signals.exists():
            images["DIPY patch2self version 3"] = _within(brain, noisy, np.load(signals))
        weighted = np.flatnonzero(~noisy.b0_mask)
        result["rms_error_weighted"] = rms_errors(
            {name: dwi.signals(brain, weighted) for name, dwi in images.items()}, truth.signals(brain, weighted)
        )
        result["rms_error"] = rms_errors(
            {name: dwi.signals(brain) for name, dwi in images.items()}, truth.signals(brain)
        )
        result["bias"] = biases(images, truth, mask)
    report({"seconds": 0, **result})


if __name__ == "__main__":
    main(*sys.argv[1:])
