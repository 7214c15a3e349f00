"""Sanity checks of a scanned DWI series: errors beyond those of the value types, warnings and facts."""

from __future__ import annotations

from typing import Any

from kwneuro_assets.imaging import InvalidData
from kwneuro_assets.imaging.gradients import count_directions
from kwneuro_assets.imaging.volume import describe_edges
from kwneuro_assets.ingestion.read_source import ScannedDwi
from kwneuro_assets.settings import CheckSettings

_SHELL_DIRECTIONS = 6  # that a tensor needs
_MAX_SHELLS = 8  # with more, the b-values are scattered or form a grid in q-space
_MAX_ANISOTROPY = 3  # ratio of the longest to the shortest edge of a voxel


def require_sane(scan: ScannedDwi, checks: CheckSettings) -> None:
    """Raises InvalidData if the voxel size is out of range, or if there are too few b=0 volumes or directions."""
    edges = scan.grid.voxel_size
    if min(edges) < checks.min_voxel_mm or max(edges) > checks.max_voxel_mm:
        raise InvalidData(
            "voxel size",
            expected=f"edges of {checks.min_voxel_mm:g} to {checks.max_voxel_mm:g} mm",
            found=describe_edges(scan.grid),
            remedy="Its header may be in other units. The limits are settings (checks.min_voxel_mm).",
        )
    scan.gradients.require_b0(checks.min_b0)
    found = count_directions(scan.gradients.bvecs[~scan.gradients.b0_mask])
    if found < checks.min_directions:
        raise InvalidData(
            "gradient directions",
            expected=f"at least {checks.min_directions} distinct ones",
            found=str(found),
            remedy="The minimum is a setting (checks.min_directions).",
        )


def warnings(scan: ScannedDwi) -> tuple[str, ...]:
    """Messages about what was repaired or is doubtful; the data can be used."""
    found = list(scan.warnings)
    found += [
        f"the b-vectors do not fit the fibers in the image; to correct {path.name}: {verdict.correction}"
        for path, verdict in scan.verdicts.items()
        if verdict.correction
    ]
    if not scan.is_oriented:
        found.append(
            "the header does not say where the axes point (sform and qform codes are 0): left and right may be swapped"
        )
    edges = scan.grid.voxel_size
    if max(edges) > _MAX_ANISOTROPY * min(edges):
        found.append(f"voxels of {describe_edges(scan.grid)} mm blur fibers along their longest edge")
    shells = scan.gradients.shells()
    if len(shells) > _MAX_SHELLS:
        found.append(f"the b-values form {len(shells)} shells: models that need shells will not fit well")
    else:
        for shell in shells:
            count = count_directions(scan.gradients.bvecs[list(shell.indices)])
            if count < _SHELL_DIRECTIONS:
                found.append(f"the shell b={shell.bvalue:.0f} has {count} directions: too few for a tensor")
    return tuple(found)


def facts(scan: ScannedDwi) -> dict[str, Any]:
    """The grid, voxel size and shells of a DWI series, how its runs were joined, and how many QC values preprocessing
    left, for the metadata.
    """
    shells = {0: int(scan.gradients.b0_mask.sum())}
    shells |= {round(shell.bvalue): len(shell.indices) for shell in scan.gradients.shells()}
    return {
        "grid": " x ".join(map(str, scan.grid.grid)),
        "voxel_mm": describe_edges(scan.grid),
        "shells": ", ".join(f"{count} of b={bvalue}" for bvalue, count in shells.items()),
        **scan.joining,
        **({"preprocessing_qc": f"{len(scan.preprocessing)} values"} if scan.preprocessing else {}),
    }
