"""Fiber directions at several noise levels: our CSD, and MRtrix3's if it is installed, on the same signals.

    make bench ARGS="noise"
    make bench ARGS="noise --voxels 5000 --json noise.json"

Each voxel has one fiber, or two with equal fractions that cross at an angle, in a random orientation; the signals are
those of axially symmetric tensors without dispersion on one shell, with Rician noise. Both methods use the response of
such a fiber. The SNR is that of the b=0 signal.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from kwneuro_assets.derivations.csd import fit_csd_peaks
from kwneuro_assets.derivations.directions import electrostatic_directions
from kwneuro_assets.derivations.response import fit_zonal
from kwneuro_assets.derivations.shells import MAX_LMAX
from kwneuro_assets.imaging import Dwi, GradientTable, MapSet, ResponseFunction, Volume
from kwneuro_assets.imaging.gradients import format_bvals, format_bvecs

Floats = NDArray[np.float64]
Peaks = Callable[[Dwi, ResponseFunction], Floats]

BVALUE, DIRECTIONS, UNWEIGHTED = 3000.0, 64, 8
ALONG, ACROSS, S0 = 1.7e-3, 0.3e-3, 1000.0  # mm^2/s, and the signal at b=0
SNRS = (10, 20, 30, 50)
ANGLES = (0, 45, 60, 90)  # degrees between two fibers; 0 is a single fiber
COUNTED = 0.2  # fraction of the largest peak of a voxel; smaller peaks do not count
NEAR = 20.0  # degrees; a peak within this angle belongs to a fiber
DETERMINED = 8  # the order that 64 directions support, and MRtrix3's default


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voxels", type=int, default=2000, help="voxels of each kind [%(default)s]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    arguments = parser.parse_args(words)
    methods: dict[str, Peaks] = {f"order {order}": partial(_ours, order=order) for order in (MAX_LMAX, DETERMINED)}
    if shutil.which("dwi2fod"):
        methods["MRtrix3"] = _mrtrix
    else:
        sys.stderr.write("MRtrix3 is not installed: only our methods run\n")
    table = _gradients()
    rows = []
    for angle in ANGLES:
        for snr in SNRS:
            rng = np.random.default_rng([angle, snr])
            fibers = _fibers(angle, arguments.voxels, rng)
            dwi = _noisy(table, fibers, snr, rng)
            scores = {name: _score(peaks(dwi, _response(table)), fibers) for name, peaks in methods.items()}
            rows.append({"angle": angle, "snr": snr, **scores})
    _print(rows, list(methods))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def _gradients() -> GradientTable:
    bvecs = np.concatenate([np.zeros((UNWEIGHTED, 3)), electrostatic_directions(DIRECTIONS)])
    return GradientTable(np.repeat([0.0, BVALUE], [UNWEIGHTED, DIRECTIONS]), bvecs, "world")


def _fibers(angle: float, voxels: int, rng: np.random.Generator) -> Floats:
    """Unit vectors (voxels, fibers, 3)."""
    frames = np.linalg.qr(rng.normal(size=(voxels, 3, 3)))[0]
    first, second = frames[:, :, 0], frames[:, :, 1]
    if not angle:
        return np.asarray(first[:, None])
    radians = np.radians(angle)
    return np.stack([first, np.cos(radians) * first + np.sin(radians) * second], axis=1)


def _signal(table: GradientTable, fibers: Floats) -> Floats:
    cosines = fibers @ table.bvecs.T
    return np.asarray(S0 * np.exp(-table.bvals * (ACROSS + (ALONG - ACROSS) * cosines**2)).mean(axis=1))


def _noisy(table: GradientTable, fibers: Floats, snr: float, rng: np.random.Generator) -> Dwi:
    clean = _signal(table, fibers)
    noise = rng.normal(0, S0 / snr, (2, *clean.shape))
    array = np.asfortranarray(np.hypot(clean + noise[0], noise[1]).astype(np.float32)[:, None, None])
    return Dwi(Volume(array, np.eye(4)), table)


def _response(table: GradientTable) -> ResponseFunction:
    """The response of one fiber without noise."""
    fiber = np.array([[0.0, 0, 1]])
    weighted = ~table.b0_mask
    coefficients = fit_zonal(_signal(table, fiber[None])[:, weighted], table.bvecs[weighted], fiber, MAX_LMAX)
    return ResponseFunction(coefficients, BVALUE)


def _ours(dwi: Dwi, response: ResponseFunction, order: int) -> Floats:
    mask = Volume(np.ones(dwi.volume.grid, np.uint8), dwi.affine)
    maps = fit_csd_peaks(dwi, mask, response, lmax=order, max_peaks=5, relative_threshold=0.1, min_separation_angle=25)
    assert isinstance(maps, MapSet)
    return maps["peaks"].array.reshape(len(dwi.array), -1, 3).astype(np.float64)


def _mrtrix(dwi: Dwi, response: ResponseFunction) -> Floats:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        nibabel.save(nibabel.Nifti1Image(dwi.array, dwi.affine), folder / "dwi.nii")
        (folder / "bval").write_text(format_bvals(dwi.gradients))
        (folder / "bvec").write_text(format_bvecs(dwi.gradients))
        (folder / "response.txt").write_text(" ".join(map(str, response.coefficients)) + "\n")
        for command in (
            f"dwi2fod csd dwi.nii response.txt fod.mif -fslgrad bvec bval -lmax {DETERMINED} -quiet",
            "sh2peaks fod.mif peaks.nii -num 5 -quiet",
        ):
            subprocess.run(command.split(), cwd=folder, check=True)
        image: Any = nibabel.load(folder / "peaks.nii")
        peaks = np.nan_to_num(np.asarray(image.dataobj, np.float64))
        return peaks.reshape(len(peaks), -1, 3)


def _score(peaks: Floats, fibers: Floats) -> dict[str, float]:
    """The angle from each fiber to the nearest peak, the fraction of voxels where each fiber has its own peak, and the
    mean number of false peaks.
    """
    length = np.linalg.norm(peaks, axis=2)
    counts = (length > 0) & (length >= COUNTED * length.max(axis=1, keepdims=True))
    unit = peaks / np.maximum(length, 1e-12)[..., None]
    angle = np.degrees(np.arccos(np.minimum(np.abs(np.einsum("vpi,vfi->vpf", unit, fibers)), 1)))
    angle = np.where(counts[..., None], angle, 90)
    nearest, own = angle.min(axis=1), angle.argmin(axis=1)
    resolved = (nearest < NEAR).all(axis=1) & ((fibers.shape[1] == 1) | (own[:, 0] != own[:, -1]))
    false = (counts & (angle.min(axis=2) > NEAR)).sum(axis=1)
    return {
        "median": round(float(np.median(nearest)), 2),
        "mean": round(float(nearest.mean()), 2),
        "resolved": round(float(resolved.mean()), 3),
        "false": round(float(false.mean()), 3),
    }


def _print(rows: list[dict[str, object]], methods: list[str]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("fibers")
    table.add_column("SNR", justify="right")
    for name in methods:
        for column in ("median", "mean", "all found", "false peaks"):
            table.add_column(f"{name}: {column}", justify="right")
    for row in rows:
        kind = f"two at {row['angle']} degrees" if row["angle"] else "one"
        cells = [f"{value:g}" for name in methods for value in row[name].values()]  # type: ignore[attr-defined]
        table.add_row(kind, f"{row['snr']}", *cells)
    Console(width=200).print(table)
