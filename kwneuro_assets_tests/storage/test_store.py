"""The store: whole or not at all, checked on reading, and clear about a place it cannot write to."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kwneuro_assets
from kwneuro_assets.imaging import InvalidData, MapSet, NotApplicable, Volume
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.storage.store import DerivativeStore, StoreError
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets.versioning.content import Value, data_version
from kwneuro_assets_tests.small_dataset import AFFINES, write_dataset

SUBJECT = SubjectKey("01")
SMALL, LARGE = (4, 4, 4), (100, 100, 100)  # a few hundred bytes; 4 MB, which random numbers keep when compressed
FIGURE = b"\x89PNG of some kind"


def maps(seed: int, shape: tuple[int, ...] = SMALL, names: tuple[str, ...] = ("fa", "md")) -> MapSet:
    random = np.random.default_rng(seed)
    return MapSet({name: Volume(random.random(shape, np.float32), AFFINES["oblique"]) for name in names})


def write(store: DerivativeStore, value: Value, figure: bytes | None = None, subject: SubjectKey = SUBJECT) -> None:
    store.write("dti", subject, value, Provenance("a tensor", "1-00000000", data_version(value)), figure)


def files(root: Path) -> dict[str, bytes]:
    """Every file below `root`, hidden and temporary ones included, with its content."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a tmpfs with these options and unmounts it after the test; skips where that is not permitted."""
    points: list[Path] = []

    def mount(options: str, point: Path | None = None) -> Path:
        again = point is not None
        point = point or tmp_path / f"mount{len(points)}"
        point.mkdir(exist_ok=True)
        command = ["mount", "-o", f"remount,{options}", str(point)] if again else [
            "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(point),
        ]  # fmt: skip
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"mounting is not permitted here: {error}")
        if not again:
            points.append(point)
        return point

    yield mount
    for point in points:
        subprocess.run(["umount", str(point)], check=True)


def test_the_files_of_a_derivative_have_the_names_of_the_contract(tmp_path: Path) -> None:
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


def test_a_derivative_replaces_the_one_before_it_and_leaves_none_of_its_files(tmp_path: Path) -> None:
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


def test_derivatives_beside_it_are_left_alone(tmp_path: Path) -> None:
    store = DerivativeStore(tmp_path)
    write(store, maps(0), subject=SubjectKey("02"))
    store.write("noddi", SUBJECT, maps(1), Provenance("", "1", data_version(maps(1))))
    before = files(tmp_path)
    write(store, maps(2))
    assert {name: content for name, content in files(tmp_path).items() if name in before} == before


class Interrupted(Exception):
    """What a test throws where a process may end."""


@pytest.mark.parametrize("at", range(7))
def test_wherever_a_write_is_interrupted_a_sidecar_describes_whole_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """The process ends at the n-th rename or removal: what is then read is the old, the new, or nothing."""
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


def test_a_value_that_cannot_be_written_leaves_what_stood_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DerivativeStore(tmp_path)
    write(store, maps(0), FIGURE)
    before = files(tmp_path)

    def broken(*_: object) -> None:
        raise Interrupted

    monkeypatch.setattr("kwneuro_assets.storage.codecs.write_nifti", broken)
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


@pytest.mark.parametrize(("name", "spoil", "message"), DAMAGE.values(), ids=list(DAMAGE))
def test_a_damaged_derivative_is_told_by_file_with_the_command_that_remakes_it(
    tmp_path: Path, name: str, spoil: Callable[[Path], object], message: str
) -> None:
    store = DerivativeStore(tmp_path)
    write(store, maps(0))
    path = tmp_path / f"sub-01/dwi/sub-01_model-tensor_{name}"
    spoil(path)
    with pytest.raises(StoreError, match=message) as caught:
        store.read("dti", SUBJECT)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith("Make it with: kwneuro-assets run --subject sub-01 --select dti")
    write(store, maps(1))
    assert data_version(store.read("dti", SUBJECT)[0]) == data_version(maps(1))


def test_a_store_that_is_a_file_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    place = tmp_path / "store"
    place.write_text("notes")
    with pytest.raises(StoreError, match=f"the store {place} is a file, or lies below one: expected a folder"):
        write(DerivativeStore(place), maps(0))
    assert place.read_text() == "notes"
    with pytest.raises(StoreError, match="is not in the store"):
        DerivativeStore(place).read("dti", SUBJECT)


