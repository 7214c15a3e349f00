"""How each value type becomes files and comes back: one table, routed by type."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from kwneuro_assets.imaging import (
    Dwi,
    GradientTable,
    InvalidData,
    MapSet,
    NotApplicable,
    Report,
    ResponseFunction,
    StreamedVolume,
    Table,
    TissueResponses,
    Volume,
)
from kwneuro_assets.imaging.gradients import format_bvals, format_bvecs, parse_bvals, parse_bvecs
from kwneuro_assets.imaging.streamed import is_large
from kwneuro_assets.imaging.volume import not_finite, require_finite
from kwneuro_assets.storage.files import Opened, Stamp
from kwneuro_assets.storage.names import DerivativeName
from kwneuro_assets.storage.nifti import decode_grid, decode_nifti, streamed_nifti, volumes_again, write_nifti
from kwneuro_assets.storage.staging import WRITERS, Writer
from kwneuro_assets.storage.text import format_table, parse_table
from kwneuro_assets.subjects import StoreKey
from kwneuro_assets.threads import thread_count
from kwneuro_assets.versioning.content import Value

IMAGE, TABLE, REPORT = ".nii.gz", ".tsv", ".html"
_READERS = 4  # maps of one set that are read at once
_T = TypeVar("_T")


@dataclass(frozen=True)
class Encoded:
    """The files of a value, by name, and what the sidecar must hold for reading them back."""

    files: Mapping[str, Writer] = field(default_factory=dict)
    content: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Names:
    """The file names of one derivative of one subject."""

    name: DerivativeName
    subject: StoreKey

    def __call__(self, extension: str, param: str | None = None) -> str:
        return self.name.file(self.subject, extension, param)


@dataclass(frozen=True)
class Part:
    """What is asked of a value, everything by default: some maps of a MapSet; some volumes of a 4-D image, which
    are a Volume even where the whole is a Dwi."""

    maps: tuple[str, ...] | None = None
    volumes: range | None = None


WHOLE = Part()


class Files(Protocol):
    """The files of a derivative, checked as the reader wants them to be."""

    def decoded(self, name: str, decode: Callable[[Opened], Any]) -> Any:
        """What `decode` makes of the file; raises StoreError where it is not the file that was stored."""

    def header(self, name: str, decode: Callable[[Opened], Any]) -> Any:
        """What `decode` makes of the file's start; nothing but its size is checked."""

    def read_again(
        self, name: str, read: Callable[[UPath, Stamp, Sequence[int]], Iterator[_T]]
    ) -> Callable[[Sequence[int]], Iterator[_T]]:
        """`read` of the file as it is now, any number of times; raises StoreError where it has changed since."""


Grid = tuple[tuple[int, ...], NDArray[np.float64]]


def encode(value: Value, names: Names) -> Encoded:
    """The files and sidecar content of `value`."""
    return _CODECS[type(value).__name__][0](value, names)


def decode(value_type: str, content: Mapping[str, Any], names: Names, files: Files, part: Part = WHOLE) -> Value:
    """The value that `files` hold, or a part of it; what is not applicable has no parts and comes as it is.

    Raises StoreError for files that are not what they were, InvalidData for a part that there is not.
    """
    if value_type == "NotApplicable":
        part = WHOLE
    if part.maps is not None and value_type != "MapSet":
        raise InvalidData("choice of maps", expected="a set of maps", found=f"a {value_type}")
    if part.volumes is not None and value_type not in ("Volume", "Dwi"):
        raise InvalidData("choice of volumes", expected="a 4-D image", found=f"a {value_type}")
    return _CODECS[value_type][1](content, names, files, part)


def decode_image_grid(value_type: str, content: Mapping[str, Any], names: Names, files: Files) -> Grid:
    """Shape and affine of a value's image, of the first of several maps, from the header. Raises as `decode` does."""
    if value_type not in ("Volume", "Dwi", "MapSet"):
        raise InvalidData("grid", expected="an image", found=f"a {value_type}")
    param = content["Maps"][0] if value_type == "MapSet" else None
    grid: Grid = files.header(names(IMAGE, param), decode_grid)
    return grid


def _encode_volume(volume: Volume, names: Names) -> Encoded:
    return Encoded({names(IMAGE): _image_writer(volume)}, {"Names": list(volume.names)} if volume.names else {})


def _decode_volume(content: Mapping[str, Any], names: Names, files: Files, part: Part) -> Volume:
    volume = _image(files, names(IMAGE), part)
    names_of_all = tuple(content.get("Names", ()))
    chosen = range(len(names_of_all)) if part.volumes is None else part.volumes
    return Volume(volume.array, volume.affine, tuple(names_of_all[index] for index in chosen if names_of_all))


def _encode_dwi(dwi: Dwi, names: Names) -> Encoded:
    return Encoded(
        {
            names(IMAGE): _image_writer(dwi.volume),
            names(".bval"): _text_writer(format_bvals(dwi.gradients)),
            names(".bvec"): _text_writer(format_bvecs(dwi.gradients)),
        },
        {"B0Threshold": dwi.gradients.b0_threshold, "Interpolated": dwi.interpolated},
    )


def _decode_dwi(content: Mapping[str, Any], names: Names, files: Files, part: Part) -> Dwi | Volume:
    if part.volumes is not None:  # a series needs its b=0
        return _image(files, names(IMAGE), part)
    image = _series(files, names(IMAGE))
    bvals = parse_bvals(_text(files, names(".bval")))
    bvecs = parse_bvecs(_text(files, names(".bvec")), len(bvals))
    return Dwi(image, GradientTable(bvals, bvecs, b0_threshold=content["B0Threshold"]), content["Interpolated"])


