"""Writes the inputs of the networks, which both sides read: peaks, mean b=0 and weights.

    python -m benchmarks.network_inputs FOLDER '{"source": ..., "peaks": ..., "weights": ..., "steps": [...], ...}'

Peaks and mean b=0 have voxel axes left, anterior and superior, as TractSeg wants its input: this package brings any
image to that form, and a user of `run_tractseg` must do so.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from benchmarks.cutting import SYNTHETIC, synthetic
from benchmarks.dataset import Dataset
from benchmarks.process import report, report_problem
from benchmarks.steps import load_dwi, load_mask, multi_tissue, tissue_responses
from kwneuro_assets.derivations.orientation import reoriented
from kwneuro_assets.derivations.tractseg_grid import TRACTSEG_AXES
from kwneuro_assets.derivations.tractseg_network import PEAKS
from kwneuro_assets.imaging import Dwi, MapSet, NotApplicable, Volume

TRACTSEG_FILTERS = 64  # of the first layer of TractSeg's own networks


def peaks_file(folder: Path) -> Path:
    return folder / "peaks.npz"


def b0_file(folder: Path) -> Path:
    return folder / "mean_b0.npz"


def weights_folder(folder: Path) -> Path:
    return folder / "weights"


def load(path: Path) -> Volume:
    """A volume that `main` wrote."""
    with np.load(path) as content:
        return Volume(content["array"], content["affine"])


def main(folder: str, options: str) -> None:
    place, choice = Path(folder), json.loads(options)
    if choice.get("only_weights"):
        report({"seconds": 0, "weights": write_weights(weights_folder(place), choice["weights"], choice["cache"])})
        return
    described: dict[str, Any] = {}
    tractseg = [step for step in choice["steps"] if step != "hd-bet-v1"]
    dataset = _dataset(place, choice) if "hd-bet-v1" in choice["steps"] or not choice["peaks"] else None
    if tractseg:
        peaks = _read(Path(choice["peaks"])) if choice["peaks"] else _computed(dataset)
        if isinstance(peaks, NotApplicable):
            report_problem(peaks.reason)
            return
        peaks = _save(peaks_file(place), peaks)
        with_peaks = int(np.count_nonzero(peaks.array.any(axis=-1)))
        described["peaks"] = f"{' x '.join(map(str, peaks.grid))}, {with_peaks} voxels with a peak"
        described["weights"] = write_weights(weights_folder(place), choice["weights"], choice["cache"])
    if dataset is not None and "hd-bet-v1" in choice["steps"]:
        mean_b0 = _save(b0_file(place), load_dwi(dataset).mean_b0())
        described["mean b=0"] = " x ".join(map(str, mean_b0.grid))
    report({"seconds": 0, **described})


def write_weights(folder: Path, given: str | None, cache: str | None) -> str:
    """Links the weights of TractSeg's networks in `given` into the new `folder`, random ones for the others."""
    from kwneuro_assets_tests.testkit.small_networks import TRACTSEG_CLASSES, write_tractseg

    folder.mkdir()
    found = {name: Path(given) / name for name in TRACTSEG_CLASSES if given and (Path(given) / name).exists()}
    missing = [name for name in TRACTSEG_CLASSES if name not in found]
    if missing:
        stored = Path(cache) if cache else folder.with_name("random weights")
        stored.mkdir(parents=True, exist_ok=True)
        if not all((stored / name).exists() for name in missing):
            write_tractseg(stored, filters=TRACTSEG_FILTERS)
        found |= {name: stored / name for name in missing}
    for name, path in found.items():
        (folder / name).symlink_to(path)
    return f"{len(TRACTSEG_CLASSES) - len(missing)} given, {len(missing)} random"


def _dataset(folder: Path, choice: Mapping[str, Any]) -> Dataset:
    """The dataset with its brain mask where the benchmark's steps expect it."""
    from benchmarks.cutting import cut

    source = Path(choice["source"]) if choice["source"] else synthetic(folder / "synthetic")
    return cut(source, choice["subject"] if choice["source"] else SYNTHETIC, None, None, folder / "source")


def _read(path: Path) -> Volume:
    image: Any = nib.load(path)
    return Volume(np.nan_to_num(np.asarray(image.dataobj, np.float32)), image.affine)


def _computed(dataset: Dataset | None) -> Volume | NotApplicable:
    """Our peaks of the dataset."""
    assert dataset is not None
    dwi, mask = load_dwi(dataset), load_mask(dataset)
    found = _fitted(dwi, mask)
    return found if isinstance(found, NotApplicable) else found["peaks"]


def _fitted(dwi: Dwi, mask: Volume) -> MapSet | NotApplicable:
    responses = tissue_responses(dwi, mask)
    return responses if isinstance(responses, NotApplicable) else multi_tissue(dwi, mask, responses)


def _save(path: Path, volume: Volume) -> Volume:
    saved = reoriented(volume, TRACTSEG_AXES)
    array = np.ascontiguousarray(saved.array[..., : 3 * PEAKS] if saved.array.ndim == 4 else saved.array, np.float32)
    np.savez(path, array=array, affine=saved.affine)
    return Volume(array, saved.affine)


if __name__ == "__main__":
    main(*sys.argv[1:])
