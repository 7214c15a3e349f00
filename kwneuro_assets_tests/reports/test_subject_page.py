"""The report of a subject: what the page says, and what it never does."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from kwneuro_assets.reports.content import Step, SubjectContent
from kwneuro_assets.reports.lineage import lineage_of
from kwneuro_assets.reports.links import image_url, local_url
from kwneuro_assets.reports.static_files import NIIVUE, static_text
from kwneuro_assets.reports.subject_page import subject_page
from kwneuro_assets.reports.viewer_volumes import ViewerVolumes, viewer_volumes
from kwneuro_assets_tests.testkit.subject_contents import HOSTILE, MISFIT, content_of, hostile_content
from kwneuro_assets_tests.testkit.viewer_subjects import subject_on

VOID = {"meta", "link", "img", "input", "path", "rect", "br"}
# Attributes whose value a browser requests or follows.
URLS = {"href", "src", "action", "formaction", "data", "poster", "srcset", "background", "xlink:href"}


class Parsed(HTMLParser):
    """Elements of a page with their attributes, and the text without scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self._open: list[str] = []
        self._text: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == [], "elements that are not closed"
        self.text = " ".join(" ".join(self._text).split())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attributes}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, text: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts.append(text)
        elif self._open and self._open[-1] != "style":
            self._text.append(text)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def volumes() -> ViewerVolumes:
    return viewer_volumes(**subject_on("LAS"))


@pytest.fixture(scope="module")
def page(volumes: ViewerVolumes) -> Parsed:
    return Parsed(subject_page(content_of(volumes)))


def test_the_verdict_is_on_top_and_warnings_come_before_the_folded_rest(page: Parsed) -> None:
    text = page.text
    assert "1 of 4 checks with warnings: acquisition." in text
    warning, folded = text.index("Neighboring DWI correlation"), text.index("1 further metric")
    assert text.index("1 of 4 checks") < warning < text.index(MISFIT) < folded < text.index("SNR of b=0")
    assert text.index("SNR of b=0") < text.index("Figures Left is left")


def test_values_have_five_digits_and_units_and_missing_ones_are_said(page: Parsed) -> None:
    assert f"{MISFIT} 0.31416 at least 0.4 warn" in page.text
    assert "Spikes 3.25 ppm at most 100 pass" in page.text
    assert "Volume of the brain mask n/a none n/a" in page.text


def test_what_is_not_available_is_listed_with_its_reason(page: Parsed) -> None:
    assert "noddi not applicable NODDI needs two shells; this dataset has one" in page.text
    assert "tract_masks missing TractSeg failed: out of memory" in page.text


def test_figures_load_when_they_are_reached_and_have_a_description(page: Parsed) -> None:
    images = [one for one in page.all("img") if "src" in one]
    assert [one["src"] for one in images] == [
        "sub-01/dwi/sub-01_desc-denoised_dwi_figure.png",
        "sub-01/dwi/sub-01_model-tensor_dwimap_figure.png",
    ]
    assert all(one["loading"] == "lazy" for one in images)
    assert images[1]["alt"] == "Figure of dti: Diffusion tensor"


def test_each_step_has_parameters_versions_inputs_files_and_times(page: Parsed) -> None:
    for found in ("max bvalue 1500", "patch n/a", "numpy 2.1.0", "41.5 s", "2100 MB", "Sum 49.8 s"):
        assert found in page.text
    assert {"href": "sub-01/dwi/sub-01_desc-denoised_dwi.nii.gz"} in page.all("a")
    assert {"title": "3-" + "a" * 64} in page.all("code")


def test_an_input_that_changed_after_the_computation_is_marked(page: Parsed) -> None:
    assert page.text.count("has changed since") == 1
    assert re.search(r"denoised_dwi 999999999999… has changed since", page.text)


def test_links_between_steps_lead_to_steps(page: Parsed) -> None:
    targets = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    fragments = {one["href"][1:] for one in page.all("a") if one.get("href", "").startswith("#")}
    assert fragments <= targets
    assert {"step-denoised_dwi", "step-dti", "step-noddi", "step-tract_masks"} <= fragments


def test_ids_are_unique_and_controls_have_names(page: Parsed) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_two_versions_of_one_library_are_both_listed_with_their_users(page: Parsed) -> None:
    assert "numpy 2.1.0 denoised_dwi numpy 2.0.0 dti" in page.text


def test_the_references_can_be_saved_as_bibtex(page: Parsed) -> None:
    (link,) = [one for one in page.all("a") if "download" in one]
    assert link["download"] == "sub-01_references.bib"
    kind, content = link["href"].split(",", 1)
    assert kind == "data:application/x-bibtex;charset=utf-8"
    assert unquote(content).startswith("@article{basser1994,")


def test_the_volumes_in_the_page_are_those_of_the_content(page: Parsed, volumes: ViewerVolumes) -> None:
    (block,) = [text for text in page.scripts if text.startswith('{"shape"')]
    data = json.loads(block)
    assert [base64.b64decode(one["nifti"]) for one in data["backgrounds"]] == [one.nifti for one in volumes.backgrounds]
    assert volumes.bundles is not None
    assert base64.b64decode(data["bundles"]["nifti"]) == volumes.bundles.nifti
    assert len(block) < volumes.base64_bytes + 10_000


