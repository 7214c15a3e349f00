"""The files of each value type, and back: one table, routed by type."""

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
    RigidTransform,
    Segmentation,
    StreamedVolume,
    Table,
    TissueResponses,
    Volume,
)
from kwneuro_assets.imaging.content_hash import Value
from kwneuro_assets.imaging.gradients import format_bvals, format_bvecs, parse_bvals, parse_bvecs
from kwneuro_assets.imaging.streamed import is_large
from kwneuro_assets.imaging.volume import not_finite, require_finite
from kwneuro_assets.storage.files import Fingerprint, Opened
from kwneuro_assets.storage.itk_transform import format_itk, parse_itk
from kwneuro_assets.storage.names import PAGE, PARQUET, PROBABILITIES, DerivativeName
from kwneuro_assets.storage.nifti import decode_grid, decode_nifti, reread_volumes, streamed_nifti, write_nifti
from kwneuro_assets.storage.parquet import write_parquet
from kwneuro_assets.storage.sidecar import LABELS, json_text
from kwneuro_assets.storage.stage import WRITERS, Writer
from kwneuro_assets.storage.text import format_table, parse_table
from kwneuro_assets.subjects import StoreKey
from kwneuro_assets.threads import thread_count

IMAGE, TABLE, TRANSFORM = ".nii.gz", ".tsv", ".txt"
_IMAGES = ("Volume", "Segmentation", "Dwi")
_READERS = 4  # maps of one MapSet that are read concurrently
_T = TypeVar("_T")


@dataclass(frozen=True)
class Encoded:
    """The files of a value, by name, and the sidecar content that decoding them needs."""

    files: Mapping[str, Writer] = field(default_factory=dict)
    content: Mapping[str, Any] = field(default_factory=dict)
    shared: Mapping[str, bytes] = field(default_factory=dict)  # files of the entire store, by name


@dataclass(frozen=True)
class Names:
    """The file names of one derivative of one subject."""

    name: DerivativeName
    subject: StoreKey

    def __call__(self, extension: str, param: str | None = None, suffix: str | None = None) -> str:
        return self.name.file(self.subject, extension, param, suffix)

    def of_label(self, label: str, extension: str, suffix: str | None = None) -> str:
        """The name of the file of one label of a 4-D image."""
        return self.name.label_file(self.subject, label, extension, suffix)


@dataclass(frozen=True)
class Part:
    """The part of a value to read, everything by default: some maps of a MapSet, or some volumes of a 4-D image.

    The volumes come in the order of the range, as a Volume even if the value is a Dwi or a Segmentation (of its mask).
    """

    maps: tuple[str, ...] | None = None
    volumes: range | None = None


EVERYTHING = Part()


class Files(Protocol):
    """The files of a derivative; the implementation decides how they are verified."""

    def decoded(self, name: str, decode: Callable[[Opened], Any]) -> Any:
        """The result of `decode` for the file. Raises StoreError if it is not the file that was stored."""

    def header(self, name: str, decode: Callable[[Opened], Any]) -> Any:
        """The result of `decode` for the start of the file, of which only the size is checked."""

    def rereader(
        self, name: str, read: Callable[[UPath, Fingerprint, Sequence[int]], Iterator[_T]]
    ) -> Callable[[Sequence[int]], Iterator[_T]]:
        """A function that calls `read` for the file, any number of times. Raises StoreError if it has changed."""


Grid = tuple[tuple[int, ...], NDArray[np.float64]]


def encode(value: Value, names: Names) -> Encoded:
    """The files and sidecar content of `value`."""
    return _CODECS[type(value).__name__][0](value, names)


def decode(value_type: str, content: Mapping[str, Any], names: Names, files: Files, part: Part = EVERYTHING) -> Value:
    """The value in `files`, or a part of it. NotApplicable has no parts and is returned as it is.

    Raises StoreError if a file is damaged, InvalidData if the value has no such part.
    """
    if value_type == "NotApplicable":
        part = EVERYTHING
    if part.maps is not None and value_type != "MapSet":
        raise InvalidData("choice of maps", expected="a set of maps", found=f"a {value_type}")
    if part.volumes is not None and value_type not in _IMAGES:
        raise InvalidData("choice of volumes", expected="a 4-D image", found=f"a {value_type}")
    return _CODECS[value_type][1](content, names, files, part)


