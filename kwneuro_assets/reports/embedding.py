"""Data, scripts and styles inside one HTML file, safely: nothing in the data ends an element or runs."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_IN_SCRIPT = str.maketrans({char: f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"})
_ENDS_SCRIPT = re.compile(r"</script|<script|<!--", re.IGNORECASE)
_ENDS_STYLE = re.compile(r"</style|<!--", re.IGNORECASE)


def json_block(value: Any) -> str:
    """JSON for the text of a `<script type="application/json">`; also valid as a JavaScript expression.

    Raises ValueError for NaN and infinity, which JSON does not have.

    >>> json_block({"comment": "</script><b>"})
    '{"comment":"\\\\u003c/script\\\\u003e\\\\u003cb\\\\u003e"}'
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # Half of a surrogate pair cannot be encoded as UTF-8; JSON can say it in ASCII.
    return text.encode("utf-8", "backslashreplace").decode().translate(_IN_SCRIPT)


def packed(content: bytes) -> str:
    """Bytes for the text of a data block: compressed as zlib, in base64.

    Read by `DecompressionStream("deflate")`. Unlike gzip's, zlib's header has no time and no operating system, so that
    equal bytes have equal texts.
    """
    return base64.b64encode(zlib.compress(content, 6)).decode("ascii")


def checked_script(text: str) -> str:
    """The same text, a script between `<script>` and `</script>`. Raises ValueError if it would end the element."""
    return _checked(text, _ENDS_SCRIPT, "script")


def checked_style(text: str) -> str:
    """The same text, CSS between `<style>` and `</style>`. Raises ValueError if it would end the element."""
    return _checked(text, _ENDS_STYLE, "style")


def hash_source(text: str) -> str:
    """The source expression of a content security policy that allows this inline script or style, and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def security_policy(
    *, scripts: Iterable[str] = (), styles: Iterable[str] = (), sources: Mapping[str, Sequence[str]] | None = None
) -> str:
    """The content of `<meta http-equiv="Content-Security-Policy">` for a page that requests nothing from a network.

    `scripts` and `styles` are the texts of the inline elements that are allowed; each needs to be exactly the text of
    its element. `sources` adds source expressions by directive: `{"img-src": ["'self'", "file:"]}`. All else is
    forbidden: other scripts, `eval`, style attributes in the markup, frames, forms, connections, a `<base>`.
    """
    directives: dict[str, list[str]] = {
        "default-src": ["'none'"],
        "script-src": [hash_source(text) for text in scripts],
        "style-src": [hash_source(text) for text in styles],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }
    for directive, added in (sources or {}).items():
        directives.setdefault(directive, []).extend(added)
    return "; ".join(f"{name} {' '.join(found)}" for name, found in directives.items() if found)


def _checked(text: str, forbidden: re.Pattern[str], element: str) -> str:
    if found := forbidden.search(text):
        raise ValueError(f"{element}: {found[0]!r} must not occur in an inline {element}")
    if "\r" in text or "\0" in text:  # HTML parsers replace them, and the hash would no longer agree
        raise ValueError(f"{element}: expected line feeds only, found a carriage return or a null character")
    return text
