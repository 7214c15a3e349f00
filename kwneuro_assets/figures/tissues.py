"""White matter, gray matter and CSF: names, colors, and maps of their fractions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.figures.colors import Color
from kwneuro_assets.figures.panels import Panel
from kwneuro_assets.figures.rows import panel
from kwneuro_assets.figures.view import Cut, View
from kwneuro_assets.imaging import MapSet, Volume


class Tissue(NamedTuple):
    """Name, abbreviation, key in summaries, map among those of `csd_peaks`, and color in all figures."""

    name: str
    short: str
    key: str
    map: str
    color: Color


# Not the red, green and blue of MRtrix3's tissue maps, which are the colors of directions, too: in the same figure, red
# would mean CSF in one panel and left-right in another.
TISSUES = (
    Tissue("white matter", "WM", "wm", "wmfraction", (1.0, 0.93, 0.76)),
    Tissue("gray matter", "GM", "gm", "gmfraction", (0.86, 0.36, 0.45)),
    Tissue("CSF", "CSF", "csf", "csffraction", (0.2, 0.55, 1.0)),
)
_LEGEND = tuple((tissue.short, tissue.color) for tissue in TISSUES)  # full names would cover the brain


def tissue_fractions(peaks: MapSet) -> tuple[Volume, ...]:
    """The fraction (x, y, z) of each of TISSUES, 0 to 1; empty for single-tissue deconvolution."""
    maps = tuple(peaks[tissue.map] for tissue in TISSUES if tissue.map in peaks)
    return maps if len(maps) == len(TISSUES) else ()


def fitted(peaks: MapSet) -> NDArray[np.float32]:
    """An image (x, y, z) that is positive where deconvolution found a peak or a tissue."""
    largest: NDArray[np.float32] = peaks["peakvalues"].array[..., 0]
    return sum((fraction.array for fraction in tissue_fractions(peaks)), start=largest)


def tissue_panel(view: View, cut: Cut, fractions: tuple[Volume, ...]) -> Panel:
    """A slice in the colors of the tissues, mixed by their fractions; black where nothing was fitted."""
    parts = [
        view.cut(fraction.array, cut)[..., None] * np.array(tissue.color, np.float32)
        for fraction, tissue in zip(fractions, TISSUES, strict=True)
    ]
    return panel(view, cut, np.clip(sum(parts), 0, 1), legend=_LEGEND)
