"""The checks of a subject: verdicts, limits and their settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from kwneuro_assets.imaging.table import Cell
from kwneuro_assets.qc.catalog import CATALOG, metric_of, ordered
from kwneuro_assets.qc.checks import DESCRIPTIONS, Check, Finding, evaluate
from kwneuro_assets.qc.limits import RULES, Limits
from kwneuro_assets.qc.outliers import MAX_Z, MIN_GROUP_SIZE
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.settings.quality import OutlierSettings, QualityLimitSettings
from kwneuro_assets.settings.source import SourceCheckSettings

DEFAULTS: Limits = QualityLimitSettings()  # mypy checks that the settings are Limits
CLEAN: dict[str, Cell] = {
    "gradient_correction": "none",
    "ndc": 0.9,
    "ndc_b1000": 0.85,
    "dropout_slices": 0,
    "mask_pieces": 1,
    "mask_volume_ml": 1400.0,
    "response_ratio": 0.2,
    "qsiprep_mean_fd": 0.3,
    "other_tool": 7.0,
}


def finding(metric: str, checks: tuple[Check, ...]) -> Finding:
    (found,) = [one for check in checks for one in check.findings if one.metric == metric]
    return found


def verdict(metric: str, value: Cell, limits: Limits = DEFAULTS) -> str:
    return finding(metric, evaluate({**CLEAN, metric: value}, limits)).verdict


def test_there_are_always_four_checks_in_the_same_order() -> None:
    for row in ({}, CLEAN, {"other_tool": 1}):
        assert [one.name for one in evaluate(row, DEFAULTS)] == ["acquisition", "artifacts", "mask", "model"]
    assert list(DESCRIPTIONS) == ["acquisition", "artifacts", "mask", "model"]


def test_a_clean_subject_passes_every_check() -> None:
    assert all(one.passed and not one.warnings for one in evaluate(CLEAN, DEFAULTS))


def test_a_value_at_its_limit_passes_and_one_beyond_it_is_a_warning() -> None:
    assert (verdict("ndc", 0.4), verdict("ndc", 0.3999)) == ("pass", "warn")
    assert (verdict("dropout_slices", 0), verdict("dropout_slices", 1)) == ("pass", "warn")
    assert (verdict("gradient_correction", "none"), verdict("gradient_correction", "flip x")) == ("pass", "warn")


def test_a_warning_fails_its_check_only_and_says_what_it_means() -> None:
    checks = evaluate({**CLEAN, "ndc": 0.3}, DEFAULTS)
    failed = [one for one in checks if not one.passed]
    assert [one.name for one in failed] == [metric_of("ndc").check]
    (warning,) = failed[0].warnings
    assert (warning.metric, warning.value, warning.limit) == ("ndc", 0.3, "at least 0.4")
    assert "do not resemble each other" in warning.message
    assert finding("ndc", evaluate(CLEAN, DEFAULTS)).message == ""


def test_a_missing_value_is_not_applicable_whether_it_has_a_limit_or_not() -> None:
    assert verdict("ndc", None) == "n/a"
    assert verdict("mask_volume_ml", None) == "n/a"
    assert all(one.passed for one in evaluate({}, DEFAULTS))


def test_a_metric_with_a_limit_is_listed_even_if_the_row_lacks_it() -> None:
    listed = {one.metric for check in evaluate({}, DEFAULTS) for one in check.findings}
    assert listed == {rule.metric for rule in RULES if "{" not in rule.metric}


def test_a_metric_without_a_limit_is_information() -> None:
    found = finding("mask_volume_ml", evaluate(CLEAN, DEFAULTS))
    assert (found.verdict, found.limit, found.message) == ("information", "", "")


def test_columns_that_belong_to_no_check_are_left_out() -> None:
    listed = {one.metric for check in evaluate(CLEAN, DEFAULTS) for one in check.findings}
    assert "other_tool" not in listed


def test_findings_are_in_the_order_of_the_catalog_whatever_that_of_the_row() -> None:
    backwards = dict(reversed(CLEAN.items()))
    assert evaluate(backwards, DEFAULTS) == evaluate(CLEAN, DEFAULTS)
    for check in evaluate(CLEAN, DEFAULTS):
        names = [one.metric for one in check.findings]
        assert names == ordered(names)


def test_a_limit_of_a_shell_holds_for_each_shell() -> None:
    row: dict[str, Cell] = {"residual_to_noise_b1000": 1.0, "residual_to_noise_b3000": 2.5}
    found = {one.metric: one.verdict for check in evaluate(row, DEFAULTS) for one in check.findings}
    assert (found["residual_to_noise_b1000"], found["residual_to_noise_b3000"]) == ("pass", "warn")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.metric)
def test_every_limit_is_of_a_metric_of_the_catalog_that_is_in_a_check(rule) -> None:  # type: ignore[no-untyped-def]
    (metric,) = [one for one in CATALOG if one.name == rule.metric]
    assert metric.check is not None
    assert (metric.kind == "text") == (rule.least is None and rule.most is None)
    # A limit on the better side of a metric would warn of the best subjects.
    assert metric.better != "higher" or rule.most is None
    assert metric.better != "lower" or rule.least is None


@pytest.mark.parametrize("field", QualityLimitSettings.model_fields)
def test_every_setting_is_the_limit_of_one_rule(field: str) -> None:
    schema = QualityLimitSettings.model_json_schema()["properties"][field]
    low, high = schema.get("minimum", schema.get("exclusiveMinimum", 0)), schema["maximum"]
    changed = high if schema["type"] == "integer" else (low + 3 * high) / 4
    other = QualityLimitSettings.model_validate({field: changed})
    assert len([rule for rule in RULES if rule.in_words(other) != rule.in_words(DEFAULTS)]) == 1


def test_a_limit_may_have_both_sides() -> None:
    values: dict[str, Cell] = {f"diffusivity_ratio_b{shell}_wm": shell / 10000 for shell in (6000, 8000, 9900)}
    found = {one.value: one for check in evaluate(values, DEFAULTS) for one in check.findings}
    assert [found[value].verdict for value in (0.6, 0.8, 0.99)] == ["warn", "pass", "warn"]
    assert found[0.8].limit == "0.72 to 0.95"


def test_an_uncertain_estimate_is_a_warning_only_well_beyond_the_limit() -> None:
    def rotation(error: Cell) -> str:
        row: dict[str, Cell] = {"gradient_rotation_deg": 9.0, "gradient_rotation_error_deg": error}
        return finding("gradient_rotation_deg", evaluate(row, DEFAULTS)).verdict

    assert [rotation(error) for error in (0.5, 1.9, 2.1, None)] == ["warn", "warn", "pass", "warn"]


def test_the_settings_decide() -> None:
    strict = QualityLimitSettings(min_ndc=0.95, max_dropout_slices=3)
    assert verdict("ndc", 0.9, strict) == "warn"
    assert verdict("dropout_slices", 3, strict) == "pass"
    assert finding("dropout_slices", evaluate(CLEAN, strict)).limit == "at most 3"


def test_the_section_of_the_settings_has_the_limits_beside_the_sanity_checks() -> None:
    section = PipelineSettings().checks
    assert {*SourceCheckSettings.model_fields, *QualityLimitSettings.model_fields} <= {*type(section).model_fields}
    assert verdict("ndc", 0.9, type(section)(min_ndc=0.95)) == "warn"


def test_the_defaults_of_the_outliers_are_those_of_the_settings() -> None:
    assert OutlierSettings() == OutlierSettings(max_robust_z=MAX_Z, min_group_size=MIN_GROUP_SIZE)


def test_every_message_is_one_line_that_ends_with_a_period() -> None:
    for rule in RULES:
        assert rule.message.endswith(".")
        assert rule.message.count(".") <= 1 + rule.message.count("%")
        assert "\n" not in rule.message


def test_the_documentation_lists_every_limit_with_its_default() -> None:
    page = Path(__file__).parents[2] / "docs" / "quality.md"
    if not page.is_file():
        pytest.skip("the documents are not installed with the package")
    text = page.read_text(encoding="utf-8")
    for rule in RULES:
        assert f"`{rule.metric}` | {rule.in_words(DEFAULTS)} |" in text
    for section, kind in (("checks", QualityLimitSettings), ("cohort", OutlierSettings)):
        for field in kind.model_fields:
            assert f"`{section}.{field}`" in text
