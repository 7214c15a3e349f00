"""NODDI maps."""

from __future__ import annotations

from kwneuro_assets.assets.derivative import derivative
from kwneuro_assets.derivations.noddi import fit_noddi
from kwneuro_assets.figures.subject import noddi_figure
from kwneuro_assets.figures.summaries import noddi_summary
from kwneuro_assets.imaging import Dwi, MapSet, NotApplicable, Volume
from kwneuro_assets.progress import Progress
from kwneuro_assets.settings import NoddiSettings
from kwneuro_assets.storage.bids_fields import ENCODING, MAPS, UNIT_VECTORS


@derivative(
    group="microstructure",
    version=3,
    figure=noddi_figure,
    summary=noddi_summary,
    kinds={"nifti", "numba"},
    libraries=("dmri-amico", "numba"),
    version_relevant=("numpy",),
    bids={
        "Model": {"Description": "NODDI (neurite orientation dispersion and density imaging), fitted as AMICO does"},
        "ReferenceFrame": "world (scanner RAS+)",
        MAPS: {"direction": {"Description": "Mean orientation of the neurites", ENCODING: UNIT_VECTORS}},
    },
    reference_grid="denoised_dwi",
)
def noddi(denoised_dwi: Dwi, brain_mask: Volume, settings: NoddiSettings, progress: Progress) -> MapSet | NotApplicable:
    """NODDI fitted with AMICO's dictionary: neurite density, orientation dispersion, free water fraction, direction.

    Needs two shells besides b=0, else it is not applicable. `noddi.dpar` and `noddi.diso` are the intra-neurite and
    the free-water diffusivity.

    | map | content | unit |
    |---|---|---|
    | `ndi` | neurite density index, 0 to 1 | 1 |
    | `odi` | orientation dispersion index, 0 to 1 | 1 |
    | `fwf` | free water fraction, 0 to 1 | 1 |
    | `direction` | mean neurite orientation (x, y, z), unit vector, world frame (RAS+) | 1 |
    | `rmse` | root mean square error of the fit (with `noddi.rmse`) | fraction of the mean b=0 signal |
    | `ndiweighted`, `odiweighted` | NDI and ODI times 1 - FWF (with `noddi.tissue_weighted`) | 1 |

    **References**: [Zhang 2012](https://doi.org/10.1016/j.neuroimage.2012.03.072) (NODDI),
    [Daducci 2015](https://doi.org/10.1016/j.neuroimage.2014.10.026) (AMICO).
    """
    return fit_noddi(
        denoised_dwi,
        brain_mask,
        settings.dpar,
        settings.diso,
        settings.directions,
        rmse=settings.rmse,
        tissue_weighted=settings.tissue_weighted,
        progress=progress,
    )
