"""The graph of the steps of a subject, from the source to the last derivatives: where each box and line is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kwneuro_assets.reports.content import Step

BOX_WIDTH, BOX_HEIGHT = 148, 34
_COLUMN, _ROW = 190, 50  # from box to box
_MARGIN = 6
_MAX_TEXT = 20  # characters of a name that fit into a box
SOURCE = "source"  # the state of an input that is not a step


@dataclass(frozen=True)
class Box:
    """A step, or an input from the source, at `x` and `y` (pixels of the upper left corner)."""

    name: str
    state: str
    x: int
    y: int

    @property
    def text(self) -> str:
        """Its name, shortened to the box."""
        return self.name if len(self.name) <= _MAX_TEXT else self.name[: _MAX_TEXT - 1] + "…"


@dataclass(frozen=True)
class Lineage:
    """Boxes in columns from left to right; `lines` are the paths of SVG from inputs to steps."""

    boxes: tuple[Box, ...]
    lines: tuple[str, ...]
    width: int
    height: int


def lineage_of(steps: Sequence[Step]) -> Lineage:
    """The graph of these steps. A step is in the column after those of its inputs."""
    columns = _columns(steps)
    states = {step.name: step.state for step in steps}
    boxes: dict[str, Box] = {}
    rows: dict[int, int] = {}
    for name, column in columns.items():
        row = rows.get(column, 0)
        rows[column] = row + 1
        x, y = _MARGIN + column * _COLUMN, _MARGIN + row * _ROW
        boxes[name] = Box(name, states.get(name, SOURCE), x, y)
    lines = tuple(_line(boxes[name], boxes[step.name]) for step in steps for name in step.inputs)
    width = (max(columns.values(), default=0) + 1) * _COLUMN - (_COLUMN - BOX_WIDTH) + 2 * _MARGIN
    height = max(rows.values(), default=0) * _ROW - (_ROW - BOX_HEIGHT) + 2 * _MARGIN
    return Lineage(tuple(boxes.values()), lines, width, height)


def _columns(steps: Sequence[Step]) -> Mapping[str, int]:
    """The column of each step and input, inputs from the source first."""
    names = {step.name for step in steps}
    columns = {name: 0 for step in steps for name in step.inputs if name not in names}
    columns.update((step.name, 0) for step in steps)
    # As often as there are steps: enough for any order of them, and an end for steps that depend on each other.
    for _ in steps:
        for step in steps:
            columns[step.name] = max((columns[name] + 1 for name in step.inputs if name != step.name), default=0)
            columns[step.name] = min(columns[step.name], len(steps))
    return columns


def _line(start: Box, end: Box) -> str:
    left, right = start.x + BOX_WIDTH, end.x
    high, low = start.y + BOX_HEIGHT // 2, end.y + BOX_HEIGHT // 2
    bend = (right - left) // 2
    return f"M{left} {high}C{left + bend} {high} {right - bend} {low} {right} {low}"
