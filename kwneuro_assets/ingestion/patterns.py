"""Path patterns: the files of a dataset without BIDS names, and the subject that each belongs to."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import cached_property

from kwneuro_assets.imaging import InvalidData
from kwneuro_assets.ingestion.tree import SourceTree

_PLACEHOLDER = re.compile(r"\{(subject|session)\}")
_SEPARATOR = re.compile(r"[_. -]")

Labels = Mapping[str, str]  # "subject" and, where the pattern has it, "session"


class PathPattern:
    """A pattern such as `{subject}/{session}/*.nii.gz`, relative to the root of a dataset.

    `{subject}` and `{session}` match labels, `*` and `?` match any characters within a name. A placeholder that occurs
    twice must match the same label both times.
    """

    def __init__(self, text: str) -> None:
        self._text = text.strip("/")

    @cached_property
    def _parts(self) -> tuple[re.Pattern[str], ...]:
        return tuple(_compiled(part) for part in self._text.split("/"))

    def has_top(self, name: str) -> bool:
        """Whether the folder of this name at the root may contain matching files."""
        return len(self._parts) == 1 or self._parts[0].fullmatch(name) is not None

    def name_matches(self, name: str, *, ignore_case: bool = False) -> bool:
        """Whether a file of this name may match, in a folder that matches."""
        last = self._parts[-1]
        return bool((re.compile(last.pattern, last.flags | re.IGNORECASE) if ignore_case else last).fullmatch(name))

    def folders(
        self, tree: SourceTree, refused: dict[str, InvalidData], subjects: Collection[str] | None = None
    ) -> dict[str, Labels]:
        """The folders that may contain matching files, with the labels of their paths.

        `subjects` limits the search to these subject labels. Folders that cannot be listed are added to `refused`.
        """
        found: dict[str, Labels] = {"": {}}
        for part in self._parts[:-1]:
            listed = tree.listings({folder: folder for folder in found}, refused)
            found = {
                f"{folder}/{name}" if folder else name: labels
                for folder, inside in listed.items()
                for name in inside.folders
                if (labels := _matched(part, name, found[folder], subjects)) is not None
            }
        return {folder: found[folder] for folder in tree.listings({one: one for one in found}, refused)}

    def files(self, tree: SourceTree, folder: str, labels: Labels) -> dict[str, Labels]:
        """The matching files of one of these folders by name, each with all labels of its path."""
        matches = {name: _matched(self._parts[-1], name, labels) for name in tree.listing(folder).files}
        return {name: found for name, found in matches.items() if found is not None}


def key_of(labels: Labels) -> str:
    """The subject key of a path with these labels: `sub-LABEL` or `sub-LABEL_ses-LABEL`."""
    session = f"_ses-{labels['session']}" if labels.get("session") else ""
    return f"sub-{labels['subject']}{session}"


def _matched(part: re.Pattern[str], name: str, known: Labels, subjects: Collection[str] | None = None) -> Labels | None:
    """The labels of a path with one more name; None if it does not match, or contradicts a known label."""
    match = part.fullmatch(name)
    if match is None:
        return None
    labels = {kind: label_of(text) for kind, text in match.groupdict().items()}
    if any(known.get(kind, label) != label for kind, label in labels.items()):
        return None
    if subjects is not None and labels.get("subject") is not None and labels["subject"] not in subjects:
        return None
    return {**known, **labels}


def label_of(text: str) -> str:
    """The BIDS label of a name: without a leading `sub-` or `ses-`, and with `+` instead of separators.

    `011_S_4547` gives `011+S+4547`. The caller refuses two names that give the same label.
    """
    return _SEPARATOR.sub("+", text.removeprefix("sub-").removeprefix("ses-"))


def _compiled(part: str) -> re.Pattern[str]:
    """One name of a path as a regular expression. A session after a subject in one name contains no underscore."""
    pieces = _PLACEHOLDER.split(part)
    text = ""
    for number, piece in enumerate(pieces):
        if number % 2 == 0:
            text += re.escape(piece).replace(r"\*", ".*").replace(r"\?", ".")
        else:
            label = "[^_]+?" if piece == "session" and "(?P<subject>" in text else ".+?"
            text += f"(?P={piece})" if f"(?P<{piece}>" in text else f"(?P<{piece}>{label})"
    return re.compile(text, re.DOTALL)