def test_niivue_is_the_copy_beside_the_page_or_in_it(volumes: ViewerVolumes) -> None:
    beside = Parsed(subject_page(content_of(volumes), niivue="../.assets/x.js"))
    assert [one["src"] for one in beside.all("script") if "src" in one] == ["../.assets/x.js"]
    embedded = subject_page(content_of(volumes), embed=True)
    assert not [one for one in Parsed(embedded).all("script") if "src" in one]
    assert len(embedded) > len(static_text(NIIVUE))


def test_the_policy_allows_exactly_the_scripts_of_the_page(volumes: ViewerVolumes) -> None:
    for embed in (False, True):
        parsed = Parsed(subject_page(content_of(volumes), embed=embed))
        policy = parsed.all("meta")[1]["content"]
        run = [text for text in parsed.scripts if not text.startswith('{"shape"')]
        digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in run]
        (scripts,) = re.findall(r"script-src ([^;]+)", policy)
        assert {one for one in scripts.split() if "sha256" in one} == {f"'sha256-{digest}'" for digest in digests}
        assert ("'self'" in scripts) is not embed
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy


def test_without_volumes_the_page_has_no_viewer_and_no_niivue() -> None:
    parsed = Parsed(subject_page(content_of(None)))
    assert "No derivative is available that the viewer could show." in parsed.text
    assert not [one for one in parsed.all("script") if one]
    assert Parsed(subject_page(content_of(ViewerVolumes()))).text == parsed.text


def test_an_empty_content_is_a_page_all_the_same() -> None:
    text = Parsed(subject_page(SubjectContent("sub-01"))).text
    for found in ("Not checked.", "No derivative has a figure.", "Nothing was computed.", "No run times are recorded."):
        assert found in text


def test_markup_in_the_data_is_text(volumes: ViewerVolumes) -> None:
    assert volumes.bundles is not None
    named = replace(volumes, bundles=replace(volumes.bundles, names=(HOSTILE,) * len(volumes.bundles.names)))
    expected, hostile = Parsed(subject_page(content_of(named))), Parsed(subject_page(hostile_content(named)))
    assert len(hostile.scripts) == len(expected.scripts)
    assert "b" not in {tag for tag, _ in hostile.elements}
    assert not [attributes for _, attributes in hostile.elements if any(name.startswith("on") for name in attributes)]
    assert hostile.text.count("<script>window.hacked=1</script>") > 20
    subject_page(hostile_content(named)).encode()  # half a surrogate pair was replaced


def test_no_url_leaves_the_store_except_links_of_references(volumes: ViewerVolumes) -> None:
    for content in (content_of(volumes), hostile_content(volumes)):
        for tag, attributes in Parsed(subject_page(content)).elements:
            for name in URLS & set(attributes):
                url = attributes[name]
                is_reference = tag == "a" and url.startswith("https://") and "noreferrer" in attributes.get("rel", "")
                assert is_reference or url.startswith(("#", "data:")) or local_url(url) == url, url


def test_style_attributes_are_not_used_as_the_policy_forbids_them(page: Parsed) -> None:
    assert not [attributes for _, attributes in page.elements if "style" in attributes]


@pytest.mark.parametrize(
    "url",
    ["", "/etc/passwd", "../x", "a/../../x", "a/%2e%2e/x", "http://x", "//x", "file:///x", "java\nscript:x", "\\\\x\\y",
     "data:text/html,x", " x", "[", "http://[x"],
)  # fmt: skip
def test_urls_that_leave_the_folder_are_no_links(url: str) -> None:
    assert local_url(url) is None or url == "["  # a bracket alone is a file name
    assert image_url(url) is None or url == "["


def test_images_in_the_page_are_png_jpeg_or_webp_only() -> None:
    assert image_url("data:image/png;base64,AAAA") == "data:image/png;base64,AAAA"
    assert image_url("data:image/svg+xml;base64,AAAA") is None
    assert image_url('data:image/png;base64,AAAA" onerror="x') is None


def test_the_same_content_gives_the_same_page(volumes: ViewerVolumes) -> None:
    assert subject_page(content_of(volumes)) == subject_page(content_of(volumes))


def test_a_page_takes_less_than_two_seconds(volumes: ViewerVolumes) -> None:
    large = replace(volumes, backgrounds=tuple(replace(one, nifti=bytes(250_000)) for one in volumes.backgrounds))
    started = time.perf_counter()
    page = subject_page(content_of(large))
    assert len(page) > 3_000_000
    assert time.perf_counter() - started < 2


def test_a_step_stands_after_its_inputs() -> None:
    steps = [
        Step("peaks", inputs={"response": "", "mask": ""}),
        Step("response", inputs={"denoised": "", "mask": ""}),
        Step("mask", inputs={"denoised": ""}),
        Step("denoised", inputs={"dwi": ""}),
    ]
    x = {box.name: box.x for box in lineage_of(steps).boxes}
    assert x["dwi"] < x["denoised"] < x["mask"] < x["response"] < x["peaks"]
    places = {(box.x, box.y) for box in lineage_of(steps).boxes}
    assert len(places) == 5
    assert len(lineage_of(steps).lines) == 6


def test_steps_that_depend_on_each_other_are_drawn_all_the_same() -> None:
    graph = lineage_of([Step("a", inputs={"b": "", "a": ""}), Step("b", inputs={"a": ""})])
    assert {box.name for box in graph.boxes} == {"a", "b"}


def test_niivue_is_the_file_of_its_origin_note() -> None:
    digest = hashlib.sha256(static_text(NIIVUE).encode()).hexdigest()
    note = static_text(NIIVUE.replace(".umd.js", ".LICENSE.txt"))
    assert f"SHA-256 of the file:    {digest}" in note
    assert "BSD 2-Clause License" in note
