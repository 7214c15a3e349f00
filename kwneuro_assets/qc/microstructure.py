"""QC metrics of NODDI."""

from __future__ import annotations

from kwneuro_assets.imaging import MapSet, NotApplicable
from kwneuro_assets.qc.inputs import maps_on, volume_on
from kwneuro_assets.qc.metrics import Better, Metric
from kwneuro_assets.qc.summary import Row, median
from kwneuro_assets.qc.white_matter import WhiteMatter

_ZHANG = "https://doi.org/10.1016/j.neuroimage.2012.03.072"


def _in_white_matter(name: str, label: str, description: str, better: Better = "neither") -> Metric:
    return Metric(name, label, description, unit="1", better=better, check="model", reference=_ZHANG)


NODDI_METRICS = (
    _in_white_matter("wm_ndi_median", "NDI in white matter", "Median neurite density index in white matter."),
    _in_white_matter("wm_odi_median", "ODI in white matter", "Median orientation dispersion index in white matter."),
    _in_white_matter("wm_fwf_median", "FWF in white matter", "Median free water fraction in white matter."),
    _in_white_matter(
        "wm_noddi_rmse_median",
        "NODDI fit error",
        "Median over white matter of the root mean square of the residuals of the NODDI fit, divided by the mean b=0 "
        "signal. Only with the setting `noddi.rmse`.",
        "lower",
    ),
)
_MAPS = {"wm_ndi_median": "ndi", "wm_odi_median": "odi", "wm_fwf_median": "fwf", "wm_noddi_rmse_median": "rmse"}


def noddi_metrics(noddi: MapSet | NotApplicable | None, white: WhiteMatter | None) -> Row:
    """The columns of `NODDI_METRICS` from the maps `ndi`, `odi`, `fwf` and, if there is one, `rmse` (x, y, z).

    Voxels that were not fitted, because they have no signal at b=0, do not count. Values are None where the map is
    missing, or where no voxel is white matter.
    """
    inside = volume_on(None, white.mask if white else None)
    maps = maps_on(inside, noddi)
    row: Row = dict.fromkeys(_MAPS, None)
    if maps is None or inside is None:
        return row
    fitted = (inside.array > 0) & maps["direction"].array.any(axis=-1)
    return row | {column: median(maps[name].array[fitted]) for column, name in _MAPS.items() if name in maps}
