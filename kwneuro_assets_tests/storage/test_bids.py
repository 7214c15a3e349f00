"""A store with every derivative is a valid BIDS derivatives dataset, by the BIDS validator itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kwneuro_assets.assets import ALL_DERIVATIVES, GROUP_DERIVATIVES
from kwneuro_assets.imaging import (
    Dwi,
    GradientTable,
    MapSet,
    NotApplicable,
    Report,
    ResponseFunction,
    RigidTransform,
    Segmentation,
    Table,
    Volume,
)
from kwneuro_assets.imaging.content_hash import Value, data_version
from kwneuro_assets.storage.bids_fields import MAPS
from kwneuro_assets.storage.names import NAMES
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.storage.store import SHARED, DerivativeStore
from kwneuro_assets.subjects import GROUP, SubjectKey
from kwneuro_assets_tests.testkit.bids_validator import Verdict
from kwneuro_assets_tests.testkit.small_dataset import AFFINES, head, signal, table

AFFINE = AFFINES["oblique"]
# Without a session, with one, and one to which most derivatives are not applicable.
SUBJECTS = SubjectKey("01"), SubjectKey("02", "b"), SubjectKey("03")
LIMITED = SUBJECTS[2]
ALWAYS_APPLICABLE = ("denoised_dwi", "mean_b0", "brain_mask")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with every derivative of every subject, each with the BIDS fields of its declaration."""
    root = tmp_path_factory.mktemp("bids") / "store"
    derivatives = DerivativeStore(root, "s3://a-bucket/a-study")
    values = small_values()
    of_group = {derivative.name for derivative in GROUP_DERIVATIVES}
    assert set(values) == {derivative.name for derivative in ALL_DERIVATIVES} == set(NAMES) - of_group
    alike = {"group_response": "fiber_response", "cohort_qc": "dwi_qc", "cohort_report": "subject_report"}
    values |= {name: values[of_subject] for name, of_subject in alike.items()}
    for subject in (*SUBJECTS, GROUP):
        for derivative in GROUP_DERIVATIVES if subject == GROUP else ALL_DERIVATIVES:
            value = values[derivative.name]
            if subject == LIMITED and derivative.name not in ALWAYS_APPLICABLE:
                value = NotApplicable("one shell")
            provenance = Provenance(
                derivative.description,
                "1-01234567",
                data_version(value),
                sources=(f"bids:source:{subject.folder}/{subject}_dwi.nii.gz",),
                bids=derivative.bids,
            )
            figure = None if isinstance(value, NotApplicable) else b"\x89PNG"
            derivatives.write(derivative.name, subject, value, provenance, figure)
    return root


def small_values() -> dict[str, Value]:
    directions = table()
    dwi = Dwi(Volume(signal(directions), AFFINE), GradientTable(directions.bvals, directions.world, "world"))
    mask = Volume(head(), AFFINE)

    def maps(**sizes: int) -> MapSet:
        """Maps with these sizes of the fourth axis; 0 is a 3-D map."""
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
        "csd_peaks": maps(peaks=9, peakvalues=3, fod=15, wmfraction=0),
        "mni_alignment": RigidTransform(np.eye(4)),
        "tract_masks": Segmentation.of(bundles, Volume(0.5 * stack(2), AFFINE, bundles.names)),
        "tract_endings": bundles,
        "dwi_qc": Table({"ndc": [0.5]}, {"ndc": "number"}),
        "subject_report": Report("<!doctype html><title>report</title>", "", {"viewer.js": b"a program"}),
        "tract_orientations": Volume(
            stack(6), AFFINE, tuple(f"{name}_{axis}" for name in bundles.names for axis in "xyz")
        ),
    }


def files(root: Path) -> dict[str, Path]:
    """Every file of a store that the validator reads, by its path in the dataset as it reports it."""
    found = (path for path in root.rglob("*") if path.is_file() and SHARED not in path.parts)
    return {f"/{path.relative_to(root).as_posix()}": path for path in found}


