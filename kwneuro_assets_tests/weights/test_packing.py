"""One archive brings the weights of all networks to another machine, or nothing if it is not as it was packed."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kwneuro_assets.errors import ActionableError
from kwneuro_assets.weights import NETWORKS, WeightsError, locate, origins, require, verify
from kwneuro_assets.weights.adding import add
from kwneuro_assets.weights.packing import MANIFEST, pack, unpack
from kwneuro_assets_tests.testkit.small_disk import small_disk
from kwneuro_assets_tests.testkit.weight_server import LICENSE, WeightServer
from kwneuro_assets_tests.weights.conftest import MASKS, files_under

ENDINGS = NETWORKS["tractseg-endings"].installed_files[0]
Members = list[tuple[tarfile.TarInfo, bytes]]


@pytest.fixture
def packed(real_networks: Path, tmp_path: Path) -> Path:
    """An archive with the networks for endings."""
    add("tractseg-endings", [real_networks / "tractseg"], tmp_path / "packed")
    pack(tmp_path / "weights.tar", tmp_path / "packed")
    return tmp_path / "weights.tar"


def members(archive: Path) -> Members:
    def read() -> Iterator[tuple[tarfile.TarInfo, bytes]]:
        with tarfile.open(archive) as opened:
            for member in opened:
                content = opened.extractfile(member)
                yield member, content.read() if content else b""

    return list(read())


def write(archive: Path, content: Members) -> None:
    with tarfile.open(archive, "w") as opened:
        for member, data in content:
            opened.addfile(member, io.BytesIO(data))


def with_manifest(content: Members, change: Callable[[dict[str, object]], object]) -> Members:
    (member, data), *rest = content
    manifest = json.loads(data)
    change(manifest)
    changed = json.dumps(manifest).encode()
    member.size = len(changed)
    return [(member, changed), *rest]


def member(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    return info, data


def test_all_networks_arrive_with_checksums_origins_and_licenses(
    real_networks: Path, server: WeightServer, tmp_path: Path
) -> None:
    server.files[MASKS] = (real_networks / "tractseg" / MASKS).read_bytes()
    require("tractseg-masks", tmp_path / "first")
    for name in ("tractseg-endings", "tractseg-orientations"):
        add(name, [real_networks / "tractseg"], tmp_path / "first")
    add("hd-bet", [real_networks / "hd-bet"], tmp_path / "first")
    archive = tmp_path / "weights.tar"
    assert set(pack(archive, tmp_path / "first")) == set(NETWORKS)
    assert set(unpack(archive, tmp_path / "second")) == set(NETWORKS)
    for name, network in NETWORKS.items():
        old, new = locate(name, tmp_path / "first"), locate(name, tmp_path / "second")
        assert old
        assert new
        assert verify(name, new) == verify(name, old)
        for file in network.installed_files:
            assert (new / file).read_bytes() == (old / file).read_bytes()
            assert origins(new)[file].archive == str(archive)
            assert origins(new)[file].source == origins(old)[file].source
    origin = origins(tmp_path / "second" / "tractseg-masks")[MASKS]
    assert (origin.trust, origin.license) == ("published checksum", LICENSE)
    assert files_under(tmp_path / "second") == files_under(tmp_path / "first")


def test_weights_in_the_folder_of_a_tool_are_packed_too(real_networks: Path, tmp_path: Path) -> None:
    shutil.copytree(real_networks / "tractseg", tmp_path / "home" / ".tractseg")
    packed = pack(tmp_path / "weights.tar", tmp_path / "own")
    assert packed == dict.fromkeys([n for n in NETWORKS if n != "hd-bet"], tmp_path / "home" / ".tractseg")
    assert set(unpack(tmp_path / "weights.tar", tmp_path / "own")) == set(packed)


def test_the_same_weights_make_the_same_archive(packed: Path, tmp_path: Path) -> None:
    pack(tmp_path / "again.tar", tmp_path / "packed")
    assert (tmp_path / "again.tar").read_bytes() == packed.read_bytes()


def test_an_existing_file_is_not_overwritten(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="expected the name of a new file"):
        pack(packed, tmp_path / "packed")


def test_damaged_weights_are_not_packed(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "packed" / "tractseg-endings" / ENDINGS).write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="expected the SHA-256"):
        pack(tmp_path / "again.tar", tmp_path / "packed")
    assert not (tmp_path / "again.tar").exists()


def test_without_installed_weights_there_is_nothing_to_pack(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no weights are installed"):
        pack(tmp_path / "weights.tar", tmp_path)
    assert files_under(tmp_path) == set()


NAME = f"tractseg-endings/{ENDINGS}"
OUTSIDE = [
    member("../outside", b"content"),
    member("/tmp/kwneuro-outside", b"content"),
    member(f"tractseg-endings/../../{ENDINGS}", b"content"),
    member(NAME, b"", tarfile.SYMTYPE, "/etc/passwd"),
    member(NAME, b"", tarfile.LNKTYPE, "/etc/passwd"),
    member("tractseg-endings", b"", tarfile.DIRTYPE),
    member("tractseg-endings/README", b"content"),
    member("hd-bet/plans.json", b"{}"),
]


@pytest.mark.parametrize(
    "odd", OUTSIDE, ids=["parent", "root", "detour", "link", "hard link", "folder", "file", "other"]
)
@pytest.mark.parametrize("place", [1, 2], ids=["before", "after"])
def test_an_archive_with_any_other_member_is_refused(
    packed: Path, tmp_path: Path, odd: tuple[tarfile.TarInfo, bytes], place: int
) -> None:
    content = members(packed)
    write(packed, [*content[:place], odd, *content[place:]])
    before = files_under(tmp_path)
    with pytest.raises(WeightsError, match="expected a complete archive of `kwneuro-assets weights pack`, found the m"):
        unpack(packed, tmp_path / "second")
    assert files_under(tmp_path) == before
    assert not Path("/tmp/kwneuro-outside").exists()


def test_names_in_the_manifest_cannot_lead_outside(packed: Path, tmp_path: Path) -> None:
    def rename(manifest: dict[str, dict[str, dict[str, dict[str, object]]]]) -> None:
        files = manifest["networks"]["tractseg-endings"]["files"]
        files["../../outside"] = files.pop(ENDINGS)

    (manifest, data), (weights, content) = members(packed)
    weights.name = "tractseg-endings/../../outside"
    write(packed, with_manifest([(manifest, data), (weights, content)], rename))  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match=r"a manifest\.json that it did not write"):
        unpack(packed, tmp_path / "second")
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda manifest: manifest.update(format=2), "format 2 instead of 1"),
        (lambda manifest: manifest.pop("networks"), "a manifest.json that it did not write"),
        (lambda manifest: manifest.update(networks=[1]), "a manifest.json that it did not write"),
        (lambda manifest: manifest["networks"].update(other={"files": {}}), "a manifest.json that it did not write"),
        (lambda manifest: manifest["networks"].update({"hd-bet": {"files": {}}}), "hd-bet with"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(
    packed: Path, tmp_path: Path, change: Callable[[dict[str, object]], object], found: str
) -> None:
    write(packed, with_manifest(members(packed), change))
    with pytest.raises(WeightsError) as caught:
        unpack(packed, tmp_path / "second")
    assert found in str(caught.value)
    assert files_under(tmp_path / "second") == set()


@pytest.mark.parametrize("size", [0, 100, 2000, -3000], ids=["empty", "100 bytes", "manifest alone", "end is missing"])
def test_a_cut_archive_is_refused(packed: Path, tmp_path: Path, size: int) -> None:
    content = packed.read_bytes().rstrip(b"\0")
    packed.write_bytes(content[:size])
    with pytest.raises(WeightsError, match="nothing was installed"):
        unpack(packed, tmp_path / "second")
    assert files_under(tmp_path / "second") == set()


def test_a_changed_byte_is_noticed(packed: Path, tmp_path: Path) -> None:
    content = bytearray(packed.read_bytes())
    content[len(content) // 2] ^= 1
    packed.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"{NAME} with the SHA-256"):
        unpack(packed, tmp_path / "second")
    assert files_under(tmp_path / "second") == set()


def test_another_file_and_an_absent_one_are_reported(tmp_path: Path) -> None:
    (tmp_path / "weights.tar").write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(WeightsError, match="expected a complete archive of"):
        unpack(tmp_path / "weights.tar", tmp_path / "own")
    with pytest.raises(WeightsError, match=r"absent\.tar: cannot be read: No such file"):
        unpack(tmp_path / "absent.tar", tmp_path / "own")


def test_weights_with_code_in_an_archive_are_refused_and_the_code_does_not_run(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from kwneuro_assets_tests.weights.test_adding import Payload

    where = tmp_path / "packed" / "tractseg-endings"
    where.mkdir(parents=True)
    torch.save({"unet": Payload(tmp_path / "marker")}, where / ENDINGS)
    pack(tmp_path / "weights.tar", tmp_path / "packed")
    with pytest.raises(ActionableError, match=rf"{tmp_path / 'weights.tar'}/{NAME}: .* a file that calls"):
        unpack(tmp_path / "weights.tar", tmp_path / "second")
    assert files_under(tmp_path / "second") == set()
    assert not (tmp_path / "marker").exists()


def test_unpacked_weights_replace_installed_ones(packed: Path, tmp_path: Path) -> None:
    where = tmp_path / "second" / "tractseg-endings"
    where.mkdir(parents=True)
    (where / ENDINGS).write_bytes(b"old")
    unpack(packed, tmp_path / "second")
    assert verify("tractseg-endings", where) == verify("tractseg-endings", tmp_path / "packed" / "tractseg-endings")


def test_a_full_disk_is_reported_when_packing_and_when_unpacking(packed: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        with pytest.raises(WeightsError, match=f"the disk of {disk} is full"):
            unpack(packed, disk)
        with pytest.raises(WeightsError, match=f"the disk of {disk} is full"):
            pack(disk / "weights.tar", tmp_path / "packed")
        assert files_under(disk) == set()


def test_the_manifest_is_the_first_member_and_nothing_is_compressed(packed: Path) -> None:
    names = [entry.name for entry, _ in members(packed)]
    assert names == [MANIFEST, NAME]
    assert packed.read_bytes()[:13] == MANIFEST.encode()
