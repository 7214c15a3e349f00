"""A subject's DWI series as a value, or scanned and checked without keeping its voxels.

Both ways read each file once, from start to end, and the data version covers the bytes that gave the value: no change
in between can part the two. If a DWI series does not fit into memory, this holds for the first reading; when its
volumes are read again, the files must have the same fingerprints. A remote file is fetched once and stored in a
temporary file.

Runs with another scale and voxels that are not finite are repaired (see `repair`), with a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from kwneuro_assets.derivations.gradient_check import GradientCheck, Verdict
from kwneuro_assets.imaging import Dwi, GradientTable, InvalidData, Volume
from kwneuro_assets.imaging.content_hash import text_version
from kwneuro_assets.imaging.dwi import require_signal
from kwneuro_assets.imaging.errors import located
from kwneuro_assets.imaging.volume import (
    not_finite,
    require_same_grid,
    subsampled_affine,
    without_voxels,
)
from kwneuro_assets.ingestion.dataset import SourceDataset
from kwneuro_assets.ingestion.joined_volumes import JoinedVolumes
from kwneuro_assets.ingestion.preprocessing_qc import read_preprocessing_qc
from kwneuro_assets.ingestion.qc_values import Value
from kwneuro_assets.ingestion.read_mask import ScannedMask
from kwneuro_assets.ingestion.repair import Repair, require_outside_the_brain, scale_warnings
from kwneuro_assets.ingestion.run_metadata import merged_sidecars, require_joinable
from kwneuro_assets.ingestion.run_tables import (
    RunTable,
    Texts,
    excluded_volumes,
    read_texts,
    run_tables,
    unknown_volumes,
)
from kwneuro_assets.ingestion.series import Run, Series
from kwneuro_assets.ingestion.source_file import digested_image, read_text
from kwneuro_assets.settings import SourceSettings
from kwneuro_assets.storage.files import drain
from kwneuro_assets.storage.nifti import Streamed, streamed_nifti
from kwneuro_assets.versioning.records import EXCLUDED_VOLUMES, RUN_SCALE_FACTORS


def read_dwi(dataset: SourceDataset, series: Series) -> tuple[Dwi, str]:
    """The runs of a DWI series joined along the fourth axis, (x, y, z, n) float32, and its data version.

    It is subsampled according to the settings. A large DWI series is streamed: its volumes are read from the files when
    they are needed, and raise SourceError if a file changed. Those of a remote dataset are stored in a temporary file.

    Raises InvalidData, which names the file, if an image or gradient table cannot be used or if the grids of the runs
    differ; StorageError if a file cannot be reached; ScratchError if there is no space for the temporary file. Checks
    that only `scan_dwi` makes are not repeated.
    """
    settings = dataset.settings
    texts = read_texts(series)
    tables = run_tables(series, texts, settings)
    joined = JoinedVolumes(series, tables, settings.subsample)
    scans = _scan_runs(series, tables, joined.read)
    repair = _repair(scans, settings).subsampled(settings.subsample)
    preprocessing = read_preprocessing_qc(series, [len(table.bvals) for table in tables]).values
    version = _version(series, texts, scans, repair, settings, preprocessing)
    affine = subsampled_affine(scans[0].grid.affine, settings.subsample)
    with located(series.image_paths):
        volume = joined.volume(affine, repair)
        return Dwi(volume, _joined_table(scans, settings), series.interpolated, preprocessing), version


@dataclass(frozen=True)
class ScannedDwi:
    """What a scan of a DWI series finds.

    Attributes:
        grid: Its grid, without voxels.
        gradients: Its gradient table (FSL frame).
        version: The data version that `read_dwi` gives.
        is_oriented: Whether the headers of all images say where their axes point.
        verdicts: What each image says about its b-vectors, by the path of the bvec file, if that was checked.
        warnings: What was repaired or is doubtful.
        joining: Facts about how the runs were joined.
        preprocessing: What preprocessing measured, as `Dwi.preprocessing`.
    """

    grid: Volume
    gradients: GradientTable
    version: str
    is_oriented: bool
    verdicts: Mapping[UPath, Verdict] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    joining: Mapping[str, str] = field(default_factory=dict)
    preprocessing: Mapping[str, Value] = field(default_factory=dict)


def scan_dwi(
    dataset: SourceDataset, series: Series, *, check_gradients: bool = False, mask: ScannedMask | None = None
) -> ScannedDwi:
    """Read a DWI series from its first byte to its last without keeping its voxels.

    Checks all that `read_dwi` checks, whether the runs may be joined, and whether the voxels of the brain are finite:
    in `mask`, or, without one, roughly in the head. With `check_gradients`, the b-vectors are compared with the image.

    Raises InvalidData and StorageError as `read_dwi` does, and InvalidData if the mask is on another grid.
    """
    settings = dataset.settings
    texts = read_texts(series)
    warnings = _joining_warnings(series)
    tables = run_tables(series, texts, settings)
    scans = _scan_runs(series, tables, lambda run, image: image.volumes(), check_gradients)
    with located(series.image_paths):
        table = _joined_table(scans, settings)
        table.require_b0()
        require_signal(any(scan.has_signal for scan in scans))
    if mask:
        with located(mask.path):
            require_same_grid(mask.volume, scans[0].grid, "the brain mask", series.runs[0].image.name)
    repair = _repair(scans, settings)
    if repair.invalid is not None:
        with located(series.image_paths):
            inside = mask.volume.array > 0 if mask else None
            count = sum(scan.invalid_count for scan in scans)
            warnings.append(require_outside_the_brain(repair, [scan.mean_b0 for scan in scans], inside, count))
    names = [run.image.name for run in series.runs]
    warnings += scale_warnings(names, repair.scales, is_on=settings.scale_runs == "auto")
    warnings += [f"{scan.run.image.name}: {warning}" for scan in scans for warning in scan.warnings]
    warnings += [warning for one in tables for warning in one.warnings]
    warnings += unknown_volumes(tables, settings)
    measured = read_preprocessing_qc(series, [len(table.bvals) for table in tables])
    warnings += measured.warnings
    return ScannedDwi(
        grid=scans[0].grid,
        gradients=table,
        version=_version(series, texts, scans, repair, settings, measured.values),
        is_oriented=all(scan.is_oriented for scan in scans),
        verdicts={scan.run.bvec: scan.verdict for scan in scans if scan.verdict},
        warnings=tuple(warnings),
        joining=_joining_facts(names, tables, repair),
        preprocessing=measured.values,
    )


@dataclass(frozen=True)
class _ScannedRun:
    run: Run
    grid: Volume
    table: GradientTable
    is_oriented: bool
    has_signal: bool
    sha256: str
    verdict: Verdict | None
    mean_b0: NDArray[np.float64] | None
    invalid: NDArray[np.bool_] | None  # voxels that are not finite in some volume
    invalid_count: int  # values that are not finite
    warnings: tuple[str, ...]


_Volumes = Callable[[int, Streamed], Iterator[NDArray[Any]]]


def _scan_runs(
    series: Series, tables: Sequence[RunTable], volumes: _Volumes, check_gradients: bool = False
) -> list[_ScannedRun]:
    """Read each run once. Raises InvalidData if a run is not on the grid of the first."""
    scans: list[_ScannedRun] = []
    for number, table in enumerate(tables):
        scans.append(_scan_run(series, number, table, volumes, scans[0] if scans else None, check_gradients))
    return scans


def _scan_run(
    series: Series, number: int, table: RunTable, volumes: _Volumes, first: _ScannedRun | None, check_gradients: bool
) -> _ScannedRun:
    run = series.runs[number]
    with digested_image(run.image) as (file, digest):
        with streamed_nifti(file, series=True) as image:
            with located(run.image):
                grid = without_voxels(image.shape[:3], image.affine)
                if first:
                    require_same_grid(grid, first.grid, "this run", first.run.image.name)
            _require_matching_table(image, run, table)
            gradients = table.gradients
            check = GradientCheck(gradients, grid.grid, grid.affine) if check_gradients else None
            places = {index: place for place, index in enumerate(table.chosen)}
            mean_b0 = np.zeros(grid.grid) if gradients.b0_mask.any() else None
            invalid_count, invalid, has_signal = 0, None, False
            for index, volume in enumerate(volumes(number, image)):
                if index not in places:
                    continue
                count = not_finite(volume)
                if count:
                    invalid_count += count
                    of_volume = ~np.isfinite(volume)
                    invalid = of_volume if invalid is None else invalid | of_volume
                has_signal = has_signal or bool(np.nan_to_num(volume).any() if count else volume.any())
                if mean_b0 is not None and gradients.b0_mask[places[index]]:
                    mean_b0 += volume
                if check:
                    check.add(places[index], volume)
            if mean_b0 is not None:
                mean_b0 /= np.count_nonzero(gradients.b0_mask)
            warnings = tuple(image.warnings)
        drain(file)
        return _ScannedRun(
            run, grid, gradients, image.is_oriented, has_signal, digest.close(), check.verdict() if check else None,
            mean_b0, invalid, invalid_count, warnings,
        )  # fmt: skip


def _joining_warnings(series: Series) -> list[str]:
    """What the JSON files say against joining the runs. Raises InvalidData if the runs must not be joined."""
    contents = {path: read_text(path).content for path in series.sidecars()}
    merged = [merged_sidecars(run, contents) for run in series.runs]
    warnings = list(dict.fromkeys(warning for _, of_run in merged for warning in of_run))
    with located(series.image_paths):
        return warnings + require_joinable(series, [acquisition for acquisition, _ in merged])


def _version(
    series: Series,
    texts: Texts,
    scans: Sequence[_ScannedRun],
    repair: Repair,
    settings: SourceSettings,
    preprocessing: Mapping[str, Value],
) -> str:
    """The data version of `dwi`: the digest of the files of each run, and of what else determines the value."""
    content: dict[str, Any] = {
        "files": [
            digest
            for scan in scans
            for digest in (scan.sha256, texts[scan.run.bval].sha256, texts[scan.run.bvec].sha256)
        ],
        "interpolated": series.interpolated,
        "subsample": settings.subsample,
        "b0_threshold": settings.b0_threshold,
    }
    if repair.is_scaled:
        content["factors"] = repair.factors
    if settings.exclude_volumes:
        content["exclude_volumes"] = settings.exclude_volumes
    if preprocessing:
        content["preprocessing"] = dict(preprocessing)
    return text_version(content)


def _repair(scans: Sequence[_ScannedRun], settings: SourceSettings) -> Repair:
    return Repair.of(
        [scan.mean_b0 for scan in scans],
        [len(scan.table) for scan in scans],
        [scan.invalid for scan in scans if scan.invalid is not None],
        scale=settings.scale_runs == "auto",
    )


def _require_matching_table(image: Streamed, run: Run, table: RunTable) -> None:
    """Raises InvalidData if an image and its gradient table do not belong together."""
    if len(image.shape) != 4:
        raise InvalidData("DWI series", expected="4 dimensions", found=f"shape {image.shape}").at(run.image)
    if image.shape[3] != len(table.bvals):
        raise InvalidData(
            "gradient table",
            expected=f"{image.shape[3]} b-values, one for each volume of {run.image.name}",
            found=f"{len(table.bvals)}",
            remedy="Image and bval do not belong together.",
        ).at(run.bval)


def _joined_table(scans: Sequence[_ScannedRun], settings: SourceSettings) -> GradientTable:
    bvals = np.concatenate([scan.table.bvals for scan in scans])
    bvecs = np.concatenate([scan.table.bvecs for scan in scans])
    return GradientTable(bvals, bvecs, b0_threshold=settings.b0_threshold)


def _joining_facts(names: Sequence[str], tables: list[RunTable], repair: Repair) -> dict[str, str]:
    """The scale factors of the runs and the excluded volumes, if there are any."""
    facts = {}
    if repair.is_scaled:
        facts[RUN_SCALE_FACTORS] = ", ".join(
            f"{factor:.6g} for {name}" for factor, name in zip(repair.factors, names, strict=True)
        )
    excluded = excluded_volumes(tables)
    if excluded:
        facts[EXCLUDED_VOLUMES] = ", ".join(map(str, excluded))
    return facts
