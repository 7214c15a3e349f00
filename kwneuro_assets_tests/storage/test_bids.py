"""A store is a BIDS derivatives dataset: the validator itself looks at one with every derivative in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kwneuro_assets.assets import DERIVATIVES, GROUP_DERIVATIVE
from kwneuro_assets.imaging import Dwi, GradientTable, MapSet, NotApplicable, ResponseFunction, Volume
from kwneuro_assets.storage.names import NAMES
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import GROUP, SubjectKey
from kwneuro_assets.versioning.content import Value, data_version
from kwneuro_assets_tests.bids_validator import Verdict
from kwneuro_assets_tests.small_dataset import AFFINES, head, signal, table

AFFINE = AFFINES["oblique"]
# Without a session, with one, and one whose data allow as little as possible.
SUBJECTS = SubjectKey("01"), SubjectKey("02", "b"), SubjectKey("03")
POOR = SUBJECTS[2]
ALWAYS_THERE = ("denoised_dwi", "mean_b0", "brain_mask")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with every derivative of every subject, each with the sidecar that its own declaration gives it."""
    root = tmp_path_factory.mktemp("bids") / "store"
    derivatives = DerivativeStore(root, "s3://a-bucket/a-study")
    values = small_values()
    assert set(values) == {derivative.name for derivative in DERIVATIVES} == set(NAMES) - {GROUP_DERIVATIVE.name}
    values[GROUP_DERIVATIVE.name] = values["fiber_response"]
    for subject in (*SUBJECTS, GROUP):
        for derivative in [GROUP_DERIVATIVE] if subject == GROUP else DERIVATIVES:
            value = values[derivative.name]
            if subject == POOR and derivative.name not in ALWAYS_THERE:
                value = NotApplicable("one shell")
            provenance = Provenance(
                derivative.description,
                "1-01234567",
                data_version(value),
                sources=(f"bids:source:{subject.folder}/{subject}_dwi.nii.gz",),
                bids=derivative.bids,
            )
            figure = None if isinstance(value, NotApplicable) else b"\x89PNG of some kind"
            derivatives.write(derivative.name, subject, value, provenance, figure)
    return root


def small_values() -> dict[str, Value]:
    directions = table()
    dwi = Dwi(Volume(signal(directions), AFFINE), GradientTable(directions.bvals, directions.world, "world"))
    mask = Volume(head(), AFFINE)

    def maps(**sizes: int) -> MapSet:
        """Maps with so many entries along the fourth axis, 0 for a map of three dimensions."""
        return MapSet({name: Volume(stack(size), AFFINE) for name, size in sizes.items()})

    def stack(size: int) -> np.ndarray[Any, Any]:
        inside = head().astype(np.float32)
        return np.repeat(inside[..., None], size, axis=-1) if size else inside

    bundles = Volume(stack(2).astype(np.uint8), AFFINE, ("AF_left", "CA"))
    return {
        "denoised_dwi": dwi,
        "mean_b0": dwi.mean_b0(),
        "brain_mask": mask,
        "dti": maps(fa=0, md=0, ad=0, rd=0, tensor=6, evals=3, evecs=9),
        "noddi": maps(ndi=0, odi=0, fwf=0, direction=3),
        "fiber_response": ResponseFunction(np.array([900.0, -300.0, 60.0]), 2000.0, 12),
        "csd_peaks": maps(peaks=9, peakvalues=3),
        "tract_masks": bundles,
        "tract_endings": bundles,
        "tract_orientations": Volume(stack(6), AFFINE),
    }


def files(root: Path) -> dict[str, Path]:
    """Every file of a store by its path in the dataset, as the validator writes it."""
    return {f"/{path.relative_to(root).as_posix()}": path for path in root.rglob("*") if path.is_file()}


def hidden(root: Path, name: str) -> list[str]:
    """The lines of .bidsignore that take this file name out of the validator's sight."""
    return [line for line in (root / ".bidsignore").read_text().split() if fnmatch(name, line)]


