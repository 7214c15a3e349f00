"""Writes the inputs of MRtrix3: the volumes that we use as uncompressed .mif, the mask, and our responses as text.

python -m benchmarks.mrtrix_inputs STEP FOLDER SUBJECT OUT
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.dataset import Dataset
from benchmarks.mrtrix_peer import CSD_ORDER, TISSUES
from benchmarks.process import report, report_problem
from benchmarks.steps import SETTINGS, load_dwi, load_mask, response, tissue_responses
from kwneuro_assets.derivations.shells import choose_shell
from kwneuro_assets.derivations.tensor import tensor_volumes
from kwneuro_assets.imaging import NotApplicable
from kwneuro_assets.imaging.tissue_responses import format_tissue_responses


def main(step: str, folder: str, subject: str, out: str) -> None:
    dataset, place = Dataset(Path(folder), subject), Path(out)
    dwi = load_dwi(dataset)
    if step == "tensor":
        chosen = tensor_volumes(dwi.gradients, SETTINGS.dti.max_bvalue)
        if isinstance(chosen, NotApplicable):
            report_problem(chosen.reason)
            return
        _convert(dataset, place, [int(index) for index in chosen])
    elif step == "multi-tissue":
        responses = tissue_responses(dwi, load_mask(dataset))
        if isinstance(responses, NotApplicable):
            report_problem(responses.reason)
            return
        for tissue, text in zip(TISSUES, format_tissue_responses(responses), strict=True):
            (place / f"{tissue}.txt").write_text(text)
        _convert(dataset, place, range(len(dwi.gradients)))
    else:
        shell = choose_shell(dwi.gradients, SETTINGS.csd.shell, CSD_ORDER)
        found = response(dwi, load_mask(dataset))
        for one in (shell, found):
            if isinstance(one, NotApplicable):
                report_problem(one.reason)
                return
        assert not isinstance(shell, NotApplicable)
        assert not isinstance(found, NotApplicable)
        (place / "response.txt").write_text(" ".join(map(repr, found.coefficients.tolist())) + "\n")
        (place / "order.txt").write_text(str(shell.order))
        _convert(dataset, place, shell.shell.indices)
    report({"seconds": 0})


def _convert(dataset: Dataset, out: Path, volumes: Sequence[int]) -> None:
    numbers = ",".join(map(str, volumes))
    gradients = ["-fslgrad", str(dataset.bvec), str(dataset.bval)]
    # The layout of MRtrix3's commands, with the volumes of a voxel contiguous, so that none of them converts it.
    image = ["-coord", "3", numbers, *gradients, "-strides", "0,0,0,1", str(dataset.image), str(out / "dwi.mif")]
    for words in (image, ["-datatype", "bit", str(dataset.mask), str(out / "mask.mif")]):
        subprocess.run(["mrconvert", "-quiet", "-force", *words], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
