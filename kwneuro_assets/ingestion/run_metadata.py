"""The acquisition parameters in the JSON files of runs, and whether the runs may be joined."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from upath import UPath

from kwneuro_assets.imaging import InvalidData
from kwneuro_assets.ingestion.bids_names import entities_of
from kwneuro_assets.ingestion.series import Run, Series

TIME_TOLERANCE = 0.01  # fraction of the longer time: files round times to some digits
_TIMES = ("RepetitionTime", "TotalReadoutTime")  # in s; a difference need not harm a fit
_Acquisition = Mapping[str, Any]


def merged_sidecars(run: Run, contents: Mapping[UPath, bytes]) -> tuple[dict[str, Any], list[str]]:
    """The merged JSON files of a run, in which the more specific file overrides, and a warning for each file that is no
    JSON object.
    """
    merged: dict[str, Any] = {}
    warnings = []
    for path in run.sidecars:
        try:
            tree = json.loads(contents[path].decode("utf-8-sig"))
        except ValueError:  # also raised by the decoding
            tree = None
        if isinstance(tree, dict):
            merged |= tree
        else:
            warnings.append(f"{path.name} contains no JSON object: its acquisition parameters are not known")
    return merged, warnings


def require_joinable(series: Series, acquisitions: Sequence[_Acquisition]) -> list[str]:
    """Warnings about runs that were acquired differently.

    Raises InvalidData if the phase encoding or the echo time differs: distortions or contrast differ then, and no joint
    fit is right. Runs that were corrected for distortions may differ in their phase encoding.
    """
    warnings = []
    first, *others = zip(series.runs, acquisitions, strict=True)
    for run, acquisition in others:
        pair = (first[0].image.name, run.image.name)
        encodings = _phase_encodings(first, (run, acquisition))
        if encodings[0] != encodings[1]:
            if not series.interpolated:
                raise _refusal("phase encoding", encodings, pair)
            warnings.append(_difference("phase encoding", encodings, pair))
        times = [_number(one.get("EchoTime")) for one in (first[1], acquisition)]
        if _differ(times):
            shown = [f"{time:g} s" for time in times]
            raise _refusal("echo time", shown, pair)
        for name in _TIMES:
            values = [_number(one.get(name)) for one in (first[1], acquisition)]
            if _differ(values):
                warnings.append(_difference(name, [f"{value:g} s" for value in values], pair))
        parts = [one.get("MultipartID") for one in (first[1], acquisition)]
        if None not in parts and parts[0] != parts[1]:
            warnings.append(_difference("MultipartID", parts, pair))
    return warnings


def _phase_encodings(*runs: tuple[Run, _Acquisition]) -> tuple[str, str]:
    """The phase encoding of both runs in the most precise form that both have: direction, axis, or the dir label of
    their names. Two empty texts if there is none.
    """
    directions = [_text(acquisition.get("PhaseEncodingDirection")) for _, acquisition in runs]
    axes = [
        direction[:1] or _text(acquisition.get("PhaseEncodingAxis"))[:1]
        for direction, (_, acquisition) in zip(directions, runs, strict=True)
    ]
    labels = [f"dir-{label}" if label else "" for label in (entities_of(run.image.name).get("dir") for run, _ in runs)]
    return next(((one, other) for one, other in (directions, axes, labels) if one and other), ("", ""))


def _text(value: Any) -> str:
    return value.strip().lower().removesuffix("+") if isinstance(value, str) else ""


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _differ(values: Sequence[float | None]) -> bool:
    one, other = values
    return one is not None and other is not None and abs(one - other) > TIME_TOLERANCE * max(abs(one), abs(other))


def _difference(what: str, values: Sequence[Any], names: tuple[str, str]) -> str:
    return f"{what} differs between the runs: {_each(values, names)}"


def _each(values: Sequence[Any], names: tuple[str, str]) -> str:
    return ", ".join(f"{value} in {name}" for value, name in zip(values, names, strict=True))


def _refusal(what: str, values: Sequence[Any], names: tuple[str, str]) -> InvalidData:
    own = [entities_of(name) for name in names]
    differing = [key for key in ("acq", "dir", "run") if own[0].get(key) != own[1].get(key)]
    settings = [f"source.{key}" for key in differing]
    return InvalidData(
        f"{what} of the runs",
        expected="the same in all joined runs",
        found=_each(values, names),
        remedy=f"Choose runs that belong together with {' or '.join([*settings, 'source.select'])}.",
    )
