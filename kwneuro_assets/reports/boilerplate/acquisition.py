"""The acquisition: volumes, shells, voxel size, and how runs were joined, as the observation of `dwi` records it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kwneuro_assets.reports.boilerplate.prose import counted, listed, paragraph, plain, shown

_GROUP = re.compile(r"(\d{1,9}) of b=(\d{1,9}(?:\.\d{1,9})?)")
_SIZES = re.compile(r"\d[\d.]*(?: x \d[\d.]*){2}")
_IMAGES = (".nii", ".nii.gz")
_MANY_SHELLS = 6  # more are given by their range
_FEW_DIRECTIONS = "directions: too few for a tensor"  # in a warning of the scan

NOT_DESCRIBED = (
    "Earlier processing of the images, such as the correction of distortions and of motion, is not described here."
)


@dataclass(frozen=True)
class Acquisition:
    """What is known of the DWI series.

    Attributes:
        b0: The number of volumes that count as b=0; None if the volumes are not known.
        shells: b-value in s/mm^2 and number of volumes of each shell, ascending.
        voxel: The edges of a voxel in mm, such as `2 x 2 x 2`.
        grid: The number of voxels along each axis, such as `96 x 96 x 60`.
        runs: The number of images that were joined.
        excluded: The number of volumes that were not read.
        step: Of how many voxels along each axis one was read: 1, or more for a quick test.
        is_scaled: Whether the intensities of the runs were scaled to each other.
        has_few_directions: Whether a shell has less than six directions.
    """

    b0: int | None = None
    shells: tuple[tuple[float, int], ...] = ()
    voxel: str = ""
    grid: str = ""
    runs: int = 0
    excluded: int = 0
    step: int = 1
    is_scaled: bool = False
    has_few_directions: bool = False

    @classmethod
    def of(cls, source: Mapping[str, Any]) -> Acquisition:
        """From the metadata of the observation of `dwi`; unknown or unexpected values are left out."""
        groups = [(float(bvalue), int(count)) for count, bvalue in _GROUP.findall(_text(source, "shells"))]
        excluded = _text(source, "excluded_volumes")
        files, step = source.get("files"), source.get("subsample")
        names = [str(one) for one in files] if isinstance(files, list | tuple) else []
        return cls(
            b0=sum(count for bvalue, count in groups if not bvalue) if groups else None,
            shells=tuple(sorted(group for group in groups if group[0])),
            voxel=_sizes(source, "voxel_mm"),
            grid=_sizes(source, "grid"),
            runs=sum(name.endswith(_IMAGES) for name in names),
            excluded=len(re.findall(r"\d+", excluded)),
            step=step if isinstance(step, int) and step > 1 else 1,
            is_scaled=bool(_text(source, "run_scale_factors")),
            has_few_directions=_FEW_DIRECTIONS in _text(source, "warnings"),
        )

    @property
    def weighted(self) -> int | None:
        """The number of diffusion-weighted volumes; None if it is not known."""
        return None if self.b0 is None else sum(count for _, count in self.shells)


def acquisition_text(acquisition: Acquisition) -> str:
    """Volumes, shells, voxels and runs; "" if nothing is known."""
    statements = [_volumes(acquisition), _voxels(acquisition), _runs(acquisition)]
    return paragraph([*statements, NOT_DESCRIBED]) if any(statements) else ""


def bvalues(shells: tuple[tuple[float, int], ...]) -> str:
    """The b-values of shells: `b = 1000 and 2500 s/mm²`."""
    return f"b = {listed([shown(bvalue) for bvalue, _ in shells])} s/mm²"


def _volumes(acquisition: Acquisition) -> str:
    if acquisition.b0 is None or acquisition.weighted is None:
        return ""
    groups = [f"{acquisition.b0} counted as b = 0"] if acquisition.b0 else []
    if len(acquisition.shells) > _MANY_SHELLS:
        lowest, highest = acquisition.shells[0][0], acquisition.shells[-1][0]
        groups += [
            f"{acquisition.weighted} in {len(acquisition.shells)} shells from b = {shown(lowest)} to "
            f"{shown(highest)} s/mm²"
        ]
    else:
        groups += [f"{count} with b = {shown(bvalue)} s/mm²" for bvalue, count in acquisition.shells]
    total = counted(acquisition.b0 + acquisition.weighted, "volume")
    return f"The diffusion-weighted imaging (DWI) series had {total}: {listed(groups)}."


def _voxels(acquisition: Acquisition) -> str:
    size = f"voxels of {acquisition.voxel} mm" if acquisition.voxel else ""
    grid = f"a grid of {acquisition.grid} voxels" if acquisition.grid else ""
    known = listed([part for part in (size, grid) if part])
    read = f"Of {acquisition.step} voxels along each axis, only one was read." if acquisition.step > 1 else ""
    return paragraph([f"It had {known}." if known else "", read])


def _runs(acquisition: Acquisition) -> str:
    joined = f"It was joined from {acquisition.runs} runs" if acquisition.runs > 1 else ""
    if joined and acquisition.is_scaled:
        joined += ", whose intensities were scaled to each other by their mean b = 0 images"
    were = "was" if acquisition.excluded == 1 else "were"
    excluded = f"{counted(acquisition.excluded, 'volume')} {were} excluded." if acquisition.excluded else ""
    return paragraph([f"{joined}." if joined else "", excluded])


def _text(source: Mapping[str, Any], label: str) -> str:
    value = source.get(label)
    return value if isinstance(value, str) else ""


def _sizes(source: Mapping[str, Any], label: str) -> str:
    found = _SIZES.fullmatch(_text(source, label))
    return plain(found[0]) if found else ""
