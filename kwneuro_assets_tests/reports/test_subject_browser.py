"""The report of a subject in Chromium, opened as a file: what a user does with it."""

from __future__ import annotations

import io
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kwneuro_assets.reports.content import SubjectContent
from kwneuro_assets.reports.static_files import NIIVUE, static_text
from kwneuro_assets.reports.subject_page import subject_page
from kwneuro_assets.reports.viewer_volumes import viewer_volumes
from kwneuro_assets_tests.testkit.axe import axe_script
from kwneuro_assets_tests.testkit.subject_contents import content_of, hostile_content
from kwneuro_assets_tests.testkit.viewer_subjects import GRIDS, MARKER, subject_on

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# WebGL without a graphics card.
ARGUMENTS = [
    "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-first-run",
    "--disable-background-networking", "--disable-sync",
]  # fmt: skip
TIMEOUT = 60  # seconds, on a machine that other tests use, too
FIGURES = ("sub-01_desc-denoised_dwi_figure.png", "sub-01_model-tensor_dwimap_figure.png")


class Browser:
    """Opens pages in a folder like that of a store; collects errors of the console and requests beyond the folder."""

    def __init__(self, chromium: Any, folder: Path) -> None:
        self.folder = folder
        self.problems: list[str] = []
        self._chromium = chromium
        self._contexts: list[Any] = []
        (folder / ".assets").mkdir()
        (folder / ".assets" / NIIVUE).write_text(static_text(NIIVUE), encoding="utf-8")
        (folder / "sub-01" / "dwi").mkdir(parents=True)
        for name in FIGURES:
            Image.new("RGB", (1200, 500), (40, 60, 90)).save(folder / "sub-01" / "dwi" / name)

    def open(self, content: SubjectContent, *, embed: bool = False, wait: str = "ready", **options: Any) -> Any:
        (self.folder / "sub-01.html").write_text(subject_page(content, embed=embed), encoding="utf-8")
        context = self._chromium.new_context(**{"viewport": {"width": 1400, "height": 1000}, **options})
        self._contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(TIMEOUT * 1000)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", lambda one: self.problems.append(one.text) if one.type == "error" else None)
        page.on("request", lambda one: self._check(one.url))
        page.goto(f"file://{self.folder / 'sub-01.html'}")
        if wait:
            page.locator(f"#viewer[data-state={wait}]").wait_for(state="attached")
        return page

    def _check(self, url: str) -> None:
        if not url.startswith((f"file://{self.folder}/", "data:")):
            self.problems.append(f"requested {url}")

    def close(self) -> None:
        for context in self._contexts:
            context.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def browser(chromium: Any, tmp_path: Path) -> Iterator[Browser]:
    browser = Browser(chromium, tmp_path)
    yield browser
    browser.close()
    assert browser.problems == []


def move_to(page: Any, voxel: tuple[int, ...]) -> None:
    for axis, index in zip("xyz", voxel, strict=True):
        page.locator(f"#viewer-{axis}").fill(str(index))


def readout(page: Any, name: str) -> str:
    return str(page.locator(f"#viewer-value-{name}").inner_text())


def number(text: str) -> float:
    found = re.search(r"[0-9.]+", text)
    assert found is not None
    return float(found[0].rstrip("."))


def screen(page: Any) -> np.ndarray[Any, Any]:
    """The pixels of the viewer (rows, columns, 3)."""
    time.sleep(0.3)  # two frames, also with a busy software renderer
    shot = Image.open(io.BytesIO(page.locator("#viewer-frame").screenshot())).convert("RGB")
    return np.array(shot).astype(int)[3:-3, 3:-3]  # without parts of pixels of the page around it


def test_the_values_under_the_crosshair_are_those_of_the_derivatives(browser: Browser) -> None:
    subject = subject_on("permuted")
    volumes = viewer_volumes(**subject)
    assert volumes.grid is not None
    page = browser.open(content_of(volumes))
    images = {
        "b0": subject["mean_b0"],
        "fa": subject["dti"]["fa"],
        "ndi": subject["noddi"]["ndi"],
        "odi": subject["noddi"]["odi"],
        "wmfraction": subject["csd_peaks"]["wmfraction"],
    }
    scales = {one.name: one for one in volumes.backgrounds}
    for voxel in ((17, 19, 12), (5, 20, 9), (30, 11, 15)):
        move_to(page, voxel)
        stored = [int(index) for index in page.locator("#viewer-voxel").inner_text().split(",")]
        world = subject["mean_b0"].affine @ [*stored, 1]
        assert world[:3] == pytest.approx((volumes.grid.affine @ [*voxel, 1])[:3], abs=1e-4)
        for axis, letters, millimeters in zip("xyz", ("LR", "PA", "IS"), world, strict=False):
            shown = page.locator(f"#viewer-{axis}-mm").inner_text()
            assert number(shown) == pytest.approx(abs(millimeters), abs=0.051)  # one decimal
            assert shown.endswith(f" mm {letters[int(millimeters > 0)]}")
        for name, image in images.items():
            value = image.array[tuple(stored)]
            # Half a step of the scale, and half a unit of the third digit that is shown.
            assert number(readout(page, name)) == pytest.approx(
                value, abs=0.51 * scales[name].slope + 0.006 * float(value)
            )
        inside = subject["brain_mask"].array[tuple(stored)]
        assert readout(page, "mask") == ("inside" if inside else "outside")
        names = [name for name, one in zip(subject["tract_masks"].names, subject["tract_masks"].volumes(), strict=True)
                 if one[tuple(stored)]]  # fmt: skip
        assert readout(page, "bundles") == (", ".join(names) or "none")


