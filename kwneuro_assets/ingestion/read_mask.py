"""A provided brain mask as a value, with the data version of the bytes that gave it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from upath import UPath

from kwneuro_assets.imaging import InvalidData, Volume
from kwneuro_assets.imaging.content_hash import text_version
from kwneuro_assets.imaging.errors import located
from kwneuro_assets.ingestion.dataset import SourceDataset
from kwneuro_assets.ingestion.masks import brain_of
from kwneuro_assets.ingestion.source_file import digested_image
from kwneuro_assets.storage.files import drain
from kwneuro_assets.storage.nifti import streamed_nifti


@dataclass(frozen=True)
class ScannedMask:
    """A brain mask on the grid of its file: uint8 of 0 and 1.

    Attributes:
        path: Its file.
        volume: The mask, not subsampled.
        version: The data version that `read_mask` gives.
        warnings: What was repaired.
    """

    path: UPath
    volume: Volume
    version: str
    warnings: tuple[str, ...] = ()


def read_mask(dataset: SourceDataset, path: UPath) -> tuple[Volume, str]:
    """The brain mask, (x, y, z) uint8 of 0 and 1, subsampled according to the settings, and its data version.

    Raises InvalidData, which names the file, if it is no brain mask; StorageError if it cannot be reached.
    """
    mask = scan_mask(dataset, path)
    with located(path):
        return mask.volume.subsampled(dataset.settings.subsample), mask.version


def scan_mask(dataset: SourceDataset, path: UPath) -> ScannedMask:
    """The brain mask on the grid of its file. Raises InvalidData and StorageError as `read_mask` does."""
    settings = dataset.settings
    with digested_image(path) as (file, digest):
        with streamed_nifti(file) as image:
            values = np.stack(list(image.volumes()), axis=-1)
            warnings, affine = list(image.warnings), image.affine
        drain(file)
        content: dict[str, Any] = {"file": digest.close(), "subsample": settings.subsample}
    if settings.mask_threshold is not None:
        content["threshold"] = settings.mask_threshold
    with located(path):
        if values.ndim == 4 and values.shape[3] == 1:  # some tools write a fourth axis of length 1
            values = values[..., 0]
        brain, repaired = brain_of(values, settings.mask_threshold)
        step = settings.subsample
        if not brain[::step, ::step, ::step].any():
            raise InvalidData("brain mask", expected="at least one voxel inside", found="an empty mask")
        volume = Volume(np.asfortranarray(brain), affine)
    warnings = [f"{path.name}: {warning}" for warning in [*warnings, *repaired]]
    return ScannedMask(path, volume, text_version(content), tuple(warnings))
