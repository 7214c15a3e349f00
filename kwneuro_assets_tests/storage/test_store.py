"""The store: complete derivatives or none, verified on reading, and clear errors if it cannot be written."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kwneuro_assets
from kwneuro_assets.imaging import InvalidData, MapSet, NotApplicable, Volume
from kwneuro_assets.imaging.content_hash import Value, data_version
from kwneuro_assets.storage import dataset_description
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.storage.store import DerivativeStore, StoreError
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets_tests.storage.conftest import Place
from kwneuro_assets_tests.testkit.s3_server import S3Bucket, counted_requests
from kwneuro_assets_tests.testkit.small_dataset import AFFINES, write_dataset

SUBJECT = SubjectKey("01")
SMALL, LARGE = (4, 4, 4), (100, 100, 100)  # a few hundred bytes; 4 MB of random numbers, which do not compress
FIGURE = b"\x89PNG of some kind"


def maps(seed: int, shape: tuple[int, ...] = SMALL, names: tuple[str, ...] = ("fa", "md")) -> MapSet:
    random = np.random.default_rng(seed)
    return MapSet({name: Volume(random.random(shape, np.float32), AFFINES["oblique"]) for name in names})


def write(store: DerivativeStore, value: Value, figure: bytes | None = None, subject: SubjectKey = SUBJECT) -> None:
    store.write("dti", subject, value, Provenance("a tensor", "1-00000000", data_version(value)), figure)


def files(root: Path) -> dict[str, bytes]:
    """Every file below `root`, including hidden and temporary ones, with its content."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a tmpfs with these options and unmounts it after the test; skips if that is not permitted."""
    points: list[Path] = []

    def mount(options: str, point: Path | None = None) -> Path:
        remount = point is not None
        point = point or tmp_path / f"mount{len(points)}"
        point.mkdir(exist_ok=True)
        command = ["mount", "-o", f"remount,{options}", str(point)] if remount else [
            "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(point),
        ]  # fmt: skip
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"mounting is not permitted here: {error}")
        if not remount:
            points.append(point)
        return point

    yield mount
    for point in points:
        subprocess.run(["umount", str(point)], check=True)


