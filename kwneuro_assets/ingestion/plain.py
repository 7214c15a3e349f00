"""A dataset without BIDS names: a pattern says where each subject's image lies, its tables lie beside it."""

from __future__ import annotations

import re
from collections.abc import Collection

from upath import UPath

from kwneuro_assets.imaging import InvalidData
from kwneuro_assets.ingestion.dataset import Run, Series, SourceDataset, one_mask
from kwneuro_assets.settings import SourceSettings
from kwneuro_assets.subjects import SubjectKey

# Names beside an image whose own name begins with `{stem}`; FSL's are the same for every subject.
_TABLES = {"b-values": ("{stem}.bval", "{stem}.bvals", "bvals"), "b-vectors": ("{stem}.bvec", "{stem}.bvecs", "bvecs")}
_MASKS = ("{stem}_mask.nii.gz", "{stem}_brain_mask.nii.gz", "brain_mask.nii.gz", "nodif_brain_mask.nii.gz")


class PlainDataset(SourceDataset):
    """A dataset whose images lie by a pattern, such as `{subject}/dwi.nii.gz` or `{subject}/{session}/*.nii.gz`.

    `{subject}` and `{session}` stand for labels (a leading `sub-` or `ses-` is no part of them), `*` and `?` for
    anything within a name. Two places that give one key are both refused. Otherwise as SourceDataset.
    """

    def __init__(self, settings: SourceSettings) -> None:
        super().__init__(settings)
        *self._above, self._image = [_pattern(part) for part in settings.layout.strip("/").split("/")]
        self._folders: dict[str, str] = {}  # of each key

    def subjects(
        self, only: Collection[str] | None = None, *, masks: bool = False
    ) -> tuple[list[SubjectKey], dict[str, InvalidData]]:
        """As of SourceDataset; keys are `sub-LABEL` or `sub-LABEL_ses-LABEL`."""
        if only is None:
            self.tree.list_all(lambda top: not self._above or self._above[0].fullmatch(top) is not None)
        self.tree.require_root()
        refused: dict[str, InvalidData] = {}
        places: dict[str, list[str]] = {}
        for folder, labels in self._matching(refused).items():
            for name in self.tree.listing(folder).files:
                if match := self._image.fullmatch(name):
                    key = _key(labels | match.groupdict())
                    if folder not in places.setdefault(key, []):
                        places[key].append(folder)
        for key, folders in places.items():
            if len(folders) > 1 and (only is None or key in only):
                refused[key] = InvalidData("subject", expected="one folder of this label", found=", ".join(folders)).at(
                    self.root
                )
        self._folders = {key: folders[0] for key, folders in places.items() if len(folders) == 1}
        wanted = {key: folder for key, folder in self._folders.items() if only is None or key in only}
        return self._parsed(wanted, refused), refused

    def series(self, subject: SubjectKey) -> Series:
        """The image of a subject, or all that source.select joins. Raises InvalidData as SourceDataset does."""
        folder = self.folder(subject)
        files = self.tree.listing(folder).files if str(subject) in self._folders else {}
        matches = {name: self._image.fullmatch(name) for name in files}
        own = [name for name, match in matches.items() if match and self._is_of(subject, match.groupdict())]
        names = self._selected(own)
        if not names or (len(names) > 1 and not self.settings.select):
            raise InvalidData(
                "diffusion series",
                expected=f"one image {self.settings.layout}",
                found=", ".join(names) or "none",
                remedy="Choose with source.select; where it is set, all that it fits are joined." if names else "",
            ).at(self.tree.path(folder))
        runs = [self._plain_run(folder, name, files) for name in sorted(names)]
        return Series(subject, tuple(runs), interpolated=False)

    def mask(self, subject: SubjectKey) -> UPath:
        """The brain mask beside the image. Raises InvalidData where there is none, or more than one."""
        folder = self.folder(subject)
        stem = self.series(subject).runs[0].image.name.split(".")[0]
        wanted = [name.format(stem=stem) for name in _MASKS]
        found = [self.tree.path(f"{folder}/{name}") for name in wanted if name in self.tree.listing(folder).files]
        return one_mask(found, self.tree.path(folder), f"of these: {', '.join(wanted)}")

    def folder(self, subject: SubjectKey) -> str:
        """The folder of a subject's images, relative to the root."""
        if not self._folders:
            self.subjects(only=[str(subject)])
        return self._folders.get(str(subject), "")

    def _is_of(self, subject: SubjectKey, labels: dict[str, str]) -> bool:
        """Whether an image whose own name holds these labels is of this subject."""
        return all(
            _label(label) == (subject.subject if kind == "subject" else subject.session)
            for kind, label in labels.items()
        )

    def _matching(self, refused: dict[str, InvalidData]) -> dict[str, dict[str, str]]:
        """The folders that the pattern fits, with the labels that their paths hold."""
        found: dict[str, dict[str, str]] = {"": {}}
        for part in self._above:
            listed = self.tree.listings({folder: folder for folder in found}, refused)
            found = {
                f"{folder}/{name}" if folder else name: found[folder] | match.groupdict()
                for folder, inside in listed.items()
                for name in inside.folders
                if (match := part.fullmatch(name))
            }
        return {folder: found[folder] for folder in self.tree.listings({one: one for one in found}, refused)}

    def _plain_run(self, folder: str, image: str, files: Collection[str]) -> Run:
        stem = image.split(".")[0]
        tables = []
        for what, names in _TABLES.items():
            wanted = [name.format(stem=stem) for name in names]
            there = [name for name in wanted if name in files]
            if not there:
                raise InvalidData(
                    f"file of {what}", expected=f"{' or '.join(wanted)} beside the image", found="none"
                ).at(self.tree.path(f"{folder}/{image}"))
            tables.append(self.tree.path(f"{folder}/{there[0]}"))
        return Run(self.tree.path(f"{folder}/{image}"), *tables)


def open_dataset(settings: SourceSettings) -> SourceDataset:
    """The dataset that the settings name, BIDS or of a pattern. Raises as SourceDataset does."""
    return SourceDataset(settings) if settings.layout == "bids" else PlainDataset(settings)


def _pattern(part: str) -> re.Pattern[str]:
    """One name of a path: placeholders stand for labels, the rest is a shell's pattern."""
    pieces = re.split(r"\{(subject|session)\}", part)
    texts = [re.escape(piece).replace(r"\*", ".*").replace(r"\?", ".") for piece in pieces[::2]]
    groups = [f"(?P<{kind}>.+?)" for kind in pieces[1::2]]
    return re.compile("".join(text + group for text, group in zip(texts, [*groups, ""], strict=True)), re.DOTALL)


def _key(labels: dict[str, str]) -> str:
    session = f"_ses-{_label(labels['session'])}" if labels.get("session") else ""
    return f"sub-{_label(labels['subject'])}{session}"


def _label(text: str) -> str:
    return text.removeprefix("sub-").removeprefix("ses-")
