"""BIDS file names: entities, images, and why a name is not one of a DWI series."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence

IMAGE_SUFFIXES = ("_dwi.nii.gz", "_dwi.nii")
MASK_SUFFIXES = ("_mask.nii.gz", "_mask.nii")
PREPROCESSED = "preproc"  # the `desc` of images that were interpolated
_NIFTI = (".nii.gz", ".nii")


@functools.lru_cache(maxsize=1 << 16)
def entities_of(name: str) -> Mapping[str, str]:
    """The BIDS entities of a file name, in its order: `sub-01_run-2_dwi.nii.gz` has sub and run."""
    pairs = (part.split("-", 1) for part in name_without_extension(name).split("_")[:-1] if "-" in part)
    return {pair[0]: pair[1] for pair in pairs}


def comparable(entity: str, label: str) -> str:
    """The label in the form in which two are compared: run-01 is run-1."""
    return str(int(label)) if entity == "run" and label.isascii() and label.isdigit() else label


def stem_of(image: str) -> str:
    """The name of an image without `.nii` or `.nii.gz`."""
    return next((image.removesuffix(end) for end in _NIFTI if image.endswith(end)), image)


def name_without_extension(name: str) -> str:
    """A file name without its extension; a label may contain a dot."""
    return name.removesuffix(".gz").rpartition(".")[0]


def why_ignored(name: str, images: Sequence[str]) -> str | None:
    """Why a file of a folder dwi, which is not one of `images`, is ignored; None if its name does not suggest an image
    or a gradient table.
    """
    lower = name.lower()
    if lower.endswith(_NIFTI):
        if lower.endswith(IMAGE_SUFFIXES):
            return "its name is not in lower case: expected the ending _dwi.nii.gz or _dwi.nii"
        if "dwi" in re.split("[_.]", lower):
            return "dwi is not the last part of its name: expected an ending such as _dir-AP_dwi.nii.gz"
        if not images and not lower.endswith(MASK_SUFFIXES):
            return "its name does not end in _dwi.nii.gz or _dwi.nii"
    elif lower.endswith((".bval", ".bvec", ".bvals", ".bvecs")):
        if not name.endswith(("dwi.bval", "dwi.bvec")):
            return "expected the ending _dwi.bval or _dwi.bvec"
        own = entities_of(name).items()
        if not any(own <= entities_of(image).items() for image in images):
            return "there is no image that it belongs to"
    return None
