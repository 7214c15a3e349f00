"""Plain English from recorded values, with marks where publications are cited."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_CITATION = re.compile(r"\[@(\w+(?:; @\w+)*)\]")  # as in pandoc
_OPENED = re.compile(r"\[\s*@[@\s]*")  # where a citation begins
_LONGEST = 200  # characters of a recorded value in a text; parameters are far shorter


def cite(*keys: str) -> str:
    """The mark at which `keys` are cited, for `cited` and `rendered`.

    >>> cite("smith2002", "otsu1979")
    '[@smith2002; @otsu1979]'
    """
    return "[" + "; ".join(f"@{key}" for key in keys) + "]"


def cited(text: str) -> list[str]:
    """The keys that a text cites, in the order of their first citation."""
    return list(dict.fromkeys(key for found in _CITATION.finditer(text) for key in _keys(found)))


def rendered(text: str, labels: dict[str, str]) -> str:
    """The text with its marks replaced by labels of publications, by key, in parentheses.

    >>> rendered(f"denoised {cite('fadnavis2020')}", {"fadnavis2020": "Fadnavis et al., 2020"})
    'denoised (Fadnavis et al., 2020)'
    """
    return _CITATION.sub(lambda found: "(" + "; ".join(labels[key] for key in _keys(found)) + ")", text)


def plain(value: object) -> str:
    """A recorded value as text of one line: no mark of a citation, no character that controls a terminal."""
    text = "".join(character if character.isprintable() else " " for character in str(value))
    return " ".join(_OPENED.sub("[", text).split())[:_LONGEST]


def shown(number: float) -> str:
    """A number without needless digits.

    >>> shown(1500.0), shown(0.0017), shown(0.1 + 0.2)
    ('1500', '0.0017', '0.3')
    """
    return f"{number:.6g}"


def counted(number: float, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "voxel"), counted(300, "voxel")
    ('1 voxel', '300 voxels')
    """
    return f"{shown(number)} {noun}" + ("" if number == 1 else "s")


def listed(items: Sequence[str], word: str = "and") -> str:
    """Items as one phrase.

    >>> listed(["FA"]), listed(["FA", "MD"]), listed(["FA", "MD", "AD"], "or")
    ('FA', 'FA and MD', 'FA, MD or AD')
    """
    return f" {word} ".join(part for part in (", ".join(items[:-1]), *items[-1:]) if part)


def paragraph(statements: Iterable[str]) -> str:
    """One paragraph of the statements that are not empty."""
    return " ".join(one for one in statements if one)


def _keys(found: re.Match[str]) -> list[str]:
    return [key.removeprefix("@") for key in found[1].split("; ")]
