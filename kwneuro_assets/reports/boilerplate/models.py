"""The diffusion tensor and NODDI."""

from __future__ import annotations

from kwneuro_assets.derivations.noddi_dictionary import DENSITIES, DISPERSIONS
from kwneuro_assets.imaging.gradients import SHELL_WIDTH
from kwneuro_assets.reports.boilerplate.acquisition import Acquisition, bvalues
from kwneuro_assets.reports.boilerplate.context import Context
from kwneuro_assets.reports.boilerplate.prose import cite, counted, listed, paragraph, shown
from kwneuro_assets.reports.boilerplate.records import RecordedStep

_ENOUGH = 6  # directions of a tensor
_RAISED = "voxels_not_positive_definite"


def dti(step: RecordedStep, context: Context) -> str:
    """The fit of the tensor, its volumes and its maps."""
    series = context.series_of(step)
    return paragraph(
        [
            f"The diffusion tensor {cite('basser1994')} was fitted to {series} in the brain mask by weighted linear "
            f"least squares on the logarithm of the signal {cite('chung2006', 'veraart2013')}. The weights were the "
            "squared signals that an ordinary least-squares fit predicts; each volume entered with its own b-value.",
            _tensor_volumes(step.number("max_bvalue"), context.acquisition_of(step)),
            "Maps of fractional anisotropy (FA) and of mean, axial and radial diffusivity (MD, AD, RD) were computed "
            "from the eigenvalues.",
            _raised(step.found(_RAISED)),
        ]
    )


def _tensor_volumes(limit: float | None, acquisition: Acquisition) -> str:
    """The shells of the fit, as far as the numbers of volumes determine them."""
    if limit is None:
        return ""
    low = tuple(shell for shell in acquisition.shells if shell[0] <= limit + SHELL_WIDTH / 2)
    if low and low == acquisition.shells:
        return f"The fit included all volumes ({bvalues(low)} and b = 0)."
    rule = f"The fit included the volumes with b-values up to {shown(limit)} s/mm²"
    # Repeated or coplanar directions would also add a shell; the scan warns of the former.
    is_certain = (
        sum(count for bvalue, count in low if bvalue > SHELL_WIDTH) >= _ENOUGH and not acquisition.has_few_directions
    )
    if is_certain:
        return f"{rule} ({bvalues(low)} and b = 0)."
    return f"{rule}, and of the next shells as long as these had fewer than six independent directions."


def _raised(voxels: float | None) -> str:
    if not voxels:
        return ""
    return f"Eigenvalues that were not positive were raised to a small positive value in {counted(voxels, 'voxel')}."


def noddi(step: RecordedStep, context: Context) -> str:
    """The model, the dictionary, the fits and the maps of NODDI."""
    return paragraph(
        [
            f"NODDI, neurite orientation dispersion and density imaging {cite('zhang2012')}, was fitted to all volumes "
            f"of {context.series_of(step)} in the brain mask with the dictionary of AMICO {cite('daducci2015')}: "
            f"{_atoms(step)}.",
            _diffusivities(step),
            "As in AMICO, non-negative least squares gave the free water fraction, an elastic net on the remaining "
            "signal selected a few atoms, and non-negative least squares with these atoms gave the other parameters. "
            "These problems were solved by the active-set solver of kwneuro-assets instead of that of AMICO, and "
            "unlike in AMICO the atoms had the signal at the b-value of each b = 0 volume. The direction of the "
            "neurites was the principal axis of a tensor fitted by ordinary least squares to all volumes.",
            f"Maps of {listed(_noddi_maps(step))} were computed.",
            _tissue_weighted(step),
        ]
    )


def _atoms(step: RecordedStep) -> str:
    directions = step.number("directions")
    along = f" along {counted(directions, 'direction')}" if directions is not None else ""
    return (
        f"combinations of {DENSITIES.size} neurite densities and {DISPERSIONS.size} orientation dispersions{along}, "
        "and free water"
    )


def _diffusivities(step: RecordedStep) -> str:
    named = {"along neurites": step.number("dpar"), "of free water": step.number("diso")}
    known = [f"{shown(value)} mm²/s {where}" for where, value in named.items() if value is not None]
    return f"Diffusivities were fixed to {listed(known)}." if known else ""


def _noddi_maps(step: RecordedStep) -> list[str]:
    maps = ["neurite density index (NDI)", "orientation dispersion index (ODI)", "free water fraction (FWF)"]
    return [*maps, "root mean square error of the fit"] if step.is_on("rmse") else maps


def _tissue_weighted(step: RecordedStep) -> str:
    if not step.is_on("tissue_weighted"):
        return ""
    return f"NDI and ODI were also multiplied by 1 - FWF, for tissue-weighted averages {cite('parker2021')}."