def test_the_files_of_a_derivative_have_the_documented_names(tmp_path: Path) -> None:
    store = DerivativeStore(tmp_path)
    write(store, maps(0), FIGURE, SubjectKey("01", "02"))
    assert set(files(tmp_path)) == {
        "dataset_description.json",
        ".bidsignore",
        "README.md",
        *(
            f"sub-01/ses-02/dwi/sub-01_ses-02_model-tensor_{rest}"
            for rest in ("param-fa_dwimap.nii.gz", "param-md_dwimap.nii.gz", "dwimap.json", "dwimap_figure.png")
        ),
    }
    description = json.loads((tmp_path / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "kwneuro-assets"
    sidecar = json.loads((tmp_path / "sub-01/ses-02/dwi/sub-01_ses-02_model-tensor_dwimap.json").read_text())
    assert sidecar["DataVersion"] == data_version(maps(0))
    for name, entry in sidecar["Files"].items():
        assert (tmp_path / "sub-01/ses-02/dwi" / name).stat().st_size == entry["Size"]


def test_a_derivative_replaces_all_files_of_the_previous_one(tmp_path: Path) -> None:
    store = DerivativeStore(tmp_path)
    write(store, maps(0, names=("fa", "md", "rd")), FIGURE)
    write(store, maps(1, names=("fa",)))
    assert {Path(name).name for name in files(tmp_path / "sub-01")} == {
        "sub-01_model-tensor_param-fa_dwimap.nii.gz",
        "sub-01_model-tensor_dwimap.json",
    }
    write(store, NotApplicable("one shell"))
    assert {Path(name).name for name in files(tmp_path / "sub-01")} == {"sub-01_model-tensor_dwimap.json"}
    assert store.read("dti", SUBJECT)[0] == NotApplicable("one shell")


def test_other_derivatives_are_untouched(tmp_path: Path) -> None:
    store = DerivativeStore(tmp_path)
    write(store, maps(0), subject=SubjectKey("02"))
    store.write("noddi", SUBJECT, maps(1), Provenance("", "1", data_version(maps(1))))
    before = files(tmp_path)
    write(store, maps(2))
    assert {name: content for name, content in files(tmp_path).items() if name in before} == before


class Interrupted(Exception):
    """Raised by a test at a point where a process may end."""


@pytest.mark.parametrize("at", range(7))
def test_a_sidecar_describes_complete_files_wherever_a_write_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """The process ends at the n-th rename or removal: the store then has the old value, the new one, or none."""
    store = DerivativeStore(tmp_path)
    write(store, maps(0), FIGURE)
    calls = 0

    def counted(act: Callable[..., object]) -> Callable[..., object]:
        def method(*arguments: object, **named: object) -> object:
            nonlocal calls
            calls += 1
            if calls > at:
                raise Interrupted
            return act(*arguments, **named)

        return method

    monkeypatch.setattr(Path, "replace", counted(Path.replace))
    monkeypatch.setattr(Path, "unlink", counted(Path.unlink))
    try:
        write(store, maps(1), b"another figure")
    except Interrupted:
        pass
    else:
        assert at >= 5, "three files, the old sidecar and the new one are five acts"
    monkeypatch.undo()
    if store.sidecar("dti", SUBJECT) is not None:
        found = data_version(store.read("dti", SUBJECT)[0])
        assert found == data_version(maps(0 if at == 0 else 1))
    else:
        with pytest.raises(StoreError, match="is not in the store"):
            store.read("dti", SUBJECT)
    write(store, maps(2))
    assert data_version(store.read("dti", SUBJECT)[0]) == data_version(maps(2))


def test_a_value_that_cannot_be_written_leaves_the_previous_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DerivativeStore(tmp_path)
    write(store, maps(0), FIGURE)
    before = files(tmp_path)

    def interrupted(*_: object) -> None:
        raise Interrupted

    monkeypatch.setattr("kwneuro_assets.storage.codecs.write_nifti", interrupted)
    with pytest.raises(Interrupted):
        write(store, maps(1))
    assert files(tmp_path) == before


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a flipped bit": ("param-fa_dwimap.nii.gz", flipped, r"expected \d+ bytes with sha256 .* found \d+ with"),
    "a missing file": ("param-md_dwimap.nii.gz", Path.unlink, "its sidecar names it, but it is missing"),
    "a shorter file": ("param-fa_dwimap.nii.gz", lambda path: os.truncate(path, 20), "found 20 bytes"),
    "an empty sidecar": ("dwimap.json", lambda path: path.write_text(""), "is not a sidecar"),
    "half a sidecar": ("dwimap.json", lambda path: os.truncate(path, 100), "is not a sidecar"),
    "a sidecar of another tool": ("dwimap.json", lambda path: path.write_text("{}"), "is not a sidecar"),
    "a sidecar that is a list": ("dwimap.json", lambda path: path.write_text("[]"), "is not a sidecar"),
    "a sidecar in another encoding": ("dwimap.json", lambda path: path.write_bytes(b"\xff\xfe{"), "is not a sidecar"),
}


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGE.values(), ids=list(DAMAGE))
def test_a_damaged_file_is_reported_with_the_command_that_computes_its_derivative(
    tmp_path: Path, name: str, damage: Callable[[Path], object], message: str
) -> None:
    store = DerivativeStore(tmp_path)
    write(store, maps(0))
    path = tmp_path / f"sub-01/dwi/sub-01_model-tensor_{name}"
    damage(path)
    with pytest.raises(StoreError, match=message) as caught:
        store.read("dti", SUBJECT)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith("Materialize it with: kwneuro-assets run --subject sub-01 --select dti")
    write(store, maps(1))
    assert data_version(store.read("dti", SUBJECT)[0]) == data_version(maps(1))


def test_a_store_that_is_a_file_is_reported_and_unchanged(tmp_path: Path) -> None:
    place = tmp_path / "store"
    place.write_text("notes")
    with pytest.raises(StoreError, match=f"the store {place} is a file, or is below one: expected a folder"):
        write(DerivativeStore(place), maps(0))
    assert place.read_text() == "notes"
    with pytest.raises(StoreError, match="is not in the store"):
        DerivativeStore(place).read("dti", SUBJECT)


