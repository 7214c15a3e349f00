"""What a QC metric is: its name, unit, formula and which direction is better."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kwneuro_assets.imaging.table import Kind

CheckName = Literal["acquisition", "artifacts", "mask", "model"]
Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class Metric:
    """One column of a subject's QC row.

    Attributes:
        name: The column. `{shell}` stands for the b-value of a shell, rounded to 100 (`ndc_b{shell}`), and `{bundle}`
            for a bundle in TractSeg's names.
        label: A short name for people, without a unit: `Neighboring DWI correlation`.
        description: The formula, in words and standard notation.
        unit: The unit; `1` for a ratio, `ppm`, `mm`, `ml`.
        better: Whether a higher value is better, a lower one, or neither.
        check: The check that it belongs to; None for a column that only informs.
        reference: The paper or tool that defines it, as a URL; empty if it is defined here.
        kind: The kind of its cells.
    """

    name: str
    label: str
    description: str
    unit: str
    better: Better
    check: CheckName | None = None
    reference: str = ""
    kind: Kind = "number"

    def to_json(self) -> dict[str, Any]:
        """Its entry in the data dictionary of the table, in BIDS's terms."""
        return {
            "LongName": self.label,
            "Description": self.description,
            **({"Units": self.unit} if self.unit else {}),
            "HigherIsBetter": {"higher": True, "lower": False, "neither": None}[self.better],
            **({"TermURL": self.reference} if self.reference else {}),
        }


def dictionary(metrics: Iterable[Metric]) -> Mapping[str, Any]:
    """The data dictionary of a table with these columns."""
    return {one.name: one.to_json() for one in metrics}
