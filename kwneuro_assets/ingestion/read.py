"""Reading a subject's source data as values."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kwneuro_assets.imaging import Dwi, Volume
from kwneuro_assets.imaging.errors import located
from kwneuro_assets.imaging.volume import binary_mask
from kwneuro_assets.ingestion.dataset import Series, SourceDataset
from kwneuro_assets.storage.nifti import read_nifti


def read_dwi(dataset: SourceDataset, series: Series) -> Dwi:
    """The runs of a series joined along the fourth axis, subsampled as the settings say.

    Raises InvalidData, naming the file, for an image or a table that cannot be trusted, and for runs whose
    grids differ.
    """
    dataset.check_headers(series)
    table = dataset.gradients(series)
    volumes = [read_nifti(run.image).subsampled(dataset.settings.subsample) for run in series.runs]
    first = volumes[0]
    if len(volumes) > 1:
        joined = np.asfortranarray(np.concatenate([volume.array for volume in volumes], axis=3))
        first = Volume(joined, first.affine)
    with located(", ".join(str(run.image) for run in series.runs)):
        return Dwi(first, table, interpolated=series.interpolated)


def read_mask(dataset: SourceDataset, path: Path) -> Volume:
    """A provided brain mask, subsampled as the settings say. Raises InvalidData, naming the file."""
    volume = read_nifti(path)
    if volume.array.ndim == 4 and volume.shape[3] == 1:  # some tools keep the axis of the series
        volume = Volume(volume.array[..., 0], volume.affine)
    with located(path):
        return binary_mask(volume.subsampled(dataset.settings.subsample), "brain mask")
