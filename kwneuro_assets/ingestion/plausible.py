"""Whether a series can be what its files say it is: refusals beyond those of the types, warnings, and plain facts."""

from __future__ import annotations

from typing import Any

from kwneuro_assets.imaging import InvalidData
from kwneuro_assets.imaging.gradients import count_directions
from kwneuro_assets.imaging.volume import describe_edges
from kwneuro_assets.ingestion.read import DwiLook
from kwneuro_assets.settings import CheckSettings

_SHELL_DIRECTIONS = 6  # of a tensor
_MOST_SHELLS = 8  # above it, b-values are scattered or those of a grid in q-space
_MOST_ANISOTROPY = 3  # of the edges of a voxel


def require_plausible(look: DwiLook, checks: CheckSettings) -> None:
    """Raises InvalidData for voxels of a size that no scanner makes, too few volumes of b=0 or too few directions."""
    edges = look.grid.voxel_size
    if min(edges) < checks.minimum_voxel_mm or max(edges) > checks.maximum_voxel_mm:
        raise InvalidData(
            "voxel size",
            expected=f"edges of {checks.minimum_voxel_mm:g} to {checks.maximum_voxel_mm:g} mm",
            found=describe_edges(look.grid),
            remedy="Its header may be in other units. The limits are settings (checks.minimum_voxel_mm).",
        )
    look.gradients.require_b0(checks.minimum_b0)
    found = count_directions(look.gradients.bvecs[~look.gradients.b0_mask])
    if found < checks.minimum_directions:
        raise InvalidData(
            "gradient directions",
            expected=f"at least {checks.minimum_directions} distinct ones",
            found=str(found),
            remedy="The least number is a setting (checks.minimum_directions).",
        )


def warnings(look: DwiLook) -> tuple[str, ...]:
    """What a person should look at, in sentences; the data can be used."""
    told = [f"{path.name}: {verdict.mending}" for path, verdict in look.verdicts.items() if verdict.mending]
    told = [f"the b-vectors do not fit the fibres that they show: to mend {one}" for one in told]
    if not look.is_oriented:
        told.append("the header does not say where the axes point (sform and qform codes are 0): right may be left")
    edges = look.grid.voxel_size
    if max(edges) > _MOST_ANISOTROPY * min(edges):
        told.append(f"voxels of {describe_edges(look.grid)} mm hide fibres along their longest edge")
    shells = look.gradients.shells()
    if len(shells) > _MOST_SHELLS:
        told.append(f"the b-values form {len(shells)} shells: models that need shells will not fit well")
    else:
        for shell in shells:
            count = count_directions(look.gradients.bvecs[list(shell.indices)])
            if count < _SHELL_DIRECTIONS:
                told.append(f"the shell b={shell.bvalue:.0f} has {count} directions: too few for a tensor")
    return tuple(told)


def facts(look: DwiLook) -> dict[str, Any]:
    """What a person wants to know of a series at a glance: its grid, voxel size and shells."""
    shells = {0: int(look.gradients.b0_mask.sum())}
    shells |= {round(shell.bvalue): len(shell.indices) for shell in look.gradients.shells()}
    return {
        "grid": " x ".join(map(str, look.grid.grid)),
        "voxel_mm": describe_edges(look.grid),
        "shells": ", ".join(f"{count} of b={bvalue}" for bvalue, count in shells.items()),
    }
