"""The files of a benchmark's dataset. `cutting` writes it, and peers in other interpreters read it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Dataset:
    """A BIDS dataset of one subject and one run."""

    folder: Path
    subject: str

    @property
    def stem(self) -> Path:
        return self.folder / self.subject.replace("_", "/") / "dwi" / self.subject

    @property
    def image(self) -> Path:
        return next(self.stem.parent.glob(f"{self.subject}_dwi.nii*"))

    @property
    def bval(self) -> Path:
        return Path(f"{self.stem}_dwi.bval")

    @property
    def bvec(self) -> Path:
        return Path(f"{self.stem}_dwi.bvec")

    @property
    def mask(self) -> Path:
        """The voxels in which models are fitted."""
        return Path(f"{self.stem}_desc-brain_mask.nii.gz")

    @property
    def brain(self) -> Path:
        """The entire brain, in which denoising is scored."""
        return self.folder / "brain.nii.gz"

    @property
    def truth(self) -> Path:
        """The noise-free DWI, if it is known."""
        return self.folder / "noise_free_dwi.nii.gz"
