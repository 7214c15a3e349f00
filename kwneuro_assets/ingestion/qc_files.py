"""The QC files that preprocessing left beside the images of a DWI series, found by their names.

QSIPrep writes `<entities>_desc-image_qc.tsv` and `<entities>_desc-confounds_timeseries.tsv` (`<entities>_confounds.tsv`
in old versions), FSL's eddy QUAD a folder with a `qc.json`: `<name of the image>.qc/`, or `eddy_quad/` by custom.
Pipelines also copy it to `<entities>_qc.json`.

A file belongs to an image if the image has all of its entities apart from `desc`, as in BIDS's inheritance principle,
or if its name is that of the image with another ending. Paths are relative to the folder of the images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Literal

from kwneuro_assets.imaging import InvalidData
from kwneuro_assets.ingestion.bids_names import PREPROCESSED, comparable, entities_of, stem_of
from kwneuro_assets.ingestion.tree import SourceTree
from kwneuro_assets.subjects import SubjectKey

Kind = Literal["image QC", "confounds", "eddy QUAD"]

_QUAD_FILE, _QUAD_FOLDER, _QUAD_EXTENSION = "qc.json", "eddy_quad", ".qc"
# The endings of each kind, of files and of QUAD's folder; of two that differ only in the ending, the first one counts.
_ENDINGS: Mapping[Kind, tuple[str, ...]] = {
    "image QC": ("_desc-image_qc.tsv",),
    "confounds": ("_desc-confounds_timeseries.tsv", "_confounds.tsv"),
    "eddy QUAD": (_QUAD_EXTENSION, "_qc.json"),
}
KINDS: tuple[Kind, ...] = tuple(_ENDINGS)
# A *_qc.json may be something else: QSIPrep's desc-slice, or the data dictionary of its table, desc-image.
_QUAD_DESCRIPTIONS = (None, "eddy", PREPROCESSED)
_OF_THIS_IMAGE = 1000  # rank of a file that has the name of the image: above any number of entities


def qc_files(tree: SourceTree, folder: str, subject: SubjectKey, images: Sequence[str]) -> tuple[str, ...]:
    """The QC files of these images of a folder of one subject, each once, sorted. Opens no file.

    Raises InvalidData if the folder cannot be listed, and StorageError if one cannot be reached.
    """
    inside = tree.listing(folder)
    quad = [name for name in inside.folders if name == _QUAD_FOLDER or name.endswith(_QUAD_EXTENSION)]
    paths = [name for name in inside.files if kind_of(name)]
    return _best_of_all(images, subject, [*paths, *_with_quad_file(tree, folder, quad)])


def qc_files_by_stem(
    tree: SourceTree, folder: str, subject: SubjectKey, images: Sequence[str], *, is_of_subject: bool
) -> tuple[str, ...]:
    """The QC files with the names of these images, and `eddy_quad/` if the folder is that of one subject.

    The folder of a custom layout may hold all subjects, so it is not searched. Raises as `qc_files` does.
    """
    inside = tree.listing(folder)
    stems = [stem_of(image) for image in images]
    names = [stem + ending for stem in stems for endings in _ENDINGS.values() for ending in endings]
    quad = [stem + _QUAD_EXTENSION for stem in stems] + ([_QUAD_FOLDER] if is_of_subject else [])
    folders = [name for name in quad if name in inside.folders]
    paths = [name for name in names if name in inside.files and kind_of(name)]
    return _best_of_all(images, subject, [*paths, *_with_quad_file(tree, folder, folders)])


def _with_quad_file(tree: SourceTree, folder: str, names: Sequence[str]) -> list[str]:
    """The qc.json in each of these folders of a folder that has one.

    Those that cannot be listed count as empty: QC makes no scan unusable.
    """
    found = list[str]()
    for name in names:
        with suppress(InvalidData):
            if _QUAD_FILE in tree.listing(f"{folder}/{name}" if folder else name).files:
                found.append(f"{name}/{_QUAD_FILE}")
    return found


def _best_of_all(images: Sequence[str], subject: SubjectKey, paths: Sequence[str]) -> tuple[str, ...]:
    if not paths:
        return ()
    found = {path for image in images for kind in KINDS for path in best_files(kind, image, subject, paths)}
    return tuple(sorted(found))


def kind_of(path: str) -> Kind | None:
    """What a file is by its name; None if it is no QC file."""
    folder, _, name = path.rpartition("/")
    if folder or name.endswith(_QUAD_EXTENSION):
        is_quad = name == _QUAD_FILE and (folder == _QUAD_FOLDER or folder.endswith(_QUAD_EXTENSION))
        return "eddy QUAD" if is_quad else None
    kind = next((kind for kind, endings in _ENDINGS.items() if name.endswith(endings)), None)
    return None if kind == "eddy QUAD" and entities_of(name).get("desc") not in _QUAD_DESCRIPTIONS else kind


def best_files(kind: Kind, image: str, subject: SubjectKey, paths: Iterable[str]) -> list[str]:
    """The files of this kind that match an image best; several if none is better than the others."""
    ranks = {path: _rank(kind, image, subject, path) for path in paths if kind_of(path) == kind}
    known = {path: rank for path, rank in ranks.items() if rank is not None}
    return sorted(path for path, rank in known.items() if rank == max(known.values()))


def entities_of_scan(image: str, subject: SubjectKey) -> dict[str, str]:
    """The entities of an image and of its subject, which names of a custom layout need not have."""
    session = {"ses": subject.session} if subject.session else {}
    return {**entities_of(image), "sub": subject.subject, **session}


def is_of_another_subject(name: str, subject: str) -> bool:
    """Whether the name of a QC file has another subject or session than a key such as `sub-01_ses-02`."""
    own, found = entities_of(f"{subject}_."), entities_of(name)
    return kind_of(name) is not None and any(found.get(key, label) != label for key, label in own.items())


def _rank(kind: Kind, image: str, subject: SubjectKey, path: str) -> tuple[int, int] | None:
    """How well a file of this kind matches an image, higher is better; None if it does not."""
    name, stem = path.partition("/")[0], stem_of(image)
    if name == _QUAD_FOLDER:
        return 0, 0
    endings = _ENDINGS[kind]
    preference = -next(number for number, ending in enumerate(endings) if name.endswith(ending))
    if name.removeprefix(stem) in endings:
        return _OF_THIS_IMAGE, preference
    own = entities_of_scan(image, subject)
    entities = {key: label for key, label in entities_of(name).items() if key != "desc"}
    fits = all(comparable(key, own.get(key, "")) == comparable(key, label) for key, label in entities.items())
    return (len(entities), preference) if fits and "sub" in entities else None
