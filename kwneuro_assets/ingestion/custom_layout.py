"""A dataset without BIDS names: a pattern gives the path of each subject's image; bval and bvec are beside it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from upath import UPath

from kwneuro_assets.imaging import InvalidData
from kwneuro_assets.ingestion.bids_names import stem_of
from kwneuro_assets.ingestion.dataset import SourceDataset, below
from kwneuro_assets.ingestion.patterns import PathPattern, key_of
from kwneuro_assets.ingestion.qc_files import qc_files_by_stem
from kwneuro_assets.ingestion.series import Run, Series
from kwneuro_assets.settings import SourceSettings
from kwneuro_assets.subjects import SubjectKey

# File names beside an image whose name begins with `{stem}`; FSL's names are the same for every subject.
_TABLES = {"b-values": ("{stem}.bval", "{stem}.bvals", "bvals"), "b-vectors": ("{stem}.bvec", "{stem}.bvecs", "bvecs")}
_MASKS = tuple(
    f"{name}{extension}"
    for name in ("{stem}_mask", "{stem}_brain_mask", "brain_mask", "nodif_brain_mask")
    for extension in (".nii.gz", ".nii")
)


class CustomLayoutDataset(SourceDataset):
    """A dataset whose images match a pattern, such as `{subject}/dwi.nii.gz` or `{subject}/{session}/*.nii.gz`.

    `patterns` gives the labels. Two folders with the same key are both refused. Otherwise as SourceDataset.
    """

    def __init__(self, settings: SourceSettings) -> None:
        super().__init__(settings)
        self._pattern = PathPattern(settings.layout)
        self._folders: dict[str, str] = {}  # of each key
        self._images: dict[str, list[str]] = {}  # of each key, by name

    def subjects(
        self, only: Collection[str] | None = None, *, masks: bool = False
    ) -> tuple[list[SubjectKey], dict[str, InvalidData]]:
        """As SourceDataset.subjects; keys are `sub-LABEL` or `sub-LABEL_ses-LABEL`."""
        if only is None:
            self.tree.list_all(lambda top: self._pattern.has_top(top) or (masks and self._mask_pattern.has_top(top)))
        self.tree.require_root()
        refused: dict[str, InvalidData] = {}
        places: dict[str, dict[str, list[str]]] = {}
        for folder, labels in self._pattern.folders(self.tree, refused, _labels_of(only)).items():
            for name, found in self._pattern.files(self.tree, folder, labels).items():
                key = key_of(found)
                if only is None or key in only:
                    places.setdefault(key, {}).setdefault(folder, []).append(name)
            self._note_case(folder)
        for key, folders in places.items():
            if len(folders) > 1:
                refused[key] = InvalidData("subject", expected="one folder of this label", found=", ".join(folders)).at(
                    self.root
                )
            else:
                ((self._folders[key], self._images[key]),) = folders.items()
        return self._parsed({key: self._folders[key] for key in places if key not in refused}, refused), refused

    def series(self, subject: SubjectKey) -> Series:
        """The DWI series of a subject: its image, or the images that source.select joins.

        Raises InvalidData as SourceDataset.series does.
        """
        folder = self.folder(subject)
        names = self._selected(self._images.get(str(subject), []))
        if not names or (len(names) > 1 and not self.settings.select):
            raise InvalidData(
                "DWI series",
                expected=f"one image {self.settings.layout}",
                found=", ".join(names) or "none",
                remedy="Choose with source.select: all images that match it are joined." if names else "",
            ).at(self.tree.path(folder))
        names = sorted(names)
        runs = tuple(self._run_beside(folder, name) for name in names)
        return Series(subject, runs, self._qc_files(subject, folder, names))

    def folder(self, subject: SubjectKey) -> str:
        """The folder of a subject's images, relative to the root."""
        if str(subject) not in self._folders:
            self.subjects(only=[str(subject)])
        return self._folders.get(str(subject), "")

    def expected_files(self) -> str:
        return f"images {self.settings.layout}"

    def _found_masks(self, subject: SubjectKey, series: Series) -> tuple[list[UPath], str]:
        folder = self.folder(subject)
        stem = stem_of(series.runs[0].image.name)
        wanted = [name.format(stem=stem) for name in _MASKS]
        found = [self.tree.path(below(folder, name)) for name in wanted if name in self.tree.listing(folder).files]
        return found, f"of {', '.join(wanted)}, beside the image"

    def _qc_files(self, subject: SubjectKey, folder: str, images: Sequence[str]) -> tuple[UPath, ...]:
        above, is_session = self.settings.layout.rpartition("/")[0], "{session}" in self.settings.layout
        is_of_subject = "{subject}" in above and (not is_session or "{session}" in above)
        paths = qc_files_by_stem(self.tree, folder, subject, images, is_of_subject=is_of_subject)
        return tuple(self.tree.path(below(folder, path)) for path in paths)

    def _note_case(self, folder: str) -> None:
        for name in self.tree.listing(folder).files:
            if not self._pattern.name_matches(name) and self._pattern.name_matches(name, ignore_case=True):
                self.ignored[below(folder, name)] = f"its name matches {self.settings.layout} only if case is ignored"

    def _run_beside(self, folder: str, image: str) -> Run:
        files, stem = self.tree.listing(folder).files, stem_of(image)
        tables = []
        for what, names in _TABLES.items():
            wanted = [name.format(stem=stem) for name in names]
            there = [name for name in wanted if name in files]
            if not there:
                raise InvalidData(
                    f"file of {what}", expected=f"{' or '.join(wanted)} beside the image", found="none"
                ).at(self.tree.path(below(folder, image)))
            tables.append(self.tree.path(below(folder, there[0])))
        sidecars = [self.tree.path(below(folder, f"{stem}.json"))] if f"{stem}.json" in files else []
        return Run(self.tree.path(below(folder, image)), tables[0], tables[1], tuple(sidecars))


def open_dataset(settings: SourceSettings) -> SourceDataset:
    """The dataset of the settings: BIDS, or with a custom layout. Raises SourceError as SourceDataset does."""
    return SourceDataset(settings) if settings.layout == "bids" else CustomLayoutDataset(settings)


def _labels_of(keys: Collection[str] | None) -> set[str] | None:
    """The subject labels of these keys."""
    if keys is None:
        return None
    return {key.partition("_ses-")[0].removeprefix("sub-") for key in keys}
