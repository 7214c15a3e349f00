"""The command `report`: which pages it builds, what it reads, and its errors."""

from __future__ import annotations

import base64
import csv
import json
import re
import shutil
import webbrowser
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
from click.testing import Result

from kwneuro_assets.assets.mechanism.group_inputs import MemberValues
from kwneuro_assets.cli.exit_codes import FAILED, USAGE_ERROR
from kwneuro_assets.imaging.content_hash import Value
from kwneuro_assets.reports.static_files import NIIVUE
from kwneuro_assets.storage.store import SHARED
from kwneuro_assets_tests.cli.test_staleness_commands import Home
from kwneuro_assets_tests.testkit.small_dataset import write_dataset

SUBJECTS = ("sub-01", "sub-02")
OF_SUBJECT, OF_COHORT = ("dwi_qc", "subject_report"), ("cohort_qc", "cohort_report")
MADE = "materialized"
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Result]:
    """Two subjects, of which the first has some derivatives and the second has none; and what `report` printed."""
    home = Home(tmp_path_factory.mktemp("reported"))
    write_dataset(home.folder / "source", SUBJECTS)
    assert home("ingest").exit_code == 0
    assert home("run", "--subject", "sub-01", "--select", "dti").exit_code == 0
    return home, home("report")


@pytest.fixture
def home(reported: tuple[Home, Result], tmp_path: Path) -> Home:
    """A copy of the two subjects for one test."""
    shutil.copytree(reported[0].folder, tmp_path / "home")
    return Home(tmp_path / "home")


def built(done: Result) -> dict[tuple[str, str], str]:
    """The outcome by subject and asset, from the table that `report` prints."""
    rows = [line.split() for line in done.stdout.splitlines()]
    return {(row[0], row[1]): row[2] for row in rows if len(row) >= 3 and row[1] in OF_SUBJECT + OF_COHORT}


def page_of(home: Home, name: str) -> str:
    return (home.folder / "store" / f"{name}.html").read_text(encoding="utf-8")


