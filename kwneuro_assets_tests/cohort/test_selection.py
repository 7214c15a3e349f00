"""Selections of derivatives, with and without upstream derivatives."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from kwneuro_assets.assets import derivatives
from kwneuro_assets.cohort.selection import SelectionError, select, select_with_group, with_upstream
from kwneuro_assets.settings import PipelineSettings

TO_MASK = ["denoised_dwi", "mean_b0", "brain_mask"]
GROUP: Mapping[str, object] = {"csd": {"group_response": True}}
ALIGNED: Mapping[str, object] = {"tracts": {"align": "mni"}}


@pytest.mark.parametrize(
    ("tree", "names", "expected"),
    [
        ({}, ["dti"], [*TO_MASK, "dti"]),
        ({}, ["mean_b0"], ["denoised_dwi", "mean_b0"]),
        ({}, ["noddi", "dti"], [*TO_MASK, "dti", "noddi"]),
        ({}, ["tract_orientations"], [*TO_MASK, "fiber_response", "csd_peaks", "tract_masks", "tract_orientations"]),
        (GROUP, ["csd_peaks"], [*TO_MASK, "fiber_response", "group_response", "csd_peaks"]),
        (GROUP, ["dti"], [*TO_MASK, "dti"]),
        ({}, ["group_response"], ["group_response"]),
        (ALIGNED, ["mni_alignment"], [*TO_MASK, "dti", "mni_alignment"]),
        (ALIGNED, ["tract_masks"], [*TO_MASK, "dti", "mni_alignment", "fiber_response", "csd_peaks", "tract_masks"]),
        (ALIGNED, ["csd_peaks"], [*TO_MASK, "fiber_response", "csd_peaks"]),
        ({}, [], []),
    ],
)
def test_upstream_derivatives_are_added_in_topological_order(
    tree: Mapping[str, object], names: list[str], expected: list[str]
) -> None:
    assert with_upstream(PipelineSettings.model_validate(tree), names) == expected


def test_the_alignment_with_mni_space_exists_only_if_the_settings_ask_for_it() -> None:
    plain, used = PipelineSettings(), PipelineSettings.model_validate(ALIGNED)
    assert set(select(used, None)) - set(select(plain, None)) == {"mni_alignment"}
    assert select(used, "mni_alignment") == ["mni_alignment"]
    with pytest.raises(SelectionError, match="mni_alignment"):
        select(plain, "mni_alignment")
    names = [[one.name for one in derivatives(settings)] for settings in (plain, used)]
    assert [name for name in names[1] if name != "mni_alignment"] == names[0]
    changed = {
        one.name
        for one in derivatives(plain)
        if one.inputs(plain) != one.inputs(used) or one.code(plain) != one.code(used)
    }
    assert changed == {"tract_masks", "tract_endings", "tract_orientations", "subject_report"}


def test_no_selection_means_all_and_the_group_derivative_only_if_the_settings_use_it() -> None:
    plain, used = PipelineSettings(), PipelineSettings.model_validate(GROUP)
    assert select_with_group(plain, None) == select(plain, None) == select(used, None)
    assert set(select_with_group(used, None)) - set(select(used, None)) == {"group_response"}
    assert select_with_group(plain, "csd_peaks, group_response") == ["group_response", "csd_peaks"]
    with pytest.raises(SelectionError, match="selects no derivative of a subject"):
        select(plain, "group_response")
