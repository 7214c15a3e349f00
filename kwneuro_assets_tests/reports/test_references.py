"""The publications of the methods text are complete, and BibTeX says what the records say."""

from __future__ import annotations

import re
from dataclasses import replace
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwneuro_assets.assets import ALL_DERIVATIVES, GROUP_DERIVATIVE
from kwneuro_assets.reports.references import Author, Reference, bibtex, latex, references
from kwneuro_assets_tests.reports.bibtex_reader import decoded, read

ALL = references()
SPECIALS = "aZ 1&%$#_{}~^\\üßøłéİčÅ²-"


def cited_in_docstrings() -> list[tuple[str, str]]:
    """(asset, DOI or number at arXiv) of every publication that an asset names."""
    pattern = re.compile(r"https://(?:doi\.org|arxiv\.org/abs)/([^)\s]+)")
    return [
        (derivative.name, unquote(found))
        for derivative in (*ALL_DERIVATIVES, GROUP_DERIVATIVE)
        for found in pattern.findall(derivative.docstring)
        if derivative.group != "quality"
    ]


@pytest.mark.parametrize(("asset", "number"), cited_in_docstrings())
def test_every_publication_that_an_asset_names_is_a_reference(asset: str, number: str) -> None:
    assert number in {one.doi for one in ALL.values()} | {one.arxiv for one in ALL.values()}


def test_keys_are_sorted_and_named_after_the_first_author_and_the_year() -> None:
    assert list(ALL) == sorted(ALL)
    for key, reference in ALL.items():
        first = re.sub(r"\W", "", reference.authors[0].family).lower()
        assert key == f"{first}{reference.year}"


def test_no_two_references_are_cited_alike() -> None:
    assert len({one.label for one in ALL.values()}) == len(ALL)
    assert len({one.doi or one.title for one in ALL.values()}) == len(ALL)


@pytest.mark.parametrize("reference", ALL.values(), ids=lambda one: one.key)
def test_a_record_is_complete(reference: Reference) -> None:
    assert reference.title
    assert reference.authors
    assert 1950 < reference.year < 2030
    if reference.kind == "article-journal":
        assert all([reference.venue, reference.volume, reference.pages, reference.doi])
    elif reference.kind == "paper-conference":
        assert all([reference.venue, reference.pages, reference.publisher])
    else:
        assert reference.kind == "software"
        assert reference.publisher
    assert not reference.doi or re.fullmatch(r"10\.\d{4,}/\S+", reference.doi)
    assert reference.url or reference.key == "dhollander2016", "the abstract of a workshop has no DOI"


def test_labels_name_one_two_or_more_authors() -> None:
    one, two, three = (
        Reference("key", "article-journal", "Title", tuple(map(Author, names)), 2001)
        for names in (["Smith"], ["Smith", "Wick"], ["Smith", "Wick", "Otsu"])
    )
    assert [one.label, two.label, three.label] == ["Smith, 2001", "Smith and Wick, 2001", "Smith et al., 2001"]


def test_an_entry_of_the_list_has_all_that_finds_the_publication() -> None:
    assert ALL["tournier2007"].text == (
        "Tournier JD, Calamante F, Connelly A. Robust determination of the fib" "re orientation distribution in "
        "diffusion MRI: non-negativity constrained super-resolved spherical deconvolution. "
        "NeuroImage 35(4):1459-1472, 2007."
    )  # fmt: skip
    assert ALL["basser1994"].url == "https://doi.org/10.1016/S0006-3495(94)80775-1"
    assert ALL["virtanen2020"].text.startswith("Virtanen P, Gommers R,")
    assert "Cournapeau D, Burovski E, Peterson P, Weckesser W, Bright J, et al. SciPy" in ALL["virtanen2020"].text


def test_bibtex_has_all_fields_of_every_record() -> None:
    entries = read(bibtex(ALL.values()))
    assert list(entries) == list(ALL)
    for key, reference in ALL.items():
        fields = entries[key]
        assert decoded(fields["title"]) == reference.title
        assert fields["year"] == str(reference.year)
        venue = {"article": "journal", "inproceedings": "booktitle"}.get(fields["kind"])
        assert (decoded(fields[venue]) if venue else "") == reference.venue
        assert decoded(fields.get("pages", "")).replace("--", "-") == reference.pages
        for name, value in [("volume", reference.volume), ("number", reference.issue), ("doi", reference.doi)]:
            assert fields.get(name, "") == value
        assert fields.get("eprint", "") == reference.arxiv
        assert fields.get("url", "") == ("" if reference.doi else reference.address)
        names = [f"{author.family}, {author.given}" if author.given else author.family for author in reference.authors]
        assert [decoded(name) for name in fields["author"].split(" and ")] == names


def test_bibtex_is_ascii_and_depends_neither_on_the_order_nor_on_duplicates() -> None:
    text = bibtex(ALL.values())
    assert text.isascii()
    assert bibtex([*list(ALL.values())[::-1], *ALL.values()]) == text
    assert bibtex([]) == ""


def test_bibtex_protects_capitals_but_not_the_first_letter_of_a_title() -> None:
    title = read(bibtex([ALL["zhang2012"], ALL["smith2002"]]))
    assert title["zhang2012"]["title"].startswith("{NODDI:} practical in vivo neurite")
    assert title["smith2002"]["title"] == "Fast robust automated brain extraction"


@given(st.text(alphabet=SPECIALS, max_size=40).map(str.strip))
def test_any_title_survives_bibtex(title: str) -> None:
    odd = replace(ALL["smith2002"], title=title or "Title", authors=(Author(title or "Name", "A"),))
    fields = read(bibtex([odd]))["smith2002"]
    assert decoded(fields["title"]) == odd.title
    assert decoded(fields["author"]) == f"{odd.authors[0].family}, A"


@pytest.mark.parametrize(
    ("character", "expected"), [("²", "²"), ("é", r"{\'e}"), ("\u0131", r"{\i}"), ("ç", r"{\c c}")]
)
def test_characters_without_a_command_stay(character: str, expected: str) -> None:
    assert latex(character) == expected
