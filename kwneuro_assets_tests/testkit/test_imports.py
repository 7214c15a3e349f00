"""Tests do not depend on the benchmarks, and benchmarks share only the testkit with the tests."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS, BENCHMARKS = ROOT / "kwneuro_assets_tests", ROOT / "benchmarks"


def imported_modules(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every absolute import in the modules of a folder, also inside functions."""
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((file, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield from ((file, f"{node.module}.{alias.name}") for alias in node.names)


def test_tests_import_nothing_from_benchmarks() -> None:
    found = [f"{file}: {name}" for file, name in imported_modules(TESTS) if name.split(".")[0] == "benchmarks"]
    assert found == []


@pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not installed with the package")
def test_benchmarks_import_only_the_testkit_from_tests() -> None:
    found = [
        f"{file}: {name}"
        for file, name in imported_modules(BENCHMARKS)
        if name.split(".")[0] == TESTS.name and not name.startswith(f"{TESTS.name}.testkit.")
    ]
    assert found == []
