"""A reader of BibTeX files, independent of the writer: braces are counted, and LaTeX's escapes become characters."""

from __future__ import annotations

import re
import unicodedata

_COMBINING = {
    "`": "\u0300", "'": "\u0301", "^": "\u0302", "~": "\u0303", "=": "\u0304", '"': "\u0308", ".": "\u0307",
    "u": "\u0306", "r": "\u030a", "H": "\u030b", "v": "\u030c", "c": "\u0327", "k": "\u0328",
}  # fmt: skip
_NAMED = {
    "textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textbraceleft": "{", "textbraceright": "}",
    "ss": "ß", "o": "ø", "O": "Ø", "l": "ł", "L": "Ł", "ae": "æ", "AE": "Æ", "i": "\u0131",
}  # fmt: skip


def read(text: str) -> dict[str, dict[str, str]]:
    """The fields of each entry by key, with the kind of the entry under `kind`."""
    entries = {}
    for found in re.finditer(r"^@(\w+)\{(\w+),$", text, re.M):
        end = text.index("\n}\n", found.end()) + 1
        body = text[found.end() : end]
        entries[found[2]] = {"kind": found[1], **dict(_fields(body))}
    return entries


def _fields(body: str) -> list[tuple[str, str]]:
    fields, position = [], 0
    while start := re.compile(r"\s*(\w+) = \{").match(body, position):
        value, position = _group(body, start.end() - 1)
        fields.append((start[1], value))
        assert body[position] == ",", body
        position += 1
    assert not body[position:].strip(), body
    return fields


def _group(text: str, start: int) -> tuple[str, int]:
    """The content of the braces that open at `start`, and the position after them; a backslash changes no brace."""
    depth = 0
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start + 1 : position], position + 1
    raise AssertionError(f"no closing brace in {text[start:]}")


def decoded(value: str) -> str:
    """LaTeX source as plain text, without the braces that protect capitals."""
    value = re.sub(r"\{\\([`'^~=\".]|[urHvck] )(\w)\}", lambda one: one[2] + _COMBINING[one[1].strip()], value)
    value = re.sub(r"\{\\(ss|o|O|l|L|ae|AE|i)\}", lambda one: _NAMED[one[1]], value)
    value = re.sub(r"\\(text[a-z]+)\{\}|\\([&%$#_])|[{}]", _character, value)
    return unicodedata.normalize("NFC", value)


def _character(found: re.Match[str]) -> str:
    return _NAMED[found[1]] if found[1] else found[2] or ""
