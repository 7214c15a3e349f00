"""Fiber directions and tissue fractions against a phantom's ground truth: our CSD, and MRtrix3's if it is installed.

    make bench ARGS="directions --source DATASET"
    make bench ARGS="directions --source DATASET --methods single,multi --dwi raw --json directions.json"

DATASET/truth/SUBJECT contains the ground truth on the grid of the image: `peaks_world` (x, y, z, 9), three fibers in
the world frame, the strongest first, whose length is their volume fraction; `ndi`; and the fractions `wm`, `gm` and
`fwf`. The dataset contains a brain mask.

Methods:
  single   single-tissue CSD of the highest shell with its estimated response
  multi    multi-tissue CSD of all shells with three estimated responses
  csd      MRtrix3's `dwi2fod csd` and `sh2peaks`, on the volumes and with the response of `single`, order 8
  msmt     MRtrix3's `dwi2fod msmt_csd` and `sh2peaks`, with the responses of `multi`, orders 8,0,0

White-matter voxels, those with an NDI above 0.51, are scored. True fibers count above 0.4 of the strongest in the
voxel, peaks above 0.1 of the highest; false peaks (more than 20 degrees from every fiber) and the number of peaks are
also given for peaks above 0.5. Responses are estimated in the brain mask. With `--white`, the fit is restricted to the
scored voxels, with the same angles in less time, but without correlations of tissue fractions. The seconds are those of
fit and peaks, for MRtrix3 with reading and writing, without responses and denoising.
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

PEAKS = SETTINGS.csd.max_peaks
WHITE_NDI = 0.51  # minimum NDI of scored voxels; it corresponds to an FA of 0.35 in the phantom's subject
REAL = 0.4  # fraction of the strongest fiber of a voxel; smaller fibers are not scored
COUNTED, HIGH = 0.1, 0.5  # fractions of the highest peak of a voxel
FALSE = 20.0  # degrees from every true fiber
FRACTIONS = {"wmfraction": "wm", "gmfraction": "gm", "csffraction": "fwf"}  # our map: file of the ground truth


@dataclass(frozen=True)
class Found:
    """The result of a method: peaks (x, y, z, 3 * n) in the world frame, tissue fractions by map, and its seconds."""

    peaks: Floats
    fractions: Mapping[str, Floats]
    seconds: float


@dataclass(frozen=True)
class Truth:
    """The ground truth on the grid of the image: three fibers (x, y, z, 3, 3), white matter, and tissue fractions."""

    fibers: Floats
    white: Inside
    fractions: Mapping[str, Floats]

    @classmethod
    def read(cls, folder: Path, mask: Volume) -> Truth:
        def volume(name: str) -> Any:
            found = read_nifti(folder / f"{name}.nii.gz")
            require_same_grid(found, mask, f"the ground truth's {name}", "the mask")
            return found.array

        peaks = volume("peaks_world")
        fibers = peaks.reshape(*peaks.shape[:3], -1, 3)
        white = (volume("ndi") > WHITE_NDI) & (np.linalg.norm(fibers[..., 0, :], axis=-1) > 0)
        return cls(fibers, white, {ours: volume(theirs) for ours, theirs in FRACTIONS.items()})


Method = Callable[[Dwi, Volume, Volume], Found | NotApplicable]  # DWI, brain mask, and mask of the fit


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks directions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--source", type=Path, required=True, help="a BIDS dataset with a brain mask and ground truth")
    parser.add_argument("--subject", default="sub-01")
    parser.add_argument(
        "--methods", type=names_of(METHODS, "method"), default=list(METHODS), help=f"[{','.join(METHODS)}]"
    )
    parser.add_argument("--dwi", type=names_of(INPUTS, "DWI"), default=list(INPUTS), help=f"[{','.join(INPUTS)}]")
    parser.add_argument("--white", action="store_true", help="fit in the scored voxels only")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write all peaks to this folder as NIfTI images")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file, after each method")
    arguments = parser.parse_args(words)
    methods = [name for name in arguments.methods if name not in MRTRIX or shutil.which("dwi2fod")]
    if methods != arguments.methods:
        sys.stderr.write("MRtrix3 is not installed: only our methods run\n")

    dataset = Dataset(arguments.source, arguments.subject)
    dwi, mask = load_dwi(dataset), load_mask(dataset)
    truth = Truth.read(arguments.source / "truth" / arguments.subject, mask)
    fitted = Volume(truth.white.astype(np.uint8), mask.affine) if arguments.white else mask
    results: dict[str, Any] = {"machine": machine(thread_count(), ""), "source": str(arguments.source), "rows": []}
    with tables.console.status("") as status:
        for which in arguments.dwi:
            status.update(f"{which} DWI")
            prepared = INPUTS[which](dwi)
            for method in methods:
                status.update(f"{which} DWI: {method}")
                load = round(os.getloadavg()[0], 2)  # of the last minute: other processes increase the times
                row: dict[str, Any] = {"method": method, "dwi": which, "load": load}
                found = _run_method(METHODS[method], prepared, mask, fitted)
                if isinstance(found, Found):
                    row |= _scored(found, truth, None if arguments.white else mask)
                    _save_peaks(found, mask, row, arguments.keep)
                else:
                    row |= {"problem": found}
                results["rows"].append(row)
                if arguments.json:
                    arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    _print(results)


def _run_method(method: Method, dwi: Dwi, mask: Volume, fitted: Volume) -> Found | str:
    """The result of a method, or the reason why there is none."""
    try:
        found = method(dwi, mask, fitted)
    except InvalidData as error:  # for example, a mask too small for a response
        return str(error)
    return found.reason if isinstance(found, NotApplicable) else found


def _scored(found: Found, truth: Truth, mask: Volume | None) -> dict[str, Any]:
    scores = {"seconds": round(found.seconds, 1), **score(found.peaks, truth.fibers, truth.white), "fractions": {}}
    if mask is not None:
        inside = mask.array > 0
        for name, values in found.fractions.items():
            scores["fractions"][name] = float(np.corrcoef(values[inside], truth.fractions[name][inside])[0, 1])
    return scores


def _save_peaks(found: Found, mask: Volume, row: Mapping[str, Any], folder: Path | None) -> None:
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(found.peaks, mask.affine), folder / f"{row['method']}_{row['dwi']}_peaks.nii.gz")


def score(peaks: Floats, fibers: Floats, white: Inside) -> dict[str, Any]:
    """Scores of peaks (x, y, z, 3 * n) against the true fibers (x, y, z, 3, 3) in white-matter voxels (x, y, z).

    `fibers`: for the first, second and third fiber, median and mean angle in degrees to the nearest peak, over voxels
    with a peak and that fiber. `strongest`: the same between the strongest fiber and the highest peak. `with_peak`: the
    fraction of white-matter voxels with a peak. `peaks`: for each minimum height relative to the highest peak, the
    fraction of false peaks, and the mean number of peaks and of true fibers in voxels with a peak.
    """
    true, fraction = _directions_and_lengths(fibers[white])
    found, height = _directions_and_lengths(np.nan_to_num(peaks[white]).reshape(len(fraction), -1, 3))
    has = height.max(axis=1) > 0
    true, fraction, found, height = true[has], fraction[has], found[has], height[has]
    if not has.any():
        return {"with_peak": 0.0}
    # Degrees (voxels, peaks, fibers); 90 if there is no peak or no fiber.
    angle = _degrees(np.einsum("vpk,vfk->vpf", found, true))
    real, counted = fraction > REAL * fraction[:, :1], _above(height, COUNTED)
    nearest = np.where(counted[..., None], angle, 90).min(axis=1)
    strongest = angle[np.arange(len(angle)), height.argmax(axis=1), 0]
    return {
        "voxels": len(has),
        "with_peak": float(has.mean()),
        "fibers": [_average(nearest[real[:, index], index]) for index in range(true.shape[1])],
        "strongest": _average(strongest),
        "peaks": {f"{level:g}": _numbers(angle, _above(height, level), real) for level in (COUNTED, HIGH)},
    }


def _directions_and_lengths(vectors: Floats) -> tuple[Floats, Floats]:
    """Unit vectors and lengths; both are zero for zero vectors."""
    lengths = np.linalg.norm(vectors, axis=-1)
    return vectors / np.where(lengths > 0, lengths, 1)[..., None], lengths


def _degrees(cosines: Floats) -> Floats:
    """Angles between axes, which have no sign."""
    return np.degrees(np.arccos(np.minimum(np.abs(cosines), 1)))


def _above(height: Floats, level: float) -> Inside:
    return (height > 0) & (height >= level * height.max(axis=1, keepdims=True))


def _numbers(angle: Floats, counted: Inside, real: Inside) -> dict[str, float]:
    return {
        "false": float((angle.min(axis=2)[counted] > FALSE).mean()),
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
    return Found(maps["peaks"].array, {name: maps[name].array for name in FRACTIONS if name in maps}, seconds)


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
        # Coefficients of l = 0 have the same unit for all tissues: their ratios are those of the amounts.
        amounts = [np.maximum(_as_stored(folder / f"{tissue}.nii", fitted), 0) for tissue in TISSUES]
        total = np.where(sum(amounts) > 0, sum(amounts), 1)
        fractions = {
            name: amount.reshape(fitted.grid) / total.reshape(fitted.grid)
            for name, amount in zip(FRACTIONS, amounts, strict=True)
        }
        return Found(_as_stored(folder / "peaks.nii", fitted), fractions, seconds)


def _write_inputs(dwi: Dwi, mask: Volume, volumes: Sequence[int], folder: Path) -> None:
    chosen = dwi.gradients.selected(list(volumes))
    (folder / "bval").write_text(format_bvals(chosen))
    (folder / "bvec").write_text(format_bvecs(chosen))
    nib.save(nib.Nifti1Image(dwi.array[..., list(volumes)], dwi.affine), folder / "dwi.nii")
    nib.save(nib.Nifti1Image(mask.array.astype(np.uint8), mask.affine), folder / "mask.nii")
    # The layout of MRtrix3's commands, with the volumes of a voxel contiguous, so that none of them converts it.
    _run(
        folder,
        "mrconvert -fslgrad bvec bval -strides 0,0,0,1 dwi.nii dwi.mif",
        "mrconvert -datatype bit mask.nii mask.mif",
    )
    (folder / "dwi.nii").unlink()


def _run(folder: Path, *commands: str) -> float:
    """Run the commands in `folder`; returns their seconds."""
    started = time.perf_counter()
    for command in commands:
        words = [*command.split(), "-quiet", "-nthreads", str(thread_count())]
        subprocess.run(words, cwd=folder, check=True)
    return time.perf_counter() - started


def _as_stored(path: Path, mask: Volume) -> Floats:
    """An image in the order of the mask's voxel axes; MRtrix3 may write another order than in its input."""
    image: Any = nib.load(path)
    transform = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.io_orientation(mask.affine))
    image = image.as_reoriented(transform)
    if not np.allclose(image.affine, mask.affine, atol=1e-2):
        raise ValueError(f"{path.name}: expected the grid of the mask")
    return np.asarray(image.dataobj, np.float32)


