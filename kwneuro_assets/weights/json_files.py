"""Small JSON files beside the weights, replaced at once: a reader never sees a part of one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kwneuro_assets.weights.errors import WeightsError
from kwneuro_assets.weights.temporary import replacing


def read_json(path: Path) -> dict[str, Any]:
    """The content of the file, empty if there is none. Raises WeightsError if it is not a JSON object; OSError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise WeightsError(f"{path}: expected JSON, found {error}; remove the file") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: expected a JSON object, found {type(content).__name__}; remove the file")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace the file. Raises OSError."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
