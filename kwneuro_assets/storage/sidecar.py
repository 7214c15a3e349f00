"""The JSON sidecar of a derivative: what it is, how it was made, and the mark that it is complete.

It ends with a digest of all else that it says: a value may lie in it alone, as a response function does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kwneuro_assets.versioning.content import text_version

DIGEST = "SidecarSha256"  # over the canonical JSON of the rest, so that a tool may lay the text out anew


@dataclass(frozen=True)
class StoredFile:
    """Size in bytes and sha256 of a file as it lies in the store."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Provenance:
    """How a value came to be: all that is known before it is stored."""

    description: str
    code_version: str
    data_version: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    input_data_versions: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    bids: Mapping[str, Any] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)  # SHA-256 of each file of a network


@dataclass(frozen=True)
class Sidecar:
    """A derivative's sidecar; `content` holds what its value type needs beyond its files."""

    value_type: str
    provenance: Provenance
    files: Mapping[str, StoredFile]
    content: Mapping[str, Any]

    @property
    def data_version(self) -> str:
        return self.provenance.data_version

    def to_json(self) -> str:
        made = self.provenance
        tree = {
            "Description": made.description,
            **made.bids,
            "Sources": list(made.sources),
            "ValueType": self.value_type,
            **({"Content": dict(self.content)} if self.content else {}),
            "Parameters": dict(made.parameters),
            "CodeVersion": made.code_version,
            "DataVersion": made.data_version,
            "InputDataVersions": dict(made.input_data_versions),
            "Libraries": dict(made.libraries),
            **({"WeightsSha256": dict(made.weights)} if made.weights else {}),
            "Files": {name: {"Size": file.size, "Sha256": file.sha256} for name, file in self.files.items()},
        }
        return json.dumps({**tree, DIGEST: text_version(tree)}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Sidecar:
        """Raises ValueError or KeyError for a text that no version of this class wrote."""
        tree = json.loads(text)
        if tree.pop(DIGEST) != text_version(tree):
            raise ValueError(f"its content is not the one of its {DIGEST}")
        own = {
            "Description", "Sources", "ValueType", "Content", "Parameters", "CodeVersion", "DataVersion",
            "InputDataVersions", "Libraries", "WeightsSha256", "Files",
        }  # fmt: skip
        provenance = Provenance(
            description=tree["Description"],
            code_version=tree["CodeVersion"],
            data_version=tree["DataVersion"],
            parameters=tree["Parameters"],
            libraries=tree["Libraries"],
            weights=tree.get("WeightsSha256", {}),
            input_data_versions=tree["InputDataVersions"],
            sources=tuple(tree["Sources"]),
            bids={key: value for key, value in tree.items() if key not in own},
        )
        files = {name: StoredFile(entry["Size"], entry["Sha256"]) for name, entry in tree["Files"].items()}
        return cls(tree["ValueType"], provenance, files, tree.get("Content", {}))