METHODS: dict[str, Method] = {"single": _single, "multi": _multi, "csd": _csd, "msmt": _msmt}
MRTRIX = {"csd": "MRtrix3 csd", "msmt": "MRtrix3 msmt_csd"}
INPUTS: dict[str, Callable[[Dwi], Dwi]] = {
    "raw": lambda dwi: dwi,
    "denoised": denoised,
}


def _print(results: Mapping[str, Any]) -> None:
    rows = [row for row in results["rows"] if "fibers" in row]
    if rows:
        _print_angles(rows)
        _print_numbers(rows)
    for row in results["rows"]:
        if "fibers" not in row:
            tables.console.print(f"{_name(row)}: {row.get('problem', 'no peak in white matter')}")


def _name(row: Mapping[str, Any]) -> str:
    return f"{MRTRIX.get(row['method']) or 'ours ' + row['method']}, {row['dwi']}"


def _print_angles(rows: Sequence[Mapping[str, Any]]) -> None:
    titles = [f"{which}: {what}" for which in ("first", "second", "third", "strongest") for what in ("median", "mean")]
    table = tables.new_table("degrees", *titles, "with a peak", "seconds", "load", right=range(1, len(titles) + 4))
    for row in rows:
        angles = [entry.get(what) for entry in (*row["fibers"], row["strongest"]) for what in ("median", "mean")]
        cells = ["" if angle is None else f"{angle:.2f}" for angle in angles]
        table.add_row(_name(row), *cells, f"{row['with_peak']:.2%}", f"{row['seconds']:.1f}", f"{row['load']:.1f}")
    tables.console.print(table)


def _print_numbers(rows: Sequence[Mapping[str, Any]]) -> None:
    titles = [f"{what} above {level:g}" for level in (COUNTED, HIGH) for what in ("false peaks", "peaks")]
    fractions = [f"r of {name}" for name in FRACTIONS.values()]
    table = tables.new_table("", *titles, "true fibers", *fractions, right=range(1, len(titles) + len(fractions) + 2))
    for row in rows:
        numbers = row["peaks"].values()
        counts = [cell for level in numbers for cell in (f"{level['false']:.2%}", f"{level['mean']:.2f}")]
        true = f"{next(iter(numbers))['true']:.2f}"
        table.add_row(
            _name(row),
            *counts,
            true,
            *(f"{row['fractions'][name]:.3f}" if row["fractions"] else "" for name in FRACTIONS),
        )
    tables.console.print(table)