def _encode_maps(maps: MapSet, names: Names) -> Encoded:
    threads = max(1, thread_count() // min(len(maps), WRITERS))  # for each of those that are written at once
    files = {names(IMAGE, name): _image_writer(volume, threads) for name, volume in maps.items()}
    return Encoded(files, {"Maps": list(maps)})


def _decode_maps(content: Mapping[str, Any], names: Names, files: Files, part: Part) -> MapSet:
    known = content["Maps"]
    wanted = known if part.maps is None else part.maps
    missing = [name for name in wanted if name not in known]
    if missing or not wanted:
        raise InvalidData("choice of maps", expected=f"some of {', '.join(known)}", found=", ".join(missing) or "none")
    readers = min(len(wanted), _READERS)
    threads = max(1, thread_count() // readers)
    with ThreadPoolExecutor(readers, thread_name_prefix="maps") as pool:
        images = pool.map(lambda name: _image(files, names(IMAGE, name), WHOLE, threads), wanted)
        return MapSet(dict(zip(wanted, images, strict=True)))


def _encode_response(response: ResponseFunction, names: Names) -> Encoded:
    return Encoded(
        content={
            "Coefficients": response.coefficients.tolist(),
            "Order": response.order,
            "BValue": response.bvalue,
            "Voxels": response.voxels,
        }
    )


def _decode_response(content: Mapping[str, Any], names: Names, files: Files, part: Part) -> ResponseFunction:
    return ResponseFunction(np.array(content["Coefficients"]), content["BValue"], content["Voxels"])


def _encode_tissue_responses(responses: TissueResponses, names: Names) -> Encoded:
    return Encoded(
        content={
            "BValues": responses.bvalues.tolist(),
            "Order": responses.order,
            "WhiteMatter": {"Coefficients": responses.white.tolist(), "Voxels": responses.white_voxels},
            "GreyMatter": {"Coefficients": responses.grey.tolist(), "Voxels": responses.grey_voxels},
            "FreeWater": {"Coefficients": responses.water.tolist(), "Voxels": responses.water_voxels},
        }
    )


def _decode_tissue_responses(content: Mapping[str, Any], names: Names, files: Files, part: Part) -> TissueResponses:
    white, grey, water = (content[name] for name in ("WhiteMatter", "GreyMatter", "FreeWater"))
    return TissueResponses(
        np.array(content["BValues"]),
        np.array(white["Coefficients"]),
        np.array(grey["Coefficients"]),
        np.array(water["Coefficients"]),
        white["Voxels"],
        grey["Voxels"],
        water["Voxels"],
    )


def _encode_table(table: Table, names: Names) -> Encoded:
    return Encoded({names(TABLE): _text_writer(format_table(table))}, {"Columns": dict(table.kinds)})


def _decode_table(content: Mapping[str, Any], names: Names, files: Files, part: Part) -> Table:
    return parse_table(_text(files, names(TABLE)), content["Columns"])


def _encode_report(report: Report, names: Names) -> Encoded:
    return Encoded({names(REPORT): _text_writer(report.html)})


def _decode_report(content: Mapping[str, Any], names: Names, files: Files, part: Part) -> Report:
    return Report(_text(files, names(REPORT)))


def _encode_not_applicable(value: NotApplicable, names: Names) -> Encoded:
    return Encoded(content={"Reason": value.reason})


def _decode_not_applicable(content: Mapping[str, Any], names: Names, files: Files, part: Part) -> NotApplicable:
    return NotApplicable(content["Reason"])


def _image(files: Files, name: str, part: Part, threads: int | None = None) -> Volume:
    volume: Volume = files.decoded(name, lambda file: decode_nifti(file, part.volumes, threads))
    return volume


def _series(files: Files, name: str) -> Volume | StreamedVolume:
    """A large one is read whole once, and checked as the reader wants it; later it must be the same file still."""

    def decode(file: Opened) -> Volume | StreamedVolume:
        with streamed_nifti(file) as image:
            if not is_large(image.shape):
                return image.whole()
            again = files.read_again(name, volumes_again)
            require_finite(sum(map(not_finite, image.volumes())), math.prod(image.shape))
            return StreamedVolume(image.shape, image.affine, again)

    series: Volume | StreamedVolume = files.decoded(name, decode)
    return series


def _text(files: Files, name: str) -> str:
    text: str = files.decoded(name, lambda file: file.stream.read().decode())
    return text


def _image_writer(volume: Volume | StreamedVolume, threads: int | None = None) -> Writer:
    return lambda file: write_nifti(file, volume, threads)


def _text_writer(text: str) -> Writer:
    return lambda file: file.write(text.encode())


_Encoder = Callable[[Any, Names], Encoded]
_Decoder = Callable[[Mapping[str, Any], Names, Files, Part], Value]
_CODECS: dict[str, tuple[_Encoder, _Decoder]] = {
    "Volume": (_encode_volume, _decode_volume),
    "Dwi": (_encode_dwi, _decode_dwi),
    "MapSet": (_encode_maps, _decode_maps),
    "ResponseFunction": (_encode_response, _decode_response),
    "TissueResponses": (_encode_tissue_responses, _decode_tissue_responses),
    "Table": (_encode_table, _decode_table),
    "Report": (_encode_report, _decode_report),
    "NotApplicable": (_encode_not_applicable, _decode_not_applicable),
}
