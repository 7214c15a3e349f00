"""White matter, grey matter and free water: their names, their colours, and the maps of their shares."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging import MapSet, Volume
from kwneuro_assets.quality.colours import Colour
from kwneuro_assets.quality.rows import panel
from kwneuro_assets.quality.sheet import Panel
from kwneuro_assets.quality.view import Cut, View


class Tissue(NamedTuple):
    """What it is called, its shortest name, its map among those of `csd_peaks`, and its colour in every picture."""

    name: str
    short: str
    share: str
    colour: Colour


# Neither the colours of directions nor those of MRtrix3's tissue maps, which are the same three: red beside red would
# be free water here and left to right there.
TISSUES = (
    Tissue("white matter", "white", "wmfraction", (1.0, 0.93, 0.76)),
    Tissue("grey matter", "grey", "gmfraction", (0.86, 0.36, 0.45)),
    Tissue("free water", "water", "csffraction", (0.2, 0.55, 1.0)),
)
_LEGEND = tuple((tissue.short, tissue.colour) for tissue in TISSUES)  # with names in full it would cover the brain


def tissue_shares(peaks: MapSet) -> tuple[Volume, ...]:
    """The share (x, y, z) of each of TISSUES, 0 to 1; none where the deconvolution was of one tissue."""
    maps = tuple(peaks[tissue.share] for tissue in TISSUES if tissue.share in peaks)
    return maps if len(maps) == len(TISSUES) else ()


def fitted(peaks: MapSet) -> NDArray[np.float32]:
    """(x, y, z) above zero where the deconvolution found anything: a peak or a tissue."""
    largest: NDArray[np.float32] = peaks["peakvalues"].array[..., 0]
    return sum((share.array for share in tissue_shares(peaks)), start=largest)


def tissue_panel(view: View, cut: Cut, shares: tuple[Volume, ...]) -> Panel:
    """A slice in the tissues' colours, mixed by their shares; black where nothing was fitted."""
    parts = [
        view.cut(share.array, cut)[..., None] * np.array(tissue.colour, np.float32)
        for share, tissue in zip(shares, TISSUES, strict=True)
    ]
    return panel(view, cut, np.clip(sum(parts), 0, 1), legend=_LEGEND)
