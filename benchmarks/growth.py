"""The time of our kernels as a function of voxels, volumes and processors.

    python -m benchmarks.growth STEP FOLDER SUBJECT VOXELS VOLUMES

times one step with these fractions of the mask and of the volumes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.dataset import Dataset
from benchmarks.peers import Setting
from benchmarks.process import Measured, measure, report, report_problem, timed
from kwneuro_assets.imaging import Dwi, InvalidData, NotApplicable, Volume

STEPS = ("denoise", "tensor", "noddi", "response and csd")
VOXELS = (0.125, 0.25, 0.5, 1.0)
VOLUMES = (0.25, 0.5, 1.0)


def grown(setting: Setting, steps: Iterable[str]) -> list[dict[str, Any]]:
    """A row for each point: step, variable, amount, and the seconds or a problem."""
    rows = []
    for step in steps:
        full = _measured(step, setting, 1.0, 1.0, setting.threads)
        for fraction in VOXELS:
            found = full if fraction == 1 else _measured(step, setting, fraction, 1.0, setting.threads)
            rows.append(_row(step, "voxels", found, found.details.get("voxels", f"{fraction:.1%}")))
        for fraction in VOLUMES:
            found = full if fraction == 1 else _measured(step, setting, 1.0, fraction, setting.threads)
            rows.append(_row(step, "volumes", found, found.details.get("volumes", f"{fraction:.1%}")))
        for threads in range(1, setting.threads + 1):
            found = full if threads == setting.threads else _measured(step, setting, 1.0, 1.0, threads)
            rows.append(_row(step, "cores", found, threads))
    return rows


def _measured(step: str, setting: Setting, voxels: float, volumes: float, threads: int) -> Measured:
    words = [step, setting.dataset.folder, setting.dataset.subject, str(voxels), str(volumes)]
    return measure("benchmarks.growth", words, threads)


def _row(step: str, what: str, found: Measured, amount: object) -> dict[str, Any]:
    return {"step": step, "grows": what, "amount": amount, **found.to_json()}


def part_of_volumes(dwi: Dwi, fraction: float) -> Dwi:
    """The DWI with all b=0 volumes and this fraction of each shell, evenly spaced and at least one volume."""
    indices = list(np.flatnonzero(dwi.b0_mask))
    for shell in dwi.gradients.shells():
        count = max(round(fraction * len(shell.indices)), 1)
        indices += [shell.indices[round(place)] for place in np.linspace(0, len(shell.indices) - 1, count)]
    chosen = np.sort(indices)
    return Dwi(_volume(dwi, dwi.array[..., chosen]), dwi.gradients.selected(chosen))


def part_of_image(dwi: Dwi, fraction: float) -> Dwi:
    """The middle of the DWI along its second axis; denoising uses every voxel and one slice per thread."""
    size = dwi.array.shape[1]
    count = max(round(fraction * size), 1)
    start = (size - count) // 2
    return Dwi(_volume(dwi, dwi.array[:, start : start + count]), dwi.gradients)


def part_of_mask(mask: Volume, fraction: float) -> Volume:
    """A mask with this fraction of the voxels, evenly spaced, so that it contains all tissues."""
    inside = np.flatnonzero(mask.array)
    chosen = np.zeros(mask.array.size, np.uint8)
    chosen[inside[np.linspace(0, inside.size - 1, max(round(fraction * inside.size), 1)).round().astype(int)]] = 1
    return Volume(chosen.reshape(mask.array.shape), mask.affine)


def _volume(dwi: Dwi, array: NDArray[np.float32]) -> Volume:
    return Volume(np.asfortranarray(array), dwi.affine)


def main(step: str, folder: str, subject: str, voxels: str, volumes: str) -> None:
    from benchmarks import steps
    from kwneuro_assets.derivations.denoise import patch2self

    dataset = Dataset(Path(folder), subject)
    dwi = part_of_volumes(steps.load_dwi(dataset), float(volumes))
    if step == "denoise":
        dwi = part_of_image(dwi, float(voxels))
        count = int(np.prod(dwi.array.shape[:3]))
        run: Callable[[], object] = lambda: patch2self(dwi)  # noqa: E731
    else:
        mask = part_of_mask(steps.load_mask(dataset), float(voxels))
        count = int(np.count_nonzero(mask.array))
        fit: Callable[[Dwi, Volume], object] = {
            "tensor": steps.tensor, "noddi": steps.noddi, "response and csd": steps.response_and_csd
        }[step]  # fmt: skip
        run = lambda: fit(dwi, mask)  # noqa: E731
    try:
        result, timing = timed(run)
    except InvalidData as error:
        report_problem(str(error))
        return
    if isinstance(result, NotApplicable):
        report_problem(result.reason)
        return
    report({**timing, "voxels": count, "volumes": len(dwi.gradients)})


if __name__ == "__main__":
    main(*sys.argv[1:])
