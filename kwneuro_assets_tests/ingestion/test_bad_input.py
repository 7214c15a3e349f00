"""Every kind of bad input in one cohort: each gives a one-line message, writes nothing and stops no other subject."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from dagster import DagsterInstance
from numpy.typing import NDArray

from kwneuro_assets.cohort.result import Result
from kwneuro_assets.cohort.run import run_subject
from kwneuro_assets.imaging import Dwi, MapSet
from kwneuro_assets.imaging.content_hash import data_version
from kwneuro_assets.ingestion.dataset import SourceDataset
from kwneuro_assets.ingestion.ingest import ingest
from kwneuro_assets.ingestion.ingest_report import IngestReport
from kwneuro_assets.ingestion.read_mask import read_mask
from kwneuro_assets.ingestion.read_source import read_dwi
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets_tests.testkit.small_dataset import (
    AFFINES,
    dwi_folder,
    head,
    signal,
    small_settings,
    table,
    to_fsl,
    write_dataset,
    write_mask,
    write_series,
)

CHEAP = ("denoised_dwi", "mean_b0", "brain_mask", "dti")
GOOD = "sub-good"
AFFINE = AFFINES["right-handed"]
SFORM, SCL_SLOPE, DATATYPE = 280, 112, 70  # offsets of a NIfTI-1 header's fields


@dataclass(frozen=True)
class Bad:
    """How the files of a subject are damaged, and the message: its file, what was expected, what was found."""

    damage: Callable[[Path, str], object]
    file: str
    expected: str
    found: str


def image(root: Path, key: str) -> Path:
    return dwi_folder(root, key) / f"{key}_dwi.nii.gz"


def voxels(change: Callable[[NDArray[np.float32]], object], dtype: str = "float32") -> Callable[[Path, str], object]:
    """The same image with other voxels: the array that `change` returns, or its changed argument."""

    def damage(root: Path, key: str) -> None:
        array = signal(table())
        changed = change(array)
        values = changed if isinstance(changed, np.ndarray) else array
        nibabel.save(nibabel.Nifti1Image(values.astype(dtype), AFFINE), image(root, key))

    return damage


def header(offset: int, form: str, *values: Any) -> Callable[[Path, str], object]:
    """Overwrite header fields in place; the image is saved as int16, so that its slope is used."""

    def damage(root: Path, key: str) -> None:
        voxels(lambda array: None, "int16")(root, key)
        content = bytearray(gzip.decompress(image(root, key).read_bytes()))
        struct.pack_into("<h", content, 252, 0)  # no qform
        struct.pack_into(f"<{form}", content, offset, *values)
        image(root, key).write_bytes(gzip.compress(bytes(content)))

    return damage


def numbers(extension: str, change: Callable[[NDArray[np.float64]], object]) -> Callable[[Path, str], object]:
    """The bval (1, n) or bvec (3, n) file with other numbers."""

    def damage(root: Path, key: str) -> None:
        path = dwi_folder(root, key) / f"{key}_dwi{extension}"
        rows = np.loadtxt(path, ndmin=2)
        changed = change(rows)
        np.savetxt(path, changed if isinstance(changed, np.ndarray) else rows)

    return damage


def put(row: int, column: int | slice, value: float) -> Callable[[NDArray[Any]], object]:
    def change(array: NDArray[Any]) -> None:
        array[row, column] = value

    return change


def removed(extension: str) -> Callable[[Path, str], object]:
    return lambda root, key: (dwi_folder(root, key) / f"{key}_dwi{extension}").unlink()


def link_to_nothing(extension: str) -> Callable[[Path, str], object]:
    """A broken link, as a git-annex dataset has before its content is fetched."""

    def damage(root: Path, key: str) -> None:
        path = dwi_folder(root, key) / f"{key}_dwi{extension}"
        path.unlink()
        path.symlink_to("../../.git/annex/objects/content-not-here")

    return damage


def truncated(fraction: float) -> Callable[[Path, str], object]:
    def damage(root: Path, key: str) -> None:
        os.truncate(image(root, key), int(image(root, key).stat().st_size * fraction))

    return damage


def disagreeing_forms(root: Path, key: str) -> None:
    one = nibabel.Nifti1Image(signal(table()), AFFINE)
    one.set_qform(AFFINES["left-handed"], 1)
    one.set_sform(AFFINE, 1)
    nibabel.save(one, image(root, key))


def second_run_elsewhere(root: Path, key: str) -> None:
    for path in dwi_folder(root, key).glob(f"{key}_dwi.*"):
        path.rename(path.with_name(path.name.replace("_dwi", "_run-1_dwi")))
    write_series(root, key, entities="run-2", affine=AFFINES["oblique"])


def without_b0(root: Path, key: str) -> None:
    numbers(".bval", lambda bvals: np.maximum(bvals, 700))(root, key)
    numbers(".bvec", put(0, slice(0, 2), 1))(root, key)


def frozen_in_time(array: NDArray[np.float32]) -> NDArray[np.float32]:
    return array[..., 0]


BAD: dict[str, Bad] = {
    "missing bval": Bad(removed(".bval"), "_dwi.nii.gz", "_dwi.bval beside the image", "none"),
    "missing bvec": Bad(removed(".bvec"), "_dwi.nii.gz", "_dwi.bvec beside the image", "none"),
    "too few b-values": Bad(numbers(".bval", lambda b: b[:, :-1]), "_dwi.bval", "26 b-values", "25"),
    "too few b-vectors": Bad(numbers(".bvec", lambda v: v[:, :-1]), "_dwi.bvec", "3 rows of 26", "3 rows of 25"),
    "both too few": Bad(
        lambda root, key: [numbers(end, lambda x: x[:, :-1])(root, key) for end in (".bval", ".bvec")],
        "_dwi.bval", "26 b-values", "25",
    ),
    "b-vectors not unit": Bad(numbers(".bvec", lambda v: v * 0.9), "_dwi.bvec", "unit length", "length 0.9000 at vol"),
    "NaN in bvec": Bad(numbers(".bvec", put(1, 5, np.nan)), "_dwi.bvec", "finite numbers", "at volume 5"),
    "negative b-value": Bad(numbers(".bval", put(0, 4, -1000)), "_dwi.bval", "none below zero", "-1000 at volume 4"),
    "NaN in bval": Bad(numbers(".bval", put(0, 4, np.nan)), "_dwi.bval", "finite numbers", "nan at volume 4"),
    "words in bval": Bad(
        lambda root, key: (dwi_folder(root, key) / f"{key}_dwi.bval").write_text("b=0 b=1000"),
        "_dwi.bval", "numbers separated by blanks", "'b=0'",
    ),
    "binary bvec": Bad(
        lambda root, key: (dwi_folder(root, key) / f"{key}_dwi.bvec").write_bytes(b"\x93\xff\x00"),
        "_dwi.bvec", "numbers as text", "other bytes",
    ),
    "bval not fetched": Bad(link_to_nothing(".bval"), "_dwi.bval", "one that can be read", "git-annex"),
    "image not fetched": Bad(link_to_nothing(".nii.gz"), "_dwi.nii.gz", "a file that can be read", "git-annex"),
    "no b=0": Bad(without_b0, "_dwi.nii.gz", "b <= 50", "the lowest at 700"),
    "3-D image": Bad(voxels(frozen_in_time), "_dwi.bval", "1 b-values", "26"),
    "truncated in the voxels": Bad(
        truncated(0.5), "_dwi.nii.gz", "a complete gzip stream", "damaged",
    ),
    "truncated in the header": Bad(truncated(0.01), "_dwi.nii.gz", "a complete gzip stream", "damaged"),
    "empty file": Bad(truncated(0), "_dwi.nii.gz", "a NIfTI file", "an empty file"),
    "header announces more": Bad(
        header(DATATYPE, "2h", 64, 64), "_dwi.nii.gz", "69888 bytes of voxels", "17472",
    ),
    "NaN voxel": Bad(
        voxels(lambda a: a.__setitem__((4, 3, 2, 1), np.nan)),
        "_dwi.nii.gz", "finite numbers", "1 NaN or infinite of 8736",
    ),
    "infinite voxel": Bad(
        voxels(lambda a: a.__setitem__((4, 3, 2, 1), np.inf)),
        "_dwi.nii.gz", "finite numbers", "1 NaN or infinite of 8736",
    ),
    "all zero": Bad(voxels(np.zeros_like), "_dwi.nii.gz", "a signal somewhere", "zero in every voxel"),
    "overflowing slope": Bad(
        header(SCL_SLOPE, "2f", 3e38, 0), "_dwi.nii.gz", "fit float32", "scl_slope 3e+38",
    ),
    "zero determinant": Bad(
        header(SFORM, "12f", *(1, 1, 0, 0), *(0, 0, 1, 0), *(0, 0, 0, 0)),
        "_dwi.nii.gz", "a usable sform or qform", "not independent",
    ),
    "sform and qform": Bad(disagreeing_forms, "_dwi.nii.gz", "voxel axes point the same way", ""),
    "runs on two grids": Bad(second_run_elsewhere, "_run-2_dwi.nii.gz", "_run-1_dwi.nii.gz, 8 x 7 x 6", " voxels away"),
    "mask elsewhere": Bad(
        lambda root, key: write_mask(root, key, affine=AFFINES["left-handed"]),
        "_desc-brain_mask.nii.gz", "_dwi.nii.gz, 8 x 7 x 6", "2 x 2.5 x 3 mm at (-9.0, 4.0, 11.0), up to 15 voxels",
    ),
    "mask of another shape": Bad(
        lambda root, key: write_mask(root, key, inside=head((8, 7, 5))),
        "_desc-brain_mask.nii.gz", "_dwi.nii.gz, 8 x 7 x 6", "8 x 7 x 5 voxels",
    ),
    "empty mask": Bad(
        lambda root, key: write_mask(root, key, inside=head() & False),
        "_desc-brain_mask.nii.gz", "at least one voxel inside", "an empty mask",
    ),
    "no mask": Bad(
        lambda root, key: (dwi_folder(root, key) / f"{key}_desc-brain_mask.nii.gz").unlink(),
        "", "_desc-brain_mask.nii.gz in the dataset", "none",
    ),
}  # fmt: skip
UNNAMEABLE = ("sub-..", "sub-0 1", "sub-é")


def key_of(name: str) -> str:
    return f"sub-{list(BAD).index(name):02d}"


@dataclass
class Cohort:
    """The outcome of all subjects, and the contents of the store before."""

    source: Path
    store: DerivativeStore
    before: dict[str, bytes]
    report: IngestReport
    results: dict[str, dict[str, Result]]


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """A good subject, and one of every bad kind that has older derivatives in the store."""
    root = tmp_path_factory.mktemp("bad_input")
    source = write_dataset(root / "source", [GOOD, *map(key_of, BAD)])
    settings = small_settings(source, root / "store")
    store = DerivativeStore(root / "store", str(source))
    dataset = SourceDataset(settings.source)
    good, _ = read_dwi(dataset, dataset.series(SubjectKey.parse(GOOD)))
    mask, _ = read_mask(dataset, dataset.mask(SubjectKey.parse(GOOD)))
    for name, bad in BAD.items():
        subject = SubjectKey.parse(key_of(name))
        for asset, value in (("denoised_dwi", good), ("brain_mask", mask), ("dti", MapSet({"fa": mask}))):
            store.write(asset, subject, value, Provenance("an earlier run", "1", data_version(value)), b"figure")
        bad.damage(source, str(subject))
    for name in UNNAMEABLE:
        folder = source / name / "dwi"
        folder.mkdir(parents=True)
        (folder / f"{name}_dwi.nii.gz").write_bytes(b"")
    before = files(store.root)
    with DagsterInstance.ephemeral() as instance:
        report = ingest(instance, settings)
        results = {
            key: {result.asset: result for result in run_subject(instance, settings, key, CHEAP)}
            for key in report.usable
        }
    return Cohort(source, store, before, report, results)


@pytest.mark.parametrize("name", BAD)
def test_the_message_names_the_file_what_was_expected_and_what_was_found(cohort: Cohort, name: str) -> None:
    bad, key = BAD[name], key_of(name)
    assert key not in cohort.report.usable
    message = cohort.report.quarantined[key]
    assert "\n" not in message
    where, _, rest = message.partition(": ")
    assert where.startswith(str(cohort.source))
    if bad.file:
        assert where.endswith(f"/{key}/dwi/{key}{bad.file}")
    expected, _, found = rest.partition(", found ")
    assert " expected " in expected
    assert bad.expected in expected
    assert bad.found in found


@pytest.mark.parametrize("name", BAD)
def test_bad_input_leaves_the_older_derivatives_intact_and_no_partial_files(cohort: Cohort, name: str) -> None:
    folder = f"{key_of(name)}/"
    earlier = {path: content for path, content in cohort.before.items() if path.startswith(folder)}
    assert {path: one for path, one in files(cohort.store.root).items() if path.startswith(folder)} == earlier
    assert len(earlier) >= 6
    value, _ = cohort.store.read("denoised_dwi", SubjectKey.parse(key_of(name)))
    assert isinstance(value, Dwi)


def test_the_good_subject_is_materialized_completely(cohort: Cohort) -> None:
    assert {asset: result.outcome for asset, result in cohort.results[GOOD].items()} == dict.fromkeys(
        CHEAP, "materialized"
    )
    value, _ = cohort.store.read("dti", SubjectKey.parse(GOOD))
    assert isinstance(value, MapSet)
    assert not [path for path in files(cohort.store.root) if path.endswith(".tmp")]


@pytest.mark.parametrize("name", UNNAMEABLE)
def test_a_subject_with_an_invalid_name_is_quarantined_and_never_stored(cohort: Cohort, name: str) -> None:
    message = cohort.report.quarantined[name]
    assert message.startswith(f"{cohort.source / name / 'dwi'}: subject: expected sub-LABEL or sub-LABEL_ses-LABEL")
    assert f"found {name!r}" in message
    assert not (cohort.store.root / name).exists()


def test_nothing_is_written_to_the_source(cohort: Cohort) -> None:
    assert not [path for path in files(cohort.source) if "desc-denoised" in path or path.endswith(".tmp")]
    vectors = np.loadtxt(dwi_folder(cohort.source, GOOD) / f"{GOOD}_dwi.bvec").T
    np.testing.assert_allclose(vectors, to_fsl(table().world, AFFINE), atol=1e-8)
