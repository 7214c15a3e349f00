"""Metrics of preprocessing, which other programs have measured: QSIPrep, and eddy QUAD.

Their columns have the name of the program as a prefix and are its own beyond that. Programs have more columns than are
known here, and their next versions will have others; a column that is not known is described by its origin only.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from kwneuro_assets.qc.metrics import Better, CheckName, Metric


class _Program(NamedTuple):
    """The program of a prefix, what its columns are, and where they are documented."""

    name: str
    origin: str
    reference: str


class _Known(NamedTuple):
    """What is known of the columns that a pattern matches."""

    pattern: str
    description: str
    unit: str
    better: Better
    check: CheckName | None


PROGRAMS = {
    "qsiprep_": _Program(
        "QSIPrep",
        "Column `{column}` of QSIPrep's image QC table.",
        "https://qsiprep.readthedocs.io/en/latest/preprocessing.html",
    ),
    "confounds_": _Program(
        "Confounds",
        "Summary of framewise displacement in the confounds table of preprocessing.",
        "https://doi.org/10.1016/j.neuroimage.2011.10.018",
    ),
    "eddy_": _Program(
        "eddy QUAD",
        "Value `{column}` in the qc.json of eddy QUAD.",
        "https://doi.org/10.1016/j.neuroimage.2018.09.073",
    ),
}

_KNOWN = (
    _Known("qsiprep_.*neighbor_corr", "Neighboring DWI correlation.", "1", "higher", "acquisition"),
    _Known("qsiprep_.*num_bad_slices", "Bad slices by DSI Studio's rule.", "slices", "lower", "artifacts"),
    _Known("qsiprep_mean_fd", "Mean framewise displacement.", "mm", "lower", "artifacts"),
    _Known("qsiprep_max_fd", "Maximum framewise displacement.", "mm", "lower", "artifacts"),
    _Known("qsiprep_max_(rel_)?translation", "Maximum translation of the head.", "mm", "lower", "artifacts"),
    _Known("qsiprep_max_(rel_)?rotation", "Maximum rotation of the head.", "", "lower", "artifacts"),
    _Known("qsiprep_.*dice_distance", "Overlap of the masks of b=0 and of the T1w image.", "1", "higher", "mask"),
    _Known("qsiprep_.*voxel_size_[xyz]", "Edge length of a voxel.", "mm", "neither", None),
    _Known("qsiprep_.*max_b", "Maximum b-value.", "s/mm^2", "neither", None),
    _Known("confounds_mean_fd", "Mean framewise displacement.", "mm", "lower", "artifacts"),
    _Known("confounds_max_fd", "Maximum framewise displacement.", "mm", "lower", "artifacts"),
    _Known("confounds_num_fd", "Volumes with a framewise displacement.", "volumes", "neither", None),
    _Known("confounds_num_fd_above_0_5", "Volumes displaced by more than 0.5 mm.", "volumes", "lower", "artifacts"),
    _Known("eddy_qc_mot_abs", "Mean motion relative to the first volume.", "mm", "lower", "artifacts"),
    _Known("eddy_qc_mot_rel", "Mean motion relative to the previous volume.", "mm", "lower", "artifacts"),
    _Known("eddy_qc_outliers_.*", "Outlier slices.", "%", "lower", "artifacts"),
    _Known("eddy_qc_vox_displ_std", "Spread of the displacements by susceptibility.", "voxels", "lower", "artifacts"),
    _Known("eddy_qc_cnr_avg_b0", "Mean SNR of b=0.", "1", "higher", "artifacts"),
    _Known("eddy_qc_cnr_std_b0", "Spread of the SNR of b=0.", "1", "neither", None),
    _Known("eddy_qc_cnr_avg_.*", "Mean CNR of a shell.", "1", "higher", "artifacts"),
    _Known("eddy_qc_cnr_std_.*", "Spread of the CNR of a shell.", "1", "neither", None),
)


def is_external(column: str) -> bool:
    """Whether a column is one of preprocessing, by its prefix.

    >>> is_external("qsiprep_mean_fd"), is_external("ndc")
    (True, False)
    """
    return any(column.startswith(prefix) and column != prefix for prefix in PROGRAMS)


def external_metric(column: str) -> Metric:
    """The metric of a column of preprocessing, a number. Raises KeyError if it has none of the prefixes.

    >>> external_metric("eddy_qc_mot_rel").unit, external_metric("qsiprep_new").better
    ('mm', 'neither')
    """
    prefix = next((prefix for prefix in PROGRAMS if is_external(column) and column.startswith(prefix)), None)
    if prefix is None:
        raise KeyError(column)
    program, name = PROGRAMS[prefix], column.removeprefix(prefix)
    origin = program.origin.format(column=name)
    label = f"{program.name}: {name}"
    for known in _KNOWN:
        if re.fullmatch(known.pattern, column):
            description = f"{known.description} {origin}"
            return Metric(column, label, description, known.unit, known.better, known.check, program.reference)
    return Metric(column, label, origin, "", "neither", None, program.reference)
