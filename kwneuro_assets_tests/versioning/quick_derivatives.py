"""Quick stand-ins for what the derivatives compute: pure functions of inputs and settings with few different results.

A result is a hash that is cut short, so that other inputs often give the same again, and now and then none is
applicable. All else is the real thing: names, inputs, settings, mechanism, store and event log.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from dagster import DagsterInstance

from kwneuro_assets.assets import DERIVATIVES
from kwneuro_assets.assets.derivative import Derivative
from kwneuro_assets.errors import ActionableError
from kwneuro_assets.imaging import Dwi, NotApplicable, Report, ResponseFunction, Table, Volume
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.versioning import code
from kwneuro_assets.versioning.content import Value
from kwneuro_assets_tests.small_dataset import SIGNAL

# Each setting that varies, by section and key, and its values; the first is the one at the beginning.
OPTIONS: dict[str, tuple[Any, ...]] = {
    "source.subsample": (1, 2),
    "source.b0_threshold": (50, 60),
    "store.cache_gb": (2, 1),  # of no derivative
    "denoising.method": ("none", "auto", "patch2self"),
    "denoising.minimum_ratio": (20, 30),
    "brain_mask.method": ("provided", "median-otsu"),
    "dti.max_bvalue": (1500, 900, 1200),
    "noddi.dpar": (1.7e-3, 1.5e-3),
    "csd.series": ("auto", "denoised", "source"),
    "csd.method": ("auto", "single-tissue"),
    "csd.shell": ("auto", 2000),
    "csd.response": (None, "response.txt"),
    "csd.fa_threshold": (0.7, 0.8),
    "csd.peaks": (5, 3),
    "tracts.mask_threshold": (0.5, 0.4),
    "tracts.ending_threshold": (0.5, 0.4),
    "tracts.dilation": (1, 2),
}
RESULTS = 3
SELDOM_APPLICABLE = ("dti", "noddi", "fiber_response", "tract_masks")
NONE = "not applicable: "
BRIGHTER, MORE_WEIGHTED = 2.0, 1.1  # factors of the other content of an image and of its b-values

How = Literal["cancelled", "interrupted", "killed", "killed after its files were written"]
WRITTEN: How = "killed after its files were written"


class Killed(BaseException):
    """What a process does after it was killed: nothing."""


@dataclass
class Conduct:
    """How the stand-ins behave, and what was asked of them."""

    instance: DagsterInstance
    computed: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)  # they raise, until they are mended
    end: tuple[str, How] | None = None  # of the next run: in the middle of which derivative, and how
    dead: bool = False

    def enter(self, name: str) -> None:
        self.computed.append(name)
        if self.end and self.end[0] == name and self.end[1] != WRITTEN:
            if self.end[1] == "cancelled":  # as from the UI
                self.instance.report_run_canceling(self.instance.get_runs(limit=1)[0])
            self.dead = self.end[1] == "killed"
            self.end = None
            raise KeyboardInterrupt
        if name in self.broken:
            raise ActionableError(f"{name} is broken")

    def written(self, name: str) -> None:
        if self.end == (name, WRITTEN):
            self.dead, self.end = True, None
            raise KeyboardInterrupt


def outcome(name: str, number: int, inputs: Mapping[str, str], parameters: Mapping[str, str]) -> str:
    """What a derivative becomes, as a text: of its algorithm's number, its inputs and parameters alone."""
    asked = json.dumps([name, number, dict(inputs), dict(parameters)], sort_keys=True)
    chance = int(hashlib.sha256(asked.encode()).hexdigest()[:8], 16)
    if name in SELDOM_APPLICABLE and chance % 7 == 0:
        return f"{NONE}{name} asks for other data"
    return f"result {chance // 7 % RESULTS}"


def value_of(name: str, text: str) -> Value:
    """A value of the store that says this, of a type that differs from derivative to derivative."""
    if text.startswith(NONE):
        return NotApplicable(text.removeprefix(NONE))
    number = int(text.removeprefix("result "))
    if name == "brain_mask":
        return Volume(np.full((2, 2, 2), number, np.uint8), np.eye(4))
    if name == "fiber_response":
        return ResponseFunction(np.array([1000.0 + number, -300.0]), 2000.0)
    if name == "dti":
        return Table({"result": [number]}, {"result": "integer"})
    return Report(text)


