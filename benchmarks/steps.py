"""Our implementation of each step, timed in this process without reading its input.

    python -m benchmarks.steps STEP FOLDER SUBJECT OUT

writes the quantities for the comparison with peers to the folder OUT, one array (voxels of the mask, ...) each.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.dataset import Dataset
from benchmarks.process import report, report_problem, timed
from kwneuro_assets.derivations.csd import fit_csd_peaks
from kwneuro_assets.derivations.denoise import denoise, patch2self
from kwneuro_assets.derivations.multi_tissue import fit_multi_tissue
from kwneuro_assets.derivations.noddi import fit_noddi
from kwneuro_assets.derivations.response import estimate_response
from kwneuro_assets.derivations.shells import SHELLS_WANTED, choose_shell
from kwneuro_assets.derivations.tensor import fit_tensor
from kwneuro_assets.derivations.tissue_responses import estimate_tissue_responses
from kwneuro_assets.imaging import Dwi, InvalidData, MapSet, NotApplicable, ResponseFunction, TissueResponses, Volume
from kwneuro_assets.ingestion.dataset import SourceDataset
from kwneuro_assets.ingestion.read_mask import read_mask
from kwneuro_assets.ingestion.read_source import read_dwi
from kwneuro_assets.settings import PipelineSettings, SourceSettings
from kwneuro_assets.storage.nifti import read_nifti, write_nifti
from kwneuro_assets.subjects import SubjectKey

SETTINGS = PipelineSettings()
WARM_UP_VOXELS = 50  # few, because the warm-up only compiles
SOME_RESPONSE = (600.0, -300.0, 80.0)  # a typical shape: there are too few voxels for an estimate
SOME_DIFFUSIVITIES = (0.8e-3, 3e-3)  # mm^2/s, of gray matter and of CSF

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Step:
    """`prepared` returns the function that is timed, `compared` the quantities of its result for the comparison."""

    prepared: Callable[[Dataset, Path], Callable[[], Any]]
    compared: Callable[[Any, Dataset], Arrays]


def load_dwi(dataset: Dataset) -> Dwi:
    found = SourceDataset(SourceSettings(url=str(dataset.folder)))
    return read_dwi(found, found.series(SubjectKey.parse(dataset.subject)))[0]


def load_mask(dataset: Dataset) -> Volume:
    """The voxels in which models are fitted."""
    found = SourceDataset(SourceSettings(url=str(dataset.folder)))
    return read_mask(found, found.mask(SubjectKey.parse(dataset.subject)))[0]


def load_brain(dataset: Dataset) -> NDArray[np.bool_]:
    return np.asarray(read_nifti(dataset.brain).array > 0)


def denoised(dwi: Dwi) -> Dwi:
    return denoise(dwi, "patch2self", SETTINGS.denoising.min_ratio)


def tensor(dwi: Dwi, mask: Volume) -> MapSet | NotApplicable:
    return fit_tensor(dwi, mask, SETTINGS.dti.max_bvalue)


def noddi(dwi: Dwi, mask: Volume) -> MapSet | NotApplicable:
    return fit_noddi(dwi, mask, SETTINGS.noddi.dpar, SETTINGS.noddi.diso, SETTINGS.noddi.directions)


def response(dwi: Dwi, mask: Volume) -> ResponseFunction | NotApplicable:
    settings = SETTINGS.csd
    return estimate_response(
        dwi,
        mask,
        shell=settings.shell,
        lmax=settings.lmax,
        fa_threshold=settings.fa_threshold,
        min_voxels=settings.min_voxels,
    )


def tissue_responses(dwi: Dwi, mask: Volume) -> TissueResponses | NotApplicable:
    return estimate_tissue_responses(dwi, mask, wm_voxels=SETTINGS.csd.min_voxels)


def response_and_csd(dwi: Dwi, mask: Volume) -> MapSet | NotApplicable:
    found = response(dwi, mask)
    return found if isinstance(found, NotApplicable) else csd(dwi, mask, found)


def csd(dwi: Dwi, mask: Volume, found: ResponseFunction) -> MapSet | NotApplicable:
    return fit_csd_peaks(dwi, mask, found, **_peak_settings())


def multi_tissue(dwi: Dwi, mask: Volume, found: TissueResponses) -> MapSet | NotApplicable:
    return fit_multi_tissue(dwi, mask, found, **_peak_settings())


def _peak_settings() -> dict[str, Any]:
    return SETTINGS.csd.model_dump(include={"lmax", "max_peaks", "relative_threshold", "min_separation_angle"})


def _file_to_file(dataset: Dataset, out: Path) -> Callable[[], Dwi]:
    def run() -> Dwi:
        result = denoised(load_dwi(dataset))
        with (out / "denoised.nii.gz").open("wb") as file:
            write_nifti(file, result.volume)
        return result

    return run


def _in_memory(fit: Callable[[Dwi, Volume], Any]) -> Callable[[Dataset, Path], Callable[[], Any]]:
    def prepared(dataset: Dataset, out: Path) -> Callable[[], Any]:
        dwi, mask = load_dwi(dataset), load_mask(dataset)
        return lambda: fit(dwi, mask)

    return prepared


def _with_response(
    estimate: Callable[[Dwi, Volume], Any], fit: Callable[[Dwi, Volume, Any], Any]
) -> Callable[[Dataset, Path], Callable[[], Any]]:
    """Prepare the fit with an estimated response, which the peers use, too."""

    def prepared(dataset: Dataset, out: Path) -> Callable[[], Any]:
        dwi, mask = load_dwi(dataset), load_mask(dataset)
        found = estimate(dwi, mask)
        return lambda: found if isinstance(found, NotApplicable) else fit(dwi, mask, found)

    return prepared


def _maps(*names: str) -> Callable[[MapSet, Dataset], Arrays]:
    def compared(maps: MapSet, dataset: Dataset) -> Arrays:
        inside = load_mask(dataset).array > 0
        return {name: maps[name].array[inside] for name in names}

    return compared


STEPS: dict[str, Step] = {
    "denoise": Step(_file_to_file, lambda dwi, dataset: {"signal": dwi.signals(load_brain(dataset))}),
    "tensor": Step(_in_memory(tensor), _maps("fa", "md")),
    "noddi": Step(_in_memory(noddi), _maps("ndi", "odi", "fwf")),
    "response": Step(_in_memory(response), lambda found, dataset: {}),
    "response and csd": Step(_in_memory(response_and_csd), _maps("peaks")),
    "csd": Step(_with_response(response, csd), _maps("peaks")),
    "multi-tissue": Step(_with_response(tissue_responses, multi_tissue), _maps("peaks")),
}


def warm_up(dataset: Dataset) -> dict[str, float]:
    """The seconds of the first calls, on a few voxels; other processes use the compiled code from the disk cache."""
    dwi, mask = load_dwi(dataset), load_mask(dataset)
    few = np.flatnonzero(mask.array)[:WARM_UP_VOXELS]
    small = np.zeros(mask.array.size, np.uint8)
    small[few] = 1
    part = Volume(small.reshape(mask.array.shape), mask.affine)
    z = int(np.argwhere(mask.array)[:, 2].mean())
    slab = Dwi(Volume(np.asfortranarray(dwi.array[:, :, z : z + 1]), dwi.affine), dwi.gradients)
    calls: dict[str, Callable[[], object]] = {
        "denoise": lambda: patch2self(slab),
        "tensor": lambda: tensor(dwi, part),
        "noddi": lambda: noddi(dwi, part),
    }
    shell = choose_shell(dwi.gradients, SETTINGS.csd.shell, SETTINGS.csd.lmax)
    if not isinstance(shell, NotApplicable):
        some = ResponseFunction(np.array(SOME_RESPONSE), shell.shell.bvalue)
        calls["csd"] = lambda: csd(dwi, part, some)
    if len(dwi.gradients.shells()) >= SHELLS_WANTED:
        three = _some_tissue_responses(dwi)
        calls["multi-tissue"] = lambda: multi_tissue(dwi, part, three)
    seconds = {}
    for name, call in calls.items():
        started = time.perf_counter()
        call()
        seconds[name] = round(time.perf_counter() - started, 2)
    return seconds


def _some_tissue_responses(dwi: Dwi) -> TissueResponses:
    bvalues = np.array([0.0, *(shell.bvalue for shell in dwi.gradients.shells())])
    gm, csf = (SOME_RESPONSE[0] * np.exp(-bvalues * diffusivity) for diffusivity in SOME_DIFFUSIVITIES)
    return TissueResponses(bvalues, np.tile(SOME_RESPONSE, (bvalues.size, 1)), gm, csf)


def main(name: str, folder: str, subject: str, out: str) -> None:
    dataset, place = Dataset(Path(folder), subject), Path(out)
    if name == "warm-up":
        first = warm_up(dataset)
        report({"seconds": round(sum(first.values()), 2), "first_calls": first})
        return
    step = STEPS[name]
    try:
        result, timing = timed(step.prepared(dataset, place))
    except InvalidData as error:  # a mask too small for a response, say
        report_problem(str(error))
        return
    if isinstance(result, NotApplicable):
        report_problem(result.reason)
        return
    for quantity, values in step.compared(result, dataset).items():
        np.save(place / f"{quantity}.npy", values)
    report(timing)


if __name__ == "__main__":
    main(*sys.argv[1:])