def test_the_bids_validator_finds_no_error_in_a_store(store: Path, validate: Callable[[Path], Verdict]) -> None:
    verdict = validate(store)
    assert verdict.errors == set()
    seen = [path for path in files(store).values() if path.name != ".bidsignore" and not hidden(store, path.name)]
    assert len(seen) > len(SUBJECTS) * len(ALWAYS_THERE)
    assert verdict == Verdict(set(), len(seen), {"01", "02", "03"}, {"b"})


def test_no_file_is_hidden_from_the_validator_that_bids_has_a_place_for(
    store: Path, validate: Callable[[Path], Verdict], tmp_path: Path
) -> None:
    bare = shutil.copytree(store, tmp_path / "store")
    (bare / ".bidsignore").write_text("")
    refused = {location for _, location in validate(bare).errors}
    ignored = {location: lines for location, path in files(store).items() if (lines := hidden(store, path.name))}
    assert refused <= set(ignored)
    # One pattern has to do for the sidecar of a mask, in its place, and for that of one that does not exist.
    needless = {location for location in set(ignored) - refused if not location.endswith("_mask.json")}
    assert needless == set()
    used = {line for location in refused for line in ignored[location]}
    assert used == set((store / ".bidsignore").read_text().split())


def misspelt(root: Path) -> None:
    folder = root / SUBJECTS[0].folder
    shutil.copy(folder / "sub-01_desc-brain_mask.nii.gz", folder / "sub-01_desc-brain_masc.nii.gz")


def of_another_subject(root: Path) -> None:
    folder = root / SUBJECTS[0].folder
    shutil.copy(folder / "sub-01_desc-brain_mask.nii.gz", folder / "sub-09_desc-brain_mask.nii.gz")


def cut_off(root: Path) -> None:
    image = root / SUBJECTS[0].folder / "sub-01_desc-brain_mask.nii.gz"
    image.write_bytes(image.read_bytes()[:40])


def without_skull_stripped(root: Path) -> None:
    sidecar = root / SUBJECTS[0].folder / "sub-01_desc-denoised_dwi.json"
    tree = json.loads(sidecar.read_text())
    del tree["SkullStripped"]
    sidecar.write_text(json.dumps(tree))


def undescribed(root: Path) -> None:
    (root / "dataset_description.json").unlink()


@pytest.mark.parametrize(
    ("harm", "code", "location"),
    [
        (misspelt, "NOT_INCLUDED", "/sub-01/dwi/sub-01_desc-brain_masc.nii.gz"),
        (of_another_subject, "ALL_FILENAME_RULES_HAVE_ISSUES", "/sub-01/dwi/sub-09_desc-brain_mask.nii.gz"),
        (cut_off, "NIFTI_HEADER_UNREADABLE", "/sub-01/dwi/sub-01_desc-brain_mask.nii.gz"),
        (without_skull_stripped, "SIDECAR_KEY_REQUIRED", "/sub-01/dwi/sub-01_desc-denoised_dwi.nii.gz"),
        (undescribed, "MISSING_DATASET_DESCRIPTION", ""),
    ],
)
def test_the_validator_tells_what_is_wrong_in_a_store(
    store: Path,
    validate: Callable[[Path], Verdict],
    tmp_path: Path,
    harm: Callable[[Path], None],
    code: str,
    location: str,
) -> None:
    harmed = shutil.copytree(store, tmp_path / "store")
    harm(harmed)
    assert (code, location) in validate(harmed).errors


def test_what_an_interrupted_write_leaves_is_no_error(
    store: Path, validate: Callable[[Path], Verdict], tmp_path: Path
) -> None:
    left = shutil.copytree(store, tmp_path / "store")
    (left / SUBJECTS[0].folder / "sub-01_desc-brain_mask.json").unlink()
    (left / SUBJECTS[0].folder / ".sub-01_desc-brain_mask.nii.gz.0123456789ab.tmp").write_bytes(b"half")
    assert validate(left).errors == set()
