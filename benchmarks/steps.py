"""One step, ours or its peer's, timed in this process without the reading of its input."""

from __future__ import annotations

import contextlib
import io
import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from kwneuro_assets.derivations.csd import fit_csd_peaks
from kwneuro_assets.derivations.denoise import denoise
from kwneuro_assets.derivations.noddi import fit_noddi
from kwneuro_assets.derivations.response import estimate_response
from kwneuro_assets.derivations.tensor import fit_tensor, tensor_volumes
from kwneuro_assets.imaging import Dwi, NotApplicable, Volume
from kwneuro_assets.ingestion.dataset import SourceDataset
from kwneuro_assets.ingestion.read import read_dwi, read_mask
from kwneuro_assets.settings import PeakSettings, PipelineSettings, ResponseSettings, SourceSettings
from kwneuro_assets.subjects import SubjectKey

SETTINGS = PipelineSettings()
Step = Callable[[Dwi, Volume], object]


@dataclass(frozen=True)
class Compared:
    """A step, and the same by a peer where there is one."""

    ours: Step
    peer: Step | None = None
    peer_name: str | None = None


def _denoise(dwi: Dwi, mask: Volume) -> object:
    return denoise(dwi, "patch2self", SETTINGS.denoising.minimum_ratio)


def _denoise_by_dipy(dwi: Dwi, mask: Volume) -> object:
    from dipy.denoise.patch2self import patch2self

    return patch2self(dwi.array, dwi.bvals, b0_denoising=False, shift_intensity=False, verbose=False)


def _tensor(dwi: Dwi, mask: Volume) -> object:
    return fit_tensor(dwi, mask, SETTINGS.dti.max_bvalue)


def _tensor_by_dipy(dwi: Dwi, mask: Volume) -> object:
    from dipy.core.gradients import gradient_table
    from dipy.reconst.dti import TensorModel

    chosen = tensor_volumes(dwi.gradients, SETTINGS.dti.max_bvalue)
    if isinstance(chosen, NotApplicable):
        return None
    table = gradient_table(dwi.bvals[chosen], bvecs=dwi.world_bvecs[chosen], b0_threshold=dwi.gradients.b0_threshold)
    fit = TensorModel(table, fit_method="WLS").fit(dwi.array[..., chosen], mask=mask.array > 0)
    return fit.fa, fit.md


def _noddi(dwi: Dwi, mask: Volume) -> object:
    return fit_noddi(dwi, mask, SETTINGS.noddi.dpar, SETTINGS.noddi.diso, SETTINGS.noddi.directions)


def _response(dwi: Dwi, mask: Volume) -> object:
    chosen = SETTINGS.view(ResponseSettings)
    return estimate_response(dwi, mask, **chosen.model_dump(exclude={"response"}))


def _csd(dwi: Dwi, mask: Volume) -> object:
    response = _response(dwi, mask)
    if isinstance(response, NotApplicable):
        return response
    return fit_csd_peaks(dwi, mask, response, **SETTINGS.view(PeakSettings).model_dump())  # type: ignore[arg-type]


STEPS: dict[str, Compared] = {
    "denoise": Compared(_denoise, _denoise_by_dipy, "DIPY patch2self version 3"),
    "tensor": Compared(_tensor, _tensor_by_dipy, "DIPY TensorModel WLS"),
    "noddi": Compared(_noddi),
    "response": Compared(_response),
    "response and csd": Compared(_csd),
}


def main(step: str, which: str, source: str, subject: str) -> None:
    dataset = SourceDataset(SourceSettings(url=source))
    key = SubjectKey.parse(subject)
    dwi, _ = read_dwi(dataset, dataset.series(key))
    mask, _ = read_mask(dataset, dataset.mask(key))
    compared = STEPS[step]
    compute = compared.ours if which == "ours" else compared.peer
    assert compute is not None
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        compute(dwi, mask)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": round(seconds, 2), "peak_mb": round(peak)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
