"""Quality as the user sees it: from a materialization in Dagster's UI to the reports that it stores, in a browser."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kwneuro_assets.assets.dwi_qc import checks_of
from kwneuro_assets.imaging import Table
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets_tests.reports.test_subject_browser import (
    ARGUMENTS,
    CHROMIUM,
    move_to,
    number,
    readout,
    screen,
)
from kwneuro_assets_tests.testkit.project import Project
from kwneuro_assets_tests.testkit.small_dataset import AFFINES, load, write_dataset, write_mask, write_series
from kwneuro_assets_tests.testkit.ui_server import UiServer

TIMEOUT = 60  # seconds for a page or a run on a machine that other tests use, too
CELLS = """[...document.querySelectorAll("tr")]
  .map((row) => [...row.cells].map((cell) => cell.innerText.trim()))
  .filter((row) => row.length === 4)"""  # the table of a check has four columns
MAPS = {"b0": "desc-meanb0_dwiref", "fa": "model-tensor_param-fa_dwimap"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Two subjects with a tensor fit; the axes of the first one's grid are permuted and flipped."""
    project = Project(tmp_path_factory.mktemp("quality"))
    write_dataset(project.source, ["sub-02"])
    write_series(project.source, affine=AFFINES["permuted and flipped"])
    write_mask(project.source, affine=AFFINES["permuted and flipped"])
    project.write_settings({"brain_mask": {"method": "provided"}, "denoising": {"method": "none"}})
    done = project.command("run", "--select", "dti")
    assert done.returncode == 0, done.stdout + done.stderr
    return project


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(TIMEOUT * 1000)
    yield page
    page.close()


@pytest.fixture(scope="module")
def materialized(project: Project, browser: Any) -> Iterator[UiServer]:
    """The server of the project, in whose UI the QC and the report of sub-01 were materialized."""
    with UiServer(project) as server:
        page = browser.new_page()
        page.set_default_timeout(TIMEOUT * 1000)
        for asset in ("dwi_qc", "subject_report"):  # the second run waits for the first
            page.goto(f"{server.address}/assets/{asset}?view=partitions&partition=sub-01")
            page.get_by_role("button", name="Materialize").first.click()
            page.get_by_role("button", name="Confirm").click()  # Dagster warns of inputs that may be missing
            page.get_by_role("button", name="Launch 1 run").click()
            page.get_by_text("Launched run").wait_for()
        page.close()
        assert finished_runs(server, 2) == ["SUCCESS"] * 2
        yield server


def finished_runs(server: UiServer, count: int) -> list[str]:
    """The states of the newest runs, when none of them is queued or running any more."""
    deadline = time.monotonic() + TIMEOUT * count
    states: list[str] = []
    while time.monotonic() < deadline:
        found = server.ask(f"{{ runsOrError(limit: {count}) {{ ... on Runs {{ results {{ status }} }} }} }}")
        states = [one["status"] for one in found["runsOrError"]["results"]]
        if len(states) == count and set(states) <= {"SUCCESS", "FAILURE", "CANCELED"}:
            break
        time.sleep(0.5)
    return states


def size_of(image: Any) -> tuple[int, int]:
    width, height = image.evaluate("image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])")
    return width, height


def test_a_materialization_in_the_ui_shows_the_figure_and_the_verdict_of_each_check(
    page: Any, materialized: UiServer, project: Project
) -> None:
    page.goto(f"{materialized.address}/assets/dwi_qc?view=partitions&partition=sub-01")
    page.get_by_text("mask_volume_ml", exact=True).first.wait_for()
    page.get_by_text("Show Markdown").first.click()
    figure = page.locator("img[src^='data:image/webp']").first
    figure.wait_for()
    width, height = size_of(figure)
    assert width > 100
    assert height > 50

    table, _ = DerivativeStore(project.store).read("dwi_qc", SubjectKey.parse("sub-01"))
    assert isinstance(table, Table)
    page.goto(f"{materialized.address}/assets/dwi_qc?view=checks")
    checks = checks_of(table, PipelineSettings().checks)
    assert len(checks) == 4
    assert len({check.passed for check in checks}) == 2, "some pass and some do not"
    for check in checks:
        page.get_by_text(check.name, exact=True).first.click()
        limited = {one.metric: one for one in check.findings if one.limit}
        for metric in limited:
            page.get_by_text(metric, exact=True).first.wait_for()
        page.get_by_text("sub-01", exact=True).first.wait_for()
        page.get_by_text("Succeeded" if check.passed else "Failed", exact=True).first.wait_for()
        rows = [row for row in page.evaluate(CELLS) if row[0] in limited]
        assert {row[0]: row[2:] for row in rows} == {
            metric: [one.limit, one.verdict] for metric, one in limited.items()
        }
        assert {row[0] for row in rows if row[3] == "warn"} == {one.metric for one in check.warnings}


