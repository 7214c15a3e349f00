"""The DWI series of one subject: its runs, and the files of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from upath import UPath

from kwneuro_assets.ingestion.bids_names import PREPROCESSED, entities_of
from kwneuro_assets.subjects import SubjectKey

_QC_EXTENSIONS = (".tsv", ".json")


@dataclass(frozen=True)
class Run:
    """One image with its bval and bvec file, and the JSON files that apply to it, the most general first."""

    image: UPath
    bval: UPath
    bvec: UPath
    sidecars: tuple[UPath, ...] = ()


@dataclass(frozen=True)
class Series:
    """All runs of one subject or session, in the order in which they are joined, and the QC files beside them."""

    subject: SubjectKey
    runs: tuple[Run, ...]
    qc_files: tuple[UPath, ...] = ()

    @property
    def interpolated(self) -> bool:
        """Whether an image was resampled, according to its name: a preprocessed one, or one with a `space`."""
        entities = [entities_of(run.image.name) for run in self.runs]
        return any(one.get("desc") == PREPROCESSED or "space" in one for one in entities)

    @property
    def image_paths(self) -> str:
        """The paths of all images, for messages."""
        return ", ".join(str(run.image) for run in self.runs)

    def files(self) -> list[UPath]:
        """The files that the data version covers: image, bval and bvec of each run, then the QC files."""
        return [*(path for run in self.runs for path in (run.image, run.bval, run.bvec)), *self.qc_files]

    def sidecars(self) -> list[UPath]:
        """The JSON files of all runs, each once."""
        return list(dict.fromkeys(path for run in self.runs for path in run.sidecars))


def recorded_series(root: UPath, subject: SubjectKey, files: Sequence[str]) -> Series:
    """The DWI series of the recorded paths (those of `Series.files`, relative to `root`), without listing a folder."""
    paths = [root / file for file in files if not file.endswith(_QC_EXTENSIONS)]
    triples = zip(paths[::3], paths[1::3], paths[2::3], strict=True)
    qc_files = tuple(root / file for file in files if file.endswith(_QC_EXTENSIONS))
    return Series(subject, tuple(Run(image, bval, bvec) for image, bval, bvec in triples), qc_files)
