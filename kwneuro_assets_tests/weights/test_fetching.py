"""Weights against a real web server on this machine; the networks' own servers are not asked."""

from __future__ import annotations

import hashlib
import io
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kwneuro_assets.weights import NETWORKS, WeightsError, fetch, locate, require, verify

MASKS = "pretrained_weights_tract_segmentation_v3.npz"
CONTENT = bytes(range(256)) * 5000  # 1.28 MB: more than one block


class Server:
    """Serves `files` by name; counts requests; a name in `cut` is announced whole and sent by half."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: set[str] = set()
        self.kind = "application/octet-stream"
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rsplit("/", 1)[-1]
                outer.asked.append(name)
                if name not in outer.files:
                    self.send_error(404)
                    return
                content = outer.files[name]
                self.send_response(200)
                self.send_header("Content-Type", outer.kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if name in outer.cut else content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/weights"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    server.files[MASKS] = CONTENT
    monkeypatch.setenv("KWNEURO_WEIGHTS_URL", server.url)
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TRACTSEG_WEIGHTS_DIR", raising=False)


def files_under(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_fetched_file_is_the_one_that_was_served_and_is_found_again(server: Server, tmp_path: Path) -> None:
    shares: list[float] = []
    assert locate("tractseg-masks", tmp_path) is None
    where = fetch("tractseg-masks", tmp_path, shares.append)
    assert where == tmp_path / "tractseg-masks" == locate("tractseg-masks", tmp_path)
    assert (where / MASKS).read_bytes() == CONTENT
    assert files_under(tmp_path) == {f"tractseg-masks/{MASKS}", "tractseg-masks/checksums.json"}
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_what_is_there_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    require("tractseg-masks", tmp_path)
    require("tractseg-masks", tmp_path)
    fetch("tractseg-masks", tmp_path)
    assert server.asked == [MASKS]


def test_only_the_missing_one_of_four_files_is_fetched(server: Server, tmp_path: Path) -> None:
    names = NETWORKS["tractseg-orientations"].kept
    server.files.update({name: name.encode() for name in names[:3]})
    with pytest.raises(WeightsError, match="part4"):
        fetch("tractseg-orientations", tmp_path)
    assert locate("tractseg-orientations", tmp_path) is None
    server.files[names[3]] = b"four"
    server.asked.clear()
    where = require("tractseg-orientations", tmp_path)
    assert server.asked == [names[3]]
    assert verify("tractseg-orientations", where) == {
        name: hashlib.sha256(server.files[name]).hexdigest() for name in names
    }


def test_an_archive_is_unpacked_into_the_files_that_are_needed_and_no_others(server: Server, tmp_path: Path) -> None:
    kept = NETWORKS["hd-bet"].kept
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        for name in (*kept, "../outside", "README"):
            opened.writestr(name, name)
    server.files["release_v1.5.0.zip"] = archive.getvalue()
    where = require("hd-bet", tmp_path)
    assert files_under(tmp_path) == {f"hd-bet/{name}" for name in (*kept, "checksums.json")}
    assert (where / "fold_all/checkpoint_final.pth").read_text() == "fold_all/checkpoint_final.pth"


@pytest.mark.parametrize(
    ("content", "reason"), [(b"no archive", "zip archive"), (b"", "empty file")], ids=["not a zip", "empty"]
)
def test_a_bad_archive_leaves_nothing(server: Server, tmp_path: Path, content: bytes, reason: str) -> None:
    server.files["release_v1.5.0.zip"] = content
    with pytest.raises(WeightsError, match=reason):
        fetch("hd-bet", tmp_path)
    assert files_under(tmp_path) == set()


def test_a_truncated_download_leaves_nothing_and_says_what_to_do(server: Server, tmp_path: Path) -> None:
    server.cut.add(MASKS)
    with pytest.raises(WeightsError) as caught:
        fetch("tractseg-masks", tmp_path)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert f"{server.url}/{MASKS}" in sentence
    assert f"save it as {tmp_path / 'tractseg-masks' / MASKS}" in sentence
    assert files_under(tmp_path) == set()


def test_a_missing_file_on_the_server_is_told_by_its_number(server: Server, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="answered 404"):
        fetch("tractseg-endings", tmp_path)
    assert files_under(tmp_path) == set()


def test_a_web_page_is_not_taken_for_weights(server: Server, tmp_path: Path) -> None:
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(WeightsError, match="web page"):
        fetch("tractseg-masks", tmp_path)
    assert files_under(tmp_path) == set()


def test_a_server_that_is_not_there_is_told_within_seconds(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # a port that nobody listens on
        start = time.monotonic()
        with pytest.raises(WeightsError, match="cannot be reached"):
            fetch("tractseg-masks", tmp_path, base_url=f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert time.monotonic() - start < 10
    assert files_under(tmp_path) == set()


def test_a_file_with_another_checksum_than_the_published_one_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = NETWORKS["tractseg-masks"]
    published = replace(network, files=(replace(network.files[0], sha256="0" * 64),))
    monkeypatch.setitem(NETWORKS, "tractseg-masks", published)
    with pytest.raises(WeightsError, match="SHA-256"):
        fetch("tractseg-masks", tmp_path)
    assert files_under(tmp_path) == set()


def test_a_file_that_changed_after_its_first_fetch_is_refused(server: Server, tmp_path: Path) -> None:
    where = require("tractseg-masks", tmp_path)
    (where / MASKS).write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(WeightsError, match="not what was fetched"):
        require("tractseg-masks", tmp_path)


def test_the_folders_of_the_tools_themselves_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    own = tmp_path / "own"
    for file in NETWORKS["hd-bet"].kept:
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


def test_an_unknown_network_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="hd-bet, tractseg-masks"):
        locate("hdbet", tmp_path)


def test_the_addresses_are_those_of_the_tools() -> None:
    """TractSeg's own function and HD-BET's constant are the sources; their versions may move ahead of ours."""
    import inspect

    from HD_BET.paths import ZENODO_DOWNLOAD_URL
    from tractseg.libs.utils import download_pretrained_weights

    source = inspect.getsource(download_pretrained_weights)
    for network in NETWORKS.values():
        for file in network.files:
            if network.name == "hd-bet":
                assert file.url == ZENODO_DOWNLOAD_URL
            else:
                # Zenodo writes the same address with `record` and with `records`.
                assert file.url.replace("/records/", "/record/") in source
                assert file.name in source