@pytest.mark.parametrize("orientation", GRIDS)
def test_a_marker_on_the_left_is_left_in_every_view(browser: Browser, orientation: str) -> None:
    volumes = viewer_volumes(**subject_on(orientation))
    assert volumes.grid is not None
    # Small, as software draws it.
    page = browser.open(content_of(volumes), viewport={"width": 800, "height": 500})
    voxel = np.rint(np.linalg.inv(volumes.grid.affine) @ [*MARKER, 1])[:3].astype(int)
    move_to(page, tuple(int(index) for index in voxel))
    assert readout(page, "b0").startswith("≥ ") or number(readout(page, "b0")) > 950
    assert "CST_left" in readout(page, "bundles")
    move_to(page, (*voxel[:2], 1))  # so that the crosshair does not cover it in the other two directions
    page.locator("#viewer-background").select_option(label="Fractional anisotropy (FA)")
    # Where FA is 1 there is the marker, and nothing else is white. FA has the same place as the other maps.
    for view, (across, up) in {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}.items():
        move_to(page, tuple(int(index) for index in voxel))
        page.locator(f"[data-view={view}]").click()
        pixels = screen(page)
        rows, columns = np.nonzero(pixels.min(axis=-1) > 252)  # letters are darker
        assert columns.size > 50, view
        height, width = pixels.shape[:2]
        # MARKER is left, anterior and superior: screen left is the subject's left, and posterior in sagittal views.
        assert (columns.mean() < width / 2) == (MARKER[across] < 0), view
        assert (rows.mean() < height / 2) == (MARKER[up] > 0), view
    page.locator("[data-view=render]").click()
    page.locator("#viewer-frame").focus()
    page.locator("#viewer-solidity").fill("0")
    page.locator("label[title=CST_left]").click()
    # Seen from behind (azimuth 0), left is left; the view starts at 120 and Shift with an arrow key turns by 15.
    page.locator("#viewer-frame").focus()
    for _ in range(8):
        page.keyboard.press("Shift+ArrowRight")
        screen(page)
    pixels = screen(page)
    blue = (pixels[..., 2] - pixels[..., 1] > 60) | (np.ptp(pixels, axis=-1) > 60)
    _, columns = np.nonzero(blue & ~_is_crosshair(pixels))
    assert columns.size > 200
    assert columns.mean() < pixels.shape[1] / 2


