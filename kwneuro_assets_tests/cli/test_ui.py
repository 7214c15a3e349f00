"""The UI in a real browser."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kwneuro_assets.automation.jobs import MATERIALIZE_STALE, REMATERIALIZE
from kwneuro_assets.automation.stale_sensor import SENSOR
from kwneuro_assets_tests.testkit.project import Project
from kwneuro_assets_tests.testkit.small_dataset import write_mask, write_series
from kwneuro_assets_tests.testkit.ui_server import UiServer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
TIMEOUT = 60_000  # ms for a page of a development server on a busy machine

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("ui"))
    write_series(project.source)
    write_mask(project.source)
    project.write_settings({"brain_mask": {"method": "provided"}})
    done = project.command("run", "--select", "denoised_dwi,mean_b0,brain_mask,dti")
    assert done.returncode == 0, done.stdout + done.stderr
    return project


@pytest.fixture(scope="module")
def server(project: Project) -> Iterator[UiServer]:
    with UiServer(project) as server:
        yield server


@pytest.fixture
def address(server: UiServer) -> str:
    return server.address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1600, "height": 1200})
    page.set_default_timeout(TIMEOUT)
    yield page
    page.close()


def test_ui_serves_the_code_location_without_warnings(server: UiServer, project: Project) -> None:
    assert server._selector()["repositoryLocationName"] == "kwneuro_assets"
    assert "WARNING" not in (log := (project.home / "ui.log").read_text()), log
    assert "superseded" not in log, log


def test_the_graph_shows_every_group(page: Any, address: str) -> None:
    page.goto(f"{address}/asset-groups")
    for group in ("source", "preprocessing", "microstructure", "fibers", "tracts"):
        page.get_by_text(group, exact=True).first.wait_for()


def test_a_materialization_shows_its_metadata_and_figure(page: Any, address: str) -> None:
    page.goto(f"{address}/assets/dti?view=partitions&partition=sub-01")
    page.get_by_text("sub-01").first.wait_for()
    for label in ("mean_fa", "code_version", "data_version", "peak_memory_mb", "voxel_size_mm", "path"):
        page.get_by_text(label, exact=True).first.wait_for()
    page.get_by_text("Show Markdown").first.click()
    figure = page.locator("img[src^='data:image/webp']").first
    figure.wait_for()
    width, height = figure.evaluate("image => [image.naturalWidth, image.naturalHeight]")
    assert width > 100
    assert height > 50


def test_the_lineage_of_the_tracts_includes_the_source_scan(page: Any, address: str) -> None:
    page.goto(f"{address}/assets/tract_masks?view=lineage&lineageScope=upstream&lineageDepth=10")
    for asset in ("dwi", "denoised_dwi", "mean_b0", "brain_mask", "fiber_response", "csd_peaks", "tract_masks"):
        page.get_by_text(asset, exact=True).first.wait_for()


@pytest.mark.parametrize(
    ("path", "description"),
    [
        (f"sensors/{SENSOR}", "Requests runs for derivatives of new or changed data"),
        (f"jobs/{MATERIALIZE_STALE}", "Materializes all derivatives that are missing, stale or failed"),
        (f"jobs/{REMATERIALIZE}", "Computes the derivatives of a subject again, even if they are fresh"),
    ],
)
def test_the_sensor_and_the_jobs_have_descriptions(page: Any, address: str, path: str, description: str) -> None:
    page.goto(f"{address}/locations/kwneuro_assets/{path}")
    page.get_by_text(description).first.wait_for()


def test_sigterm_ends_all_processes_even_if_a_shell_made_the_command_ignore_sigint(tmp_path: Path) -> None:
    project = Project(tmp_path)
    write_series(project.source)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        server = UiServer(project)
        server.start()
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        assert server.terminate(60) == []
    finally:
        server.kill()
