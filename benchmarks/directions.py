"""Fibre directions and tissue shares against a phantom's truth: our CSD, and MRtrix3's where it is installed.

    make bench ARGS="directions --source DATASET"
    make bench ARGS="directions --source DATASET --methods single,multi --series raw --json directions.json"

DATASET/truth/SUBJECT holds what is true, on the image's grid: `peaks_world` (x, y, z, 9), three fibres in the world
frame, the first the strongest, each as long as its share; `ndi`; and the shares `wm`, `gm` and `fwf`. The dataset
brings its brain mask.

Methods:
  single   the fibre response of the highest shell, CSD on that shell
  multi    the responses of three tissues, multi-tissue CSD on all shells
  csd      MRtrix3's `dwi2fod csd` and `sh2peaks`, on the volumes and with the response of `single`, order 8
  msmt     MRtrix3's `dwi2fod msmt_csd` and `sh2peaks`, with the responses of `multi`, orders 8,0,0

Scored are white voxels, those with an NDI above 0.51. True fibres count above 0.4 of the voxel's strongest, peaks above
0.1 of it; of false peaks, further than 20 degrees from every fibre, and of the number of peaks also those above 0.5.
Responses come from the whole brain mask. `--white` fits in the scored voxels alone, with the same angles in less time;
tissue shares are told without it.
The seconds are of fit and peaks, MRtrix3's with their reading and writing; responses and denoising are not in them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from benchmarks import tables
from benchmarks.choice import names_of
from benchmarks.dataset import Dataset
from benchmarks.machine import machine
from benchmarks.mrtrix_peer import CSD_ORDER, MULTI_TISSUE_ORDERS, TISSUES
from benchmarks.steps import SETTINGS, csd, denoised, load_dwi, load_mask, multi_tissue, response, tissue_responses
from kwneuro_assets.derivations.shells import choose_shell
from kwneuro_assets.imaging import Dwi, InvalidData, MapSet, NotApplicable, Volume
from kwneuro_assets.imaging.gradients import format_bvals, format_bvecs
from kwneuro_assets.imaging.tissue_responses import format_tissue_responses
from kwneuro_assets.imaging.volume import require_same_grid
from kwneuro_assets.storage.nifti import read_nifti
from kwneuro_assets.threads import thread_count

Floats = NDArray[np.floating[Any]]
Inside = NDArray[np.bool_]

PEAKS = SETTINGS.csd.peaks
WHITE_NDI = 0.51  # above it a voxel is scored: an FA of 0.35 in the person whom the phantom is made of
REAL = 0.4  # of the voxel's strongest fibre: smaller ones are no fibres to be found
COUNTED, HIGH = 0.1, 0.5  # of the voxel's strongest peak
FALSE = 20.0  # degrees from every true fibre
SHARES = {"wmfraction": "wm", "gmfraction": "gm", "csffraction": "fwf"}  # ours, and the truth's file


@dataclass(frozen=True)
class Found:
    """What a method gives: peaks (x, y, z, 3 * n) in the world frame, tissue shares by our name, and its seconds."""

    peaks: Floats
    shares: Mapping[str, Floats]
    seconds: float


@dataclass(frozen=True)
class Truth:
    """What is true, on the grid of the image: three fibres (x, y, z, 3, 3), the white voxels, and tissue shares."""

    fibres: Floats
    white: Inside
    shares: Mapping[str, Floats]

    @classmethod
    def read(cls, folder: Path, mask: Volume) -> Truth:
        def volume(name: str) -> Any:
            found = read_nifti(folder / f"{name}.nii.gz")
            require_same_grid(found, mask, f"the truth's {name}", "the mask")
            return found.array

        peaks = volume("peaks_world")
        fibres = peaks.reshape(*peaks.shape[:3], -1, 3)
        white = (volume("ndi") > WHITE_NDI) & (np.linalg.norm(fibres[..., 0, :], axis=-1) > 0)
        return cls(fibres, white, {ours: volume(theirs) for ours, theirs in SHARES.items()})


Method = Callable[[Dwi, Volume, Volume], Found | NotApplicable]  # the series, the brain, and where it is fitted


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks directions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--source", type=Path, required=True, help="a BIDS dataset with a brain mask and its truth")
    parser.add_argument("--subject", default="sub-01")
    parser.add_argument(
        "--methods", type=names_of(METHODS, "method"), default=list(METHODS), help=f"[{','.join(METHODS)}]"
    )
    parser.add_argument("--series", type=names_of(SERIES, "series"), default=list(SERIES), help=f"[{','.join(SERIES)}]")
    parser.add_argument("--white", action="store_true", help="fit in the scored voxels alone")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write all peaks there as NIfTI images")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures to this file, each when it is known"
    )
    arguments = parser.parse_args(words)
    methods = [name for name in arguments.methods if name not in MRTRIX or shutil.which("dwi2fod")]
    if methods != arguments.methods:
        sys.stderr.write("MRtrix3 is not installed: ours alone\n")

    dataset = Dataset(arguments.source, arguments.subject)
    dwi, mask = load_dwi(dataset), load_mask(dataset)
    truth = Truth.read(arguments.source / "truth" / arguments.subject, mask)
    fitted = Volume(truth.white.astype(np.uint8), mask.affine) if arguments.white else mask
    told: dict[str, Any] = {"machine": machine(thread_count(), ""), "source": str(arguments.source), "rows": []}
    with tables.console.status("") as status:
        for series in arguments.series:
            status.update(f"{series} series")
            prepared = SERIES[series](dwi)
            for method in methods:
                status.update(f"{series} series: {method}")
                load = round(os.getloadavg()[0], 2)  # of the minute before: others make the seconds longer
                row: dict[str, Any] = {"method": method, "series": series, "load": load}
                found = _found(METHODS[method], prepared, mask, fitted)
                if isinstance(found, Found):
                    row |= _scored(found, truth, None if arguments.white else mask)
                    _keep(found, mask, row, arguments.keep)
                else:
                    row |= {"problem": found}
                told["rows"].append(row)
                if arguments.json:
                    arguments.json.write_text(json.dumps(told, indent=2) + "\n")
    _print(told)


def _found(method: Method, dwi: Dwi, mask: Volume, fitted: Volume) -> Found | str:
    """Or why there is nothing."""
    try:
        found = method(dwi, mask, fitted)
    except InvalidData as error:  # a mask too small for a response, say
        return str(error)
    return found.reason if isinstance(found, NotApplicable) else found


def _scored(found: Found, truth: Truth, mask: Volume | None) -> dict[str, Any]:
    told = {"seconds": round(found.seconds, 1), **score(found.peaks, truth.fibres, truth.white), "shares": {}}
    if mask is not None:
        inside = mask.array > 0
        for name, values in found.shares.items():
            told["shares"][name] = float(np.corrcoef(values[inside], truth.shares[name][inside])[0, 1])
    return told


def _keep(found: Found, mask: Volume, row: Mapping[str, Any], folder: Path | None) -> None:
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(found.peaks, mask.affine), folder / f"{row['method']}_{row['series']}_peaks.nii.gz")


def score(peaks: Floats, fibres: Floats, white: Inside) -> dict[str, Any]:
    """How well peaks (x, y, z, 3 * n) meet the true fibres (x, y, z, 3, 3) of the white voxels (x, y, z).

    `fibres`: for the first, second and third, median and mean angle in degrees to the nearest peak, over the voxels
    that have a peak and that fibre. `strongest`: the same from the strongest fibre to the strongest peak. `with_peak`:
    the share of white voxels that have one. `peaks`: above each share of the strongest, how many of them are false,
    and their mean number in a voxel that has one, beside that of the true fibres.
    """
    true, share = _parted(fibres[white])
    found, height = _parted(np.nan_to_num(peaks[white]).reshape(len(share), -1, 3))
    has = height.max(axis=1) > 0
    true, share, found, height = true[has], share[has], found[has], height[has]
    if not has.any():
        return {"with_peak": 0.0}
    # Degrees (voxels, peaks, fibres); 90 where either is none.
    apart = _degrees(np.einsum("vpk,vfk->vpf", found, true))
    real, counted = share > REAL * share[:, :1], _above(height, COUNTED)
    nearest = np.where(counted[..., None], apart, 90).min(axis=1)
    strongest = apart[np.arange(len(apart)), height.argmax(axis=1), 0]
    return {
        "voxels": len(has),
        "with_peak": float(has.mean()),
        "fibres": [_average(nearest[real[:, index], index]) for index in range(true.shape[1])],
        "strongest": _average(strongest),
        "peaks": {f"{level:g}": _numbers(apart, _above(height, level), real) for level in (COUNTED, HIGH)},
    }


def _parted(vectors: Floats) -> tuple[Floats, Floats]:
    """Unit vectors and lengths; zero where there is none."""
    lengths = np.linalg.norm(vectors, axis=-1)
    return vectors / np.where(lengths > 0, lengths, 1)[..., None], lengths


def _degrees(cosines: Floats) -> Floats:
    """Between axes, which have no sign."""
    return np.degrees(np.arccos(np.minimum(np.abs(cosines), 1)))


def _above(height: Floats, level: float) -> Inside:
    return (height > 0) & (height >= level * height.max(axis=1, keepdims=True))


def _numbers(apart: Floats, counted: Inside, real: Inside) -> dict[str, float]:
    return {
        "false": float((apart.min(axis=2)[counted] > FALSE).mean()),
        "mean": float(counted.sum(axis=1).mean()),
        "true": float(real.sum(axis=1).mean()),
    }


def _average(degrees: Floats) -> dict[str, float]:
    if not degrees.size:
        return {"voxels": 0}
    return {"voxels": len(degrees), "median": float(np.median(degrees)), "mean": float(degrees.mean())}


def _single(dwi: Dwi, mask: Volume, fitted: Volume) -> Found | NotApplicable:
    found = response(dwi, mask)
    return found if isinstance(found, NotApplicable) else _of_maps(lambda: csd(dwi, fitted, found))


def _multi(dwi: Dwi, mask: Volume, fitted: Volume) -> Found | NotApplicable:
    found = tissue_responses(dwi, mask)
    return found if isinstance(found, NotApplicable) else _of_maps(lambda: multi_tissue(dwi, fitted, found))


def _of_maps(fit: Callable[[], MapSet | NotApplicable]) -> Found | NotApplicable:
    started = time.perf_counter()
    maps = fit()
    seconds = time.perf_counter() - started
    if isinstance(maps, NotApplicable):
        return maps
    return Found(maps["peaks"].array, {name: maps[name].array for name in SHARES if name in maps}, seconds)


def _csd(dwi: Dwi, mask: Volume, fitted: Volume) -> Found | NotApplicable:
    found, shell = response(dwi, mask), choose_shell(dwi.gradients, "auto", CSD_ORDER)
    if isinstance(found, NotApplicable):
        return found
    assert not isinstance(shell, NotApplicable)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_inputs(dwi, fitted, shell.shell.indices, folder)
        (folder / "response.txt").write_text(" ".join(map(repr, found.coefficients.tolist())) + "\n")
        seconds = _run(
            folder,
            f"dwi2fod csd -mask mask.mif -lmax {shell.order} dwi.mif response.txt fod.mif",
            f"sh2peaks -mask mask.mif -num {PEAKS} fod.mif peaks.nii",
        )
        return Found(_as_stored(folder / "peaks.nii", fitted), {}, seconds)


def _msmt(dwi: Dwi, mask: Volume, fitted: Volume) -> Found | NotApplicable:
    responses = tissue_responses(dwi, mask)
    if isinstance(responses, NotApplicable):
        return responses
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_inputs(dwi, fitted, range(len(dwi.gradients)), folder)
        for tissue, text in zip(TISSUES, format_tissue_responses(responses), strict=True):
            (folder / f"{tissue}.txt").write_text(text)
        seconds = _run(
            folder,
            "dwi2fod msmt_csd -mask mask.mif dwi.mif wm.txt wm.mif gm.txt gm.mif csf.txt csf.mif "
            f"-lmax {MULTI_TISSUE_ORDERS}",
            f"sh2peaks -mask mask.mif -num {PEAKS} wm.mif peaks.nii",
        )
        _run(folder, *(f"mrconvert -coord 3 0 {tissue}.mif {tissue}.nii" for tissue in TISSUES))
        # Coefficients of l = 0, of the same unit in all three: their shares are those of the amounts.
        amounts = [np.maximum(_as_stored(folder / f"{tissue}.nii", fitted), 0) for tissue in TISSUES]
        total = np.where(sum(amounts) > 0, sum(amounts), 1)
        shares = {
            name: amount.reshape(fitted.grid) / total.reshape(fitted.grid)
            for name, amount in zip(SHARES, amounts, strict=True)
        }
        return Found(_as_stored(folder / "peaks.nii", fitted), shares, seconds)


def _write_inputs(dwi: Dwi, mask: Volume, volumes: Sequence[int], folder: Path) -> None:
    chosen = dwi.gradients.selected(list(volumes))
    (folder / "bval").write_text(format_bvals(chosen))
    (folder / "bvec").write_text(format_bvecs(chosen))
    nib.save(nib.Nifti1Image(dwi.array[..., list(volumes)], dwi.affine), folder / "dwi.nii")
    nib.save(nib.Nifti1Image(mask.array.astype(np.uint8), mask.affine), folder / "mask.nii")
    # The layout that MRtrix3's commands ask for, a voxel's volumes beside each other, so that none converts anything.
    _run(
        folder,
        "mrconvert -fslgrad bvec bval -strides 0,0,0,1 dwi.nii dwi.mif",
        "mrconvert -datatype bit mask.nii mask.mif",
    )
    (folder / "dwi.nii").unlink()


def _run(folder: Path, *commands: str) -> float:
    """Seconds of all."""
    started = time.perf_counter()
    for command in commands:
        words = [*command.split(), "-quiet", "-nthreads", str(thread_count())]
        subprocess.run(words, cwd=folder, check=True)
    return time.perf_counter() - started


def _as_stored(path: Path, mask: Volume) -> Floats:
    """An image in the order of the mask's voxel axes: MRtrix3 may write them in another than it read."""
    image: Any = nib.load(path)
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.io_orientation(mask.affine))
    image = image.as_reoriented(turn)
    if not np.allclose(image.affine, mask.affine, atol=1e-2):
        raise ValueError(f"{path.name} is on another grid than the mask")
    return np.asarray(image.dataobj, np.float32)


