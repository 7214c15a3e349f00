"""The JSON sidecar of a derivative: its description and provenance, and the mark that it is complete.

It contains a digest of all its other fields: some values, such as a response function, are stored in the sidecar alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kwneuro_assets.imaging.content_hash import text_version

DIGEST = "SidecarSha256"  # over the canonical JSON of the other fields, so that a tool may reformat the text
LABELS = "LabelMap"  # BIDS's name of what the volumes of a 4-D image show; part of the content


def json_text(fields: Mapping[str, Any]) -> str:
    """The text of a JSON file of the store. Raises ValueError for a number that is not finite."""
    return json.dumps(fields, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


@dataclass(frozen=True)
class StoredFile:
    """Size in bytes and sha256 of a file in the store."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Provenance:
    """How a value was computed: all that is known before it is stored."""

    description: str
    code_version: str
    data_version: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    input_data_versions: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    bids: Mapping[str, Any] = field(default_factory=dict)  # those of single maps under `bids_fields.MAPS`
    libraries: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)  # sha256 of each file of a network
    networks: Mapping[str, Any] = field(default_factory=dict)  # device, precision and a note on the weights


@dataclass(frozen=True)
class Sidecar:
    """A derivative's sidecar; `content` holds what its value type needs in addition to its files."""

    value_type: str
    provenance: Provenance
    files: Mapping[str, StoredFile]
    content: Mapping[str, Any]

    @property
    def data_version(self) -> str:
        return self.provenance.data_version

    def to_json(self) -> str:
        provenance = self.provenance
        content = {key: value for key, value in self.content.items() if key != LABELS}
        tree = {
            "Description": provenance.description,
            **provenance.bids,
            **({LABELS: self.content[LABELS]} if LABELS in self.content else {}),
            "Sources": list(provenance.sources),
            "ValueType": self.value_type,
            **({"Content": content} if content else {}),
            "Parameters": dict(provenance.parameters),
            "CodeVersion": provenance.code_version,
            "DataVersion": provenance.data_version,
            "InputDataVersions": dict(provenance.input_data_versions),
            "Libraries": dict(provenance.libraries),
            **({"WeightsSha256": dict(provenance.weights)} if provenance.weights else {}),
            **({"Networks": dict(provenance.networks)} if provenance.networks else {}),
            "Files": {name: {"Size": file.size, "Sha256": file.sha256} for name, file in self.files.items()},
        }
        return json_text({**tree, DIGEST: text_version(tree)})

    @classmethod
    def from_json(cls, text: str) -> Sidecar:
        """Raises ValueError or KeyError for a text that `to_json` did not write."""
        tree = json.loads(text)
        if tree.pop(DIGEST) != text_version(tree):
            raise ValueError(f"its content does not match its {DIGEST}")
        own = {
            "Description", LABELS, "Sources", "ValueType", "Content", "Parameters", "CodeVersion", "DataVersion",
            "InputDataVersions", "Libraries", "WeightsSha256", "Networks", "Files",
        }  # fmt: skip
        provenance = Provenance(
            description=tree["Description"],
            code_version=tree["CodeVersion"],
            data_version=tree["DataVersion"],
            parameters=tree["Parameters"],
            libraries=tree["Libraries"],
            weights=tree.get("WeightsSha256", {}),
            networks=tree.get("Networks", {}),
            input_data_versions=tree["InputDataVersions"],
            sources=tuple(tree["Sources"]),
            bids={key: value for key, value in tree.items() if key not in own},
        )
        files = {name: StoredFile(entry["Size"], entry["Sha256"]) for name, entry in tree["Files"].items()}
        content = {**tree.get("Content", {}), **({LABELS: tree[LABELS]} if LABELS in tree else {})}
        return cls(tree["ValueType"], provenance, files, content)
