"""The UI in a real browser, as a new user meets it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from kwneuro_assets.automation import REMAKE, SENSOR, UPDATE
from kwneuro_assets_tests.project import Project
from kwneuro_assets_tests.small_dataset import write_mask, write_series
from kwneuro_assets_tests.ui_server import UiServer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
PATIENCE = 60_000  # ms for a page of a development server on a busy machine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


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
def address(project: Project) -> Iterator[str]:
    with UiServer(project) as server:
        yield server.address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1600, "height": 1200})
    page.set_default_timeout(PATIENCE)
    yield page
    page.close()


def test_the_graph_shows_every_group(page: Any, address: str) -> None:
    page.goto(f"{address}/asset-groups")
    for group in ("source", "preprocessing", "microstructure", "fibers", "tracts"):
        page.get_by_text(group, exact=True).first.wait_for()


def test_a_materialization_shows_its_numbers_and_its_picture(page: Any, address: str) -> None:
    page.goto(f"{address}/assets/dti?view=partitions&partition=sub-01")
    page.get_by_text("sub-01").first.wait_for()
    for label in ("mean_fa", "code_version", "data_version", "peak_memory_mb", "voxel_size_mm", "path"):
        page.get_by_text(label, exact=True).first.wait_for()
    page.get_by_text("Show Markdown").first.click()
    picture = page.locator("img[src^='data:image/webp']").first
    picture.wait_for()
    width, height = picture.evaluate("image => [image.naturalWidth, image.naturalHeight]")
    assert width > 100
    assert height > 50


def test_the_lineage_of_the_tracts_reaches_back_to_the_scan(page: Any, address: str) -> None:
    page.goto(f"{address}/assets/tract_masks?view=lineage&lineageScope=upstream&lineageDepth=10")
    for asset in ("dwi", "denoised_dwi", "mean_b0", "brain_mask", "fiber_response", "csd_peaks", "tract_masks"):
        page.get_by_text(asset, exact=True).first.wait_for()


@pytest.mark.parametrize(
    ("path", "description"),
    [
        (f"sensors/{SENSOR}", "Makes what new or changed data ask for"),
        (f"jobs/{UPDATE}", "Makes all that is missing, stale or failed"),
        (f"jobs/{REMAKE}", "Makes the derivatives of a subject again, fresh or not"),
    ],
)
def test_the_sensor_and_the_jobs_say_what_they_do(page: Any, address: str, path: str, description: str) -> None:
    page.goto(f"{address}/locations/kwneuro_assets.definitions/{path}")
    page.get_by_text(description).first.wait_for()
