"""The keys of partitions: one BIDS subject or one session of a subject; and the key of the group."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from kwneuro_assets.imaging import InvalidData

BIDS_VERSION = "1.11.1"  # of the datasets that this package writes
MAX_LABEL = 64  # characters, so that every file name in the store is well below the 255 bytes of file systems
_LABEL = rf"[A-Za-z0-9+]{{1,{MAX_LABEL}}}"
_KEY = re.compile(rf"sub-(?P<subject>{_LABEL})(_ses-(?P<session>{_LABEL}))?")


@dataclass(frozen=True, order=True)
class SubjectKey:
    """Label of a subject and, in datasets with sessions, of a session: `sub-01` or `sub-01_ses-02`.

    >>> key = SubjectKey.parse("sub-01_ses-02")
    >>> key
    SubjectKey(subject='01', session='02')
    >>> str(key), key.folder
    ('sub-01_ses-02', 'sub-01/ses-02/dwi')
    """

    subject: str
    session: str | None = None

    @classmethod
    def parse(cls, text: str) -> SubjectKey:
        """The key with this text. Raises InvalidData if a label is not a BIDS label: ASCII letters, digits and +."""
        match = _KEY.fullmatch(text)
        if match is None:
            raise InvalidData(
                "subject",
                expected=f"sub-LABEL or sub-LABEL_ses-LABEL, labels of 1 to {MAX_LABEL} ASCII letters, digits and +",
                found=repr(text),
                remedy="Rename its folder and files.",
            )
        return cls(match["subject"], match["session"])

    def __str__(self) -> str:
        session = f"_ses-{self.session}" if self.session else ""
        return f"sub-{self.subject}{session}"

    @property
    def folder(self) -> str:
        """The folder of the diffusion data, relative to the dataset: `sub-01[/ses-02]/dwi`."""
        session = f"/ses-{self.session}" if self.session else ""
        return f"sub-{self.subject}{session}/dwi"

    @property
    def option(self) -> str:
        """The option that selects the subject on a command line."""
        return f"--subject {self} "


class StoreKey(Protocol):
    """The owner of a derivative, a subject or the group: its text is part of file names, which are in `folder`."""

    @property
    def folder(self) -> str: ...
    @property
    def option(self) -> str: ...


@dataclass(frozen=True)
class Group:
    """All subjects. Derivatives of the group are stored at the dataset's root."""

    folder = ""
    option = ""

    def __str__(self) -> str:
        return "group"


GROUP = Group()


def parse_key(text: str) -> StoreKey:
    """The key of a subject or of the group. Raises InvalidData as `SubjectKey.parse` does."""
    return GROUP if text == str(GROUP) else SubjectKey.parse(text)
