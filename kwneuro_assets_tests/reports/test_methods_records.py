"""The methods text follows from the records alone: what they leave open stays open, and no value makes it fail."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kwneuro_assets.assets import ALL_DERIVATIVES, GROUP_DERIVATIVE
from kwneuro_assets.derivations.denoise import denoise
from kwneuro_assets.derivations.directions import electrostatic_directions
from kwneuro_assets.figures.summaries import denoised_summary, peaks_summary, response_summary
from kwneuro_assets.imaging import Dwi, GradientTable, MapSet, ResponseFunction, TissueResponses, Volume
from kwneuro_assets.reports.boilerplate.records import DESCRIBED
from kwneuro_assets.reports.content import Step
from kwneuro_assets.reports.methods import Methods, methods_text
from kwneuro_assets_tests.reports.recorded_subject import (
    ONE_FIBER,
    RESIDUAL,
    SOURCE,
    THREE_TISSUES,
    VERSIONS,
    settings_of,
    steps_of,
    text_of,
)


def test_nothing_is_said_of_nothing() -> None:
    assert methods_text([], source={}) == Methods((), ())


@pytest.mark.parametrize("state", ["missing", "not applicable"])
@pytest.mark.parametrize("name", DESCRIBED)
def test_what_is_not_stored_is_not_described(name: str, state: Any) -> None:
    settings = settings_of(tracts={"align": "mni"}, csd={"group_response": True})
    steps = steps_of(settings)
    rest = [step for step in steps.values() if step.name != name]
    absent = Step(name, state=state, reason="needs two shells", parameters=steps[name].parameters)
    assert methods_text([*rest, absent], source=SOURCE) == methods_text(rest, source=SOURCE)
    assert methods_text([absent], source={}) == Methods((), ())


def test_the_order_of_the_steps_does_not_matter() -> None:
    steps = list(steps_of(settings_of()).values())
    assert methods_text(steps[::-1], source=SOURCE) == methods_text(steps, source=SOURCE)


def test_the_text_is_about_the_algorithm_versions_of_today() -> None:
    """If this fails, read the text about the derivative, correct it, and raise its number in DESCRIBED."""
    today = {one.name: one.version for one in (*ALL_DERIVATIVES, GROUP_DERIVATIVE) if one.group != "quality"}
    assert today == DESCRIBED


@pytest.mark.parametrize("name", [name for name in DESCRIBED if name != "group_response"])
def test_another_version_of_the_algorithm_is_named_and_not_described(name: str) -> None:
    step = steps_of(settings_of(tracts={"align": "mni"}))[name]
    text = text_of([replace(step, code_version="97-0123abcd")], {})
    assert f"by version 97 of the algorithm; this text describes version {DESCRIBED[name]}." in text
    assert "et al." not in text.split("These results")[0]


def test_a_record_that_is_newer_than_its_user_says_nothing_about_it() -> None:
    steps = steps_of(settings_of(), tissues=False)
    response = replace(steps["fiber_response"], data_version="another", summary={**ONE_FIBER, "bvalue_s_per_mm2": 999})
    denoised = replace(steps["denoised_dwi"], data_version="another")
    text = text_of([denoised, response, steps["csd_peaks"], steps["dti"]])
    assert "FODs) were computed from one shell of the DWI series" in text
    assert "fitted to the DWI series" in text
    assert "and of the next shells" in text, "the acquisition is that of another series"


def test_an_acquisition_from_which_the_results_were_not_computed_is_not_described() -> None:
    steps = list(steps_of(settings_of()).values())
    assert "193 volumes" in text_of(steps, {**SOURCE, "data_version": "content of dwi"})
    assert "193 volumes" not in text_of(steps, {**SOURCE, "data_version": "another"})


def test_several_versions_of_a_library_are_all_named() -> None:
    steps = steps_of(settings_of())
    older = replace(steps["dti"], libraries={**VERSIONS, "numpy": "1.26.4", "scipy": "absent"})
    text = text_of([older, steps["mean_b0"]])
    assert "NumPy 1.26.4 and 2.3.1 (Harris et al., 2020)" in text
    assert "SciPy" not in text


def test_the_summaries_of_the_pipeline_are_those_that_the_text_reads() -> None:
    """What `recorded_subject` invents has the labels that the summary functions write, and their meaning."""
    rng = np.random.default_rng(0)
    table = GradientTable(np.r_[0, np.full(12, 1000)], np.vstack([np.zeros(3), electrostatic_directions(12)]))
    noise = rng.normal(0, 10, (6, 6, 6, 13))
    raw = Dwi(Volume((1000 + rng.normal(0, 200, (6, 6, 6, 1)) + noise).astype(np.float32), np.eye(4)), table)
    for method, is_denoised in [("patch2self", True), ("none", False)]:
        summary = denoised_summary(denoise(raw, method, 1), {"dwi": raw})  # type: ignore[arg-type]
        assert (summary[RESIDUAL] != 0) == is_denoised
    one = ResponseFunction(np.array([600.0, -300, 90]), 2500, 300)
    three = TissueResponses(
        np.array([0.0, 1000, 2500]),
        np.array([[900.0, 0, 0], [600, -100, 9], [300, -100, 30]]),
        gm=np.full(3, 500.0),
        csf=np.full(3, 500.0),
        wm_voxels=300,
        gm_voxels=8,
        csf_voxels=4,
    )
    assert set(ONE_FIBER) == set(response_summary(one, {}))
    assert set(THREE_TISSUES) <= set(response_summary(three, {}))
    scalar, peaks = (
        Volume(np.ones((2, 2, 2), np.float32), np.eye(4)),
        Volume(np.ones((2, 2, 2, 3), np.float32), np.eye(4)),
    )
    single = MapSet({"peaks": peaks, "peakvalues": Volume(np.ones((2, 2, 2, 1), np.float32), np.eye(4))})
    multi = MapSet({**single, "wmfraction": scalar, "gmfraction": scalar, "csffraction": scalar})
    for tissues, value in [(False, single), (True, multi)]:
        assert set(steps_of(settings_of(), tissues=tissues)["csd_peaks"].summary) <= set(peaks_summary(value, {}))
    assert "mean_wm_fraction" not in peaks_summary(single, {})


ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1e400, float("nan"), "", "auto", "[@smith2002]", "no\nsuch\x1b method", [], {}, {"CA": None},
)  # fmt: skip


@pytest.mark.parametrize("name", DESCRIBED)
def test_unknown_values_never_fail_and_never_show(name: str) -> None:
    settings = settings_of(tracts={"align": "mni"}, csd={"group_response": True})
    steps = steps_of(settings)
    step = steps[name]
    fields: dict[str, Mapping[str, Any]] = {
        "parameters": {**step.parameters, "other": 1},
        "summary": step.summary,
        "networks": {"Device": 1, "Note": 1},
    }
    for field, values in fields.items():
        for key, odd in itertools.product(values, ODD):
            change: dict[str, Any] = {field: {**values, key: odd}}
            changed = replace(step, **change)
            methods = methods_text(list({**steps, name: changed}.values()), source=SOURCE)
            for paragraph in methods.paragraphs:
                assert not re.search(r"None|True|\bnan\b|\binf\b|\[\]|\{|\x1b|\n|@", paragraph), paragraph


@pytest.mark.parametrize("key", [*SOURCE, "run_scale_factors", "excluded_volumes", "warnings", "subsample"])
def test_an_unknown_source_never_fails(key: str) -> None:
    for odd in ODD:
        assert not re.search(r"None|nan|\x1b|\n|@|\{", text_of([], {**SOURCE, key: odd}).replace("\n", "", 1))


def test_data_cannot_cite() -> None:
    step = replace(
        steps_of(settings_of())["tract_masks"], networks={"Note": "see [@smith2002], [[@@otsu1979] and [\n@westin2002]"}
    )
    methods = methods_text([step], source={})
    assert not {"smith2002", "otsu1979", "westin2002"} & {one.key for one in methods.references}
