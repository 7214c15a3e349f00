"""Fibre directions at several levels of noise: our CSD, and MRtrix3's where it is installed, on the same signals.

    make bench ARGS="noise"
    make bench ARGS="noise --voxels 5000 --json noise.json"

One fibre, or two of equal parts that cross at an angle, each voxel turned at random; axially symmetric tensors
without dispersion on one shell, Rician noise. Both get the response of such a fibre. SNR is that of the b=0 signal.
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

import nibabel
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from kwneuro_assets.derivations.csd import fit_csd_peaks
from kwneuro_assets.derivations.directions import electrostatic_directions
from kwneuro_assets.derivations.response import fit_zonal
from kwneuro_assets.derivations.shells import MAX_ORDER
from kwneuro_assets.imaging import Dwi, GradientTable, MapSet, ResponseFunction, Volume
from kwneuro_assets.imaging.gradients import format_bvals, format_bvecs

Floats = NDArray[np.float64]
Peaks = Callable[[Dwi, ResponseFunction], Floats]

BVALUE, DIRECTIONS, UNWEIGHTED = 3000.0, 64, 8
ALONG, ACROSS, S0 = 1.7e-3, 0.3e-3, 1000.0  # mm^2/s, and the signal at b=0
SNRS = (10, 20, 30, 50)
ANGLES = (0, 45, 60, 90)  # degrees between two fibres; 0: one fibre
COUNTED = 0.2  # of the voxel's largest peak: those below do not count
NEAR = 20.0  # degrees within which a peak is that of a fibre
DETERMINED = 8  # the order that so many directions determine, and MRtrix3's default


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voxels", type=int, default=2000, help="of each kind [%(default)s]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file, too")
    arguments = parser.parse_args(words)
    makers: dict[str, Peaks] = {f"order {order}": partial(_ours, order=order) for order in (MAX_ORDER, DETERMINED)}
    if shutil.which("dwi2fod"):
        makers["MRtrix3"] = _mrtrix
    else:
        sys.stderr.write("MRtrix3 is not installed: ours alone\n")
    table = _gradients()
    rows = []
    for angle in ANGLES:
        for snr in SNRS:
            rng = np.random.default_rng([angle, snr])
            fibres = _fibres(angle, arguments.voxels, rng)
            dwi = _noisy(table, fibres, snr, rng)
            scores = {name: _score(peaks(dwi, _response(table)), fibres) for name, peaks in makers.items()}
            rows.append({"angle": angle, "snr": snr, **scores})
    _print(rows, list(makers))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def _gradients() -> GradientTable:
    bvecs = np.concatenate([np.zeros((UNWEIGHTED, 3)), electrostatic_directions(DIRECTIONS)])
    return GradientTable(np.repeat([0.0, BVALUE], [UNWEIGHTED, DIRECTIONS]), bvecs, "world")


def _fibres(angle: float, voxels: int, rng: np.random.Generator) -> Floats:
    """(voxels, fibres, 3) unit vectors."""
    frames = np.linalg.qr(rng.normal(size=(voxels, 3, 3)))[0]
    first, second = frames[:, :, 0], frames[:, :, 1]
    if not angle:
        return np.asarray(first[:, None])
    turn = np.radians(angle)
    return np.stack([first, np.cos(turn) * first + np.sin(turn) * second], axis=1)


def _signal(table: GradientTable, fibres: Floats) -> Floats:
    cosines = fibres @ table.bvecs.T
    return np.asarray(S0 * np.exp(-table.bvals * (ACROSS + (ALONG - ACROSS) * cosines**2)).mean(axis=1))


def _noisy(table: GradientTable, fibres: Floats, snr: float, rng: np.random.Generator) -> Dwi:
    clean = _signal(table, fibres)
    noise = rng.normal(0, S0 / snr, (2, *clean.shape))
    array = np.asfortranarray(np.hypot(clean + noise[0], noise[1]).astype(np.float32)[:, None, None])
    return Dwi(Volume(array, np.eye(4)), table)


def _response(table: GradientTable) -> ResponseFunction:
    """Of one fibre, without noise."""
    fibre = np.array([[0.0, 0, 1]])
    weighted = ~table.b0_mask
    coefficients = fit_zonal(_signal(table, fibre[None])[:, weighted], table.bvecs[weighted], fibre, MAX_ORDER)
    return ResponseFunction(coefficients, BVALUE)


def _ours(dwi: Dwi, response: ResponseFunction, order: int) -> Floats:
    mask = Volume(np.ones(dwi.volume.grid, np.uint8), dwi.affine)
    maps = fit_csd_peaks(dwi, mask, response, max_order=order, peaks=5, relative_threshold=0.1, minimum_angle=25)
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
        peaks = np.nan_to_num(np.asarray(nibabel.load(folder / "peaks.nii").dataobj, np.float64))
        return peaks.reshape(len(peaks), -1, 3)


def _score(peaks: Floats, fibres: Floats) -> dict[str, float]:
    """Of all fibres: the angle to the nearest peak; voxels in which each has a peak of its own; false peaks."""
    length = np.linalg.norm(peaks, axis=2)
    counts = (length > 0) & (length >= COUNTED * length.max(axis=1, keepdims=True))
    unit = peaks / np.maximum(length, 1e-12)[..., None]
    angle = np.degrees(np.arccos(np.minimum(np.abs(np.einsum("vpi,vfi->vpf", unit, fibres)), 1)))
    angle = np.where(counts[..., None], angle, 90)
    nearest, own = angle.min(axis=1), angle.argmin(axis=1)
    resolved = (nearest < NEAR).all(axis=1) & ((fibres.shape[1] == 1) | (own[:, 0] != own[:, -1]))
    false = (counts & (angle.min(axis=2) > NEAR)).sum(axis=1)
    return {
        "median": round(float(np.median(nearest)), 2),
        "mean": round(float(nearest.mean()), 2),
        "resolved": round(float(resolved.mean()), 3),
        "false": round(float(false.mean()), 3),
    }


def _print(rows: list[dict[str, object]], makers: list[str]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("fibres")
    table.add_column("SNR", justify="right")
    for name in makers:
        for column in ("median", "mean", "all found", "false peaks"):
            table.add_column(f"{name}: {column}", justify="right")
    for row in rows:
        kind = f"two at {row['angle']} degrees" if row["angle"] else "one"
        cells = [f"{value:g}" for name in makers for value in row[name].values()]  # type: ignore[attr-defined]
        table.add_row(kind, f"{row['snr']}", *cells)
    Console(width=200).print(table)
