"""An HTML report of a subject or of a cohort."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kwneuro_assets.imaging.errors import InvalidData


@dataclass(frozen=True)
class Report:
    """An HTML document that opens on any machine, together with the files of its store that it links to.

    Attributes:
        html: The document, stored unchanged, including its line endings.
        identity: What its data version covers; empty for all of `html`. A report that names run times has another one,
            so that the same results have a report of the same version.
        shared: Files that all reports of a store have in common, by their names in the folder `.assets` of the store.
            They are written with the report and are not part of it: a report that was read has none.

    Raises InvalidData if `html` is not text, is blank, or cannot be encoded in UTF-8.
    """

    html: str = field(repr=False)
    identity: str = field(default="", repr=False)
    shared: Mapping[str, bytes] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.html, str) or not self.html.strip():
            raise InvalidData("report", expected="an HTML document", found=repr(self.html))
        try:
            self.html.encode()
        except UnicodeEncodeError as error:
            raise InvalidData("report", expected="text that UTF-8 can hold", found=str(error)) from None
