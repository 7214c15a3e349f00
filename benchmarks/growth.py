"""How the time of our kernels grows with voxels, volumes and processors.

    python -m benchmarks.growth STEP FOLDER SUBJECT VOXELS VOLUMES

times one step on these shares of the mask and of the volumes.
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
from benchmarks.process import Measured, measure, tell, tell_problem, timed
from kwneuro_assets.imaging import Dwi, InvalidData, NotApplicable, Volume

STEPS = ("denoise", "tensor", "noddi", "response and csd")
VOXELS = (0.125, 0.25, 0.5, 1.0)
VOLUMES = (0.25, 0.5, 1.0)


def grown(setting: Setting, steps: Iterable[str]) -> list[dict[str, Any]]:
    """A row for each point: step, what grows, how much of it, and the seconds or why there are none."""
    rows = []
    for step in steps:
        whole = _measured(step, setting, 1.0, 1.0, setting.threads)
        for share in VOXELS:
            found = whole if share == 1 else _measured(step, setting, share, 1.0, setting.threads)
            rows.append(_row(step, "voxels", found, found.details.get("voxels", f"{share:.1%}")))
        for share in VOLUMES:
            found = whole if share == 1 else _measured(step, setting, 1.0, share, setting.threads)
            rows.append(_row(step, "volumes", found, found.details.get("volumes", f"{share:.1%}")))
        for threads in range(1, setting.threads + 1):
            found = whole if threads == setting.threads else _measured(step, setting, 1.0, 1.0, threads)
            rows.append(_row(step, "cores", found, threads))
    return rows


def _measured(step: str, setting: Setting, voxels: float, volumes: float, threads: int) -> Measured:
    words = [step, setting.dataset.folder, setting.dataset.subject, str(voxels), str(volumes)]
    return measure("benchmarks.growth", words, threads)


def _row(step: str, what: str, found: Measured, amount: object) -> dict[str, Any]:
    return {"step": step, "grows": what, "amount": amount, **found.to_json()}


def part_of_volumes(dwi: Dwi, share: float) -> Dwi:
    """All volumes of b=0, and of every shell that share, evenly over its order and one at least."""
    kept = list(np.flatnonzero(dwi.b0_mask))
    for shell in dwi.gradients.shells():
        count = max(round(share * len(shell.indices)), 1)
        kept += [shell.indices[round(place)] for place in np.linspace(0, len(shell.indices) - 1, count)]
    chosen = np.sort(kept)
    return Dwi(_volume(dwi, dwi.array[..., chosen]), dwi.gradients.selected(chosen))


def part_of_image(dwi: Dwi, share: float) -> Dwi:
    """The middle of the image along its second axis: denoising takes every voxel, and a slice on each thread."""
    size = dwi.array.shape[1]
    count = max(round(share * size), 1)
    start = (size - count) // 2
    return Dwi(_volume(dwi, dwi.array[:, start : start + count]), dwi.gradients)


def part_of_mask(mask: Volume, share: float) -> Volume:
    """Every so manieth voxel, so that all tissues stay."""
    inside = np.flatnonzero(mask.array)
    kept = np.zeros(mask.array.size, np.uint8)
    kept[inside[np.linspace(0, inside.size - 1, max(round(share * inside.size), 1)).round().astype(int)]] = 1
    return Volume(kept.reshape(mask.array.shape), mask.affine)


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
        result, figures = timed(run)
    except InvalidData as error:
        tell_problem(str(error))
        return
    if isinstance(result, NotApplicable):
        tell_problem(result.reason)
        return
    tell({**figures, "voxels": count, "volumes": len(dwi.gradients)})


if __name__ == "__main__":
    main(*sys.argv[1:])
