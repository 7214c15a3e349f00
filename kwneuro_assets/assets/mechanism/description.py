"""The description of a derivative in the UI, in Markdown: its docstring and the files in which it is stored."""

from __future__ import annotations

import types
import typing

from kwneuro_assets.assets.derivative import Derivative
from kwneuro_assets.storage.bids_fields import MAPS
from kwneuro_assets.storage.names import NAMES, PARQUET, PROBABILITIES
from kwneuro_assets.subjects import GROUP, StoreKey, SubjectKey

EXAMPLE = SubjectKey("01")
# Extensions by value type, as `storage.codecs` writes them; a type that is absent here is stored in the sidecar alone.
_EXTENSIONS = {
    "Dwi": (".nii.gz", ".bval", ".bvec"),
    "Volume": (".nii.gz",),
    "Segmentation": (".nii.gz",),
    "RigidTransform": (".txt",),
    "MapSet": (".nii.gz",),
    "Table": (".tsv",),
    "Report": (".html",),
}


def markdown_description(derivative: Derivative) -> str:
    """What the derivative is, method, maps with units, references, and the files of an example subject."""
    files = "\n".join(f"- `{file}`" for file in example_files(derivative))
    return f"{derivative.docstring}\n\n**Files** (of {_example_key(derivative)}, below the store)\n\n{files}"


def example_files(derivative: Derivative) -> list[str]:
    """The files of subject 01, or of the group, below the store, with `<map>` in place of the names of maps.

    The JSON files are the sidecar of the derivative and those of maps with an encoding of their own.
    """
    key = _example_key(derivative)
    name = NAMES[derivative.name]
    folder = f"{name.folder(key)}/" if name.folder(key) else ""
    files = [
        name.file(key, extension, "<map>" if kind == "MapSet" else None)
        for kind in value_types(derivative)
        for extension in _EXTENSIONS.get(kind, ())
    ]
    files = list(dict.fromkeys(files))  # several value types have the same file
    if "Segmentation" in value_types(derivative):
        files += [name.file(key, extension, suffix=PROBABILITIES) for extension in (".nii.gz", ".json")]
    if "Table" in value_types(derivative) and name.of_group:
        files.append(name.file(key, PARQUET))
    files += [name.file(key, ".json", param) for param in derivative.bids.get(MAPS, {})]
    return [*(f"{folder}{file}" for file in files), str(name.sidecar(key))]


def value_types(derivative: Derivative) -> list[str]:
    """Names of the value types that the derivative's function returns, `NotApplicable` excepted."""
    returned = typing.get_type_hints(derivative.compute)["return"]
    is_union = typing.get_origin(returned) in (typing.Union, types.UnionType)
    kinds = typing.get_args(returned) if is_union else (returned,)
    return [kind.__name__ for kind in kinds if kind.__name__ != "NotApplicable"]


def _example_key(derivative: Derivative) -> StoreKey:
    return EXAMPLE if derivative.is_partitioned else GROUP
