"""Names on a command line, separated by commas."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection


def names_of(known: Collection[str], what: str) -> Callable[[str], list[str]]:
    """What reads some of the `known` names; an error names each that is no such `what`."""

    def chosen(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"no such {what}: {', '.join(unknown)}; there are {', '.join(known)}")
        return names

    return chosen
