"""What the steps of a subject recorded, read so that a missing or unexpected value never fails a text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kwneuro_assets.reports.boilerplate.prose import plain
from kwneuro_assets.reports.content import Step

# The algorithm versions that the texts describe. A derivative of another version is named, but not described: read its
# text before its number is raised here.
DESCRIBED = {
    "denoised_dwi": 1,
    "mean_b0": 1,
    "brain_mask": 1,
    "dti": 3,
    "noddi": 3,
    "mni_alignment": 1,
    "fiber_response": 3,
    "group_response": 1,
    "csd_peaks": 5,
    "tract_masks": 1,
    "tract_endings": 1,
    "tract_orientations": 2,
}
_ABSENT = "absent"  # in place of the version of a library that was not installed


@dataclass(frozen=True)
class RecordedStep:
    """Typed access to one step. Numbers and text that are absent, or of another type, are None and ""."""

    step: Step

    @property
    def name(self) -> str:
        return self.step.name

    def number(self, setting: str) -> float | None:
        """A finite number among the settings."""
        return _number(self.step.parameters.get(setting))

    def word(self, setting: str) -> str:
        """Text among the settings, such as a method."""
        return _text(self.step.parameters.get(setting))

    def is_on(self, setting: str) -> bool:
        """Whether a setting is true."""
        return self.step.parameters.get(setting) is True

    def numbers(self, setting: str) -> dict[str, float]:
        """A mapping to finite numbers among the settings, without what is none; sorted."""
        table = self.step.parameters.get(setting)
        items = table.items() if isinstance(table, Mapping) else ()
        found = {plain(name): _number(value) for name, value in items}
        return {name: value for name, value in sorted(found.items()) if value is not None}

    def found(self, label: str) -> float | None:
        """A finite number of the summary."""
        return _number(self.step.summary.get(label))

    def takes(self, name: str) -> bool:
        """Whether `name` was an input."""
        return name in self.step.inputs

    def library(self, name: str) -> str:
        """The version of a library; "" if it was not recorded or not installed."""
        version = _text(self.step.libraries.get(name))
        return "" if version == _ABSENT else version

    def with_version(self, tool: str, name: str) -> str:
        """The tool with the version of the distribution `name`, if that is known: `TractSeg 2.10`."""
        return f"{tool} {self.library(name)}".rstrip()

    @property
    def note(self) -> str:
        """The note on the network weights."""
        return _text(self.step.networks.get("Note"))

    @property
    def device(self) -> str:
        """`a CPU` or `a GPU`, where its networks ran."""
        name = _text(self.step.networks.get("Device"))
        return "" if not name else "a CPU" if name == "cpu" else "a GPU"

    @property
    def is_mirrored(self) -> bool | None:
        """Whether its network also segmented mirrored copies."""
        mirrored = self.step.networks.get("Mirroring")
        return mirrored if isinstance(mirrored, bool) else None

    @property
    def algorithm_version(self) -> int | None:
        """The first number of its code version."""
        digits = _text(self.step.code_version).partition("-")[0]
        return int(digits) if digits.isascii() and digits.isdecimal() else None

    @property
    def is_described(self) -> bool:
        """Whether the text is about this version of the algorithm; an unknown version counts as the current one."""
        return self.algorithm_version in (None, DESCRIBED.get(self.name))


class RecordedSteps:
    """The stored steps of a subject by name; those that are missing or not applicable are none of them."""

    def __init__(self, steps: Iterable[Step]) -> None:
        self._steps = {one.name: RecordedStep(one) for one in steps if one.state == "stored"}

    def get(self, name: str) -> RecordedStep | None:
        """The stored step of that name."""
        return self._steps.get(name)

    def input_of(self, user: RecordedStep, name: str) -> RecordedStep | None:
        """The step `name` with the value that `user` was computed from.

        None if the store now has another value: then its record says nothing about `user`.
        """
        step = self._steps.get(name)
        same = step is not None and step.is_described and user.step.inputs.get(name) == step.step.data_version
        return step if same else None


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if is_number else None


def _text(value: Any) -> str:
    return plain(value) if isinstance(value, str) else ""
