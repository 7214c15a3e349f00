"""Takes the screenshots of the README and of the pages about quality.

`python -m kwneuro_assets_tests.docs.screenshots PROJECT`; PROJECT is a computed demo, best of several subjects:
`kwneuro-assets --home PROJECT demo --subjects 4`. The pages of the project are brought up to date first. What is on
them is what the package computed; a test limits the sizes of the images.
"""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path
from typing import Any

from PIL import Image

from kwneuro_assets_tests.docs.pages import ROOT
from kwneuro_assets_tests.reports.test_subject_browser import ARGUMENTS, CHROMIUM
from kwneuro_assets_tests.testkit.project import Project
from kwneuro_assets_tests.testkit.ui_server import UiServer

WIDTH = 1400  # pixels
TIMEOUT = 90  # seconds for a page on a busy machine
SUBJECT = "sub-01"
BUNDLES = ("CST_left", "CST_right", "CC_5", "CG_left", "CG_right", "ILF_left", "MCP")
PLACE = (
    -0.13,
    -0.02,
    0.2,
)  # of the crosshair, where CST and CC cross: from the center of the grid, relative to its size
COLORS = 256  # of the images: a third of the bytes, and no difference that is seen
DRAWN = 2  # seconds until a page is drawn: the viewer without a graphics card, images when they come into view


def take(home: Path, images: Path) -> None:
    """Write `subject_report.png`, `cohort_report.png` and `checks.png` into `images`, from the project in `home`."""
    from playwright.sync_api import sync_playwright

    project = Project(home)
    done = project.command("report")
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": WIDTH, "height": 860})
        page.set_default_timeout(TIMEOUT * 1000)
        save(subject_report(page, project.store), images / "subject_report.png")
        save(cohort_report(page, project.store), images / "cohort_report.png")
        with UiServer(project) as server:
            save(checks(page, server.address), images / "checks.png")
        browser.close()


def subject_report(page: Any, store: Path) -> bytes:
    """The viewer of the report, with bundles on FA."""
    page.goto((store / f"{SUBJECT}.html").resolve().as_uri())
    page.locator("#viewer[data-state=ready]").wait_for(state="attached")
    page.locator("#viewer-background").select_option(label="Fractional anisotropy (FA)")
    for name in BUNDLES:
        page.locator(f"label[title={name}]").click()
    for axis, fraction in zip("xyz", PLACE, strict=True):
        slider = page.locator(f"#viewer-{axis}")
        slider.fill(str(round((0.5 + fraction) * int(slider.get_attribute("max")))))
    page.evaluate("scrollTo(0, document.getElementById('viewer-section').offsetTop - 80)")  # below the fixed heading
    return shot(page)


def cohort_report(page: Any, store: Path) -> bytes:
    """The table and the images of the cohort, with the second subject selected."""
    page.goto((store / "group.html").resolve().as_uri())
    page.locator("html[data-state=open]").wait_for(state="attached")
    for _ in range(2):
        page.keyboard.press("j")
    page.locator("nav a", has_text="Images").click()  # loads them
    shot(page)
    page.locator("nav a", has_text="Subjects").click()
    return shot(page)


def checks(page: Any, address: str) -> bytes:
    """The asset checks of the subject in Dagster's UI."""
    page.goto(f"{address}/assets/dwi_qc?view=checks")
    page.get_by_text("artifacts", exact=True).first.click()
    page.get_by_text("dropout_slices", exact=True).first.wait_for()
    return shot(page)


def shot(page: Any) -> bytes:
    """What is in view, once it is drawn: the first screenshot after scrolling may have a part of it."""
    page.screenshot()
    time.sleep(DRAWN)
    return bytes(page.screenshot())


def save(screenshot: bytes, path: Path) -> None:
    """Write the screenshot as PNG with a palette of its own."""
    image = Image.open(io.BytesIO(screenshot)).convert("RGB")
    image.quantize(COLORS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    take(Path(sys.argv[1]).resolve(), ROOT / "docs" / "images")
