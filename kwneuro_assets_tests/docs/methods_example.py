"""The methods text in docs/methods.md; `python -m kwneuro_assets_tests.docs.methods_example` updates it."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from kwneuro_assets.reports.methods import Methods, methods_text
from kwneuro_assets_tests.docs.pages import ROOT
from kwneuro_assets_tests.reports.recorded_subject import SOURCE, settings_of, steps_of

PAGE = ROOT / "docs" / "methods.md"
STEPS = ("denoised_dwi", "mean_b0", "brain_mask", "dti")
_QUOTE = re.compile(r"(?<=\n\n)> .*?\n(?!>)", re.S)
_WIDTH = 118


def example() -> Methods:
    """The text of a subject with the derivatives up to the tensor, under the default settings."""
    steps = steps_of(settings_of())
    return methods_text([steps[name] for name in STEPS], source=SOURCE)


def quote() -> str:
    """The example as a Markdown quote, ending with the keys of its references."""
    methods = example()
    keys = ", ".join(f"`{reference.key}`" for reference in methods.references)
    paragraphs = [*methods.paragraphs, f"References, in the `.bib` file: {keys}."]
    return "\n>\n".join("\n".join(textwrap.wrap(one, _WIDTH, initial_indent="> ", subsequent_indent="> ",
                                                break_on_hyphens=False)) for one in paragraphs) + "\n"  # fmt: skip


def updated(page: Path = PAGE) -> str:
    """The page with the example as it is now; it has no other quote."""
    text, count = _QUOTE.subn(lambda _: quote(), page.read_text(encoding="utf-8"))
    assert count == 1, "expected one quote"
    return text


if __name__ == "__main__":
    PAGE.write_text(updated(), encoding="utf-8")