def test_a_file_in_place_of_a_subject_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "sub-01").write_text("notes")
    with pytest.raises(StoreError, match=f"is a file, or is below one.*{tmp_path}/sub-01"):
        write(DerivativeStore(tmp_path), maps(0))


@pytest.mark.parametrize("before", [False, True], ids=["empty", "with a derivative"])
def test_a_full_store_is_reported_and_keeps_the_previous_result(mounted: Callable[..., Path], before: bool) -> None:
    root = mounted("size=1m")
    store = DerivativeStore(root)
    if before:
        write(store, maps(0), FIGURE)
    before_files = files(root)
    with pytest.raises(StoreError, match=f"the store {root} is full: free some space") as caught:
        write(store, maps(1, LARGE))
    assert "\n" not in str(caught.value)
    new = set(files(root)) - set(before_files)
    assert not {name for name in new if name.startswith("sub-") or name.endswith(".tmp")}
    assert {name: content for name, content in files(root).items() if name in before_files} == before_files
    if before:
        assert data_version(store.read("dti", SUBJECT)[0]) == data_version(maps(0))
    write(store, maps(2), FIGURE)
    assert data_version(store.read("dti", SUBJECT)[0]) == data_version(maps(2))


@pytest.mark.parametrize("before", [False, True], ids=["empty", "with a derivative"])
def test_a_read_only_store_is_reported_and_still_readable(mounted: Callable[..., Path], before: bool) -> None:
    root = mounted("size=1m")
    store = DerivativeStore(root)
    if before:
        write(store, maps(0))
    before_files = files(root)
    mounted("ro", root)
    with pytest.raises(StoreError, match=f"the store {root} is on a read-only file system"):
        write(store, maps(1))
    assert files(root) == before_files
    if before:
        assert data_version(store.read("dti", SUBJECT)[0]) == data_version(maps(0))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_store_without_write_permission_is_reported(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match=f"the store {tmp_path} is not writable by this user"):
        write(DerivativeStore(tmp_path), maps(0))
    tmp_path.chmod(0o700)
    assert files(tmp_path) == {}


def test_the_description_names_the_source_and_is_written_once(tmp_path: Path) -> None:
    store = DerivativeStore(tmp_path, "/data/source")
    write(store, maps(0))
    path = tmp_path / "dataset_description.json"
    assert json.loads(path.read_text())["DatasetLinks"] == {"source": "/data/source"}
    first = path.stat()
    write(store, maps(1))
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)


def test_another_dataset_is_refused_as_a_store_and_unchanged(tmp_path: Path) -> None:
    """The source named as the store by mistake: its description would be replaced, its files mixed with ours."""
    write_dataset(tmp_path)
    before = files(tmp_path)
    with pytest.raises(StoreError, match=f"the store {tmp_path} is another dataset, according to its dataset_desc"):
        write(DerivativeStore(tmp_path), maps(0))
    assert files(tmp_path) == before


