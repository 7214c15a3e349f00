"""The setting `tracts.bundle_thresholds`: names of TractSeg's bundles, and probabilities."""

from __future__ import annotations

import pytest

from kwneuro_assets.settings import PipelineSettings, SettingsError, load_settings
from kwneuro_assets.settings.bundles import BUNDLES

VARIABLE = "KWNEURO_TRACTS__BUNDLE_THRESHOLDS"


def test_the_names_are_those_of_tractseg_in_its_order() -> None:
    names = pytest.importorskip("tractseg.data.dataset_specific_utils")
    assert list(BUNDLES) == names.get_bundle_names("All")[1:]


def test_thresholds_are_given_as_a_mapping() -> None:
    found = load_settings(environment={VARIABLE: "{CA: 0.3, UF_left: 0.4}"})
    assert found.tracts.bundle_thresholds == {"CA": 0.3, "UF_left": 0.4}
    assert PipelineSettings().tracts.bundle_thresholds == {}


def test_an_unknown_bundle_is_an_error_that_lists_the_valid_names() -> None:
    with pytest.raises(SettingsError, match=r"expected a bundle of TractSeg, one of AF_left, .*, found 'CST'") as error:
        load_settings(environment={VARIABLE: "{CST: 0.3}"})
    assert all(name in str(error.value) for name in BUNDLES)
    assert f"{VARIABLE}: tracts.bundle_thresholds" in str(error.value)


@pytest.mark.parametrize("threshold", ["0", "1", "high"])
def test_a_threshold_is_a_probability_between_0_and_1(threshold: str) -> None:
    with pytest.raises(SettingsError, match=r"tracts\.bundle_thresholds"):
        load_settings(environment={VARIABLE: f"{{CA: {threshold}}}"})


def test_thresholds_and_probabilities_belong_to_the_masks_alone() -> None:
    from kwneuro_assets.assets import DERIVATIVES

    def versions(tree: dict[str, object]) -> dict[str, str]:
        settings = PipelineSettings.model_validate({"tracts": tree})
        return {derivative.name: derivative.code_version(settings) for derivative in DERIVATIVES}

    before = versions({})
    changes: list[dict[str, object]] = [{"bundle_thresholds": {"CA": 0.3}}, {"probabilities": True}]
    for tree in changes:
        after = versions(tree)
        assert {name for name in before if before[name] != after[name]} == {"tract_masks"}
    assert versions({"bundle_thresholds": {"CA": 0.3, "MCP": 0.4}}) == versions(
        {"bundle_thresholds": {"MCP": 0.4, "CA": 0.3}}
    )
