"""How each value type becomes files and comes back: one table, routed by type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from kwneuro_assets.imaging import Dwi, GradientTable, MapSet, NotApplicable, ResponseFunction, Volume
from kwneuro_assets.imaging.gradients import format_bvals, format_bvecs, parse_bvals, parse_bvecs
from kwneuro_assets.storage.names import DerivativeName
from kwneuro_assets.storage.nifti import read_nifti, write_nifti
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets.versioning.content import Value

Writer = Callable[[IO[bytes]], object]
IMAGE = ".nii.gz"


@dataclass(frozen=True)
class Encoded:
    """The files of a value, by name, and what the sidecar must hold for reading them back."""

    files: Mapping[str, Writer] = field(default_factory=dict)
    content: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Whose files are meant: the names of one derivative of one subject, and their folder."""

    name: DerivativeName
    subject: SubjectKey
    folder: Path

    def file(self, extension: str, param: str | None = None) -> str:
        return self.name.file(self.subject, extension, param)

    def image(self, param: str | None = None) -> Path:
        return self.folder / self.file(IMAGE, param)


def encode(value: Value, place: Place) -> Encoded:
    """The files and sidecar content of `value`."""
    return _CODECS[type(value).__name__][0](value, place)


def decode(value_type: str, content: Mapping[str, Any], place: Place) -> Value:
    """The value that the files of `place` hold. Raises InvalidData for files that are not what they were."""
    return _CODECS[value_type][1](content, place)


def _encode_volume(volume: Volume, place: Place) -> Encoded:
    content = {"Names": list(volume.names)} if volume.names else {}
    return Encoded({place.file(IMAGE): _image_writer(volume)}, content)


def _decode_volume(content: Mapping[str, Any], place: Place) -> Volume:
    volume = read_nifti(place.image())
    return Volume(volume.array, volume.affine, tuple(content.get("Names", ())))


def _encode_dwi(dwi: Dwi, place: Place) -> Encoded:
    return Encoded(
        {
            place.file(IMAGE): _image_writer(dwi.volume),
            place.file(".bval"): _text_writer(format_bvals(dwi.gradients)),
            place.file(".bvec"): _text_writer(format_bvecs(dwi.gradients)),
        },
        {"B0Threshold": dwi.gradients.b0_threshold, "Interpolated": dwi.interpolated},
    )


def _decode_dwi(content: Mapping[str, Any], place: Place) -> Dwi:
    bvals = parse_bvals((place.folder / place.file(".bval")).read_text())
    bvecs = parse_bvecs((place.folder / place.file(".bvec")).read_text(), len(bvals))
    table = GradientTable(bvals, bvecs, b0_threshold=content["B0Threshold"])
    return Dwi(read_nifti(place.image()), table, interpolated=content["Interpolated"])


def _encode_maps(maps: MapSet, place: Place) -> Encoded:
    files = {place.file(IMAGE, name): _image_writer(volume) for name, volume in maps.items()}
    return Encoded(files, {"Maps": list(maps)})


def _decode_maps(content: Mapping[str, Any], place: Place) -> MapSet:
    return MapSet({name: read_nifti(place.image(name)) for name in content["Maps"]})


def _encode_response(response: ResponseFunction, place: Place) -> Encoded:
    return Encoded(
        content={
            "Coefficients": response.coefficients.tolist(),
            "Order": response.order,
            "BValue": response.bvalue,
            "Voxels": response.voxels,
        }
    )


def _decode_response(content: Mapping[str, Any], place: Place) -> ResponseFunction:
    return ResponseFunction(np.array(content["Coefficients"]), content["BValue"], content["Voxels"])


def _encode_not_applicable(value: NotApplicable, place: Place) -> Encoded:
    return Encoded(content={"Reason": value.reason})


def _decode_not_applicable(content: Mapping[str, Any], place: Place) -> NotApplicable:
    return NotApplicable(content["Reason"])


def _image_writer(volume: Volume) -> Writer:
    return lambda file: write_nifti(file, volume)


def _text_writer(text: str) -> Writer:
    return lambda file: file.write(text.encode())


_CODECS: dict[str, tuple[Callable[[Any, Place], Encoded], Callable[[Mapping[str, Any], Place], Value]]] = {
    "Volume": (_encode_volume, _decode_volume),
    "Dwi": (_encode_dwi, _decode_dwi),
    "MapSet": (_encode_maps, _decode_maps),
    "ResponseFunction": (_encode_response, _decode_response),
    "NotApplicable": (_encode_not_applicable, _decode_not_applicable),
}
