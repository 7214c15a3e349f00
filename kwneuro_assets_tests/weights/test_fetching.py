"""Weights are fetched from a web server on this machine and compared with published checksums."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from kwneuro_assets.weights import NETWORKS, WeightsError, fetch, locate, origins, require, verify
from kwneuro_assets_tests.testkit.small_disk import small_disk
from kwneuro_assets_tests.testkit.weight_server import LICENSE, VERSION, WeightServer
from kwneuro_assets_tests.weights.conftest import CONTENT, MASKS, files_under

ARCHIVE = "release_v1.5.0.zip"
HD_BET = NETWORKS["hd-bet"].installed_files


def zipped(*names: str) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        for name in names:
            opened.writestr(name, name)
    return archive.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def test_a_fetched_file_is_complete_and_located_afterwards(server: WeightServer, tmp_path: Path) -> None:
    fractions: list[float] = []
    assert locate("tractseg-masks", tmp_path) is None
    where = fetch("tractseg-masks", tmp_path, fractions.append)
    assert where == tmp_path / "tractseg-masks" == locate("tractseg-masks", tmp_path)
    assert (where / MASKS).read_bytes() == CONTENT
    assert files_under(where) == {MASKS, "checksums.json", "origins.json"}
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1


def test_the_published_checksum_is_compared_and_recorded_with_license_version_and_origin(
    server: WeightServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    where = fetch("tractseg-masks", tmp_path)
    origin = origins(where)[MASKS]
    assert origin.trust == "published checksum"
    assert origin.published == f"md5:{md5(CONTENT)}"
    assert (origin.license, origin.version, origin.doi) == (LICENSE, VERSION, "10.5281/zenodo.3518348")
    assert origin.source == f"{server.url}/records/3518348/files/best_weights_ep220.npz?download=1"
    assert origin.size == len(CONTENT)
    assert json.loads((where / "checksums.json").read_text()) == {MASKS: sha256(CONTENT)}
    assert server.names() == ["api", MASKS]
    assert caplog.text == ""


def test_a_download_with_another_checksum_than_the_published_one_is_not_installed(
    server: WeightServer, tmp_path: Path
) -> None:
    server.checksums[MASKS] = f"md5:{md5(b'other')}"
    with pytest.raises(WeightsError) as caught:
        fetch("tractseg-masks", tmp_path)
    for part in (md5(b"other"), md5(CONTENT), server.url, "tractseg-masks", "nothing was installed"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert files_under(tmp_path) == set()
    assert server.names() == ["api", MASKS], "it is not downloaded twice"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"statuses": {"api": [503] * 9}}, "responded with 503"),
        ({"statuses": {"api": [403]}}, "responded with 403"),
        ({"statuses": {"api": [404]}}, "does not exist"),
        ({"checksums": {MASKS: None}}, "has no checksum of best_weights_ep220.npz"),
        ({"checksums": {MASKS: "crc32:1234"}}, "has no checksum of best_weights_ep220.npz"),
    ],
    ids=["unavailable", "forbidden", "absent", "no checksum", "unknown checksum"],
)
def test_without_a_published_checksum_the_first_download_is_trusted_and_this_is_said(
    server: WeightServer, tmp_path: Path, fault: dict[str, object], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    for attribute, value in fault.items():
        getattr(server, attribute).update(value)
    where = fetch("tractseg-masks", tmp_path)
    assert origins(where)[MASKS].trust == "first download"
    assert reason in caplog.messages[-1]
    assert "compared with this first download" in caplog.messages[-1]
    (where / MASKS).write_bytes(CONTENT[::-1])
    with pytest.raises(WeightsError, match="expected the SHA-256"):
        verify("tractseg-masks", where)


def test_a_second_download_must_equal_the_first_if_no_checksum_is_published(
    server: WeightServer, tmp_path: Path
) -> None:
    server.checksums[MASKS] = None
    where = fetch("tractseg-masks", tmp_path)
    (where / MASKS).unlink()
    server.files[MASKS] = b"other"
    with pytest.raises(WeightsError, match="first download: expected the SHA256"):
        fetch("tractseg-masks", tmp_path)
    assert not (where / MASKS).exists()
    server.files[MASKS] = CONTENT
    fetch("tractseg-masks", tmp_path)
    assert (where / MASKS).read_bytes() == CONTENT


def test_existing_weights_are_not_fetched_again(server: WeightServer, tmp_path: Path) -> None:
    require("tractseg-masks", tmp_path)
    require("tractseg-masks", tmp_path)
    fetch("tractseg-masks", tmp_path)
    assert server.names() == ["api", MASKS]


def test_only_missing_files_are_fetched(server: WeightServer, tmp_path: Path) -> None:
    names = NETWORKS["tractseg-orientations"].installed_files
    server.files.update({name: name.encode() for name in names[:3]})
    with pytest.raises(WeightsError, match="best_weights_ep148"):
        fetch("tractseg-orientations", tmp_path)
    assert locate("tractseg-orientations", tmp_path) is None
    server.files[names[3]] = b"four"
    server.requests.clear()
    where = require("tractseg-orientations", tmp_path)
    assert server.names() == ["api", names[3]]
    assert verify("tractseg-orientations", where) == {name: sha256(server.files[name]) for name in names}


def test_only_the_needed_files_of_an_archive_are_extracted(server: WeightServer, tmp_path: Path) -> None:
    server.files[ARCHIVE] = zipped(*HD_BET, "../outside", "README")
    where = require("hd-bet", tmp_path)
    assert files_under(tmp_path) == {f"hd-bet/{name}" for name in (*HD_BET, "checksums.json", "origins.json")}
    assert (where / "fold_all/checkpoint_final.pth").read_text() == "fold_all/checkpoint_final.pth"
    assert {origin.published for origin in origins(where).values()} == {f"md5:{md5(server.files[ARCHIVE])}"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"no archive", "zip archive"), (b"", "empty file"), (zipped("README"), "is missing from the archive")],
    ids=["not a zip", "empty", "another zip"],
)
def test_a_bad_archive_leaves_no_files(server: WeightServer, tmp_path: Path, content: bytes, reason: str) -> None:
    server.files[ARCHIVE] = content
    with pytest.raises(WeightsError, match=reason):
        fetch("hd-bet", tmp_path)
    assert files_under(tmp_path) == set()


def test_a_missing_file_on_the_server_is_reported_with_the_status_code_and_the_remedy(
    server: WeightServer, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError) as caught:
        fetch("tractseg-endings", tmp_path)
    message = str(caught.value)
    assert "responded with 404" in message
    assert f"{server.url}/records/3518331/files/best_weights_ep143.npz" in message
    assert "kwneuro-assets weights add tractseg-endings FILE" in message
    assert "\n" not in message
    assert files_under(tmp_path) == set()


@pytest.mark.parametrize(
    ("kind", "content"),
    [("text/html; charset=utf-8", CONTENT), ("application/octet-stream", b"\n<!DOCTYPE html><html>Log in</html>")],
    ids=["by its type", "by its content"],
)
def test_a_web_page_is_not_accepted_as_weights(server: WeightServer, tmp_path: Path, kind: str, content: bytes) -> None:
    server.kind, server.files[MASKS] = kind, content
    with pytest.raises(WeightsError, match="web page"):
        fetch("tractseg-masks", tmp_path)
    assert files_under(tmp_path) == set()


def test_an_empty_file_is_not_accepted_as_weights(server: WeightServer, tmp_path: Path) -> None:
    server.files[MASKS] = b""
    with pytest.raises(WeightsError, match="empty file"):
        fetch("tractseg-masks", tmp_path)
    assert files_under(tmp_path) == set()


def test_an_unreachable_server_is_reported_without_retries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # a port without a server
        monkeypatch.setenv("KWNEURO_ARCHIVE_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(WeightsError, match="cannot be reached"):
            fetch("tractseg-masks", tmp_path)
    assert "retrying" not in caplog.text
    assert files_under(tmp_path) == set()


def test_a_busy_server_is_asked_again(server: WeightServer, tmp_path: Path) -> None:
    server.statuses[MASKS] += [503, 429]
    assert (fetch("tractseg-masks", tmp_path) / MASKS).read_bytes() == CONTENT
    assert server.names() == ["api", MASKS, MASKS, MASKS]


def test_a_full_disk_is_reported_and_the_part_is_removed(server: WeightServer, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        with pytest.raises(WeightsError, match=rf"the disk of {disk / 'tractseg-masks'} is full; free some space"):
            fetch("tractseg-masks", disk)
        assert files_under(disk) == set()
        assert shutil.disk_usage(disk).used == 0


def test_a_disk_that_is_full_when_the_archive_is_unpacked_is_reported(server: WeightServer, tmp_path: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for name in HD_BET:
            opened.writestr(name, bytes(1 << 20))
    server.files[ARCHIVE] = archive.getvalue()
    with small_disk(tmp_path / "disk", "2m") as disk:
        with pytest.raises(WeightsError, match=r"weights of hd-bet: the disk of .* is full"):
            fetch("hd-bet", disk)
        assert files_under(disk) == set()


def test_a_folder_that_cannot_be_written_is_reported(server: WeightServer, tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("a file in place of the folder")
    with pytest.raises(WeightsError, match=r"weights of tractseg-masks: .* cannot be written: Not a directory"):
        fetch("tractseg-masks", tmp_path / "weights")
    assert server.requests == []


def test_offline_no_request_is_made_and_the_message_says_how_to_install(
    server: WeightServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = fetch("tractseg-masks", tmp_path)
    server.requests.clear()
    monkeypatch.setenv("KWNEURO_OFFLINE", "1")
    monkeypatch.setenv("KWNEURO_WEIGHTS_URL", server.mirror)
    with pytest.raises(WeightsError, match=r"weights add tractseg-endings FILE\.\.\., or weights unpack FILE"):
        require("tractseg-endings", tmp_path)
    assert require("tractseg-masks", tmp_path) == where
    assert server.requests == []
    monkeypatch.setenv("KWNEURO_OFFLINE", "0")
    with pytest.raises(WeightsError, match="responded with 404"):
        require("tractseg-endings", tmp_path)


def test_a_mirror_is_used_with_its_checksums(
    server: WeightServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KWNEURO_WEIGHTS_URL", f"{server.mirror}/")
    server.files["checksums.json"] = json.dumps({MASKS: sha256(CONTENT)}).encode()
    where = fetch("tractseg-masks", tmp_path)
    origin = origins(where)[MASKS]
    assert (origin.trust, origin.source) == ("checksum of the mirror", f"{server.mirror}/{MASKS}")
    assert server.names() == ["checksums.json", MASKS]

    server.files["checksums.json"] = json.dumps({MASKS: sha256(b"other")}).encode()
    with pytest.raises(WeightsError, match=f"checksum of the mirror: expected the SHA256 {sha256(b'other')}"):
        fetch("tractseg-masks", tmp_path / "again")


def test_a_mirror_may_name_the_checksums_of_unpacked_files(server: WeightServer, tmp_path: Path) -> None:
    server.files[ARCHIVE] = zipped(*HD_BET)
    recorded = {name: sha256(name.encode()) for name in HD_BET}
    server.files["checksums.json"] = json.dumps(recorded).encode()
    where = fetch("hd-bet", tmp_path, base_url=server.mirror)
    assert {origin.trust for origin in origins(where).values()} == {"checksum of the mirror"}
    server.files["checksums.json"] = json.dumps({**recorded, "plans.json": sha256(b"other")}).encode()
    with pytest.raises(WeightsError, match=r"plans\.json|checksum of the mirror"):
        fetch("hd-bet", tmp_path / "again", base_url=server.mirror)
    assert files_under(tmp_path / "again") == set()


def test_a_mirror_without_checksums_is_trusted_on_first_use(
    server: WeightServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    where = fetch("tractseg-masks", tmp_path, base_url=server.mirror)
    assert origins(where)[MASKS].trust == "first download"
    assert "checksums.json: it does not exist" in caplog.text


def test_a_password_in_the_url_of_a_mirror_is_not_shown_and_not_recorded(
    server: WeightServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = server.mirror.replace("http://", "http://user:secret@")
    server.cuts[MASKS] = [len(CONTENT) // 2]
    where = fetch("tractseg-masks", tmp_path, base_url=mirror)
    with pytest.raises(WeightsError) as caught:
        fetch("tractseg-endings", tmp_path, base_url=mirror)
    assert server.starts(MASKS)[1:] == [len(CONTENT) // 2], "it is continued all the same"
    assert origins(where)[MASKS].source == f"{server.mirror}/{MASKS}"
    assert "secret" not in str(caught.value) + caplog.text + (where / "origins.json").read_text()


def test_of_two_processes_one_downloads_and_the_other_waits(server: WeightServer, tmp_path: Path) -> None:
    server.delay = 0.03
    code = (
        "import sys, pathlib, logging\n"
        "logging.basicConfig()\n"
        "from kwneuro_assets.weights import require\n"
        "print('ready', flush=True), sys.stdin.readline()\n"
        "print(require('tractseg-masks', pathlib.Path(sys.argv[1])))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    results = []
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        results.append((*process.communicate(), process.returncode))
    assert [(output, code) for output, _, code in results] == [(f"{tmp_path / 'tractseg-masks'}\n", 0)] * 2
    assert server.sent[MASKS] == len(CONTENT)
    assert server.names().count(MASKS) == 1
    assert "waiting for another process" in "".join(errors for _, errors, _ in results)
    assert files_under(tmp_path / "tractseg-masks") == {MASKS, "checksums.json", "origins.json"}


def test_what_a_killed_process_left_is_removed(server: WeightServer, tmp_path: Path) -> None:
    left = tmp_path / "tractseg-masks" / ".scratch-killed"
    left.mkdir(parents=True)
    (left / MASKS).write_bytes(b"part")
    fetch("tractseg-masks", tmp_path)
    assert files_under(tmp_path / "tractseg-masks") == {MASKS, "checksums.json", "origins.json"}


def test_installed_files_can_be_read_by_the_users_that_the_umask_allows(server: WeightServer, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        where = fetch("tractseg-masks", tmp_path)
    finally:
        os.umask(before)
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in where.iterdir()} == {
        MASKS: "0o644", "checksums.json": "0o644", "origins.json": "0o644",
    }  # fmt: skip


def test_a_file_that_changed_after_its_download_is_rejected(server: WeightServer, tmp_path: Path) -> None:
    where = require("tractseg-masks", tmp_path)
    (where / MASKS).write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(WeightsError, match="remove the file and fetch it again"):
        require("tractseg-masks", tmp_path)


def test_the_weight_folders_of_the_tools_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    own = tmp_path / "own"
    for file in HD_BET:
        target = home / "hd-bet_params" / "release_2.0.0" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"weights")
    assert require("hd-bet", own) == home / "hd-bet_params" / "release_2.0.0"

    (home / ".tractseg").mkdir()
    (home / ".tractseg" / MASKS).write_bytes(b"weights")
    assert require("tractseg-masks", own) == home / ".tractseg"
    (tmp_path / "chosen").mkdir()
    (tmp_path / "chosen" / MASKS).write_bytes(b"weights")
    monkeypatch.setenv("TRACTSEG_WEIGHTS_DIR", str(tmp_path / "chosen"))
    assert require("tractseg-masks", own) == tmp_path / "chosen"
    (own / "tractseg-masks").mkdir(parents=True)
    (own / "tractseg-masks" / MASKS).write_bytes(b"weights")
    assert require("tractseg-masks", own) == own / "tractseg-masks"


def test_an_unknown_network_is_reported_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="hd-bet, tractseg-masks"):
        locate("hdbet", tmp_path)


def test_the_urls_are_those_of_the_tools() -> None:
    """Compares with TractSeg's download function and HD-BET's constant."""
    import inspect

    from HD_BET.paths import ZENODO_DOWNLOAD_URL
    from tractseg.libs.utils import download_pretrained_weights

    source = inspect.getsource(download_pretrained_weights)
    for network in NETWORKS.values():
        for file in network.files:
            if network.name == "hd-bet":
                assert file.url == ZENODO_DOWNLOAD_URL
            else:
                # Zenodo accepts both `record` and `records` in its URLs.
                assert file.url.replace("/records/", "/record/") in source
                assert file.name in source
