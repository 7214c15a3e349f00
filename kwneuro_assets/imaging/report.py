"""An HTML report of a derivative or of a cohort."""

from __future__ import annotations

from dataclasses import dataclass, field

from kwneuro_assets.imaging.errors import InvalidData


@dataclass(frozen=True)
class Report:
    """A self-contained HTML document: it embeds its figures and styles, and opens on any machine.

    `html` is stored unchanged, including its line endings.

    Raises InvalidData if `html` is not text, is blank, or cannot be encoded in UTF-8.
    """

    html: str = field(repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.html, str) or not self.html.strip():
            raise InvalidData("report", expected="an HTML document", found=repr(self.html))
        try:
            self.html.encode()
        except UnicodeEncodeError as error:
            raise InvalidData("report", expected="text that UTF-8 can hold", found=str(error)) from None
