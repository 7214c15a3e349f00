"""What holds for the package as a whole."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import kwneuro_assets
from kwneuro_assets.assets import DERIVATIVES, GROUP_DERIVATIVE
from kwneuro_assets.settings import PipelineSettings, settings_table
from kwneuro_assets.storage.names import NAMES

ROOT = Path(kwneuro_assets.__file__).parents[1]
HEAVY = ("torch", "dipy", "amico", "matplotlib", "scipy.special", "tractseg", "nnunetv2", "sklearn", "pandas")


def in_a_fresh_process(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_code_location_loads_without_a_heavy_library_and_without_a_warning() -> None:
    told = in_a_fresh_process(
        "import sys, kwneuro_assets.definitions as location\n"
        "from kwneuro_assets.settings import load_settings\n"
        "location.build(load_settings(environment={})).resolve_asset_graph()\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    assert told.strip() == "[]"


@pytest.mark.parametrize("layer", ["imaging", "derivations"])
def test_science_knows_neither_dagster_nor_the_store(layer: str) -> None:
    forbidden = re.compile(r"^\s*(from|import) (dagster|kwneuro_assets\.(storage|assets|ingestion|versioning))", re.M)
    for file in (Path(kwneuro_assets.__file__).parent / layer).glob("*.py"):
        assert not forbidden.search(file.read_text()), file


def test_every_derivative_has_a_name_in_the_store_and_a_description() -> None:
    derivatives = (*DERIVATIVES, GROUP_DERIVATIVE)
    assert {derivative.name for derivative in derivatives} == set(NAMES)
    assert all(derivative.description for derivative in derivatives)


def test_a_setting_belongs_to_the_derivatives_that_use_it_and_to_no_other() -> None:
    def versions(tree: dict[str, dict[str, object]]) -> dict[str, str]:
        settings = PipelineSettings.model_validate(tree)
        return {derivative.name: derivative.code_version(settings) for derivative in DERIVATIVES}

    before = versions({})
    for tree, users in [
        ({"dti": {"max_bvalue": 1200}}, {"dti"}),
        ({"csd": {"shell": 3000}}, {"fiber_response"}),
        ({"csd": {"max_order": 6}}, {"fiber_response", "csd_peaks"}),
        ({"csd": {"group_response": True}}, {"csd_peaks"}),
        ({"csd": {"peaks": 3}}, {"csd_peaks"}),
        ({"csd": {"fa_threshold": 0.8}}, {"fiber_response"}),
        ({"tracts": {"dilation": 2}}, {"tract_orientations"}),
        ({"store": {"cache_gb": 1}, "weights": {"folder": "elsewhere"}}, set()),
    ]:
        after = versions(tree)  # type: ignore[arg-type]
        assert {name for name in before if before[name] != after[name]} == users, tree


def test_the_list_of_settings_is_that_of_the_code() -> None:
    document = ROOT / "docs" / "settings.md"
    if not document.exists():
        pytest.skip("the documents are not installed with the package")
    assert document.read_text(encoding="utf-8") == settings_table()


def test_the_instance_settings_are_valid_and_open_to_the_environment(
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
    with pytest.raises(ValueError, match=r"KWNEURO_MAX_RUNS: expected a whole number, found 'many'"):
        DagsterInstance.from_config(str(tmp_path)).run_coordinator.get_run_queue_config()  # type: ignore[attr-defined]
