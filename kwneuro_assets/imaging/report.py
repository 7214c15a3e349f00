"""What a person reads of a derivative or of a cohort."""

from __future__ import annotations

from dataclasses import dataclass, field

from kwneuro_assets.imaging.errors import InvalidData


@dataclass(frozen=True)
class Report:
    """A self-contained HTML document: pictures and styles lie in the text itself, so that it opens anywhere.

    `html` is kept to the letter, line ends included.

    Raises InvalidData for anything but text with something in it that UTF-8 can hold.
    """

    html: str = field(repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.html, str) or not self.html.strip():
            raise InvalidData("report", expected="an HTML document", found=repr(self.html))
        try:
            self.html.encode()
        except UnicodeEncodeError as error:
            raise InvalidData("report", expected="text that UTF-8 can hold", found=str(error)) from None
