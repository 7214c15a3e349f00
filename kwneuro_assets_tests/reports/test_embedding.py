"""Data inside HTML: as a browser would read it back."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from html.parser import HTMLParser

import pytest

from kwneuro_assets.reports.embedding import (
    checked_script,
    checked_style,
    hash_source,
    json_block,
    packed,
    security_policy,
)

HOSTILE = ["</script><script>alert(1)</script>", "<!--", "&lt;", "\u2028\u2029", 'a"b\\c', "]]>", "\ud800"]


class _Scripts(HTMLParser):
    """The texts of the script elements of a page."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.texts.append("")

    def handle_data(self, data: str) -> None:
        self.texts[-1] += data


def test_json_in_a_page_is_one_element_and_reads_back_equal() -> None:
    page = f'<script type="application/json">{json_block(HOSTILE)}</script>'
    assert page.encode(), "half of a surrogate pair is written in ASCII"
    (text,) = _Scripts(page).texts
    assert json.loads(text) == HOSTILE
    assert not set("<>&\u2028\u2029") & set(text)


def test_json_has_no_infinity() -> None:
    with pytest.raises(ValueError, match="JSON"):
        json_block([float("inf")])


def test_packed_bytes_are_read_back_and_are_text_without_markup() -> None:
    content = bytes(range(256)) * 40
    text = packed(content)
    assert zlib.decompress(base64.b64decode(text)) == content
    assert text.isascii()
    assert not set("<>&\"'") & set(text)
    assert len(text) < len(content) / 10


@pytest.mark.parametrize("text", ["a</SCRIPT>", "'<!--'", "`<script>`", "a\r\nb", "\0"])
def test_a_script_that_would_end_its_element_or_change_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^script: "):
        checked_script(text)


def test_a_style_that_would_end_its_element_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^style: '</style'"):
        checked_style("a{}</style>")
    assert checked_style("a > b { color: red; }") == "a > b { color: red; }"


def test_the_policy_allows_the_named_texts_and_sources_only() -> None:
    policy = security_policy(
        scripts=["run()"], styles=["a{}"], sources={"img-src": ["'self'"], "script-src": ["file:"]}
    )
    digest = base64.b64encode(hashlib.sha256(b"run()").digest()).decode()
    assert dict(part.split(" ", 1) for part in policy.split("; ")) == {
        "default-src": "'none'",
        "script-src": f"'sha256-{digest}' file:",
        "style-src": hash_source("a{}"),
        "base-uri": "'none'",
        "form-action": "'none'",
        "img-src": "'self'",
    }