def decode_image_grid(value_type: str, content: Mapping[str, Any], names: Names, files: Files) -> Grid:
    """Shape and affine of a value's image (of the first map of a MapSet), from the header. Raises as `decode` does."""
    if value_type not in (*_IMAGES, "MapSet"):
        raise InvalidData("grid", expected="an image", found=f"a {value_type}")
    param = content["Maps"][0] if value_type == "MapSet" else None
    grid: Grid = files.header(names(IMAGE, param), decode_grid)
    return grid


def _encode_volume(volume: Volume, names: Names) -> Encoded:
    return Encoded({names(IMAGE): image_writer(volume)}, {LABELS: list(volume.names)} if volume.names else {})


def _decode_volume(content: Mapping[str, Any], names: Names, files: Files, part: Part) -> Volume:
    volume = _image(files, names(IMAGE), part)
    labels = content.get(LABELS, ())
    chosen = range(len(labels)) if part.volumes is None else part.volumes
    return Volume(volume.array, volume.affine, tuple(labels[index] for index in chosen if labels))


def _encode_segmentation(value: Segmentation, names: Names) -> Encoded:
    """The mask as a Volume; the probabilities have a JSON of their own, as BIDS has their labels there."""
    mask = _encode_volume(value, names)
    described = {"Description": "Probability of each label, from 0 to 1", LABELS: list(value.names)}
    files = {
        **mask.files,
        names(IMAGE, suffix=PROBABILITIES): image_writer(value.probabilities),
        names(".json", suffix=PROBABILITIES): text_writer(json_text(described)),
    }
    return Encoded(files, mask.content)


def _decode_segmentation(content: Mapping[str, Any], names: Names, files: Files, part: Part) -> Volume:
    mask = _decode_volume(content, names, files, part)
    if part.volumes is not None:
        return mask
    probabilities = _image(files, names(IMAGE, suffix=PROBABILITIES), part)
    return Segmentation.of(mask, Volume(probabilities.array, probabilities.affine, mask.names))


def _encode_dwi(dwi: Dwi, names: Names) -> Encoded:
    return Encoded(
        {
            names(IMAGE): image_writer(dwi.volume),
            names(".bval"): text_writer(format_bvals(dwi.gradients)),
            names(".bvec"): text_writer(format_bvecs(dwi.gradients)),
        },
        {
            "B0Threshold": dwi.gradients.b0_threshold,
            "Interpolated": dwi.interpolated,
            **({"Preprocessing": dict(dwi.preprocessing)} if dwi.preprocessing else {}),
        },
    )


def _decode_dwi(content: Mapping[str, Any], names: Names, files: Files, part: Part) -> Dwi | Volume:
    if part.volumes is not None:  # a Dwi needs its b=0 volumes
        return _image(files, names(IMAGE), part)
    image = _dwi_image(files, names(IMAGE))
    bvals = parse_bvals(_text(files, names(".bval")))
    bvecs = parse_bvecs(_text(files, names(".bvec")), len(bvals))
    table = GradientTable(bvals, bvecs, b0_threshold=content["B0Threshold"])
    return Dwi(image, table, content["Interpolated"], content.get("Preprocessing", {}))


def _encode_maps(maps: MapSet, names: Names) -> Encoded:
    threads = max(1, thread_count() // min(len(maps), WRITERS))  # per file that is written concurrently
    files = {names(IMAGE, name): image_writer(volume, threads) for name, volume in maps.items()}
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
        images = pool.map(lambda name: _image(files, names(IMAGE, name), EVERYTHING, threads), wanted)
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
            "WhiteMatter": {"Coefficients": responses.wm.tolist(), "Voxels": responses.wm_voxels},
            "GrayMatter": {"Coefficients": responses.gm.tolist(), "Voxels": responses.gm_voxels},
            "FreeWater": {"Coefficients": responses.csf.tolist(), "Voxels": responses.csf_voxels},
        }
    )


