"""The file names of the store: the only place that spells them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from kwneuro_assets.subjects import StoreKey


@dataclass(frozen=True)
class DerivativeName:
    """The BIDS entities and suffix that a derivative's files share."""

    entities: str
    suffix: str

    def stem(self, subject: StoreKey) -> str:
        """What its files share: `sub-01_model-tensor_dwimap`."""
        return f"{subject}_{self.entities}_{self.suffix}"

    def file(self, subject: StoreKey, extension: str, param: str | None = None) -> str:
        """The name of one file: `sub-01_model-tensor_param-fa_dwimap.nii.gz`."""
        entities = f"{self.entities}_param-{param}" if param else self.entities
        return f"{subject}_{entities}_{self.suffix}{extension}"

    def sidecar(self, subject: StoreKey) -> PurePosixPath:
        """The sidecar's path below the store."""
        return PurePosixPath(subject.folder) / f"{self.stem(subject)}.json"

    def owns(self, subject: StoreKey, file: str) -> bool:
        """Whether `file` is, or once was, one of its files, whatever its value type and maps."""
        param = r"(_param-[a-zA-Z0-9]+)?"
        shared = f"{re.escape(f'{subject}_{self.entities}')}{param}_{self.suffix}"
        return re.fullmatch(rf"{shared}(_figure\.png|\.nii\.gz|\.bval|\.bvec|\.json|\.tsv|\.html)", file) is not None

    def figure(self, subject: StoreKey) -> str:
        return f"{self.stem(subject)}_figure.png"


NAMES: dict[str, DerivativeName] = {
    "denoised_dwi": DerivativeName("desc-denoised", "dwi"),
    "mean_b0": DerivativeName("desc-meanb0", "dwiref"),
    "brain_mask": DerivativeName("desc-brain", "mask"),
    "dti": DerivativeName("model-tensor", "dwimap"),
    "noddi": DerivativeName("model-noddi", "dwimap"),
    "fiber_response": DerivativeName("model-csd", "response"),
    "group_response": DerivativeName("model-csd_desc-mean", "response"),
    "csd_peaks": DerivativeName("model-csd", "dwimap"),
    "tract_masks": DerivativeName("desc-tracts", "mask"),
    "tract_endings": DerivativeName("desc-tractendings", "mask"),
    "tract_orientations": DerivativeName("desc-tractorientations", "dwimap"),
}
