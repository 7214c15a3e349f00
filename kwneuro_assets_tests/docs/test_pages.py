"""The documentation is correct: its commands work, its settings and messages exist, and the site builds."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import kwneuro_assets
from kwneuro_assets.demo.phantom import write_phantom
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.storage.sidecar import Provenance, Sidecar
from kwneuro_assets_tests.docs.pages import PAGES, ROOT, Block, blocks

DOCS = ROOT / "docs"
MAX_README_LINES = 150
MAX_IMAGE_BYTES = 300_000

if not DOCS.is_dir():
    pytest.skip("the documents are not installed with the package", allow_module_level=True)


@pytest.fixture(scope="module")
def generated() -> ModuleType:
    """docs/generate.py, which MkDocs loads as a hook."""
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_all(page: Path, folder: Path) -> list[tuple[Block, str]]:
    return [(block, block.run(folder)) for block in blocks(page, "bash", "python")]


@pytest.mark.slow
def test_the_commands_of_the_readme_process_a_dataset_of_ones_own(tmp_path: Path) -> None:
    write_phantom(tmp_path / "my-dataset")
    run_all(ROOT / "README.md", tmp_path)
    assert list(tmp_path.glob("study/store/sub-01/dwi/*_param-fa_dwimap.nii.gz"))


@pytest.mark.slow
def test_the_tutorial_runs_from_the_first_block_to_the_last(tmp_path: Path, generated: ModuleType) -> None:
    run_all(DOCS / "tutorial.md", tmp_path)
    stored = {path.name for path in tmp_path.glob("study/store/sub-01/dwi/*") if not path.name.endswith("_figure.png")}
    listed = generated.files_page().replace("<p>", "sub-01")
    expected = {name for pattern in re.findall(r"`(sub-01_[^`]*)`", listed) for name in expanded(pattern)}
    assert stored
    assert stored <= expected


def expanded(pattern: str) -> list[str]:
    """`a-{x,y}` names `a-x` and `a-y`."""
    found = re.fullmatch(r"(.*)\{(.*)\}(.*)", pattern)
    return [f"{found[1]}{part}{found[3]}" for part in found[2].split(",")] if found else [pattern]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < MAX_README_LINES


def test_images_are_small() -> None:
    for image in (DOCS / "images").iterdir():
        assert image.stat().st_size < MAX_IMAGE_BYTES, image


def test_the_citation_has_the_fields_of_cff_and_the_version_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == kwneuro_assets.__version__


def test_the_changelog_has_a_section_for_what_is_not_released() -> None:
    headings = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert headings[0] == "Unreleased"


SECTIONS = {name: field.annotation for name, field in PipelineSettings.model_fields.items()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_setting_that_a_page_names_exists(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        pytest.skip("it also names settings as they were")
    text = page.read_text(encoding="utf-8")
    for section, key in re.findall(rf"`({'|'.join(SECTIONS)})\.([a-z_0-9]+)[`:= ]", text):
        kind = SECTIONS[section]
        assert kind is not None
        assert key in kind.model_fields, f"{section}.{key}"
    for block in blocks(page, "yaml"):
        tree = yaml.safe_load(block.code)
        for section in tree:
            if section in SECTIONS and isinstance(tree[section], dict):
                kind = SECTIONS[section]
                assert kind is not None
                assert set(tree[section]) <= set(kind.model_fields), block.code


@cache
def constants() -> str:
    """All text of the package, with a mark where a value is filled in."""
    found = []
    for file in Path(kwneuro_assets.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(one.value) if isinstance(one, ast.Constant) else "…" for one in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(" ".join(text.split()) for text in found)


def test_every_message_of_the_troubleshooting_page_is_one_of_the_package() -> None:
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^### `(.*)`$", page, re.M)
    assert len(messages) > 10
    fixed = [part for message in messages for part in re.split(r"…|: expected |, found |; found ", message)]
    missing = [part.strip(" .,:") for part in fixed if part.strip(" .,:") not in constants()]
    assert not missing


def test_the_reference_of_files_has_every_key_of_a_sidecar(generated: ModuleType) -> None:
    provenance = Provenance("", "", "", {}, {}, (), {}, {}, {"weights": "0"}, {"Device": "cpu"})
    written = yaml.safe_load(Sidecar("Volume", provenance, {}, {"Maps": ["fa"]}).to_json())
    assert set(written) == set(generated.SIDECAR_KEYS)


def test_the_reference_has_every_command_and_public_function(generated: ModuleType) -> None:
    commands = generated.cli_page()
    for name in ("run", "status", "ingest", "weights fetch", "demo"):
        assert f"## kwneuro-assets {name}\n" in commands
    functions = generated.python_page()
    assert " at 0x" not in functions, "an address differs in each build"
    for name in ("load", "grid", "Volume", "tensor.fit_tensor", "noddi.fit_noddi"):
        assert f"### {name} " in functions


def test_no_arrow_of_the_layer_diagram_points_upward(generated: ModuleType) -> None:
    drawn = generated.layers_svg()  # raises for one
    assert drawn.count("<path") > 20
    described = (DOCS / "architecture.md").read_text(encoding="utf-8")
    assert not [name for name in re.findall(r"<text [^>]*>(\w+)<", drawn) if f"`{name}`" not in described]


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_the_internet(tmp_path: Path) -> None:
    pytest.importorskip("material")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|iframe)[^>]* src=\"?(https?:[^\s\">]*)", page.read_text(encoding="utf-8"))
        loaded += re.findall(r"<link[^>]*stylesheet[^>]* href=\"?(https?:[^\s\">]*)", page.read_text(encoding="utf-8"))
        assert not loaded, page
