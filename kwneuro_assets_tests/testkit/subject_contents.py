"""Contents of the report of a subject, with hostile texts if wanted."""

from __future__ import annotations

from dataclasses import replace

from kwneuro_assets.qc.checks import Check, Finding
from kwneuro_assets.qc.metrics import Metric
from kwneuro_assets.reports.content import Step, SubjectContent
from kwneuro_assets.reports.methods import Methods
from kwneuro_assets.reports.references import references
from kwneuro_assets.reports.viewer_volumes import ViewerVolumes

HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>\"'&<b>\u2028\udc80"
MISFIT = "The volumes differ from their neighbors, as with permuted b-vectors."
METRICS = (
    Metric(
        "ndc", "Neighboring DWI correlation", "Mean correlation", "1", "higher", "acquisition", "https://doi.org/1/x"
    ),
    Metric("snr_b0", "SNR of b=0", "Mean over standard deviation", "1", "higher", "acquisition"),
    Metric("spikes_ppm", "Spikes", "Voxels beyond six robust deviations", "ppm", "lower", "artifacts"),
    Metric("mask_volume_ml", "Volume of the brain mask", "Voxels times their volume", "ml", "neither", "mask"),
)
CHECKS = (
    Check(
        "acquisition",
        (
            Finding("snr_b0", 21.5, "none", "information"),
            Finding("ndc", 0.31415926, "at least 0.4", "warn", MISFIT),
        ),
    ),
    Check("artifacts", (Finding("spikes_ppm", 3.25, "at most 100", "pass"),)),
    Check("mask", (Finding("mask_volume_ml", None, "none", "n/a"),)),
    Check("model", ()),
)
STEPS = (
    Step(
        "denoised_dwi",
        "DWI denoised by Patch2Self",
        figure="sub-01/dwi/sub-01_desc-denoised_dwi_figure.png",
        parameters={"method": "patch2self", "patch": None},
        code_version="3-" + "a" * 64,
        data_version="1" * 64,
        inputs={"dwi": "0" * 64},
        libraries={"numpy": "2.1.0", "scipy": "1.14.0"},
        seconds=41.5,
        peak_memory_mb=2100,
        summary={"volumes": 193},
        files=("sub-01/dwi/sub-01_desc-denoised_dwi.nii.gz",),
    ),
    Step(
        "dti",
        "Diffusion tensor",
        figure="sub-01/dwi/sub-01_model-tensor_dwimap_figure.png",
        parameters={"max_bvalue": 1500.0},
        code_version="2-" + "b" * 64,
        data_version="2" * 64,
        inputs={"denoised_dwi": "9" * 64},  # of an earlier version
        libraries={"numpy": "2.0.0"},
        seconds=8.25,
        peak_memory_mb=900,
    ),
    Step("noddi", "NODDI", "not applicable", "NODDI needs two shells; this dataset has one"),
    Step("tract_masks", "Bundles", "missing", "TractSeg failed: out of memory", inputs={"dti": "2" * 64}),
)


def content_of(volumes: ViewerVolumes | None = None) -> SubjectContent:
    """A subject with one warning, a changed input, a step that is not applicable and one that is missing."""
    cited = references()["basser1994"]
    return SubjectContent(
        "sub-01",
        STEPS,
        CHECKS,
        {"ndc": 0.31415926, "snr_b0": 21.5, "spikes_ppm": 3.25, "mask_volume_ml": None},
        METRICS,
        volumes,
        Methods(("Tensors were fitted (Basser et al., 1994).",), (cited,)),
        ("sub-01/dwi/sub-01_dwi.nii.gz",),
        "0.1.0",
        "Study of 2026",
        "group.html",
    )


def hostile_content(volumes: ViewerVolumes | None = None) -> SubjectContent:
    """A subject whose texts all contain markup and script."""
    step = Step(
        HOSTILE,
        HOSTILE,
        reason=HOSTILE,
        figure="javascript:window.hacked=1",
        parameters={HOSTILE: HOSTILE, "nested": {HOSTILE: [HOSTILE, {HOSTILE: HOSTILE}]}},
        code_version=HOSTILE,
        data_version=HOSTILE,
        inputs={HOSTILE: HOSTILE, "other": HOSTILE},
        libraries={HOSTILE: HOSTILE},
        weights={HOSTILE: HOSTILE},
        networks={HOSTILE: HOSTILE},
        seconds=1.0,
        summary={HOSTILE: HOSTILE},
        files=("javascript:window.hacked=1", "https://example.org/x.nii.gz", "../other/store", f"sub-01/{HOSTILE}"),
    )
    return replace(
        content_of(volumes),
        subject=HOSTILE,
        steps=(step, replace(step, name="other", state="missing")),
        checks=(Check("mask", (Finding(HOSTILE, HOSTILE, HOSTILE, "warn", HOSTILE),)),),
        qc={HOSTILE: HOSTILE},
        metrics=(Metric(HOSTILE, HOSTILE, HOSTILE, HOSTILE, "higher", "mask", "javascript:window.hacked=1"),),
        methods=Methods((HOSTILE,), ()),
        sources=(HOSTILE,),
        package_version=HOSTILE,
        dataset=HOSTILE,
        cohort="javascript:window.hacked=1",
    )