def text_of(value: Value) -> str:
    """What a value says."""
    if isinstance(value, NotApplicable):
        return f"{NONE}{value.reason}"
    if isinstance(value, Dwi):
        return content_of_series(
            brighter=bool(value.array.max() > 1.5 * SIGNAL),
            more_weighted=bool(value.bvals.max() > 2100),
            turned=bool(value.gradients.bvecs[2, 0] > 0),
            subsample=8 // value.volume.grid[0],
            b0_threshold=value.gradients.b0_threshold,
        )
    if isinstance(value, Volume) and value.grid != (2, 2, 2):
        return content_of_mask(smaller=not value.array[: value.grid[0] // 2].any(), subsample=8 // value.grid[0])
    if isinstance(value, Volume):
        return f"result {value.array[0, 0, 0]}"
    if isinstance(value, ResponseFunction):
        return f"result {value.coefficients[0] - 1000:g}"
    if isinstance(value, Table):
        return f"result {value.columns['result'][0]}"
    assert isinstance(value, Report)
    return value.html


def content_of_series(*, brighter: bool, more_weighted: bool, turned: bool, subsample: int, b0_threshold: float) -> str:
    told = {"brighter": brighter, "more weighted": more_weighted, "turned": turned}
    return f"{[name for name, is_so in told.items() if is_so]} {subsample} {b0_threshold:g}"


def content_of_mask(*, smaller: bool, subsample: int) -> str:
    return f"{'smaller' if smaller else 'whole'} {subsample}"


def plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float | int) else str(value)


@contextmanager
def quick_derivatives(instance: DagsterInstance) -> Iterator[Conduct]:
    """Within the block, the stand-ins compute in place of the derivatives, and an instance whose process was killed
    takes nothing in."""
    conduct = Conduct(instance)
    real_store, real_write, real_lookup = instance.handle_new_event, DerivativeStore.write, code._installed
    before = {one.name: dict(vars(one)) for one in DERIVATIVES}

    def handle_new_event(*arguments: Any, **others: Any) -> Any:
        if conduct.dead:
            raise Killed
        return real_store(*arguments, **others)

    def write(self: DerivativeStore, asset: str, *others: Any) -> Any:
        sidecar = real_write(self, asset, *others)
        conduct.written(asset)
        return sidecar

    instance.handle_new_event = handle_new_event  # type: ignore[method-assign]
    DerivativeStore.write = write  # type: ignore[assignment, method-assign]
    code._installed = functools.cache(real_lookup)  # it takes most of the time of a status, and does not change here
    for one in DERIVATIVES:
        stands_in = {"compute": _stand_in(one, conduct), "picture": _picture(one.name), "summary": lambda *_: {}}
        _change(one, version=1, **stands_in)  # whatever the real one has come to
    try:
        yield conduct
    finally:
        instance.handle_new_event = real_store  # type: ignore[method-assign]
        DerivativeStore.write = real_write  # type: ignore[method-assign]
        code._installed = real_lookup
        for one in DERIVATIVES:
            _change(one, **before[one.name])


def set_number(name: str, number: int) -> None:
    """Raise the number of a derivative's algorithm, as an edit of its module does; undone where the block ends."""
    _change(next(one for one in DERIVATIVES if one.name == name), version=number)


def _change(one: Derivative, **values: Any) -> None:
    """In place: several modules have it by name."""
    for key, value in values.items():
        object.__setattr__(one, key, value)


def _stand_in(one: Derivative, conduct: Conduct) -> Callable[..., Value]:
    name = one.name

    @functools.wraps(one.compute)
    def compute(**arguments: Any) -> Value:
        conduct.enter(name)
        settings = arguments.pop("settings", None)
        inputs = {key: text_of(value) for key, value in arguments.items() if key not in ("progress", "weights")}
        varied = {option.partition(".")[2] for option in OPTIONS}
        parameters = {
            key: Path(value).read_text() if key == "response" and value else plain(value)
            for key, value in (settings.model_dump() if settings else {}).items()
            if key in varied
        }
        return value_of(name, outcome(name, one.version, inputs, parameters))

    return compute


def _picture(name: str) -> Callable[..., bytes]:
    """None (no bytes) but for one: a thumbnail takes longer than all the rest of a step."""
    if name != "mean_b0":
        return lambda *_: b""
    from PIL import Image

    encoded = io.BytesIO()
    Image.new("RGB", (8, 8)).save(encoded, "PNG")
    return lambda *_: encoded.getvalue()
