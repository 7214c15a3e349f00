"""Who does which step as well, whether it is installed here, and how it is run. None of them becomes a dependency."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.dataset import Dataset
from benchmarks.process import Measured, measure

NOT_INSTALLED = "not installed"


@dataclass(frozen=True)
class Setting:
    """What all measurements of a run share."""

    dataset: Dataset
    threads: int
    scratch: Path
    kwneuro: str | None  # the interpreter that has it

    def out(self, step: str, who: str) -> Path:
        """A folder for what one of them gives."""
        place = self.scratch / f"{step} by {who}"
        place.mkdir(exist_ok=True)
        return place


@dataclass(frozen=True)
class Peer:
    """One way to do a step besides ours."""

    name: str
    module: str

    def measured(self, step: str, setting: Setting) -> Measured:
        out = setting.out(step, self.name)
        given = [step, setting.dataset.folder, setting.dataset.subject, out]
        if self.module == "benchmarks.mrtrix_peer":
            if not shutil.which("dwi2tensor"):
                return Measured(problem=NOT_INSTALLED)
            made = measure("benchmarks.mrtrix_inputs", given, setting.threads)
            return made if made.problem else measure(self.module, [step, out, str(setting.threads)], setting.threads)
        if self.module == "benchmarks.kwneuro_peer":
            if setting.kwneuro is None:
                return Measured(problem=NOT_INSTALLED)
            return measure(self.module, given, setting.threads, python=setting.kwneuro)
        if self.module == "benchmarks.amico_peer" and not importlib.util.find_spec("amico"):
            return Measured(problem=NOT_INSTALLED)
        return measure(self.module, given, setting.threads)


DIPY_DENOISING = Peer("DIPY patch2self version 3", "benchmarks.dipy_peer")
KWNEURO = Peer("kwneuro", "benchmarks.kwneuro_peer")
MRTRIX_CSD = Peer("MRtrix3 dwi2fod csd, sh2peaks", "benchmarks.mrtrix_peer")

PEERS: dict[str, Sequence[Peer]] = {
    "denoise": (DIPY_DENOISING, KWNEURO),
    "tensor": (
        Peer("DIPY TensorModel WLS", "benchmarks.dipy_peer"),
        Peer("MRtrix3 dwi2tensor, tensor2metric", "benchmarks.mrtrix_peer"),
    ),
    "noddi": (Peer("AMICO", "benchmarks.amico_peer"),),
    "response": (),
    "response and csd": (MRTRIX_CSD,),
    "csd": (MRTRIX_CSD,),
    "multi-tissue": (Peer("MRtrix3 dwi2fod msmt_csd of order 8, sh2peaks", "benchmarks.mrtrix_peer"),),
    "chain": (KWNEURO,),
}


def interpreter_with_kwneuro(named: str | None) -> tuple[str | None, str]:
    """The interpreter that has kwneuro, the one that was named or this one, and kwneuro's version; None without."""
    found = shutil.which(named) if named else sys.executable
    if found is None:
        sys.exit(f"{named}: no such interpreter")
    if not named and not importlib.util.find_spec("kwneuro"):
        return None, ""
    python = str(Path(found).absolute())
    told = measure("benchmarks.kwneuro_peer", ["version"], 1, python=python)
    if told.problem:
        if named:
            sys.exit(f"{named} has no kwneuro: {told.problem}")
        return None, ""
    return python, str(told.details["version"])