def test_the_stored_report_opens_as_a_file_and_its_viewer_shows_the_stored_values(
    page: Any, materialized: UiServer, project: Project
) -> None:
    problems = watched(page)
    page.goto((project.store / "sub-01.html").as_uri())
    page.locator("#viewer[data-state=ready]").wait_for(state="attached")
    data = json.loads(page.locator("#viewer-data").text_content())
    scales = {one["name"]: one["slope"] for one in data["backgrounds"]}
    images = {name: load(stored(project, suffix)) for name, suffix in MAPS.items()}
    arrays: dict[str, NDArray[np.float64]] = {name: image.get_fdata() for name, image in images.items()}

    def compare() -> tuple[int, ...]:
        voxel = tuple(int(index) for index in page.locator("#viewer-voxel").inner_text().split(","))
        for axis, millimeters in zip("xyz", images["fa"].affine @ [*voxel, 1], strict=False):
            # One decimal is shown.
            assert number(page.locator(f"#viewer-{axis}-mm").inner_text()) == pytest.approx(abs(millimeters), abs=0.051)
        for name, array in arrays.items():
            # Half a step of the scale, and half a unit of the third digit that is shown.
            value = array[voxel]
            assert number(readout(page, name)) == pytest.approx(value, abs=0.51 * scales[name] + 0.006 * value), name
        return voxel

    # Chosen inside the head, where the b=0 signal is another one in each voxel along its first axis.
    corner = np.asarray(data["shape"])
    seen = set()
    for fraction in (0.3, 0.5, 0.7):
        move_to(page, tuple(int(index) for index in corner * fraction))
        seen.add(compare())
    page.locator("[data-view=axial]").click()
    box = page.locator("#viewer-frame").bounding_box()
    page.mouse.click(box["x"] + 0.4 * box["width"], box["y"] + 0.6 * box["height"])
    seen.add(compare())
    assert len(seen) == 4
    assert len({arrays["b0"][voxel] for voxel in seen}) > 1
    assert problems == []


def test_overlays_backgrounds_and_the_3d_view_of_the_stored_report_work(
    page: Any, materialized: UiServer, project: Project
) -> None:
    problems = watched(page)
    page.goto((project.store / "sub-01.html").as_uri())
    page.locator("#viewer[data-state=ready]").wait_for(state="attached")
    page.locator("[data-view=axial]").click()
    seen = [screen(page)]
    acts: tuple[Callable[[], object], ...] = (
        lambda: page.locator("#viewer-mask").check(),
        lambda: page.locator("#viewer-background").select_option(label="Fractional anisotropy (FA)"),
        lambda: page.locator("#viewer-background").select_option(label="Color-coded direction"),
        lambda: page.locator("[data-view=render]").click(),
        lambda: page.locator("#viewer-frame").press("Shift+ArrowRight"),
    )
    for act in acts:
        act()
        seen.append(screen(page))
        assert np.count_nonzero(np.abs(seen[-1] - seen[-2]).max(axis=-1) > 20) > 300, len(seen)
    figures = page.locator("a.full-size img")
    assert figures.count() >= 5, "DWI, mean b=0, mask, tensor and QC"
    for index in range(figures.count()):
        figures.nth(index).scroll_into_view_if_needed()
        assert min(size_of(figures.nth(index))) > 50
    assert problems == []


def test_the_cohort_page_leads_to_the_report_and_back(page: Any, materialized: UiServer, project: Project) -> None:
    done = project.command("report")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sub-01" not in done.stdout, "the UI has built its report"
    problems = watched(page)
    page.goto((project.store / "group.html").as_uri())
    page.locator("html[data-state=open]").wait_for(state="attached")
    page.locator("#images").scroll_into_view_if_needed()
    image = page.locator("#mosaics img").first
    image.scroll_into_view_if_needed()
    assert min(size_of(image)) > 50
    page.locator("#scroller tbody a", has_text="sub-01").click()
    page.locator("h1", has_text="sub-01").wait_for()
    assert Path(page.url).name == "sub-01.html"
    page.locator("#viewer[data-state=ready]").wait_for(state="attached")
    page.get_by_role("link", name="All subjects").click()
    page.locator("html[data-state=open]").wait_for(state="attached")
    assert Path(page.url).name == "group.html"
    assert problems == []


def watched(page: Any) -> list[str]:
    """What goes wrong in the page from now on: errors of the console, and requests to a network."""
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda one: problems.append(one.text) if one.type == "error" else None)
    page.on(
        "request",
        lambda one: None if one.url.startswith(("file://", "data:", "blob:")) else problems.append(one.url),
    )
    return problems


def stored(project: Project, suffix: str) -> Path:
    return project.store / "sub-01" / "dwi" / f"sub-01_{suffix}.nii.gz"
