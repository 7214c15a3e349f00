"""Fast replacements of the functions that compute derivatives: pure functions with few different results.

A result is a short hash of inputs and settings, so that changed inputs often give an unchanged result, and sometimes a
derivative is not applicable. Of an input that may be missing, the default counts as no input. Everything else is real:
names, inputs, settings, mechanism, store and event log.
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
from kwneuro_assets.assets.derivative import PROVIDED, Checks, Derivative
from kwneuro_assets.errors import ActionableError
from kwneuro_assets.imaging import Dwi, NotApplicable, Report, ResponseFunction, Table, Volume
from kwneuro_assets.imaging.content_hash import Value, data_version
from kwneuro_assets.qc.checks import DESCRIPTIONS, Check, Finding
from kwneuro_assets.reports.content import Step
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.versioning import code
from kwneuro_assets.weights import NETWORKS as WEIGHT_FILES
from kwneuro_assets_tests.testkit.small_dataset import SIGNAL

# Each setting that varies, by section and key, with its values; the first is the initial one.
OPTIONS: dict[str, tuple[Any, ...]] = {
    "source.subsample": (1, 2),
    "source.b0_threshold": (50, 60),
    "store.cache_gb": (2, 1),  # used by no derivative
    "denoising.method": ("none", "auto", "patch2self"),
    "denoising.min_ratio": (20, 30),
    "brain_mask.method": ("provided", "median-otsu"),
    "dti.max_bvalue": (1500, 900, 1200),
    "noddi.dpar": (1.7e-3, 1.5e-3),
    "csd.series": ("auto", "denoised", "source"),
    "csd.method": ("auto", "single-tissue"),
    "csd.shell": ("auto", 2000),
    "csd.wm_response": (None, "response.txt"),
    "csd.fa_threshold": (0.7, 0.8),
    "csd.max_peaks": (5, 3),
    "tracts.mask_threshold": (0.5, 0.4),
    "tracts.ending_threshold": (0.5, 0.4),
    "tracts.dilation": (1, 2),
    "report.embed": (False, True),
    "checks.max_mask_pieces": (1, 2),  # the limit of all checks here, and a parameter of the report
}
# The derivatives with a network whose weights vary: one of these texts in each file, or absent.
NETWORKS = {
    "tract_masks": "tractseg-masks",
    "tract_endings": "tractseg-endings",
    "tract_orientations": "tractseg-orientations",
}
WEIGHTS: tuple[str | None, ...] = ("some weights", "other weights", None)
RESULTS = 3
SOMETIMES_NOT_APPLICABLE = ("dti", "noddi", "fiber_response", "tract_masks", "dwi_qc")
NONE = "not applicable: "
BRIGHTER, MORE_WEIGHTED = 2.0, 1.1  # factors between the two contents of an image and of its b-values

How = Literal["canceled", "interrupted", "killed", "killed after its files were written"]
WRITTEN: How = "killed after its files were written"


class Killed(BaseException):
    """Raised instead of everything that a killed process would still do."""


@dataclass
class Behavior:
    """How the replacements behave, and which of them were called.

    `texts` has the content of each asset by its name and data version: that of a `Step`, which has no value.
    """

    instance: DagsterInstance
    computed: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)  # these raise an error
    end: tuple[str, How] | None = None  # of the next run: during which derivative, and how
    dead: bool = False
    texts: dict[tuple[str, str], str] = field(default_factory=dict)

    def enter(self, name: str) -> None:
        self.computed.append(name)
        if self.end and self.end[0] == name and self.end[1] != WRITTEN:
            if self.end[1] == "canceled":  # as from the UI
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

    def text_of_step(self, one: Step) -> str | None:
        """The content of the asset that a step computed; None if it was never computed."""
        if one.state == "missing":
            return None
        if one.state == "not applicable":
            return f"{NONE}{one.reason}"
        return self.texts.get((one.name, one.data_version), one.data_version)  # of the source, any text will do


def outcome(name: str, number: int, inputs: Mapping[str, str], parameters: Mapping[str, str]) -> str:
    """The result of a derivative as text; depends only on algorithm version, inputs, parameters and weights.

    The weights are among the parameters, by the name of the network.
    """
    asked = json.dumps([name, number, dict(inputs), dict(parameters)], sort_keys=True)
    chance = int(hashlib.sha256(asked.encode()).hexdigest()[:8], 16)
    if name in SOMETIMES_NOT_APPLICABLE and chance % 7 == 0:
        return f"{NONE}{name} asks for other data"
    return f"result {chance // 7 % RESULTS}"


def value_of(name: str, text: str) -> Value:
    """A value that encodes this text; its type depends on the derivative."""
    if text.startswith(NONE):
        return NotApplicable(text.removeprefix(NONE))
    number = int(text.removeprefix("result "))
    if name == "brain_mask":
        return Volume(np.full((2, 2, 2), number, np.uint8), np.eye(4))
    if name == "fiber_response":
        return ResponseFunction(np.array([1000.0 + number, -300.0]), 2000.0)
    if name in ("dti", "dwi_qc"):
        return Table({"result": [number]}, {"result": "integer"})
    return Report(text)


def text_of(value: Value) -> str:
    """The text that a value encodes."""
    if isinstance(value, NotApplicable):
        return f"{NONE}{value.reason}"
    if isinstance(value, Dwi):
        return content_of_dwi(
            brighter=bool(value.array.max() > 1.5 * SIGNAL),
            more_weighted=bool(value.bvals.max() > 2100),
            rotated=bool(value.gradients.bvecs[2, 0] > 0),
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


def passes(text: str, limit: int) -> bool:
    """Whether the checks of a derivative with this result pass; those of one that is not applicable do."""
    return text.startswith(NONE) or int(text.removeprefix("result ")) < limit


def content_of_dwi(*, brighter: bool, more_weighted: bool, rotated: bool, subsample: int, b0_threshold: float) -> str:
    changes = {"brighter": brighter, "more weighted": more_weighted, "rotated": rotated}
    return f"{[name for name, is_changed in changes.items() if is_changed]} {subsample} {b0_threshold:g}"


def content_of_mask(*, smaller: bool, subsample: int) -> str:
    return f"{'smaller' if smaller else 'entire'} {subsample}"


def plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float | int) else str(value)


@contextmanager
def quick_derivatives(instance: DagsterInstance) -> Iterator[Behavior]:
    """Within the block, the replacements compute the derivatives, and an instance whose process was killed stores
    nothing.
    """
    behavior = Behavior(instance)
    real_store, real_write, real_lookup = instance.handle_new_event, DerivativeStore.write, code._installed
    before = {one.name: dict(vars(one)) for one in DERIVATIVES}

    def handle_new_event(*arguments: Any, **others: Any) -> Any:
        if behavior.dead:
            raise Killed
        return real_store(*arguments, **others)

    def write(self: DerivativeStore, asset: str, *others: Any) -> Any:
        sidecar = real_write(self, asset, *others)
        behavior.written(asset)
        return sidecar

    instance.handle_new_event = handle_new_event  # type: ignore[method-assign]
    DerivativeStore.write = write  # type: ignore[assignment, method-assign]
    code._installed = functools.cache(real_lookup)  # it takes most of the time of a status and is constant here
    for one in DERIVATIVES:
        figure = _figure(one.name) if one.figure else None
        checks = Checks(DESCRIPTIONS, _checks) if one.checks else None
        _change(one, compute=_replacement(one, behavior), figure=figure, summary=lambda *_: {}, checks=checks)
        # Independent of the real algorithm version, and without a dictionary of columns that the table lacks.
        _change(one, version=1, dictionary=None)
    try:
        yield behavior
    finally:
        instance.handle_new_event = real_store  # type: ignore[method-assign]
        DerivativeStore.write = real_write  # type: ignore[method-assign]
        code._installed = real_lookup
        for one in DERIVATIVES:
            _change(one, **before[one.name])


def set_algorithm_version(name: str, version: int) -> None:
    """Set the algorithm version of a derivative, as an edit of its module does; reset when the block ends."""
    _change(next(one for one in DERIVATIVES if one.name == name), version=version)


def _change(one: Derivative, **values: Any) -> None:
    """Change it in place, because several modules have imported it."""
    for key, value in values.items():
        object.__setattr__(one, key, value)


def _replacement(one: Derivative, behavior: Behavior) -> Callable[..., Value]:
    name = one.name

    @functools.wraps(one.compute)
    def compute(**arguments: Any) -> Value:
        behavior.enter(name)
        settings = {key: value for view in one.views for key, value in arguments.pop(view).model_dump().items()}
        steps: Mapping[str, Step] = arguments.get("steps", {})
        found = {
            key: behavior.text_of_step(value) if isinstance(value, Step) else text_of(value)
            for key, value in arguments.items()
            if key not in PROVIDED
        }
        inputs = {key: text for key, text in found.items() if text is not None}
        if steps and {key: text for key, step in steps.items() if (text := behavior.text_of_step(step))} != inputs:
            raise AssertionError(f"{name}: expected the steps of {inputs}, found {steps}")
        varied = {option.partition(".")[2] for option in OPTIONS}
        parameters = {
            key: Path(value).read_text() if key == "wm_response" and value else plain(value)
            for key, value in settings.items()
            if key in varied
        }
        if network := NETWORKS.get(name):
            folder = arguments["networks"].folder(network)
            [parameters[network]] = {(folder / file).read_text() for file in WEIGHT_FILES[network].installed_files}
        text = outcome(name, one.version, inputs, parameters)
        value = value_of(name, text)
        behavior.texts[name, data_version(value)] = text
        return value

    return compute


def _checks(value: Value, settings: PipelineSettings) -> tuple[Check, ...]:
    """Every check compares the result with the same limit."""
    verdict: Literal["pass", "warn"] = "pass" if passes(text_of(value), settings.checks.max_mask_pieces) else "warn"
    return tuple(Check(name, (Finding("result", None, "", verdict),)) for name in DESCRIPTIONS)


def write_weights(folder: Path, network: str, text: str | None) -> None:
    """Install weights of a network that consist of this text, or remove them."""
    for file in WEIGHT_FILES[network].installed_files:
        path = folder / network / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)


def _figure(name: str) -> Callable[..., bytes]:
    """No figure except for one derivative: a thumbnail takes longer than the rest of a step."""
    if name != "mean_b0":
        return lambda *_: b""
    from PIL import Image

    encoded = io.BytesIO()
    Image.new("RGB", (8, 8)).save(encoded, "PNG")
    return lambda *_: encoded.getvalue()
