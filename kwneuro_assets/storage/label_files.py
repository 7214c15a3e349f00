"""One file per label of a 4-D image: each bundle by itself, for programs that expect it so."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from kwneuro_assets.imaging import Segmentation, Volume
from kwneuro_assets.imaging.content_hash import Value
from kwneuro_assets.storage.codecs import IMAGE, Names, image_writer, text_writer
from kwneuro_assets.storage.names import PROBABILITIES
from kwneuro_assets.storage.sidecar import LABELS, json_text
from kwneuro_assets.storage.stage import Writer


def label_files(value: Value, names: Names, description: str, bids: Mapping[str, Any]) -> dict[str, Writer]:
    """An image and a JSON for each label of a value, by file name; none if the value has no labels.

    `<p>_label-CSTleft_desc-tracts_mask.nii.gz` has the volumes of the label `CST_left`, with the data type of the 4-D
    image; `bids` are the fields of its sidecar. Vectors, whose three volumes are named `<label>_x`, `<label>_y` and
    `<label>_z`, stay together. A Segmentation also has files of probabilities.
    """
    if not isinstance(value, Volume) or not value.names:
        return {}
    files = _files(value, names, None, description, bids)
    if isinstance(value, Segmentation):
        files |= _files(value.probabilities, names, PROBABILITIES, "Probability, from 0 to 1", {})
    return files


def _files(
    volume: Volume, names: Names, suffix: str | None, description: str, bids: Mapping[str, Any]
) -> dict[str, Writer]:
    files: dict[str, Writer] = {}
    source = PurePosixPath(names.subject.folder, names(IMAGE, suffix=suffix))
    for label, chosen in _labels(volume.names).items():
        fields = {
            "Description": f"{label}: {description}",
            **bids,
            LABELS: list(volume.names[chosen]),
            "Sources": [f"bids::{source}"],
        }
        volumes = volume.array[..., chosen]
        image = Volume(volumes if volumes.shape[3] > 1 else volumes[..., 0], volume.affine)
        files[names.of_label(label, IMAGE, suffix)] = image_writer(image)
        files[names.of_label(label, ".json", suffix)] = text_writer(json_text(fields))
    return files


def _labels(names: Sequence[str]) -> dict[str, slice]:
    """The volumes of each label.

    >>> _labels(["CA", "CST_left"])
    {'CA': slice(0, 1, None), 'CST_left': slice(1, 2, None)}
    >>> _labels(["CA_x", "CA_y", "CA_z"])
    {'CA': slice(0, 3, None)}
    """
    firsts = [name.removesuffix("_x") for name in names[::3]]
    if list(names) == [f"{label}_{axis}" for label, axis in itertools.product(firsts, "xyz")]:
        return {label: slice(3 * index, 3 * index + 3) for index, label in enumerate(firsts)}
    return {label: slice(index, index + 1) for index, label in enumerate(names)}