def cohort_rows(home: Home) -> list[dict[str, str]]:
    with (home.folder / "store" / "group_desc-image_qc.tsv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def pack(page: str, name: str) -> bytes:
    """A data block of the cohort page."""
    found = re.search(rf'id="pack-{name}">([^<]*)<', page)
    assert found is not None
    return zlib.decompress(base64.b64decode(found[1]))


def labels(page: str) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(pack(page, "labels"))
    return tree


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text, as a browser reads them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def urls(self) -> list[str]:
        return [found[name] for _, found in self.elements for name in ("src", "href") if name in found]


def scripts_of(page: str) -> list[dict[str, str]]:
    """The attributes of each script."""
    return [found for tag, found in Elements(page).elements if tag == "script"]


def test_pages_are_built_from_whatever_exists(reported: tuple[Home, Result]) -> None:
    home, done = reported
    assert done.exit_code == 0, done.output
    of_subjects = {(key, name): MADE for key in SUBJECTS for name in OF_SUBJECT}
    assert built(done) == {**of_subjects, **{("group", name): MADE for name in OF_COHORT}}
    assert done.stdout.splitlines()[-1] == f"cohort_report of group: {home.folder / 'store' / 'group.html'}"
    first, second = cohort_rows(home)
    assert (first["participant_id"], second["participant_id"]) == SUBJECTS
    assert float(first["mask_volume_ml"]) > 0
    assert second["mask_volume_ml"] == "n/a", "it has no mask"
    assert second["raw_num_directions"] == first["raw_num_directions"] != "n/a", "of the raw DWI"
    assert "it has not been materialized" in Elements(page_of(home, "sub-02")).text
    assert labels(page_of(home, "group"))["participants"] == list(SUBJECTS)
    assert (home.folder / "store" / SHARED / NIIVUE).is_file()
    assert f"{SHARED}/{NIIVUE}" in Elements(page_of(home, "sub-01")).urls()
    assert f"{SHARED}/{NIIVUE}" not in Elements(page_of(home, "sub-02")).urls(), "there is nothing to view"


def test_a_new_subject_adds_one_row_and_only_that_subject_is_read(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    again = home("report")
    assert built(again) == {("group", "cohort_report"): MADE}, "a snapshot of the states"
    before = cohort_rows(home)
    write_dataset(home.folder / "source", ["sub-03"])
    assert home("ingest").exit_code == 0
    read: list[str] = []
    load = MemberValues.__getitem__

    def recorded(self: MemberValues, subject: str) -> Value:
        read.append(subject)
        return load(self, subject)

    monkeypatch.setattr(MemberValues, "__getitem__", recorded)
    done = home("report")
    of_subject = {("sub-03", name): MADE for name in OF_SUBJECT}
    assert built(done) == {**of_subject, **{("group", name): MADE for name in OF_COHORT}}
    assert read == ["sub-03"]
    assert cohort_rows(home)[:2] == before
    assert cohort_rows(home)[2]["participant_id"] == "sub-03"
    assert labels(page_of(home, "group"))["participants"] == [*SUBJECTS, "sub-03"]


def test_the_report_of_one_subject_builds_no_cohort_page_and_may_be_a_single_file(home: Home) -> None:
    before = {name: page_of(home, name) for name in ("group", "sub-02")}
    home.settings("report: {embed: true}\n")
    done = home("report", "--subject", "sub-01")
    assert done.exit_code == 0, done.output
    assert built(done) == {("sub-01", "subject_report"): MADE}
    assert done.stdout.splitlines()[-1] == f"subject_report of sub-01: {home.folder / 'store' / 'sub-01.html'}"
    assert {name: page_of(home, name) for name in before} == before
    page = Elements(page_of(home, "sub-01"))
    assert not [url for url in page.urls() if url.startswith(SHARED)]
    images = [found["src"] for tag, found in page.elements if tag == "img" and "src" in found]
    assert images, "dti, mean b=0, mask and DWI have figures"
    assert all(url.startswith("data:image/png;base64,") for url in images)


def test_the_page_is_opened_as_a_file(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    assert home("report", "--open").exit_code == 0
    assert home("report", "--open", "--subject", "sub-02", "--subject", "sub-01").exit_code == 0
    assert [urlsplit(url).scheme for url in opened] == ["file"] * 3
    files = [Path(url2pathname(urlsplit(url).path)) for url in opened]
    store = (home.folder / "store").resolve()
    assert files == [store / f"{name}.html" for name in ("group", "sub-02", "sub-01")]
    assert all(file.is_file() for file in files)


def test_a_subject_that_cannot_have_a_report_is_an_error_with_the_reason(home: Home) -> None:
    bvals = home.folder / "source" / "sub-02" / "dwi" / "sub-02_dwi.bval"
    bvals.write_text("0 1 2\n")
    home("ingest")
    before = page_of(home, "sub-02")
    for key, reason in (("sub-02", str(bvals)), ("sub-99", "`ingest` adds new subjects"), ("group", "`ingest`")):
        done = home("report", "--subject", key)
        assert done.exit_code == FAILED
        assert f"{key} has no report: " in done.stderr
        assert reason in done.stderr
        assert built(done) == {}
    assert page_of(home, "sub-02") == before, "of the last good scan"
    done = home("report")
    assert done.exit_code == 0, "the others have theirs"
    page = page_of(home, "group")
    assert labels(page)["participants"] == ["sub-01"]
    assert str(bvals) in Elements(page).text, "the reason"


def test_without_subjects_the_error_says_what_to_do(tmp_path: Path) -> None:
    empty = Home(tmp_path / "empty")
    write_dataset(empty.folder / "source", SUBJECTS)
    done = empty("report")
    assert done.exit_code == FAILED
    assert f"there are no subjects yet: `run` ingests {empty.folder / 'source'}" in done.stderr
    assert not (empty.folder / "store" / "group.html").exists()


def test_a_page_that_cannot_be_built_is_a_failure_and_the_next_one_is_built(home: Home) -> None:
    (home.folder / "store" / "sub-01" / "dwi" / "sub-01_desc-meanb0_dwiref.nii.gz").write_bytes(b"damaged")
    home.settings("checks: {max_mask_flat_face: 1}\n")  # makes the reports stale
    done = home("report", "--subject", "sub-01", "--subject", "sub-02")
    assert done.exit_code == FAILED
    assert built(done) == {("sub-01", "subject_report"): "failed", ("sub-02", "subject_report"): MADE}
    assert "sub-01_desc-meanb0_dwiref.nii.gz" in done.stdout, "the reason names the file"


def test_a_rating_excludes_a_subject_from_the_cohort(home: Home) -> None:
    ratings = home.folder / "ratings.tsv"
    ratings.write_text("participant_id\trating\tcomment\nsub-02\tExclude\tmotion\n")  # as a spreadsheet may write it
    home.settings(f"cohort: {{ratings: '{ratings}'}}\n")
    why = home("status", "--subject", "group", "--why").stdout
    assert "cohort_qc of the group: stale\ncohort_qc: members removed since it was materialized: sub-02\n" in why
    assert "cohort_report: cohort.ratings: was not set, now ratings.tsv" in why
    done = home("report")
    assert built(done) == {("group", name): MADE for name in OF_COHORT}
    assert [row["participant_id"] for row in cohort_rows(home)] == ["sub-01"]
    known = labels(page_of(home, "group"))
    assert known["participants"] == ["sub-01"]
    assert "motion" in known["ratings"][0], "saved again with the ratings of the next session"
    assert page_of(home, "sub-02"), "its own report remains"

    ratings.write_text("participant_id\trating\nsub-02\tdoubtful\n")
    why = home("status", "--subject", "group", "--why").stdout
    assert "cohort_qc: members added since it was materialized: sub-02" in why


def test_a_broken_file_of_ratings_is_an_error_that_names_the_line(home: Home) -> None:
    ratings = home.folder / "ratings.tsv"
    ratings.write_text("participant_id\trating\nsub-02\tsplendid\n")
    home.settings(f"cohort: {{ratings: '{ratings}'}}\n")
    before = page_of(home, "group")
    for command in (("report",), ("status", "--subject", "group")):
        done = home(*command)
        assert done.exit_code == USAGE_ERROR
        assert f"Error: cohort.ratings: {ratings} cannot be read: line 2 of the ratings" in done.stderr
        assert "'splendid'" in done.stderr
    assert page_of(home, "group") == before
    assert home("report", "--subject", "sub-01").exit_code == 0, "it needs no ratings"
    assert home("status").exit_code == 0


def test_another_limit_changes_verdicts_and_computes_no_metric_again(home: Home) -> None:
    def verdicts() -> dict[str, str]:
        found = re.findall(r'<h3>(\w+) <span class="verdict (\w+)">', page_of(home, "sub-01"))
        return dict(found)

    def failed() -> set[str]:
        page = page_of(home, "group")
        bits = pack(page, "subjects")[0]  # of the first subject
        return {check for bit, check in enumerate(labels(page)["checks"]) if bits & 1 << bit}

    assert verdicts()["mask"] == "warn", "the ellipsoid of 8 x 7 x 6 voxels has flat faces"
    assert "mask" in failed()
    others = verdicts(), failed()
    home.settings("checks: {max_mask_flat_face: 1}\n")
    states = home("status", "--why").stdout
    assert "subject_report: stale: checks.max_mask_flat_face: was 0.5, now 1" in states
    done = home("report")
    reports = {(key, "subject_report"): MADE for key in SUBJECTS}
    assert built(done) == {**reports, ("group", "cohort_report"): MADE}
    assert verdicts() == {**others[0], "mask": "pass"}
    assert failed() == others[1] - {"mask"}


def test_names_of_participants_and_columns_are_shown_as_text(home: Home) -> None:
    source = home.folder / "source"
    (source / "participants.tsv").write_text(
        f"participant_id\t{HOSTILE}\nsub-01\t{HOSTILE}\nsub-02\t</script>\nsub-{HOSTILE}\tA\n"
    )
    (source / f"sub-{HOSTILE}" / "dwi").mkdir(parents=True)
    (source / f"sub-{HOSTILE}" / "dwi" / f"sub-{HOSTILE}_dwi.nii.gz").write_bytes(b"")
    home.settings(f"cohort: {{group_by: ['{HOSTILE}']}}\n")
    before = scripts_of(page_of(home, "group"))
    home("ingest")
    done = home("report")
    assert done.exit_code == 0, done.output
    page = page_of(home, "group")
    elements = Elements(page)
    assert not [tag for tag, found in elements.elements if any(name.startswith("on") for name in found)]
    assert "x" not in elements.urls(), "no element of the hostile text"
    assert scripts_of(page) == before
    assert f"sub-{HOSTILE}" in elements.text, "the quarantined subject"
    assert labels(page)["groupName"] == HOSTILE
    assert sorted(labels(page)["groups"]) == sorted([HOSTILE, "</script>"])
    assert labels(page)["participants"] == list(SUBJECTS)
