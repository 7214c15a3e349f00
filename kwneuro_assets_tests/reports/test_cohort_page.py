"""The cohort page as text, and the numbers inside it. What it does in a browser: test_cohort_browser.py."""

from __future__ import annotations

import base64
import json
import re
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kwneuro_assets.imaging import InvalidData, Table
from kwneuro_assets.qc.metrics import Metric
from kwneuro_assets.qc.ratings import Rating
from kwneuro_assets.reports.cohort_content import CohortContent, Failure
from kwneuro_assets.reports.cohort_packing import cohort_packs, short_floats
from kwneuro_assets.reports.cohort_page import LISTED, cohort_page
from kwneuro_assets.reports.embedding import hash_source
from kwneuro_assets_tests.reports.synthetic_cohort import outliers_of, synthetic_cohort, with_outliers

HOSTILE = "</script><img src=x onerror=alert(1)>"
METRIC = Metric("a", "A", "A measure.", "1", "higher", "mask")


def unpacked(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))


def numbers(text: str, kind: str, rows: int) -> NDArray[Any]:
    """The rows of a data block that has its numbers in planes, one number at a time: the slow, obvious way."""
    content, size = unpacked(text), np.dtype(kind).itemsize
    count = len(content) // size
    found = b"".join(bytes(content[plane * count + at] for plane in range(size)) for at in range(count))
    return np.frombuffer(found, kind).reshape(rows, -1)


def has_digits(rounded: float, value: float) -> bool:
    """Whether four digits of both are the same; half a unit of the last one may be rounded to either side."""
    return f"{rounded:.4g}" in {f"{value * (1 + error):.4g}" for error in (-1e-12, 0, 1e-12)}


def small(columns: dict[str, Any], kinds: dict[str, Any], **fields: Any) -> CohortContent:
    table = Table(columns, kinds)
    metrics = {name: METRIC for name in columns if name not in ("participant_id", "session_id")}
    return CohortContent("set", "1", table, metrics, outliers_of(table), 3.5, **fields)


def test_the_same_content_gives_the_same_bytes() -> None:
    assert cohort_page(synthetic_cohort(30, groups=3)) == cohort_page(synthetic_cohort(30, groups=3))


def test_the_order_of_mappings_and_collections_does_not_matter() -> None:
    content = synthetic_cohort(40, groups=3)
    shuffled = replace(
        content,
        groups=dict(reversed(list(content.groups.items()))),
        failed_checks={
            key: sorted(found, reverse=True) for key, found in reversed(list(content.failed_checks.items()))
        },
        reports=sorted(content.reports, reverse=True),
        images=set(content.images),
        quarantined=dict(reversed(list(content.quarantined.items()))),
    )
    assert cohort_page(shuffled) == cohort_page(content)


def test_values_are_packed_with_four_digits_and_integers_exactly() -> None:
    content = synthetic_cohort(200, 12)
    values = numbers(cohort_packs(content)["values"], "<f4", len(content.metric_columns))
    for name, row in zip(content.metric_columns, values, strict=True):
        for cell, value in zip(content.table.columns[name], row.tolist(), strict=True):
            if cell is None:
                assert np.isnan(value)
            elif content.table.kinds[name] == "number":
                assert has_digits(value, float(cell)), name
            elif content.table.kinds[name] == "integer":
                assert value == cell, name


def test_four_digits_survive_at_every_size() -> None:
    rng = np.random.default_rng(1)
    values = rng.uniform(1, 10, 20_000) * 10.0 ** rng.integers(-30, 30, 20_000) * rng.choice([-1, 1], 20_000)
    values[:6] = 0, np.nan, 1e300, -1e300, 1e-300, 9.9999
    short = short_floats(values)
    for value, rounded in zip(values[5:].tolist(), short[5:].tolist(), strict=True):
        assert has_digits(rounded, value)
    assert short[0] == 0
    assert np.isnan(short[1])
    assert (short[2], short[3]) == (-short[3], -short[2])
    assert short[4] == 0
    low_bits = np.delete(short, [1, 2, 3]).view(np.uint32) & np.uint32(511)
    assert not low_bits.any()


def test_scores_are_packed_only_beyond_the_limit_and_never_vanish() -> None:
    content = synthetic_cohort(400, 20)
    outliers = content.outliers
    assert outliers.beyond.any()
    outliers.z[np.argmax(outliers.beyond[:, 0]), 0] = 0.01  # rounds to 0 in tenths
    packs = numbers(cohort_packs(content)["outliers"], "<i2", len(content.metric_columns))
    for index, name in enumerate(outliers.columns):
        row = packs[content.metric_columns.index(name)]
        assert np.array_equal(row != 0, outliers.beyond[:, index]), name
        found = outliers.beyond[:, index]
        assert np.abs(row[found] / 10 - outliers.z[found, index]).max(initial=0) <= 0.1, name


def test_texts_are_packed_as_positions_in_their_order() -> None:
    content = small(
        {"participant_id": ["sub-1", "sub-2", "sub-3", "sub-4"], "a": ["z", None, "b", "z"]},
        {"participant_id": "text", "a": "text"},
    )
    packs = cohort_packs(content)
    assert json.loads(unpacked(packs["labels"]))["metrics"][0]["texts"] == ["b", "z"]
    assert numbers(packs["values"], "<f4", 1)[0, [0, 2, 3]].tolist() == [1, 0, 1]


