"""The file names of the store: the only place that spells them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from kwneuro_assets.imaging import InvalidData
from kwneuro_assets.subjects import GROUP, StoreKey

PAGE, PARQUET = ".html", ".parquet"  # extensions


@dataclass(frozen=True)
class DerivativeName:
    """The BIDS entities and suffix of a derivative's files.

    Attributes:
        entities: What stands between the subject and the suffix; may be empty.
        suffix: The suffix of the sidecar and of the first files.
        of_group: Whether it is computed from all subjects together.
        others: Suffixes of further images of the same derivative.
        by_label: Whether an export may have one file for each label, such as each bundle.
        is_page: Whether it is a page at the root of the dataset, named by the subject alone: `sub-01.html`.
    """

    entities: str
    suffix: str
    of_group: bool = False
    others: tuple[str, ...] = ()
    by_label: bool = False
    is_page: bool = False

    def is_of(self, key: StoreKey) -> bool:
        """Whether the subject or group `key` can have this derivative."""
        return self.of_group == (key == GROUP)

    def stem(self, subject: StoreKey) -> str:
        """The common name of its files: `sub-01_model-tensor_dwimap`."""
        return "_".join(part for part in (str(subject), self.entities, self.suffix) if part)

    def folder(self, subject: StoreKey) -> str:
        """The folder of its files, relative to the dataset; empty for the root."""
        return "" if self.is_page else subject.folder

    def file(self, subject: StoreKey, extension: str, param: str | None = None, suffix: str | None = None) -> str:
        """The name of one file: `sub-01_model-tensor_param-fa_dwimap.nii.gz`. `suffix` is one of `others`."""
        if self.is_page:
            return f"{subject}{extension}"
        entities = f"{self.entities}_param-{param}" if param else self.entities
        return f"{subject}_{entities}_{suffix or self.suffix}{extension}"

    def label_file(self, subject: StoreKey, label: str, extension: str, suffix: str | None = None) -> str:
        """The name of the file of one label: `sub-01_label-CSTleft_desc-tracts_mask.nii.gz` of `CST_left`."""
        return f"{subject}_label-{_alphanumeric(label)}_{self.entities}_{suffix or self.suffix}{extension}"

    def sidecar(self, subject: StoreKey) -> PurePosixPath:
        """The sidecar's path below the store."""
        return PurePosixPath(self.folder(subject)) / f"{self.stem(subject)}.json"

    def owns(self, subject: StoreKey, file: str) -> bool:
        """Whether `file` is the name of one of its files, for any value type and any maps."""
        if self.is_page:
            return file in (f"{subject}{PAGE}", self.sidecar(subject).name)
        label = r"(_label-[a-zA-Z0-9]+)?" if self.by_label else ""
        entities = rf"{label}_{re.escape(self.entities)}(_param-[a-zA-Z0-9]+)?"
        suffix = "|".join((self.suffix, *self.others))
        extension = r"_figure\.png|\.nii\.gz|\.bval|\.bvec|\.json|\.tsv|\.parquet|\.html|\.txt"
        return re.fullmatch(rf"{re.escape(str(subject))}{entities}_({suffix})({extension})", file) is not None

    def figure(self, subject: StoreKey) -> str:
        return f"{self.stem(subject)}_figure.png"


def _alphanumeric(label: str) -> str:
    """The label as BIDS allows it: `CC_1` is `CC1`."""
    return re.sub(r"[^a-zA-Z0-9]", "", label)


def require_fitting(asset: str, key: StoreKey) -> None:
    """Raises InvalidData if a group derivative is requested for a subject, or a subject's derivative for the group."""
    if not NAMES[asset].is_of(key):
        group = f"{str(GROUP)!r}, as it is computed from all subjects together"
        expected = group if NAMES[asset].of_group else "a subject, such as 'sub-01'"
        raise InvalidData(asset, expected=expected, found=repr(str(key)))


PROBABILITIES = "probseg"  # BIDS's suffix of probability maps

NAMES: dict[str, DerivativeName] = {
    "denoised_dwi": DerivativeName("desc-denoised", "dwi"),
    "mean_b0": DerivativeName("desc-meanb0", "dwiref"),
    "brain_mask": DerivativeName("desc-brain", "mask"),
    "dti": DerivativeName("model-tensor", "dwimap"),
    "noddi": DerivativeName("model-noddi", "dwimap"),
    "mni_alignment": DerivativeName("from-dwi_to-MNI152NLin6Asym_mode-image", "xfm"),
    "fiber_response": DerivativeName("model-csd", "response"),
    "group_response": DerivativeName("model-csd_desc-mean", "response", of_group=True),
    "csd_peaks": DerivativeName("model-csd", "dwimap"),
    "tract_masks": DerivativeName("desc-tracts", "mask", others=(PROBABILITIES,), by_label=True),
    "tract_endings": DerivativeName("desc-tractendings", "mask", by_label=True),
    "tract_orientations": DerivativeName("desc-tractorientations", "dwimap", by_label=True),
    "dwi_qc": DerivativeName("desc-image", "qc"),
    "subject_report": DerivativeName("", "report", is_page=True),
    "cohort_qc": DerivativeName("desc-image", "qc", of_group=True),
    "cohort_report": DerivativeName("", "report", of_group=True, is_page=True),
}
