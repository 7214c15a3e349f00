"""The error that all functions of this package raise."""

from __future__ import annotations

import errno
from pathlib import Path

from kwneuro_assets.errors import ActionableError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class WeightsError(ActionableError):
    """Weights that are missing, cannot be fetched or have changed. The message is one line with the remedy."""


def unwritable(folder: Path, error: OSError) -> WeightsError:
    """The error of a folder that cannot be written, or whose disk is full."""
    if error.errno in _FULL:
        return WeightsError(f"the disk of {folder} is full; free some space or set weights.folder")
    return WeightsError(f"{folder} cannot be written: {error.strerror or error}")