def test_checks_links_and_groups_are_packed_by_subject() -> None:
    content = small(
        {"participant_id": ["sub-1", "sub-2", "..", "sub-4"], "a": [1.0, 2.0, 3.0, 4.0]},
        {"participant_id": "text", "a": "number"},
        failed_checks={"sub-1": ("mask",), "sub-4": ("acquisition", "model")},
        groups={"sub-1": "site 10", "sub-2": "site 9"},
        reports={"sub-1", ".."},
        images={"sub-1", "sub-2"},
    )
    packs = cohort_packs(content)
    flags = unpacked(packs["subjects"])
    assert list(flags[:4]) == [0b0100, 0, 0, 0b1001]
    assert list(flags[4:8]) == [7, 6, 0, 4], "a key that is no subject has no links"
    assert list(flags[8:12]) == [2, 1, 0, 0], "site 9 is before site 10"


def test_sessions_are_part_of_the_key() -> None:
    content = small(
        {"participant_id": ["sub-1", "sub-1"], "session_id": ["ses-1", None], "a": [1, 2]},
        {"participant_id": "text", "session_id": "text", "a": "integer"},
    )
    assert content.keys == ("sub-1_ses-1", "sub-1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: {"metrics": {}}, "metrics: expected one for each column"),
        (lambda one: {"outliers": outliers_of(Table({"a": [1.0]}, {"a": "number"}))}, "outliers: expected shape"),
        (lambda one: {"table": Table({"a": [1.0]}, {"a": "number"})}, "expected a column participant_id"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(change: Any, message: str) -> None:
    content = synthetic_cohort(5)
    with pytest.raises(InvalidData) as raised:
        replace(content, **change(content))
    assert message in str(raised.value)


def test_a_subject_in_two_rows_is_refused() -> None:
    with pytest.raises(InvalidData, match="one row per subject"):
        small({"participant_id": ["sub-1", "sub-1"], "a": [1, 2]}, {"participant_id": "text", "a": "integer"})


def test_the_summary_counts_states_checks_outliers_and_ratings() -> None:
    content = synthetic_cohort(100, ratings={"sub-00001": Rating("exclude"), "sub-00002": Rating("good")})
    tiles = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", cohort_page(content))[:9])
    expected = {
        "subjects": 100,
        "with a failed check": len(content.failed_checks),
        "with an outlier": len(with_outliers(content)),
        "quarantined": 1,
        "rated exclude": 1,
        "derivatives missing": 6,
        "derivatives stale": 7,
        "derivatives failed": 1,
        "derivatives running": 0,
    }
    assert {label: int(text) for label, text in tiles.items()} == expected


def test_long_lists_are_cut_and_say_so() -> None:
    failures = [Failure(f"sub-{at:04d}", "dti", "no space left") for at in range(LISTED + 30)]
    page = cohort_page(synthetic_cohort(5, failures=failures))
    assert page.count("no space left") == LISTED
    assert "And 30 more" in page


def test_every_text_of_the_data_is_escaped() -> None:
    table = Table(
        {"participant_id": [HOSTILE, "sub-2"], "a": [1.0, 2.0], "b": [HOSTILE, "x"]},
        {"participant_id": "text", "a": "number", "b": "text"},
    )
    metric = Metric("a", HOSTILE, HOSTILE, HOSTILE, "higher", "mask")
    content = CohortContent(
        HOSTILE, HOSTILE, table, {"a": metric, "b": metric}, outliers_of(table), 3.5,
        group_name=HOSTILE, groups={"sub-2": HOSTILE}, states={HOSTILE: {HOSTILE: 1}},
        failures=[Failure(HOSTILE, HOSTILE, HOSTILE)], quarantined={HOSTILE: HOSTILE},
        ratings={"sub-2": Rating("good", HOSTILE, HOSTILE)}, ratings_file=HOSTILE, reports={HOSTILE}, images={HOSTILE},
    )  # fmt: skip
    page = cohort_page(content)
    assert "<img" not in page
    assert page.count("<script") == page.count("</script>") == 5
    assert "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;" in page


def test_the_policy_allows_the_style_and_script_of_the_page_and_no_network() -> None:
    page = cohort_page(synthetic_cohort(5))
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', page)
    assert policy
    style, script = re.search(r"<style>(.*?)</style>", page, re.S), re.search(r"<script>(.*?)</script>", page, re.S)
    assert style
    assert script
    allowed = policy[1].replace("&#39;", "'").replace("&#34;", '"').split("; ")
    assert f"script-src {hash_source(script[1])}" in allowed
    assert f"style-src {hash_source(style[1])}" in allowed
    assert "default-src 'none'" in allowed
    assert not re.search(r"https?://|unsafe", page), "nothing is loaded from elsewhere"
    assert not re.search(r"<[^>]* (style|on\w+)=", re.sub(r"<script.*?</script>", "", page, flags=re.S))


def test_a_subject_with_sixty_metrics_takes_less_than_200_bytes() -> None:
    few, many = (len(cohort_page(synthetic_cohort(count, 60, groups=12)).encode()) for count in (100, 1100))
    assert (many - few) / 1000 < 200  # 60 numbers as text would be 360


def test_a_cohort_too_small_for_outliers_says_so() -> None:
    assert "too few subjects" in cohort_page(synthetic_cohort(6))
    assert "too few subjects" not in cohort_page(synthetic_cohort(60))


def test_a_cohort_without_subjects_has_a_page() -> None:
    content = small({"participant_id": [], "a": []}, {"participant_id": "text", "a": "number"})
    assert "0 subjects" in cohort_page(content)


def test_notes_are_shown_as_text() -> None:
    page = cohort_page(replace(synthetic_cohort(3, 2), notes=("participants.tsv, line 3: expected <2> cells",)))
    assert "<li>participants.tsv, line 3: expected &lt;2&gt; cells</li>" in page
