"""Stand-ins for derivatives that take a network or minutes: values of the right type on a small subject's grid."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from kwneuro_assets.assets.derivative import Derivative
from kwneuro_assets.errors import ActionableError
from kwneuro_assets.imaging import MapSet, NotApplicable, ResponseFunction, Volume
from kwneuro_assets.imaging.content_hash import Value
from kwneuro_assets_tests.testkit.small_dataset import AFFINES, head


def _map(*entries: int) -> Volume:
    inside = head().reshape(*head().shape, *(1 for _ in entries))
    return Volume(np.where(inside, np.float32(0.5), np.zeros(entries, np.float32)), AFFINES["right-handed"])


def _masks(count: int) -> Volume:
    return Volume(np.repeat(head()[..., None], count, axis=3), AFFINES["right-handed"], tuple(map(str, range(count))))


STAND_INS: dict[str, Callable[[], Value]] = {
    "brain_mask": lambda: Volume(head(), AFFINES["right-handed"]),
    "noddi": lambda: MapSet({**{name: _map() for name in ("ndi", "odi", "fwf")}, "direction": _map(3)}),
    "fiber_response": lambda: ResponseFunction(np.array([1000.0, -300.0, 50.0]), 2000.0, 100),
    "csd_peaks": lambda: MapSet({"peaks": _map(9), "peakvalues": _map(3)}),
    "tract_masks": lambda: _masks(72),
    "tract_endings": lambda: _masks(144),
    "tract_orientations": lambda: _map(216),
}


def failing() -> Value:
    raise ActionableError("the response function is larger than the signal of every voxel")


def not_applicable() -> Value:
    return NotApplicable("needs a shell that the DWI does not have")


def with_stand_in(real: Derivative, stand_ins: Mapping[str, Callable[[], Value]]) -> Derivative:
    """The derivative with its own inputs, settings and versions, an empty figure, and its stand-in if it has one."""
    from PIL import Image

    encoded = io.BytesIO()
    Image.new("RGB", (8, 8)).save(encoded, "PNG")
    quick = replace(real, figure=lambda *_: encoded.getvalue())
    if real.name not in stand_ins:
        return quick
    value = stand_ins[real.name]
    return replace(quick, compute=functools.wraps(real.compute)(lambda **_: value()))
