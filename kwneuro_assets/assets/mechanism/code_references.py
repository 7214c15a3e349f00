"""Links from an asset in the UI to the function that computes it.

Dagster's `with_source_code_references` would link the function that it executes, which is the same for all derivatives
(in `building.py`). The metadata is therefore set here, from the asset's own function.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dagster import BetaWarning, CodeReferencesMetadataValue, LocalFileCodeReference, UrlCodeReference

REPOSITORY_VARIABLE = "KWNEURO_CODE_URL"
_LABEL = "dagster/code_references"
_ROOT = Path(__file__).parents[3]


def code_references(function: Callable[..., Any]) -> dict[str, CodeReferencesMetadataValue]:
    """Asset metadata that links the file and line of `function`.

    The link opens the local file. If the environment variable `KWNEURO_CODE_URL` holds the URL of the repository's
    root at a branch, tag or commit, such as `https://github.com/OWNER/kwneuro-assets/tree/main`, it opens the file
    there.
    """
    code = inspect.unwrap(function).__code__
    repository = os.environ.get(REPOSITORY_VARIABLE, "").rstrip("/")
    file, line = Path(code.co_filename), code.co_firstlineno
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BetaWarning)
        reference: LocalFileCodeReference | UrlCodeReference
        if repository and file.is_relative_to(_ROOT):
            url = f"{repository}/{file.relative_to(_ROOT).as_posix()}#L{line}"
            reference = UrlCodeReference(url=url, label=function.__name__)
        else:
            reference = LocalFileCodeReference(file_path=str(file), line_number=line, label=function.__name__)
        return {_LABEL: CodeReferencesMetadataValue(code_references=[reference])}
