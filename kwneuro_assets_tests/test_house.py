"""Properties of the entire package: layers, imports, names, settings, instance."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import kwneuro_assets
from kwneuro_assets.assets import ALL_DERIVATIVES, GROUP_DERIVATIVES
from kwneuro_assets.settings import PipelineSettings, settings_table
from kwneuro_assets.storage.names import NAMES
from kwneuro_assets_tests.testkit.layers import (
    NAME,
    PACKAGE,
    RANKS,
    WITHOUT_DAGSTER,
    Import,
    dagster_path,
    imports,
    layer_edges,
    layer_of,
    module_name,
    upward_imports,
)

ROOT = Path(kwneuro_assets.__file__).parents[1]
HEAVY = ("torch", "dipy", "amico", "matplotlib", "scipy.special", "tractseg", "nnunetv2", "sklearn", "pandas")


def in_a_fresh_process(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_code_location_loads_without_a_heavy_library_and_without_a_warning() -> None:
    output = in_a_fresh_process(
        "import sys, kwneuro_assets.definitions as location\n"
        "from kwneuro_assets.settings import load_settings\n"
        "location.build(load_settings(environment={})).resolve_asset_graph()\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    assert output.strip() == "[]"


def test_every_folder_and_module_has_a_place_in_the_layers() -> None:
    found = {layer_of(module_name(file)) for file in PACKAGE.rglob("*.py")}
    assert found <= set(RANKS), "add it to ROWS in testkit/layers.py"


def test_imports_run_downward() -> None:
    upward = [f"{one.importer} imports {one.imported}" for one in upward_imports()]
    assert upward == []


def test_imports_inside_functions_and_of_parent_packages_count() -> None:
    found = imports()
    assert Import("kwneuro_assets", "kwneuro_assets.settings") in found, "it is inside a function"
    assert Import("kwneuro_assets.assets.dti", "kwneuro_assets.assets") in found
    assert Import("kwneuro_assets.assets.dti", "kwneuro_assets.assets.derivative") in found
    assert ("assets", "derivations") in layer_edges()


@pytest.mark.parametrize("layer", WITHOUT_DAGSTER)
def test_science_and_storage_import_no_dagster_even_indirectly(layer: str) -> None:
    found = imports()
    modules = {one.importer for one in found if layer_of(one.importer) == layer}
    assert [path for module in sorted(modules) if (path := dagster_path(module, found))] == []


def test_a_chain_of_imports_to_dagster_is_found() -> None:
    assert dagster_path("kwneuro_assets.cohort.run", imports())[-1] == "dagster"


@pytest.mark.parametrize("layer", ["imaging", "derivations", "qc"])
def test_science_imports_no_path_handling_of_the_store(layer: str) -> None:
    imported = {
        layer_of(one.imported) for one in imports() if layer_of(one.importer) == layer and one.imported.startswith(NAME)
    }
    assert imported <= {"imaging", "derivations", "qc", "subjects", "threads", "progress", "errors"}


def test_every_derivative_has_a_name_in_the_store_and_a_description() -> None:
    derivatives = (*ALL_DERIVATIVES, *GROUP_DERIVATIVES)
    assert {derivative.name for derivative in derivatives} == set(NAMES)
    assert all(derivative.description for derivative in derivatives)


def test_a_setting_belongs_to_the_derivatives_that_use_it_and_to_no_other() -> None:
    def versions(tree: dict[str, dict[str, object]]) -> dict[str, str]:
        settings = PipelineSettings.model_validate(tree)
        return {derivative.name: derivative.code_version(settings) for derivative in ALL_DERIVATIVES}

    before = versions({})
    for tree, users in [
        ({"dti": {"max_bvalue": 1200}}, {"dti"}),
        ({"csd": {"shell": 3000}}, {"fiber_response"}),
        ({"csd": {"lmax": 6}}, {"fiber_response", "csd_peaks"}),
        ({"csd": {"group_response": True}}, {"csd_peaks"}),
        ({"csd": {"max_peaks": 3}}, {"csd_peaks"}),
        ({"csd": {"fa_threshold": 0.8}}, {"fiber_response"}),
        ({"tracts": {"dilation": 2}}, {"tract_orientations"}),
        ({"tracts": {"align": "mni"}}, set()),  # it adds an input
        ({"store": {"cache_gb": 1}, "networks": {"device": "cpu"}}, set()),
    ]:
        after = versions(tree)  # type: ignore[arg-type]
        assert {name for name in before if before[name] != after[name]} == users, tree


def test_the_documented_settings_are_those_of_the_code() -> None:
    document = ROOT / "docs" / "settings.md"
    if not document.exists():
        pytest.skip("the documentation is not installed with the package")
    assert document.read_text(encoding="utf-8") == settings_table()


def test_the_instance_settings_are_valid_and_read_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dagster import DagsterInstance

    template = Path(kwneuro_assets.__file__).with_name("dagster.yaml")
    assert yaml.safe_load(template.read_text())["telemetry"] == {"enabled": False}
    (tmp_path / "dagster.yaml").write_bytes(template.read_bytes())
    monkeypatch.setenv("KWNEURO_MAX_RUNS", "3")
    monkeypatch.setenv("KWNEURO_NETWORK_SLOTS", "2")
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        queue = instance.get_concurrency_config().run_queue_config
        assert queue is not None
        assert queue.max_concurrent_runs == 3
        pools = {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits()}
        assert pools["network"] == 2
    monkeypatch.setenv("KWNEURO_MAX_RUNS", "many")
    with pytest.raises(ValueError, match=r"KWNEURO_MAX_RUNS: expected an integer, found 'many'"):
        DagsterInstance.from_config(str(tmp_path)).run_coordinator.get_run_queue_config()  # type: ignore[attr-defined]