def _decode_tissue_responses(content: Mapping[str, Any], names: Names, files: Files, part: Part) -> TissueResponses:
    white, gray, water = (content[name] for name in ("WhiteMatter", "GrayMatter", "FreeWater"))
    return TissueResponses(
        np.array(content["BValues"]),
        np.array(white["Coefficients"]),
        np.array(gray["Coefficients"]),
        np.array(water["Coefficients"]),
        white["Voxels"],
        gray["Voxels"],
        water["Voxels"],
    )


def _encode_transform(transform: RigidTransform, names: Names) -> Encoded:
    return Encoded({names(TRANSFORM): text_writer(format_itk(transform))})


def _decode_transform(content: Mapping[str, Any], names: Names, files: Files, part: Part) -> RigidTransform:
    return parse_itk(_text(files, names(TRANSFORM)))


def _encode_table(table: Table, names: Names) -> Encoded:
    """Of a cohort, in Parquet, too, for tools that read large tables; it is never read back."""
    files = {names(TABLE): text_writer(format_table(table))}
    if names.name.of_group:
        files[names(PARQUET)] = lambda file: write_parquet(table, file)
    return Encoded(files, {"Columns": dict(table.kinds)})


def _decode_table(content: Mapping[str, Any], names: Names, files: Files, part: Part) -> Table:
    return parse_table(_text(files, names(TABLE)), content["Columns"])


def _encode_report(report: Report, names: Names) -> Encoded:
    content = {"Identity": report.identity, "Shared": sorted(report.shared)}
    return Encoded({names(PAGE): text_writer(report.html)}, content, report.shared)


def _decode_report(content: Mapping[str, Any], names: Names, files: Files, part: Part) -> Report:
    return Report(_text(files, names(PAGE)), content["Identity"])


def _encode_not_applicable(value: NotApplicable, names: Names) -> Encoded:
    return Encoded(content={"Reason": value.reason})


def _decode_not_applicable(content: Mapping[str, Any], names: Names, files: Files, part: Part) -> NotApplicable:
    return NotApplicable(content["Reason"])


def _image(files: Files, name: str, part: Part, threads: int | None = None) -> Volume:
    volume: Volume = files.decoded(name, lambda file: decode_nifti(file, part.volumes, threads))
    return volume


def _dwi_image(files: Files, name: str) -> Volume | StreamedVolume:
    """A large image is read once to verify it, and stays in its file; later reads require the same file."""

    def decode(file: Opened) -> Volume | StreamedVolume:
        with streamed_nifti(file) as image:
            if not is_large(image.shape):
                return image.in_memory()
            reread = files.rereader(name, reread_volumes)
            require_finite(sum(map(not_finite, image.volumes())), math.prod(image.shape))
            return StreamedVolume(image.shape, image.affine, reread)

    image: Volume | StreamedVolume = files.decoded(name, decode)
    return image


def _text(files: Files, name: str) -> str:
    text: str = files.decoded(name, lambda file: file.stream.read().decode())
    return text


def image_writer(volume: Volume | StreamedVolume, threads: int | None = None) -> Writer:
    """Writes `volume` as a compressed NIfTI file."""
    return lambda file: write_nifti(file, volume, threads)


def text_writer(text: str) -> Writer:
    """Writes `text` as UTF-8."""
    return lambda file: file.write(text.encode())


_Encoder = Callable[[Any, Names], Encoded]
_Decoder = Callable[[Mapping[str, Any], Names, Files, Part], Value]
_CODECS: dict[str, tuple[_Encoder, _Decoder]] = {
    "Volume": (_encode_volume, _decode_volume),
    "Segmentation": (_encode_segmentation, _decode_segmentation),
    "Dwi": (_encode_dwi, _decode_dwi),
    "MapSet": (_encode_maps, _decode_maps),
    "ResponseFunction": (_encode_response, _decode_response),
    "TissueResponses": (_encode_tissue_responses, _decode_tissue_responses),
    "RigidTransform": (_encode_transform, _decode_transform),
    "Table": (_encode_table, _decode_table),
    "Report": (_encode_report, _decode_report),
    "NotApplicable": (_encode_not_applicable, _decode_not_applicable),
}
