"""The partition: one BIDS subject, or one session of a subject; and what is made of all of them together."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from dagster import DynamicPartitionsDefinition

from kwneuro_assets.imaging import InvalidData

PARTITIONS = "subject"
subject_partitions = DynamicPartitionsDefinition(name=PARTITIONS)

MAX_LABEL = 64  # keeps every file name of the store well under the 255 bytes that file systems allow
_KEY = re.compile(rf"sub-(?P<subject>[A-Za-z0-9]{{1,{MAX_LABEL}}})(_ses-(?P<session>[A-Za-z0-9]{{1,{MAX_LABEL}}}))?")


@dataclass(frozen=True, order=True)
class SubjectKey:
    """Labels of a subject and, where the dataset has them, of a session: `sub-01` or `sub-01_ses-02`."""

    subject: str
    session: str | None = None

    @classmethod
    def parse(cls, text: str) -> SubjectKey:
        """The key that `text` spells. Raises InvalidData for anything but BIDS labels (ASCII letters and digits)."""
        match = _KEY.fullmatch(text)
        if match is None:
            raise InvalidData(
                "subject",
                expected=f"sub-LABEL or sub-LABEL_ses-LABEL, labels of 1 to {MAX_LABEL} ASCII letters and digits",
                found=repr(text),
                remedy="Rename its folder and files.",
            )
        return cls(match["subject"], match["session"])

    def __str__(self) -> str:
        session = f"_ses-{self.session}" if self.session else ""
        return f"sub-{self.subject}{session}"

    @property
    def folder(self) -> str:
        """Where its diffusion data lie below a dataset: `sub-01[/ses-02]/dwi`."""
        session = f"/ses-{self.session}" if self.session else ""
        return f"sub-{self.subject}{session}/dwi"

    @property
    def option(self) -> str:
        """How a command line names it."""
        return f"--subject {self} "


class StoreKey(Protocol):
    """Whose a derivative is, as the store sees it: text in file names, and the folder of these."""

    @property
    def folder(self) -> str: ...
    @property
    def option(self) -> str: ...


@dataclass(frozen=True)
class Group:
    """All subjects together: what is made of them is no subject's, and lies beside their folders."""

    folder = ""
    option = ""

    def __str__(self) -> str:
        return "group"


GROUP = Group()


def parse_key(text: str) -> StoreKey:
    """The subject that `text` spells, or the group. Raises InvalidData."""
    return GROUP if text == str(GROUP) else SubjectKey.parse(text)