def test_a_process_reads_the_description_of_a_remote_store_once_and_not_at_each_write(
    prefix: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def requests() -> Counter[str]:
        with counted_requests() as seen:
            write(DerivativeStore(prefix.url), maps(0))
        return seen

    first, second = requests(), requests()
    assert first["CompleteMultipartUpload"] - second["CompleteMultipartUpload"] == 3, "description, .bidsignore, README"
    store = DerivativeStore(prefix.url)
    write(store, maps(0))
    with counted_requests() as repeated:
        write(store, maps(0))
    assert second - repeated == {"GetObject": 1}, "the owner of the store, once per store object"
    monkeypatch.setattr(dataset_description, "_RECHECK_SECONDS", -1.0)
    with counted_requests() as later:
        write(store, maps(0))
    assert later - repeated == {"GetObject": 1}, "whether the description is unchanged"


@pytest.mark.parametrize("same_object", [True, False])
def test_a_description_that_was_removed_or_changed_is_noticed(
    prefix: Place, s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch, same_object: bool
) -> None:
    client, key = s3_bucket.server.client, "study/dataset_description.json"
    stores = iter([DerivativeStore(prefix.url)] * 9 if same_object else [DerivativeStore(prefix.url) for _ in range(9)])
    write(next(stores), maps(0))
    before = prefix.contents()
    client.delete_object(Bucket=s3_bucket.name, Key=key)
    client.delete_object(Bucket=s3_bucket.name, Key="study/README.md")
    if same_object:  # which has seen the description: it checks again after a while
        monkeypatch.setattr(dataset_description, "_RECHECK_SECONDS", -1.0)
    write(next(stores), maps(0))
    assert prefix.contents() == before
    for text, message in [
        ('{"Name": "small", "BIDSVersion": "1.11.1"}', "is another dataset"),
        (before[key.removeprefix("study/")].decode().replace('"StoreFormat": 2', '"StoreFormat": 3'), "found format 3"),
    ]:
        client.put_object(Bucket=s3_bucket.name, Key=key, Body=text.encode())
        with pytest.raises(StoreError, match=message):
            write(next(stores), maps(1))
        assert prefix.contents()[key.removeprefix("study/")].decode() == text, "the store is unchanged"


def test_held_derivatives_cost_one_listing_and_one_request_per_sidecar(prefix: Place) -> None:
    store, value = DerivativeStore(prefix.url), maps(0)
    version = data_version(value)
    for asset in ("dti", "noddi", "csd_peaks"):
        store.write(asset, SUBJECT, value, Provenance("", "1", version))
    with counted_requests() as seen:
        held = DerivativeStore(prefix.url).held(
            SUBJECT, {"dti": version, "noddi": "another", "csd_peaks": version, "mean_b0": version}
        )
    assert held == {"dti", "csd_peaks"}
    assert seen == {"ListObjectsV2": 1, "GetObject": 4}, "the description, and the three sidecars"
    with counted_requests() as seen:
        assert DerivativeStore(prefix.url).held(SUBJECT, {}) == set()
    assert seen == {}


@pytest.mark.parametrize("damage", [*DAMAGE, "an unreadable file"])
def test_a_derivative_with_damage_in_sidecar_or_listing_is_not_held(tmp_path: Path, damage: str) -> None:
    store = DerivativeStore(tmp_path)
    write(store, maps(0))
    versions = {"dti": data_version(maps(0))}
    assert store.held(SUBJECT, versions) == {"dti"}
    if damage == "an unreadable file":
        (tmp_path / "sub-01/dwi/sub-01_model-tensor_dwimap.json").unlink()
        (tmp_path / "sub-01/dwi/sub-01_model-tensor_dwimap.json").mkdir()
        assert store.held(SUBJECT, versions) == set()
        return
    name, act, _ = DAMAGE[damage]
    act(tmp_path / f"sub-01/dwi/sub-01_model-tensor_{name}")
    noticed = "sidecar" in damage or damage == "a missing file"  # other damage is found when the file is read
    assert store.held(SUBJECT, versions) == (set() if noticed else {"dti"})
    assert store.holds("dti", SUBJECT, versions["dti"]) == (not noticed)


def test_load_gives_the_stored_value_and_reports_unknown_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KWNEURO_STORE", str(tmp_path))
    monkeypatch.delenv("KWNEURO_SETTINGS", raising=False)
    write(DerivativeStore(tmp_path), maps(0))
    assert data_version(kwneuro_assets.load("dti", "sub-01")) == data_version(maps(0))
    with pytest.raises(StoreError, match="noddi of sub-01 is not in the store"):
        kwneuro_assets.load("noddi", "sub-01")
    with pytest.raises(KeyError, match="unknown asset 'fa': expected one of denoised_dwi"):
        kwneuro_assets.load("fa", "sub-01")
    with pytest.raises(InvalidData, match="'01'"):
        kwneuro_assets.load("dti", "01")


def test_a_provenance_is_read_back_unchanged(tmp_path: Path) -> None:
    provenance = Provenance(
        "a tensor, fitted: 100 %", "3-89abcdef", data_version(maps(0)), {"max_bvalue": 1500.0, "shell": "auto"},
        {"dwi": "ab" * 32}, ("bids:source:sub-01/dwi/sub-01_dwi.nii.gz",), {"Units": {"md": "mm^2/s"}},
    )  # fmt: skip
    store = DerivativeStore(tmp_path)
    store.write("dti", SUBJECT, maps(0), provenance)
    found = store.sidecar("dti", SUBJECT)
    assert found is not None
    assert replace(found.provenance, parameters=dict(found.provenance.parameters)) == provenance
