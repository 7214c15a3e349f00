"""Compares a computed entry with the recorded one and says what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kwneuro_assets_tests.golden.compute import Record

FILE = Path(__file__).with_name("digests.json")
UPDATE = "python -m kwneuro_assets_tests.golden.update"
# Of the largest magnitude of a map. AVX-512 and SSE kernels, NumPy 2.2 and 2.5 changed no summary by more than 2e-6.
TOLERANCE = 2e-5


def recorded() -> Record:
    """The content of `digests.json`."""
    content: Record = json.loads(FILE.read_text(encoding="utf-8"))
    return content


def same_environment(known: Record, found: Record) -> bool:
    """Whether everything that is known of both environments is the same."""
    return all(known.get(key) == value for key, value in found.items())


def problem(name: str, known: Record | None, found: Record, *, exact: bool) -> str | None:
    """What is wrong with an entry, and the remedy; None if nothing is.

    `known` is its record in the file, `found` that of the present code; `exact` says whether data versions are
    compared, or only summaries with `TOLERANCE`.
    """
    if known is None:
        return f"{name}: has no recorded digest. Run: {UPDATE}"
    if known["parameters"] != found["parameters"]:
        return f"{name}: expected the parameters {known['parameters']}, found {found['parameters']}. Run: {UPDATE}"
    differences = list(_differences(known, found, exact=exact))
    if known["version"] != found["version"]:
        change = "its result changed" if differences else "its result did not change"
        return (
            f"{name}: the algorithm version was raised from {known['version']} to {found['version']}, and {change}. "
            f"Run: {UPDATE}"
        )
    if not differences:
        return None
    asset = name.split()[0]
    if known["version"] is None:
        return (
            f"{name}: the value that is read from the source changed: {'; '.join(differences)}. Restore it, or raise "
            f"the algorithm version of every derivative and run: {UPDATE} --accept"
        )
    return (
        f"{name}: the result changed, but not the algorithm version ({known['version']}): {'; '.join(differences)}. "
        f"Restore the numbers, or raise `version` in kwneuro_assets/assets/{asset}.py and run: {UPDATE}"
    )


def _differences(known: Record, found: Record, *, exact: bool) -> Iterator[str]:
    if exact and known["data_version"] == found["data_version"]:
        return
    summaries = list(_different_summaries(known["summary"], found["summary"]))
    yield from summaries
    if exact and not summaries:
        yield f"the data version was {known['data_version'][:12]} and is {found['data_version'][:12]}"


def _different_summaries(known: Record, found: Record) -> Iterator[str]:
    if known.keys() != found.keys():
        yield f"expected {', '.join(known) or 'no array'}, found {', '.join(found) or 'no array'}"
        return
    for name, one in known.items():
        other = found[name]
        for key in ("shape", "dtype"):
            if one[key] != other[key]:
                yield f"{key} of {name} was {one[key]} and is {other[key]}"
                return
        for key in ("mean", "rms", "moments"):
            before, now = _numbers(one[key]), _numbers(other[key])
            apart = max((abs(a - b) for a, b in zip(before, now, strict=True)), default=0.0)
            if apart > TOLERANCE * one["largest"]:
                yield f"{key} of {name} was {one[key]} and is {other[key]}"
                break


def _numbers(value: Any) -> list[float]:
    return value if isinstance(value, list) else [value]
