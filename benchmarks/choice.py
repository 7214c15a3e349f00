"""Options that several benchmarks have."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from pathlib import Path


def names_of(known: Collection[str], what: str) -> Callable[[str], list[str]]:
    """An argparse type for a comma-separated list of `known` names; its error names each unknown `what`."""

    def chosen(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"unknown {what}: {', '.join(unknown)}; expected some of {', '.join(known)}"
            )
        return names

    return chosen


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Add --weights and --cache, which `network_inputs` takes."""
    parser.add_argument("--weights", type=Path, metavar="FOLDER", help="a folder of weights, under TractSeg's names")
    parser.add_argument(
        "--cache", type=Path, metavar="FOLDER", help="where random weights are stored for the next time"
    )


def plain(options: argparse.Namespace, *names: str) -> dict[str, str | None]:
    """These options as text, paths absolute, for a process of its own."""
    values = {name: getattr(options, name) for name in names}
    return {name: str(one.absolute()) if isinstance(one, Path) else one for name, one in values.items()}
