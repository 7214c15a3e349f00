"""QC metrics of the acquisition: dimensions, voxel size, volumes and shells."""

from __future__ import annotations

from kwneuro_assets.imaging import Dwi, GradientTable, Shell
from kwneuro_assets.imaging.table import Cell
from kwneuro_assets.qc.cells import number
from kwneuro_assets.qc.metrics import Metric

MIN_SHELL = 6  # volumes of a shell with columns of its own: fewer neither sample the sphere nor resist an outlier
QSIPREP = "https://qsiprep.readthedocs.io/en/latest/preprocessing.html"

ACQUISITION_METRICS = (
    *(
        Metric(
            f"raw_dimension_{axis}",
            f"Voxels along {axis}",
            f"Number of voxels along the {order} voxel axis.",
            "1",
            "neither",
            "acquisition",
            QSIPREP,
            "integer",
        )
        for axis, order in (("x", "first"), ("y", "second"), ("z", "third"))
    ),
    *(
        Metric(
            f"raw_voxel_size_{axis}",
            f"Voxel size along {axis}",
            f"Edge length of a voxel along the {order} voxel axis.",
            "mm",
            "neither",
            "acquisition",
            QSIPREP,
        )
        for axis, order in (("x", "first"), ("y", "second"), ("z", "third"))
    ),
    Metric("num_volumes", "Volumes", "Number of volumes.", "1", "neither", "acquisition", kind="integer"),
    Metric(
        "num_b0", "b=0 volumes", "Number of volumes that count as b=0.", "1", "higher", "acquisition", kind="integer"
    ),
    Metric(
        "raw_num_directions",
        "Diffusion-weighted volumes",
        "Number of volumes that do not count as b=0.",
        "1",
        "higher",
        "acquisition",
        QSIPREP,
        "integer",
    ),
    Metric("raw_max_b", "Maximum b-value", "Maximum b-value.", "s/mm^2", "neither", "acquisition", QSIPREP),
    Metric("num_shells", "Shells", "Number of shells besides b=0.", "1", "neither", "acquisition", kind="integer"),
    Metric(
        "shells",
        "Shells and their volumes",
        "Mean b-value of each shell in s/mm^2, and its number of volumes in parentheses.",
        "s/mm^2",
        "neither",
        "acquisition",
        kind="text",
    ),
)  # fmt: skip


def acquisition_metrics(dwi: Dwi) -> dict[str, Cell]:
    """The columns of ACQUISITION_METRICS, from the grid and the gradient table of a DWI series."""
    shells = dwi.gradients.shells()
    return {
        **{f"raw_dimension_{axis}": size for axis, size in zip("xyz", dwi.volume.grid, strict=True)},
        **{f"raw_voxel_size_{axis}": number(size) for axis, size in zip("xyz", dwi.volume.voxel_size, strict=True)},
        "num_volumes": len(dwi.gradients),
        "num_b0": int(dwi.b0_mask.sum()),
        "raw_num_directions": int((~dwi.b0_mask).sum()),
        "raw_max_b": number(float(dwi.bvals.max())),
        "num_shells": len(shells),
        "shells": ", ".join(f"{one.bvalue:.0f} ({len(one.indices)})" for one in shells) or None,
    }


def shell_label(bvalue: float) -> int:
    """The b-value that names a shell in columns: rounded to 100 s/mm^2, to 1 below 100. Labels of shells differ.

    >>> shell_label(1004.7), shell_label(72.0)
    (1000, 72)
    """
    return round(bvalue / 100) * 100 if bvalue >= 100 else round(bvalue)


def labeled_shells(gradients: GradientTable, minimum: int) -> dict[int, Shell]:
    """The shells with at least `minimum` volumes, by their label, in ascending order of the b-value."""
    return {shell_label(one.bvalue): one for one in gradients.shells() if len(one.indices) >= minimum}
