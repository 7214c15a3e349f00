"""The page of a cohort: one HTML file for up to 10,000 subjects, without network access."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from kwneuro_assets.reports.cohort_content import CohortContent
from kwneuro_assets.reports.cohort_packing import cohort_packs
from kwneuro_assets.reports.embedding import checked_script, checked_style, security_policy
from kwneuro_assets.reports.rendering import render
from kwneuro_assets.reports.static_files import static_text

LISTED = 200  # failures, and quarantined subjects, that the page lists
STATES = ("fresh", "not-applicable", "running", "stale", "stale-upstream", "missing", "failed")  # as `status` has them
_ATTENTION = frozenset({"stale", "stale-upstream", "missing", "failed"})
_STYLES = ("common.css", "cohort.css")
_SCRIPTS = (  # the last one starts the page
    "cohort_data.js",
    "cohort_ratings.js",
    "cohort_view.js",
    "cohort_columns.js",
    "cohort_table.js",
    "cohort_strip.js",
    "cohort_plots.js",
    "cohort_images.js",
    "cohort_filters.js",
    "cohort_rater.js",
    "cohort.js",
)
# Images beside the page: `'self'` is their origin on a web server, and in Chromium also for a file; other browsers give
# files no origin.
_IMAGES = {"img-src": ["'self'", "file:"]}


@dataclass(frozen=True)
class Tile:
    """A number of the summary; `attention` if the user should do something about it."""

    label: str
    text: str
    attention: bool = False


def cohort_page(content: CohortContent) -> str:
    """The page as HTML, to be encoded as UTF-8 and stored at the root of the store, where its links lead from.

    It shows the summary of states, the distribution of each metric with its outliers, a sortable table, and the QC
    figures of the subjects, and takes ratings. It loads nothing but those figures, from the folders beside it; a
    content security policy forbids all else. Equal contents give equal pages.
    """
    from markupsafe import Markup

    style, script = _style(), _script()
    # HTML parsers drop no character of these two elements, so their hashes are those of the text as it is here.
    return render(
        "cohort.html",
        content=content,
        policy=security_policy(scripts=[script], styles=[style], sources=_IMAGES),
        style=Markup(style),  # checked to not end its element
        script=Markup(script),
        packs=cohort_packs(content),
        tiles=_tiles(content),
        states=_states(content.states),
        lists=_lists(content),
        judged=bool(np.isfinite(content.outliers.z).any()),
        counted=_counted,
    )


def _tiles(content: CohortContent) -> list[Tile]:
    states: dict[str, int] = {}
    for counts in content.states.values():
        for state, count in counts.items():
            states[state] = states.get(state, 0) + count
    failed = sum(bool(content.failed_checks.get(key)) for key in content.keys)
    outlying = int(np.count_nonzero(content.outliers.beyond.any(axis=1)))
    excluded = sum(rating.verdict == "exclude" for rating in content.ratings.values())
    numbers = [
        ("subjects", content.table.row_count, False),
        ("with a failed check", failed, True),
        ("with an outlier", outlying, True),
        ("quarantined", len(content.quarantined), True),
        ("rated exclude", excluded, False),
        ("derivatives missing", states.get("missing", 0), True),
        ("derivatives stale", states.get("stale", 0) + states.get("stale-upstream", 0), True),
        ("derivatives failed", states.get("failed", 0), True),
        ("derivatives running", states.get("running", 0), False),
    ]
    return [Tile(label, f"{count:,}", attention and count > 0) for label, count, attention in numbers]


def _states(states: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """The table of states: a column for each state, those that this package does not know last."""
    known = {state for counts in states.values() for state in counts}
    names = [*STATES, *sorted(known.difference(STATES))]

    def cells(counts: Mapping[str, int]) -> list[dict[str, Any]]:
        return [
            {"count": counts.get(name, 0), "attention": name in _ATTENTION and counts.get(name, 0) > 0}
            for name in names
        ]

    return {"names": names, "rows": [{"asset": asset, "cells": cells(counts)} for asset, counts in states.items()]}


def _lists(content: CohortContent) -> list[dict[str, Any]]:
    failures = sorted(content.failures, key=lambda one: (one.subject, one.asset, one.reason))
    return [
        _list("Failed", ("Subject", "Asset", "Reason"), [(one.subject, one.asset, one.reason) for one in failures]),
        _list("Quarantined", ("Subject", "Reason"), sorted(content.quarantined.items())),
    ]


def _list(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, Any]:
    return {"title": title, "header": header, "count": len(rows), "rows": rows[:LISTED]}


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


@cache
def _style() -> str:
    return checked_style(_joined(_STYLES))


@cache
def _script() -> str:
    """All scripts in one function, so that their names are not global: an element's id would be one, too."""
    return checked_script(f'"use strict";\n(() => {{\n{_joined(_SCRIPTS)}}})();\n')


def _joined(names: Iterable[str]) -> str:
    return "".join(map(static_text, names))