def test_a_file_where_a_subjects_folder_belongs_is_named(tmp_path: Path) -> None:
    (tmp_path / "sub-01").write_text("notes")
    with pytest.raises(StoreError, match=f"is a file, or lies below one.*{tmp_path}/sub-01"):
        write(DerivativeStore(tmp_path), maps(0))


@pytest.mark.parametrize("before", [False, True], ids=["empty", "with a derivative"])
def test_a_full_store_says_so_and_keeps_what_stood_before(mounted: Callable[..., Path], before: bool) -> None:
    root = mounted("size=1m")
    store = DerivativeStore(root)
    if before:
        write(store, maps(0), FIGURE)
    stood = files(root)
    with pytest.raises(StoreError, match=f"the store {root} is full: make room") as caught:
        write(store, maps(1, LARGE))
    assert "\n" not in str(caught.value)
    new = set(files(root)) - set(stood)
    assert not {name for name in new if name.startswith("sub-") or name.endswith(".tmp")}
    assert {name: content for name, content in files(root).items() if name in stood} == stood
    if before:
        assert data_version(store.read("dti", SUBJECT)[0]) == data_version(maps(0))
    write(store, maps(2), FIGURE)
    assert data_version(store.read("dti", SUBJECT)[0]) == data_version(maps(2))


@pytest.mark.parametrize("before", [False, True], ids=["empty", "with a derivative"])
def test_a_read_only_store_says_so_and_still_reads(mounted: Callable[..., Path], before: bool) -> None:
    root = mounted("size=1m")
    store = DerivativeStore(root)
    if before:
        write(store, maps(0))
    stood = files(root)
    mounted("ro", root)
    with pytest.raises(StoreError, match=f"the store {root} is on a read-only file system"):
        write(store, maps(1))
    assert files(root) == stood
    if before:
        assert data_version(store.read("dti", SUBJECT)[0]) == data_version(maps(0))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_store_without_permission_says_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match=f"the store {tmp_path} is not writable by this user"):
        write(DerivativeStore(tmp_path), maps(0))
    tmp_path.chmod(0o700)
    assert files(tmp_path) == {}


def test_the_description_is_that_of_the_source_and_written_once(tmp_path: Path) -> None:
    store = DerivativeStore(tmp_path, "/data/source")
    write(store, maps(0))
    path = tmp_path / "dataset_description.json"
    assert json.loads(path.read_text())["DatasetLinks"] == {"source": "/data/source"}
    first = path.stat()
    write(store, maps(1))
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)


def test_a_folder_that_is_another_dataset_is_no_store_and_is_left_as_it_is(tmp_path: Path) -> None:
    """The source named as the store by mistake: its description would be lost, its files mixed with ours."""
    write_dataset(tmp_path)
    before = files(tmp_path)
    with pytest.raises(StoreError, match=f"the store {tmp_path} is another dataset, by its dataset_description.json"):
        write(DerivativeStore(tmp_path), maps(0))
    assert files(tmp_path) == before


def test_load_gives_what_was_stored_and_names_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KWNEURO_STORE", str(tmp_path))
    monkeypatch.delenv("KWNEURO_SETTINGS", raising=False)
    write(DerivativeStore(tmp_path), maps(0))
    assert data_version(kwneuro_assets.load("dti", "sub-01")) == data_version(maps(0))
    with pytest.raises(StoreError, match="noddi of sub-01 is not in the store"):
        kwneuro_assets.load("noddi", "sub-01")
    with pytest.raises(KeyError, match="no asset 'fa'; there are denoised_dwi"):
        kwneuro_assets.load("fa", "sub-01")
    with pytest.raises(InvalidData, match="'01'"):
        kwneuro_assets.load("dti", "01")


def test_a_provenance_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    made = Provenance(
        "a tensor, fitted: 100 %", "3-89abcdef", data_version(maps(0)), {"max_bvalue": 1500.0, "shell": "auto"},
        {"dwi": "ab" * 32}, ("bids:source:sub-01/dwi/sub-01_dwi.nii.gz",), {"Units": {"md": "mm^2/s"}},
    )  # fmt: skip
    store = DerivativeStore(tmp_path)
    store.write("dti", SUBJECT, maps(0), made)
    found = store.sidecar("dti", SUBJECT)
    assert found is not None
    assert replace(found.provenance, parameters=dict(found.provenance.parameters)) == made