def hidden(root: Path, name: str) -> list[str]:
    """The lines of .bidsignore that hide this file name from the validator."""
    return [line for line in (root / ".bidsignore").read_text().split() if fnmatch(name, line)]


def test_the_bids_validator_finds_no_error_in_a_store(store: Path, validate: Callable[[Path], Verdict]) -> None:
    verdict = validate(store)
    assert verdict.errors == set()
    seen = [path for path in files(store).values() if path.name != ".bidsignore" and not hidden(store, path.name)]
    assert len(seen) > len(SUBJECTS) * len(ALWAYS_APPLICABLE)
    assert verdict == Verdict(set(), len(seen), {"01", "02", "03"}, {"b"})


def test_only_files_that_bids_does_not_define_are_hidden_from_the_validator(
    store: Path, validate: Callable[[Path], Verdict], tmp_path: Path
) -> None:
    bare = shutil.copytree(store, tmp_path / "store")
    (bare / ".bidsignore").write_text("")
    refused = {location for _, location in validate(bare).errors}
    ignored = {location: lines for location, path in files(store).items() if (lines := hidden(store, path.name))}
    assert refused <= set(ignored)
    # One pattern covers the sidecars of masks, and those of masks that are not applicable.
    needless = {location for location in set(ignored) - refused if not location.endswith("_mask.json")}
    assert needless == set()
    used = {line for location in refused for line in ignored[location]}
    assert used == set((store / ".bidsignore").read_text().split())


def map_json(root: Path, name: str) -> dict[str, Any]:
    path = root / SUBJECTS[0].folder / f"sub-01_{name}.json"
    tree: dict[str, Any] = json.loads(path.read_text())
    return tree


@pytest.mark.parametrize("asset", ["dti", "noddi", "csd_peaks"])
def test_each_4d_map_has_the_orientation_encoding_of_bep016_and_3d_maps_have_none(store: Path, asset: str) -> None:
    value = small_values()[asset]
    assert isinstance(value, MapSet)
    names = NAMES[asset]
    for param, volume in value.items():
        path = store / SUBJECTS[0].folder / names.file(SUBJECTS[0], ".json", param)
        assert path.is_file() == (volume.array.ndim == 4), path
        if path.is_file():
            encoding = json.loads(path.read_text())["OrientationEncoding"]
            is_scalar = encoding["Type"] == "scalar"
            assert (encoding.get("EncodingAxis"), encoding.get("Reference")) == (
                (None, None) if is_scalar else (3, "xyz")
            )
    sidecar = json.loads((store / names.sidecar(SUBJECTS[0])).read_text())
    assert sidecar["Model"]["Description"]
    assert MAPS not in sidecar
    assert "OrientationEncoding" not in sidecar


def test_orientation_encodings_have_the_types_and_fields_of_bep016(store: Path) -> None:
    def encoding(name: str) -> dict[str, Any]:
        found: dict[str, Any] = map_json(store, name)["OrientationEncoding"]
        return found

    assert encoding("model-tensor_param-tensor_dwimap") == {
        "Type": "tensor", "TensorRank": 2, "AntipodalSymmetry": True, "EncodingAxis": 3, "Reference": "xyz",
    }  # fmt: skip
    assert encoding("model-tensor_param-evecs_dwimap")["Type"] == "unit3vector"
    assert encoding("model-tensor_param-evals_dwimap") == {"Type": "scalar"}
    assert encoding("model-noddi_param-direction_dwimap")["FillValue"] == 0
    assert encoding("model-csd_param-peaks_dwimap")["Type"] == "3vector"
    fod = encoding("model-csd_param-fod_dwimap")
    assert (fod["Type"], fod["SphericalHarmonicBasis"], fod["SphericalHarmonicDegree"]) == ("sh", "mrtrix3", 4)
    assert encoding("desc-tractorientations_dwimap")["Type"] == "unit3vector"


