"""Other implementations of each step, whether they are installed, and how to run them. None is a dependency."""

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
    """What all measurements of a benchmark have in common."""

    dataset: Dataset
    threads: int
    scratch: Path
    kwneuro: str | None  # the interpreter with kwneuro

    def out(self, step: str, name: str) -> Path:
        """The folder for the results of one implementation."""
        folder = self.scratch / f"{step} by {name}"
        folder.mkdir(exist_ok=True)
        return folder


@dataclass(frozen=True)
class Peer:
    """Another implementation of a step."""

    name: str
    module: str

    def measured(self, step: str, setting: Setting) -> Measured:
        out = setting.out(step, self.name)
        words = [step, setting.dataset.folder, setting.dataset.subject, out]
        if self.module == "benchmarks.mrtrix_peer":
            if not shutil.which("dwi2tensor"):
                return Measured(problem=NOT_INSTALLED)
            inputs = measure("benchmarks.mrtrix_inputs", words, setting.threads)
            return (
                inputs if inputs.problem else measure(self.module, [step, out, str(setting.threads)], setting.threads)
            )
        if self.module == "benchmarks.kwneuro_peer":
            if setting.kwneuro is None:
                return Measured(problem=NOT_INSTALLED)
            return measure(self.module, words, setting.threads, python=setting.kwneuro)
        if self.module == "benchmarks.amico_peer" and not importlib.util.find_spec("amico"):
            return Measured(problem=NOT_INSTALLED)
        return measure(self.module, words, setting.threads)


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


def interpreter_with_kwneuro(name: str | None) -> tuple[str | None, str]:
    """The interpreter with kwneuro, `name` or this one, and kwneuro's version; (None, "") if there is none."""
    found = shutil.which(name) if name else sys.executable
    if found is None:
        sys.exit(f"{name}: interpreter not found")
    if not name and not importlib.util.find_spec("kwneuro"):
        return None, ""
    python = str(Path(found).absolute())
    result = measure("benchmarks.kwneuro_peer", ["version"], 1, python=python)
    if result.problem:
        if name:
            sys.exit(f"{name} has no kwneuro: {result.problem}")
        return None, ""
    return python, str(result.details["version"])
