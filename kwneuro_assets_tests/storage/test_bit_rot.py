"""A flipped bit, an additional or a missing byte in any file of a store is detected."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kwneuro_assets.imaging import Dwi, GradientTable, MapSet, NotApplicable, Report, ResponseFunction, Table, Volume
from kwneuro_assets.imaging.content_hash import Value, data_version
from kwneuro_assets.storage.names import NAMES
from kwneuro_assets.storage.sidecar import DIGEST, Provenance, Sidecar
from kwneuro_assets.storage.store import Damaged, DerivativeStore, StoreError
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets_tests.testkit.small_dataset import AFFINES, head, signal, table

AFFINE = AFFINES["oblique"]
SUBJECTS = [SubjectKey(f"{number:02d}") for number in range(1, 13)]
FILES = 200


def values(seed: int) -> dict[str, Value]:
    """One value of each type, under names of assets."""
    random = np.random.default_rng(seed)
    directions = table()
    image = signal(directions) + random.random(len(directions.bvals), np.float32)
    bundles = np.repeat(head()[..., None], 3, axis=-1).astype(np.uint8)
    maps = {name: Volume(random.random((5, 6, 7), np.float32), AFFINE) for name in ("fa", "md", "ad", "rd")}
    measures: dict[str, list[int | float | str | None]] = {
        "bundle": ["AF_left", "CA"],
        "mean_fa": [float(random.random()), None],
        "voxels": [3, 4],
    }
    return {
        "denoised_dwi": Dwi(Volume(image, AFFINE), GradientTable(directions.bvals, directions.world, "world")),
        "mean_b0": Volume(random.random((5, 6, 7), np.float32), AFFINE),
        "dti": MapSet(maps),
        "tract_masks": Volume(bundles, AFFINE, ("AF_left", "CA", "CST_left")),
        "tract_endings": Table(measures, {"bundle": "text", "mean_fa": "number", "voxels": "integer"}),
        "tract_orientations": Report(f"<html><p>n = {seed}, \u00b5 = 0.5</p></html>"),
        "fiber_response": ResponseFunction(random.random(5) + 1, 2999.5, 300 + seed),
        "noddi": NotApplicable("one shell: NODDI needs two"),
    }


def figure(seed: int) -> bytes:
    return b"\x89PNG\r\n" + random.Random(seed).randbytes(400)


def put(store: DerivativeStore, asset: str, subject: SubjectKey, value: Value, seed: int) -> None:
    provenance = Provenance(
        "a test", "1-00000000", data_version(value), {"max_bvalue": 1500.0}, {"dwi": "ab" * 32},
        ("bids:source:sub-01/dwi/sub-01_dwi.nii.gz",), {"SkullStripped": False},
    )  # fmt: skip
    store.write(asset, subject, value, provenance, None if isinstance(value, NotApplicable) else figure(seed))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rot") / "store"
    store = DerivativeStore(folder)
    for seed, subject in enumerate(SUBJECTS):
        for asset, value in values(seed).items():
            put(store, asset, subject, value, seed)
    return folder


def stored(root: Path) -> list[tuple[str, SubjectKey, Path]]:
    """Every file that a sidecar names, with its derivative."""
    store = DerivativeStore(root)
    found = []
    for subject in SUBJECTS:
        for asset in store.assets(subject):
            sidecar = store.sidecar(asset, subject)
            assert sidecar is not None
            found += [(asset, subject, root / subject.folder / name) for name in sidecar.files]
    return found


def flipped(content: bytes, numbers: random.Random) -> bytes:
    at = numbers.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << numbers.randrange(8)]) + content[at + 1 :]


def longer(content: bytes, numbers: random.Random) -> bytes:
    return content + numbers.randbytes(1)


def shorter(content: bytes, numbers: random.Random) -> bytes:
    return content[:-1]


@pytest.mark.parametrize("damage", [flipped, longer, shorter])
def test_every_changed_file_is_reported_with_the_command_that_computes_its_derivative(
    root: Path, damage: Callable[[bytes, random.Random], bytes]
) -> None:
    numbers = random.Random(damage.__name__)
    store = DerivativeStore(root)
    every = stored(root)
    assert {path.name.split(".", 1)[1] for _, _, path in every} == {"nii.gz", "bval", "bvec", "png", "tsv", "html"}
    chosen = every if len(every) <= FILES else numbers.sample(every, FILES)
    found = 0
    for asset, subject, path in chosen + numbers.choices(every, k=FILES - len(chosen)):
        # A figure is not part of the value: only `check` reads it.
        readers: list[Callable[[str, SubjectKey], object]]
        readers = [store.check] if path.suffix == ".png" else [store.read, store.check]
        original = path.read_bytes()
        path.write_bytes(damage(original, numbers))
        for reader in readers:
            with pytest.raises(Damaged) as caught:
                reader(asset, subject)
            assert str(caught.value).startswith(f"{path}: expected {len(original)} bytes with sha256 ")
            assert str(caught.value).endswith(f"with: kwneuro-assets run --subject {subject} --select {asset}")
        path.write_bytes(original)
        found += 1
    assert found == FILES
    assert all(store.check(asset, subject) for asset, subject, _ in every)


@pytest.mark.parametrize("asset", sorted(values(0)))
def test_a_flipped_bit_in_a_sidecar_is_detected_or_changes_nothing(root: Path, asset: str) -> None:
    """Every bit of a sidecar: some values, and numbers that belong to an image, are stored in it alone."""
    subject, store = SUBJECTS[0], DerivativeStore(root)
    path = root / NAMES[asset].sidecar(subject)
    value, sidecar = store.read(asset, subject)
    original = path.read_bytes()
    harmless = []
    for at in range(len(original)):
        for bit in range(8):
            text = original[:at] + bytes([original[at] ^ 1 << bit]) + original[at + 1 :]
            try:
                read = Sidecar.from_json(text.decode())
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
            harmless.append(text)
            assert (read.value_type, read.content, read.files) == (
                sidecar.value_type, sidecar.content, sidecar.files,
            )  # fmt: skip
            assert read.data_version == data_version(value)
    assert len(harmless) <= 5, "only 1e-05, which may also be spelled 1E-05"
    for text in harmless:
        path.write_bytes(text)
        assert data_version(store.read(asset, subject)[0]) == data_version(value)
    path.write_bytes(original)


@pytest.mark.parametrize(
    ("asset", "key", "changed"),
    [
        ("fiber_response", "Coefficients", [1.5, 1.0]),
        ("fiber_response", "BValue", 2999.25),
        ("denoised_dwi", "B0Threshold", 51.0),
        ("denoised_dwi", "Interpolated", True),
        ("tract_masks", "LabelMap", ["AF_right", "CA", "CST_left"]),
        ("dti", "Maps", ["fa", "md", "ad"]),
        ("noddi", "Reason", "one shell: NODDI needs too"),
    ],
)
def test_an_edited_sidecar_is_reported(root: Path, asset: str, key: str, changed: object) -> None:
    subject, store = SUBJECTS[1], DerivativeStore(root)
    path = root / NAMES[asset].sidecar(subject)
    original = path.read_bytes()
    tree = json.loads(original)
    fields = tree if key in tree else tree["Content"]
    assert fields[key] != changed
    fields[key] = changed
    path.write_text(json.dumps(tree, indent=2))
    for reader in (store.read, store.check):
        with pytest.raises(Damaged, match=f"^{path}: is not a sidecar of this store .*{DIGEST}.*with: kwneuro"):
            reader(asset, subject)
    path.write_bytes(original)


def test_a_sidecar_that_a_tool_reformatted_is_accepted(root: Path) -> None:
    subject, store = SUBJECTS[2], DerivativeStore(root)
    path = root / NAMES["fiber_response"].sidecar(subject)
    original = path.read_bytes()
    path.write_text(json.dumps(json.loads(original), sort_keys=True, indent="\t"))
    value, sidecar = store.read("fiber_response", subject)
    assert data_version(value) == sidecar.data_version
    path.write_bytes(original)


def test_a_sidecar_without_its_digest_is_reported(root: Path) -> None:
    subject, store = SUBJECTS[3], DerivativeStore(root)
    path = root / NAMES["dti"].sidecar(subject)
    original = path.read_bytes()
    tree = json.loads(original)
    del tree[DIGEST]
    path.write_text(json.dumps(tree))
    with pytest.raises(Damaged, match=f"^{path}: is not a sidecar of this store .*Materialize it with: kwneuro"):
        store.read("dti", subject)
    path.write_bytes(original)


@pytest.mark.parametrize("name", ["param-fa_dwimap.nii.gz", "dwimap.json"])
def test_an_unreadable_file_is_reported_like_a_changed_one(tmp_path: Path, name: str) -> None:
    """A folder in its place simulates an error of the disk."""
    store = DerivativeStore(tmp_path)
    put(store, "dti", SUBJECTS[0], values(0)["dti"], 0)
    path = tmp_path / SUBJECTS[0].folder / f"sub-01_model-tensor_{name}"
    path.unlink()
    path.mkdir()
    for reader in (store.read, store.check):
        message = rf"^{path}: cannot be read \(Is a directory\)\. Materialize it with: kwneuro"
        with pytest.raises(StoreError, match=message):
            reader("dti", SUBJECTS[0])