def test_the_parameters_of_a_model_are_those_of_the_derivative(tmp_path: Path) -> None:
    bids = {"Model": {"Description": "Diffusion tensor", "Parameters": {"FitMethod": "wls"}}}
    provenance = Provenance("a tensor", "1", "0" * 64, {"max_bvalue": 1500.0}, bids=bids)
    sidecar = DerivativeStore(tmp_path).write("dti", SUBJECTS[0], small_values()["dti"], provenance)
    assert sidecar.provenance.bids["Model"] == {
        "Description": "Diffusion tensor", "Parameters": {"FitMethod": "wls", "max_bvalue": 1500.0},
    }  # fmt: skip


@pytest.mark.parametrize("asset", ["tract_masks", "tract_endings"])
def test_4d_masks_have_a_label_map(store: Path, asset: str) -> None:
    sidecar = json.loads((store / NAMES[asset].sidecar(SUBJECTS[0])).read_text())
    assert sidecar["LabelMap"] == ["AF_left", "CA"]
    assert "Content" not in sidecar


def test_probabilities_have_a_label_map_of_their_own(store: Path) -> None:
    described = map_json(store, "desc-tracts_probseg")
    assert described["LabelMap"] == ["AF_left", "CA"]


def test_an_export_with_one_file_per_bundle_is_a_valid_dataset(
    store: Path, validate: Callable[[Path], Verdict], tmp_path: Path
) -> None:
    copy = DerivativeStore(tmp_path / "copy", "s3://a-bucket/a-study")
    for asset in ("denoised_dwi", "tract_masks", "tract_endings", "tract_orientations"):
        for subject in SUBJECTS:
            DerivativeStore(store).export(asset, subject, copy, split=True)
    verdict = validate(tmp_path / "copy")
    assert verdict.errors == set()
    names = {path.name for path in (tmp_path / "copy").rglob("*label-*.nii.gz")}
    stems = [f"sub-01_label-{label}_desc-tracts_{kind}" for label in ("AFleft", "CA") for kind in ("mask", "probseg")]
    stems += [
        f"sub-01_label-{label}_desc-tract{kind}"
        for label in ("AFleft", "CA")
        for kind in ("endings_mask", "orientations_dwimap")
    ]
    assert {name for name in names if name.startswith("sub-01")} == {f"{stem}.nii.gz" for stem in stems}
    seen = [
        path
        for path in files(tmp_path / "copy").values()
        if path.name != ".bidsignore" and not hidden(store, path.name)
    ]
    assert verdict.files == len(seen)


def misspelled(root: Path) -> None:
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
    ("damage", "code", "location"),
    [
        (misspelled, "NOT_INCLUDED", "/sub-01/dwi/sub-01_desc-brain_masc.nii.gz"),
        (of_another_subject, "ALL_FILENAME_RULES_HAVE_ISSUES", "/sub-01/dwi/sub-09_desc-brain_mask.nii.gz"),
        (cut_off, "NIFTI_HEADER_UNREADABLE", "/sub-01/dwi/sub-01_desc-brain_mask.nii.gz"),
        (without_skull_stripped, "SIDECAR_KEY_REQUIRED", "/sub-01/dwi/sub-01_desc-denoised_dwi.nii.gz"),
        (undescribed, "MISSING_DATASET_DESCRIPTION", ""),
    ],
)
def test_the_validator_reports_an_error_in_a_store(
    store: Path,
    validate: Callable[[Path], Verdict],
    tmp_path: Path,
    damage: Callable[[Path], None],
    code: str,
    location: str,
) -> None:
    damaged = shutil.copytree(store, tmp_path / "store")
    damage(damaged)
    assert (code, location) in validate(damaged).errors


def test_leftovers_of_an_interrupted_write_are_no_error(
    store: Path, validate: Callable[[Path], Verdict], tmp_path: Path
) -> None:
    left = shutil.copytree(store, tmp_path / "store")
    (left / SUBJECTS[0].folder / "sub-01_desc-brain_mask.json").unlink()
    (left / SUBJECTS[0].folder / ".sub-01_desc-brain_mask.nii.gz.0123456789ab.tmp").write_bytes(b"half")
    assert validate(left).errors == set()