def _is_crosshair(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Yellow."""
    return (pixels[..., 0] > pixels[..., 2] + 40) & (pixels[..., 1] > pixels[..., 2] + 30)


def test_keys_move_the_crosshair_by_voxels_in_the_direction_of_the_arrow(browser: Browser) -> None:
    page = browser.open(content_of(viewer_volumes(**subject_on("LAS"))))
    move_to(page, (10, 10, 10))
    page.locator("#viewer-frame").focus()
    for key in ("ArrowRight", "Shift+ArrowUp", "PageDown"):
        page.keyboard.press(key)
    assert [page.locator(f"#viewer-{axis}").input_value() for axis in "xyz"] == ["11", "15", "9"]
    for _ in range(4):
        page.keyboard.press("Shift+ArrowLeft")
    assert page.locator("#viewer-x").input_value() == "0", "it stays inside"
    outline = page.evaluate("getComputedStyle(document.querySelector('#viewer-frame')).outlineStyle")
    assert outline == "solid", "the focus is visible"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "viewer-x", "the keys of the frame do not trap the focus"
    page.keyboard.press("ArrowRight")
    assert page.locator("#viewer-x").input_value() == "1"


def test_overlays_backgrounds_and_the_window_change_what_is_seen(browser: Browser) -> None:
    page = browser.open(content_of(viewer_volumes(**subject_on("RAS"))))
    page.locator("[data-view=axial]").click()
    seen = [screen(page)]

    def changes(act: Any) -> None:
        act()
        seen.append(screen(page))
        assert np.count_nonzero(np.abs(seen[-1] - seen[-2]).max(axis=-1) > 20) > 300

    changes(lambda: page.locator("#viewer-mask").check())
    changes(lambda: page.locator("label[title=CST_left]").click())
    changes(lambda: page.locator("#viewer-opacity").fill("0"))
    changes(lambda: page.locator("#viewer-none").click())
    changes(lambda: page.locator("#viewer-background").select_option(label="Neurite density (NDI)"))
    changes(lambda: page.locator("#viewer-high").fill("0.4"))
    assert page.locator("#viewer-high-value").inner_text() == "0.4"
    changes(lambda: page.locator("#viewer-background").select_option(label="Color-coded direction"))
    assert page.locator("#viewer-high").is_disabled()
    page.locator("#viewer-filter").fill("uf_")
    assert page.locator("#viewer-bundles label:visible").count() == 2
    page.locator("#viewer-all").click()
    assert page.locator("#viewer-chosen").inner_text() == "2 of 10 shown"


def test_a_click_shows_a_figure_in_full_size(browser: Browser) -> None:
    page = browser.open(content_of(None), wait="")
    page.locator("a.full-size img").first.scroll_into_view_if_needed()
    page.locator("a.full-size").first.click()
    dialog = page.locator("dialog[open] img")
    assert dialog.evaluate("image => image.decode().then(() => [image.naturalWidth, image.width])") == [1200, 1200]
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0


def test_the_report_needs_nothing_else_if_niivue_is_embedded(browser: Browser) -> None:
    (browser.folder / ".assets" / NIIVUE).unlink()
    page = browser.open(content_of(viewer_volumes(**subject_on("LAS"))), embed=True)
    assert page.locator("#viewer-panel").is_visible()


@pytest.mark.parametrize("missing", ["webgl2", "niivue"])
def test_without_webgl_or_niivue_the_page_says_so_and_shows_the_figures(browser: Browser, missing: str) -> None:
    content = content_of(viewer_volumes(**subject_on("LAS")))
    if missing == "niivue":
        (browser.folder / ".assets" / NIIVUE).unlink()
    page = browser.open(content, wait="")
    if missing == "webgl2":
        page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
        page.reload()
    page.locator("#viewer-message").wait_for()
    assert "The figures show the slices." in page.locator("#viewer-message").inner_text()
    assert page.locator("#viewer-panel").is_hidden()
    assert page.locator("a.full-size img").first.evaluate("one => one.decode().then(() => one.naturalWidth)") == 1200
    if missing == "niivue":
        assert browser.problems.pop().startswith("Failed to load resource"), "the only problem"


def test_hostile_texts_do_not_run(browser: Browser) -> None:
    page = browser.open(hostile_content(viewer_volumes(**subject_on("LAS"))))
    assert page.evaluate("window.hacked") is None
    assert page.locator("h1").inner_text().startswith("</script><script>")


def test_the_policy_stops_a_script_that_would_be_injected(browser: Browser) -> None:
    page = browser.open(content_of(None), wait="")
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.hacked = 1";
            document.body.append(script);
            const image = "<img src='https://example.org/x.png' onerror='window.hacked=1'>";
            document.body.insertAdjacentHTML("beforeend", image);
        }"""
    )
    page.wait_for_timeout(300)
    assert page.evaluate("window.hacked") is None
    stopped = [problem for problem in browser.problems if "Content Security Policy" in problem]
    assert len(stopped) >= 2, "the script and the image"
    browser.problems.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(browser: Browser, scheme: str) -> None:
    script = axe_script()
    page = browser.open(content_of(viewer_volumes(**subject_on("LAS"))), color_scheme=scheme)
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    page.evaluate(script)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']}).then(result => result.violations)")
    assert [(one["id"], one["impact"], [node["html"][:200] for node in one["nodes"]]) for one in found] == []


def test_a_phone_shows_the_page_without_scrolling_sideways(browser: Browser) -> None:
    page = browser.open(content_of(viewer_volumes(**subject_on("LAS"))), viewport={"width": 375, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_the_printed_page_has_all_that_is_folded(browser: Browser) -> None:
    page = browser.open(content_of(viewer_volumes(**subject_on("LAS"))))
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.get_by_text("Mean over standard deviation").is_visible()
    assert page.get_by_text("max bvalue").is_visible()
    assert page.locator("#viewer").is_hidden()
    assert page.locator("nav").is_hidden()
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0
