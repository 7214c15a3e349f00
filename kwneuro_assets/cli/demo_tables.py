"""The tables of the command `demo`: derivatives compared with the known truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich.table import Table

from kwneuro_assets.cli.console import console
from kwneuro_assets.demo.truth import Score


def print_scores(scores: Sequence[Score]) -> None:
    """Print all scores of one subject."""
    table = Table("compared with the known truth", "", "", box=None, pad_edge=False)
    for one in scores:
        table.add_row(one.asset, one.measure, one.result)
    console.print()
    console.print(table)


def print_cohort_scores(scores: Mapping[str, Sequence[Score]]) -> None:
    """Print the main scores, one line for each subject and their means."""
    main = {key: {one.asset: one for one in of_subject if one.short} for key, of_subject in scores.items()}
    columns = {asset: one.short for of_subject in main.values() for asset, one in of_subject.items()}
    table = Table("subject", *(f"{asset}\n{short}" for asset, short in columns.items()), box=None, pad_edge=False)
    values = {
        key: [of_subject[asset].value if asset in of_subject else np.nan for asset in columns]
        for key, of_subject in main.items()
    }
    for key, row in values.items():
        table.add_row(key, *map(_number, row))
    table.add_row("mean", *(_number(_mean(column)) for column in zip(*values.values(), strict=True)))
    console.print("\ncompared with the known truth")
    console.print(table)


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else np.nan


def _number(value: float) -> str:
    return "n/a" if np.isnan(value) else f"{value:.3g}"
