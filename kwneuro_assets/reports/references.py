"""The publications behind the methods, and BibTeX.

`references.json` has them in CSL-JSON, the format of Zotero and pandoc, in the order of their keys.
"""

from __future__ import annotations

import functools
import json
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from urllib.parse import quote

_LISTED_AUTHORS = 10  # in the text of a reference; BibTeX has all
_OTHERS = "others"  # BibTeX's name for the authors that a record does not list
_BIBTEX_KINDS = {"article-journal": "article", "paper-conference": "inproceedings"}  # any other: misc
_ESCAPED = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "{": r"\textbraceleft{}", "}": r"\textbraceright{}",  # BibTeX counts a brace after a backslash, too
    **{special: f"\\{special}" for special in "&%$#_"},
    "ß": r"{\ss}", "ø": r"{\o}", "Ø": r"{\O}", "ł": r"{\l}", "Ł": r"{\L}", "æ": r"{\ae}", "Æ": r"{\AE}",
    "\u0131": r"{\i}",
}  # fmt: skip
# LaTeX's commands for combining characters.
_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u ", "\u0307": ".",
    "\u0308": '"', "\u030a": "r ", "\u030b": "H ", "\u030c": "v ", "\u0327": "c ", "\u0328": "k ",
}  # fmt: skip


@dataclass(frozen=True)
class Author:
    """An author; a group of authors has its name as `family` and no `given`."""

    family: str
    given: str = ""

    @property
    def short(self) -> str:
        """Family name and initials.

        >>> Author("Tournier", "J-Donald").short, Author("SciPy 1.0 Contributors").short
        ('Tournier JD', 'SciPy 1.0 Contributors')
        """
        initials = "".join(name[0] for name in self.given.replace("-", " ").split())
        return f"{self.family} {initials}".strip()


@dataclass(frozen=True)
class Reference:
    """One publication.

    Attributes:
        key: Its BibTeX key, such as `tournier2007`.
        kind: Its type in CSL: `article-journal`, `paper-conference` or `software`.
        title: Its title.
        authors: Its authors, in order.
        year: The year of publication.
        venue: The journal, the proceedings, or the archive of software.
        volume: The volume, if there is one.
        issue: The issue, if there is one.
        pages: The pages (`1459-1472`), or the number of the article.
        publisher: The publisher of proceedings.
        doi: The DOI, if there is one.
        arxiv: The number at arXiv, if it is cited from there.
        address: The URL of a publication without a DOI.
    """

    key: str
    kind: str
    title: str
    authors: tuple[Author, ...]
    year: int
    venue: str = ""
    volume: str = ""
    issue: str = ""
    pages: str = ""
    publisher: str = ""
    doi: str = ""
    arxiv: str = ""
    address: str = ""

    @property
    def label(self) -> str:
        """As it is cited in the text: `Smith, 2002`, `Swinbank and Purser, 2006` or `Tournier et al., 2007`."""
        families = [author.family for author in self.authors]
        names = " and ".join(families) if len(families) <= 2 else f"{families[0]} et al."
        return f"{names}, {self.year}"

    @property
    def url(self) -> str:
        """Where it is on the internet: its DOI, else another address; "" if it has none."""
        return f"https://doi.org/{quote(self.doi, safe='/():;')}" if self.doi else self.address

    @property
    def text(self) -> str:
        """The entry in a list of references, as plain text without its URL."""
        listed = [author.short for author in self.authors[:_LISTED_AUTHORS] if author.family != _OTHERS]
        is_cut = len(listed) < len(self.authors)
        names = ", ".join([*listed, "et al."] if is_cut else listed).rstrip(".")
        volume = f" {self.volume}" + (f"({self.issue})" if self.issue else "") if self.volume else ""
        pages = (":" if volume else ", ") + self.pages if self.pages else ""
        place = f"{self.venue or self.publisher}{volume}{pages}, {self.year}.".lstrip(", ")
        return f"{names}. {self.title}. {place}"


@functools.cache
def references() -> Mapping[str, Reference]:
    """All publications that a methods text can cite, by key, in the order of the keys."""
    text = files(__package__).joinpath("references.json").read_text(encoding="utf-8")
    return {item["id"]: _reference(item) for item in json.loads(text)}


def bibtex(references: Iterable[Reference]) -> str:
    """The BibTeX file of `references`, in the order of their keys: ASCII, so that any BibTeX reads it.

    Accents and LaTeX's special characters are escaped, and words of a title with capitals are protected.
    """
    entries = {reference.key: reference for reference in references}
    return "\n".join(_entry(entries[key]) for key in sorted(entries))


def latex(text: str) -> str:
    r"""Plain text as LaTeX source; characters that are neither ASCII nor accented letters stay as they are.

    >>> print(latex("Gaël & Nuñez_1: 100 %"))
    Ga{\"e}l \& Nu{\~n}ez\_1: 100 \%
    """
    return "".join(_latex_character(character) for character in unicodedata.normalize("NFC", text))


def _latex_character(character: str) -> str:
    if character in _ESCAPED:
        return _ESCAPED[character]
    parts = unicodedata.normalize("NFD", character)
    base, mark = parts[:1], parts[1:]
    return f"{{\\{_ACCENTS[mark]}{base}}}" if mark in _ACCENTS else character


def _entry(reference: Reference) -> str:
    kind = _BIBTEX_KINDS.get(reference.kind, "misc")
    venue = {"article": "journal", "inproceedings": "booktitle"}.get(kind, "howpublished")
    fields = {
        "author": " and ".join(_bibtex_name(author) for author in reference.authors),
        "title": _bibtex_title(reference.title),
        venue: latex(reference.venue or (reference.publisher if kind == "misc" else "")),
        "year": str(reference.year),
        "volume": latex(reference.volume),
        "number": latex(reference.issue),
        "pages": latex(reference.pages).replace("-", "--"),
        "publisher": latex(reference.publisher) if kind == "inproceedings" else "",
        "doi": reference.doi,
        "eprint": reference.arxiv,
        "archiveprefix": "arXiv" if reference.arxiv else "",
        "url": "" if reference.doi else reference.address,
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join([f"@{kind}{{{reference.key},", *lines, "}", ""])


def _bibtex_name(author: Author) -> str:
    """`Family, Given`; a group in braces, so that BibTeX does not take its last word for a family name."""
    if author.family == _OTHERS:
        return _OTHERS
    family = latex(author.family)
    return f"{family}, {latex(author.given)}" if author.given else f"{{{family}}}"


def _bibtex_title(title: str) -> str:
    """Words with capitals in braces, because styles write titles in lower case, except the first letter."""
    words = title.split(" ")
    capitals = [any(map(str.isupper, word[number == 0 :])) for number, word in enumerate(words)]
    return " ".join(
        f"{{{latex(word)}}}" if has_capital else latex(word) for word, has_capital in zip(words, capitals, strict=True)
    )


def _reference(item: Mapping[str, Any]) -> Reference:
    authors = (Author(one["literal"]) if "literal" in one else Author(**one) for one in item["author"])
    return Reference(
        key=item["id"],
        kind=item["type"],
        title=item["title"],
        authors=tuple(authors),
        year=item["issued"]["date-parts"][0][0],
        venue=item.get("container-title", ""),
        volume=item.get("volume", ""),
        issue=item.get("issue", ""),
        pages=item.get("page", ""),
        publisher=item.get("publisher", ""),
        doi=item.get("DOI", ""),
        arxiv=item.get("archive_location", ""),
        address=item.get("URL", ""),
    )