METHODS: dict[str, Method] = {"single": _single, "multi": _multi, "csd": _csd, "msmt": _msmt}
MRTRIX = {"csd": "MRtrix3 csd", "msmt": "MRtrix3 msmt_csd"}
SERIES: dict[str, Callable[[Dwi], Dwi]] = {
    "raw": lambda dwi: dwi,
    "denoised": denoised,
}


def _print(told: Mapping[str, Any]) -> None:
    rows = [row for row in told["rows"] if "fibres" in row]
    if rows:
        _print_angles(rows)
        _print_numbers(rows)
    for row in told["rows"]:
        if "fibres" not in row:
            tables.console.print(f"{_name(row)}: {row.get('problem', 'no peak in white matter')}")


def _name(row: Mapping[str, Any]) -> str:
    return f"{MRTRIX.get(row['method']) or 'ours ' + row['method']}, {row['series']}"


def _print_angles(rows: Sequence[Mapping[str, Any]]) -> None:
    titles = [f"{which}: {what}" for which in ("first", "second", "third", "strongest") for what in ("median", "mean")]
    table = tables.new_table("degrees", *titles, "with a peak", "seconds", "load", right=range(1, len(titles) + 4))
    for row in rows:
        angles = [entry.get(what) for entry in (*row["fibres"], row["strongest"]) for what in ("median", "mean")]
        told = ["" if angle is None else f"{angle:.2f}" for angle in angles]
        table.add_row(_name(row), *told, f"{row['with_peak']:.2%}", f"{row['seconds']:.1f}", f"{row['load']:.1f}")
    tables.console.print(table)


def _print_numbers(rows: Sequence[Mapping[str, Any]]) -> None:
    titles = [f"{what} above {level:g}" for level in (COUNTED, HIGH) for what in ("false peaks", "peaks")]
    shares = [f"r of {name}" for name in SHARES.values()]
    table = tables.new_table("", *titles, "true fibres", *shares, right=range(1, len(titles) + len(shares) + 2))
    for row in rows:
        numbers = row["peaks"].values()
        counts = [told for level in numbers for told in (f"{level['false']:.2%}", f"{level['mean']:.2f}")]
        true = f"{next(iter(numbers))['true']:.2f}"
        table.add_row(
            _name(row), *counts, true, *(f"{row['shares'][name]:.3f}" if row["shares"] else "" for name in SHARES)
        )
    tables.console.print(table)
