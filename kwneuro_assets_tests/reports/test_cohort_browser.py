"""The cohort page in Chromium, opened as a file: what a user does with it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kwneuro_assets.imaging import Table
from kwneuro_assets.qc.metrics import CheckName, Metric
from kwneuro_assets.qc.ratings import Rating, parse_ratings
from kwneuro_assets.reports.cohort_content import CohortContent, Failure
from kwneuro_assets.reports.cohort_page import cohort_page
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets_tests.reports.synthetic_cohort import outliers_of, synthetic_cohort, with_outliers
from kwneuro_assets_tests.testkit.axe import axe_script

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
MANY = 10_000
LIMIT_FACTOR = 3  # of the times that hold on an idle machine with two cores: tests share theirs with other processes
OPENS_MS, UPDATES_MS = 3000 * LIMIT_FACTOR, 300 * LIMIT_FACTOR

# Runs an action and waits until its result is painted: the second frame begins after the first one was shown.
TIMED = """async ([selector, value]) => {
  const element = document.querySelector(selector), began = performance.now();
  if (value === null) element.click();
  else { element.value = value; element.dispatchEvent(new Event("input", { bubbles: true })); }
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  return performance.now() - began;
}"""

Opened = Callable[..., Any]


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
def opened(browser: Any, tmp_path: Path) -> Iterator[Opened]:
    """Opens the page of a content; at the end, no error may have reached the console, and nothing left the machine."""
    contexts, problems, requests = [], [], []

    def open_page(content: CohortContent, name: str = "group.html", **options: Any) -> Any:
        (tmp_path / name).write_text(cohort_page(content), encoding="utf-8")
        context = browser.new_context(viewport={"width": 1400, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda one: problems.append(one.text) if one.type == "error" else None)
        page.on("request", lambda one: requests.append(one.url))
        page.on("dialog", lambda one: one.accept())
        page.goto(f"file://{tmp_path / name}")
        page.locator("html[data-state=open]").wait_for(state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []
    assert [url for url in requests if not url.startswith(("file://", "blob:"))] == []


def write_images(folder: Path, keys: list[str], size: tuple[int, int] = (300, 120)) -> None:
    for key in keys:
        place = folder / SubjectKey.parse(key).folder
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (40, 60, 90)).save(place / f"{key}_desc-image_qc_figure.png")


def keys_shown(page: Any) -> list[str]:
    return page.evaluate(
        "[...document.querySelectorAll('#scroller tbody tr[data-subject]:not([hidden]) a')].map(a => a.textContent)"
    )


def current(page: Any) -> str:
    return page.locator("#current-name").inner_text()


def save(page: Any) -> Mapping[str, Rating]:
    with page.expect_download() as download:
        page.locator("#save").click()
    assert download.value.suggested_filename == "ratings.tsv"
    return parse_ratings(Path(download.value.path()).read_text(encoding="utf-8"))


def test_ten_thousand_subjects_open_sort_filter_and_link(opened: Opened, tmp_path: Path) -> None:
    content = synthetic_cohort(MANY, 60, groups=12, images=())
    assert len(cohort_page(content).encode()) < 3_000_000
    page = opened(content)
    assert page.evaluate("performance.getEntriesByName('open')[0]").get("duration") < OPENS_MS
    assert page.evaluate("document.querySelectorAll('#scroller tr').length") < 100, "only the rows in view exist"

    heads = page.locator("#scroller thead button")
    assert page.evaluate(TIMED, ["#scroller thead th:nth-child(6) button", None]) < UPDATES_MS
    values = {
        key: value for key, value in zip(content.keys, content.table.columns["ndc"], strict=True) if value is not None
    }
    smallest = sorted(values, key=lambda key: (float(f"{values[key]:.4g}"), key))
    assert keys_shown(page)[0] == smallest[0]
    heads.nth(5).click()
    assert values[keys_shown(page)[0]] == max(values.values())
    assert heads.nth(5).evaluate("one => one.parentElement.ariaSort") == "descending"

    page.evaluate("() => { const s = document.getElementById('scroller'); s.scrollTop = s.scrollHeight; }")
    page.wait_for_timeout(200)
    missing = [key for key in content.keys if key not in values]
    assert keys_shown(page)[-1] == missing[-1], "missing values are last"

    page.evaluate(
        "() => { const s = document.getElementById('scroller'); s.scrollLeft = s.scrollWidth; s.scrollTop = 0; }"
    )
    page.wait_for_timeout(200)
    row, position = keys_shown(page)[0], content.metric_columns.index("bundle_volume_ml_SLF_I_left")
    cell = page.locator(f"#scroller tbody tr:nth-child(2) td[aria-colindex='{5 + position + 1}']")
    value = content.table.columns["bundle_volume_ml_SLF_I_left"][content.keys.index(row)]
    assert cell.inner_text().lstrip("▲▼ ") == f"{value:#.4g}"

    assert page.evaluate(TIMED, ["#filter-beyond", None]) < UPDATES_MS
    flagged = {key for key in content.keys if content.failed_checks.get(key)}
    flagged |= with_outliers(content)
    assert page.locator("#shown").inner_text() == f"{len(flagged):,} of 10,000 subjects"
    assert page.evaluate(TIMED, ["#filter-text", "00023"]) < UPDATES_MS
    assert set(keys_shown(page)) == {key for key in flagged if "00023" in key}
    page.locator("#filter-clear").click()

    wanted = "sub-07321"
    (tmp_path / f"{wanted}.html").write_text(f"<title>{wanted}</title><h1>Report of {wanted}</h1>")
    page.locator("#filter-text").fill("07321")
    page.locator("#scroller tbody a", has_text=wanted).click()
    page.locator("h1", has_text=f"Report of {wanted}").wait_for()


def test_filters_join_and_the_plot_shows_the_outliers_of_one_metric(opened: Opened) -> None:
    content = synthetic_cohort(600, 20, groups=3, images=())
    page = opened(content)
    beyond = dict(zip(content.outliers.columns, content.outliers.beyond.T, strict=True))["snr_b0"]
    wanted = [key for key, one in zip(content.keys, beyond, strict=True) if one]
    page.locator("figure.strip", has_text="SNR of the b=0 volumes").locator("button").click()
    assert sorted(keys_shown(page)) == sorted(wanted)
    page.locator("#filter-group").select_option("scanner 2")
    assert sorted(keys_shown(page)) == sorted(key for key in wanted if content.groups[key] == "scanner 2")
    page.locator("#filter-clear").click()
    failed = [key for key, checks in content.failed_checks.items() if "model" in checks]
    page.locator("#filter-check").select_option("3")
    assert set(failed) <= set(keys_shown(page)), "those that failed the check, and those with an outlier in its metrics"
    page.locator("#filter-clear").click()
    page.locator("#filter-rating").select_option("doubtful")
    assert keys_shown(page) == ["sub-00002"]


def test_a_click_on_a_point_selects_its_subject_and_hovering_names_it(opened: Opened) -> None:
    content = synthetic_cohort(40, 6, images=())
    page = opened(content)
    plot = page.locator("figure.strip", has_text="SNR of the b=0 volumes").locator(".plot")
    plot.scroll_into_view_if_needed()
    page.keyboard.press("j")
    marker = plot.locator(".marker")
    where = marker.bounding_box()
    page.keyboard.press("j")
    assert current(page) == "sub-00002"
    x, y = where["x"] + where["width"] / 2, where["y"] + where["height"] / 2
    page.mouse.move(x, y)
    value = content.table.columns["snr_b0"][0]
    assert page.locator("#tip").inner_text() == f"sub-00001: {value:.4g}".replace("nan", "n/a")
    page.mouse.click(x, y)
    assert current(page) == "sub-00001"
    assert page.locator("tr.current a").inner_text() == "sub-00001"
    assert marker.bounding_box() == where


def test_ratings_by_keys_are_saved_and_read_by_the_next_run(opened: Opened, tmp_path: Path) -> None:
    content = synthetic_cohort(30, 10, sessions=True)
    write_images(tmp_path, list(content.keys))
    page = opened(content)
    page.keyboard.press("j")
    page.keyboard.press("1")
    page.keyboard.press("c")
    page.keyboard.type('"fine"\t j 3')  # these keys do not rate while the user writes
    page.locator("#rater-name").fill("AB")
    page.locator("#rater-name").press("Tab")
    page.locator("#scroller").focus()
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("x")
    page.keyboard.press("k")
    page.keyboard.press("0")  # removes the rating of the last run
    ratings = save(page)
    assert {key: one.verdict for key, one in ratings.items()} == {
        "sub-00001_ses-01": "good",
        "sub-00003_ses-01": "exclude",
    }
    assert ratings["sub-00001_ses-01"].comment == 'fine" j 3'
    assert ratings["sub-00003_ses-01"].rater == "AB"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", ratings["sub-00003_ses-01"].date)
    assert page.locator("#unsaved").inner_text() == "3 unsaved"

    page.reload()
    page.locator("html[data-state=open]").wait_for(state="attached")
    assert save(page) == ratings, "the browser stores them until they are in the file"

    (tmp_path / "group.html").write_text(cohort_page(synthetic_cohort(30, 10, sessions=True, ratings=ratings)))
    page.reload()
    page.locator("html[data-state=open]").wait_for(state="attached")
    assert page.locator("#unsaved").inner_text() == ""
    assert save(page) == ratings


def test_ratings_of_subjects_without_a_row_are_saved_again(opened: Opened) -> None:
    ratings = {"sub-withdrawn": Rating("exclude", "withdrawn"), "sub-00002": Rating("good")}
    assert save(opened(synthetic_cohort(5, 5, images=(), ratings=ratings))) == ratings


def test_without_storage_ratings_are_in_memory_and_the_page_says_so(opened: Opened, browser: Any) -> None:
    page = opened(synthetic_cohort(5, 5, images=()))
    page.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no'); } });")
    page.reload()
    page.locator("html[data-state=open]").wait_for(state="attached")
    assert page.locator("#not-stored").is_visible()
    page.keyboard.press("j")
    page.keyboard.press("g")
    assert save(page)["sub-00001"].verdict == "good"


def test_images_are_paged_follow_the_order_and_load_from_the_folders_beside_the_page(
    opened: Opened, tmp_path: Path
) -> None:
    content = synthetic_cohort(60, 5)
    write_images(tmp_path, list(content.keys[:-1]))
    page = opened(content)
    page.locator("#images").scroll_into_view_if_needed()
    images = page.locator("#mosaics img")
    images.first.wait_for()
    assert images.count() == 24
    first = images.first
    first.scroll_into_view_if_needed()
    first.evaluate("image => image.decode()")
    assert first.evaluate("image => image.naturalWidth") == 300
    page.locator("#image-next").click()
    assert "sub-00025" in images.first.get_attribute("src")
    page.locator("#per-page").select_option("6")
    page.keyboard.press("Tab")
    for _ in range(7):
        page.keyboard.press("j")
    assert current(page) == "sub-00007"
    assert page.locator("#mosaics figure.current figcaption a").inner_text() == "sub-00007"
    assert page.locator("#image-page").inner_text() == "Page 2 of 10"


def test_an_image_that_is_missing_is_named(opened: Opened, browser: Any, tmp_path: Path) -> None:
    (tmp_path / "group.html").write_text(cohort_page(synthetic_cohort(3, 5)))
    page = browser.new_page()
    page.goto(f"file://{tmp_path / 'group.html'}#images")
    page.locator("#mosaics .absent", has_text="missing from the store").first.wait_for()
    page.close()


def test_the_keyboard_reaches_plots_table_and_report(opened: Opened, tmp_path: Path) -> None:
    content = synthetic_cohort(50, 10, images=())
    page = opened(content)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the link that skips to the table
    assert page.evaluate("document.activeElement.id") == "scroller"
    for key, expected in [("ArrowDown", 1), ("ArrowDown", 2), ("End", 50), ("ArrowUp", 49), ("Home", 1)]:
        page.keyboard.press(key)
        assert current(page) == f"sub-{expected:05d}"
    plots = page.locator(".plot")
    assert [plots.nth(at).get_attribute("tabindex") for at in range(3)] == ["0", "-1", "-1"]
    plots.first.focus()
    page.keyboard.press("Home")
    values = dict(zip(content.keys, content.table.columns["snr_b0"], strict=True))
    known = {key: value for key, value in values.items() if value is not None}
    assert known[current(page)] == min(known.values())
    page.keyboard.press("ArrowRight")
    assert known[current(page)] == sorted(known.values())[1]
    page.keyboard.press("ArrowDown")
    assert plots.nth(1).evaluate("one => one === document.activeElement")
    key = current(page)
    assert key in plots.nth(1).get_attribute("aria-valuetext")
    (tmp_path / f"{key}.html").write_text("<h1>its report</h1>")
    page.keyboard.press("Enter")
    page.locator("h1", has_text="its report").wait_for()


def test_the_keys_are_explained_and_can_be_disabled(opened: Opened) -> None:
    page = opened(synthetic_cohort(5, 5, images=()))
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.locator("#shortcuts").uncheck()
    page.locator("#help button").click()
    assert page.locator("#help").is_hidden(), "the policy allows this form"
    page.keyboard.press("j")
    assert current(page) == "No subject selected"


def test_a_table_with_many_columns_has_only_those_in_view(opened: Opened) -> None:
    content = synthetic_cohort(30, 40, images=())
    page = opened(content)
    assert page.locator("#scroller thead th").count() == 4 + len(content.metric_columns)
    assert page.locator("#scroller tbody tr:nth-child(2) td").count() < 25
    for column in (2, 20, 41):
        head = page.locator(f"#scroller thead th:nth-child({column + 1})")
        head.scroll_into_view_if_needed()
        page.wait_for_timeout(150)
        cell = page.locator(f"#scroller tbody tr:nth-child(3) td[aria-colindex='{column + 1}']")
        box, above = cell.bounding_box(), head.bounding_box()
        assert (round(box["x"]), round(box["width"])) == (round(above["x"]), round(above["width"])), column


def test_hostile_texts_are_shown_as_text(opened: Opened) -> None:
    hostile = "<img src=x onerror=\"document.title='broken'\"></script><script>document.title='broken'</script>"
    names = [hostile, "../../etc", "javascript:alert(1)", "..", *(f"sub-{at}" for at in range(20))]
    table = Table(
        {"participant_id": names, "a": [float(at % 5) for at in range(23)] + [900.0], "b": [hostile] * 24},
        {"participant_id": "text", "a": "number", "b": "text"},
    )
    metric = Metric("a", hostile, hostile, hostile, "higher", "mask")
    failed: dict[str, tuple[CheckName, ...]] = {hostile: ("mask",)}
    content = CohortContent(
        hostile, hostile, table, {"a": metric, "b": metric}, outliers_of(table), 3.5, group_name=hostile,
        groups={"sub-1": hostile, "sub-2": "other"}, states={hostile: {hostile: 1}},
        failures=[Failure(hostile, hostile, hostile)], quarantined={hostile: hostile},
        ratings={"sub-3": Rating("good", hostile, hostile)}, reports=set(names), images=(),
        failed_checks=failed,
    )  # fmt: skip
    page = opened(content)
    assert keys_shown(page)[:4] == names[:4]
    links = page.evaluate(
        "[...document.querySelectorAll('#scroller tbody a')].slice(0, 5).map(a => a.getAttribute('href'))"
    )
    assert links == [None, None, None, None, "sub-0.html"], "a key that is no subject has no link"
    page.keyboard.press("j")
    assert current(page) == hostile
    page.keyboard.press("3")
    page.locator("#scroller").focus()
    page.keyboard.press("End")
    page.locator(".plot").first.hover(position={"x": 40, "y": 20})
    page.locator("#filter-group").select_option(label=hostile)
    assert keys_shown(page) == ["sub-1"]
    assert list(save(page)) == ["sub-3"], "a subject that is no BIDS label cannot be rated"
    page.locator("#filter-clear").click()
    page.pdf()  # the list of flagged subjects is made for it
    assert page.locator("#flagged th").first.text_content() == hostile
    assert page.evaluate("document.images.length") == 0
    assert page.title() == f"Quality of the cohort: {hostile}"


def test_axe_finds_no_serious_violation(opened: Opened) -> None:
    script = axe_script()
    for scheme in ("light", "dark"):
        page = opened(synthetic_cohort(20, 12, groups=3, images=()), color_scheme=scheme)
        page.keyboard.press("j")
        page.keyboard.press("3")
        page.evaluate(script)
        for state in ("page", "dialog")[: 2 if scheme == "light" else 1]:
            found = page.evaluate(
                "axe.run().then(found => found.violations.map(v => [v.id, v.impact, v.nodes[0].html]))"
            )
            assert [one for one in found if one[1] in ("serious", "critical")] == [], (scheme, state)
            page.keyboard.press("?")


def test_printing_has_all_plots_and_the_flagged_subjects(opened: Opened, tmp_path: Path) -> None:
    content = synthetic_cohort(120, 30, groups=3, images=())
    page = opened(content, color_scheme="dark")
    page.locator("#plots details").first.evaluate("one => { one.open = false; }")
    content_of_pdf = page.pdf(path=str(tmp_path / "group.pdf"), print_background=True)
    assert content_of_pdf.startswith(b"%PDF")
    rows = page.locator("#flagged tr")
    flagged = {key for key in content.keys if content.failed_checks.get(key) or key in content.ratings}
    flagged |= with_outliers(content)
    assert rows.count() == len(flagged)
    assert not page.locator("#plots details").first.evaluate("one => one.open"), "as it was before"
