"""The layers of the package: which folder or module may import which, and the imports that there are.

`ROWS` is the order; imports run downward, from a row to a row below it. Two members of the same row do not import each
other. The imports are read from the source with `ast`, those inside functions included, so that a script can draw the
diagram without importing the package.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

NAME = "kwneuro_assets"
PACKAGE = Path(__file__).resolve().parents[2] / NAME
API = "kwneuro_assets"  # the functions of the package itself, in its __init__.py

# Folders and modules of the package, from top to bottom.
ROWS: tuple[tuple[str, ...], ...] = (
    ("definitions", API),
    ("cli", "automation"),
    ("cohort",),
    ("assets",),
    ("resources",),
    ("ingestion", "launchers"),
    ("versioning",),
    ("reports", "statistics", "weights", "settings"),
    ("storage", "demo", "figures"),
    ("qc",),
    ("derivations", "subjects"),
    ("imaging",),
    ("threads",),
    ("progress", "errors", "credentials"),
)
WITHOUT_DAGSTER = ("storage", "imaging", "derivations", "figures", "qc", "demo", "settings", "subjects", "statistics")

RANKS: Mapping[str, int] = {member: rank for rank, row in enumerate(ROWS) for member in row}


class Import(NamedTuple):
    """That one module imports another; `imported` is the name of a module of this package, or of another package."""

    importer: str
    imported: str


def module_name(file: Path) -> str:
    """`kwneuro_assets.assets.dti` for the file of that module."""
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> str:
    """The folder or module, directly below the package, to which a module belongs."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else API


def imports() -> list[Import]:
    """All imports of the package, of its own modules and of others."""
    files = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}
    return [
        Import(module, imported)
        for module, file in files.items()
        for imported in sorted(set(_imported(ast.parse(file.read_text(encoding="utf-8")), files)) - {module})
    ]


def layer_edges() -> dict[tuple[str, str], list[Import]]:
    """The imports between layers, by importing and imported layer."""
    edges: dict[tuple[str, str], list[Import]] = {}
    for one in imports():
        if one.imported.split(".")[0] == NAME:
            edge = layer_of(one.importer), layer_of(one.imported)
            if edge[0] != edge[1]:
                edges.setdefault(edge, []).append(one)
    return edges


def upward_imports() -> list[Import]:
    """The imports that do not run downward."""
    return [
        one
        for (importer, imported), found in layer_edges().items()
        if RANKS[importer] >= RANKS[imported]
        for one in found
    ]


def dagster_path(module: str, found: list[Import]) -> list[str]:
    """The shortest chain of imports from a module to Dagster; empty if there is none."""
    targets: dict[str, list[str]] = {}
    for one in found:
        targets.setdefault(one.importer, []).append(one.imported)
    paths = {module: [module]}
    queue = [module]
    for current in queue:
        for imported in targets.get(current, []):
            if imported.split(".")[0] in ("dagster", "dagster_shared"):
                return [*paths[current], "dagster"]
            if imported not in paths:
                paths[imported] = [*paths[current], imported]
                queue.append(imported)
    return []


def _imported(tree: ast.AST, modules: Mapping[str, Path]) -> Iterator[str]:
    """Names of imported modules: `from a import b` imports a, and a.b if that is a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [name for name in submodules if name in modules]
            yield from found
            if len(found) < len(submodules) or node.module not in modules:
                yield node.module
            # The packages above a module run, too; that of the project itself imports nothing when it runs.
            yield from _parents(node.module)


def _parents(module: str) -> Iterator[str]:
    parts = module.split(".")
    yield from (".".join(parts[:length]) for length in range(2, len(parts)) if parts[0] == NAME)
