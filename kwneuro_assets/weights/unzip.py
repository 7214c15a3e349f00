"""Extraction of the weights from a zip archive."""

from __future__ import annotations

import zipfile
from pathlib import Path

from kwneuro_assets.weights.errors import WeightsError


def extract(archive: Path, into: Path, names: tuple[str, ...]) -> None:
    """Extract the files `names` of a zip archive, and no others. Raises WeightsError with the reason, OSError."""
    try:
        with zipfile.ZipFile(archive) as opened:
            for name in names:
                opened.extract(name, into)
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise WeightsError(f"it is not a complete zip archive: {error}") from error
    except KeyError as error:
        raise WeightsError(f"a file is missing from the archive: {error.args[0]}") from error
