"""A download continues where an earlier one ended, and never puts together parts of different files."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from kwneuro_assets.storage import retries
from kwneuro_assets.weights import WeightsError, fetch
from kwneuro_assets_tests.testkit.weight_server import WeightServer
from kwneuro_assets_tests.weights.conftest import CONTENT, MASKS, files_under

HALF = len(CONTENT) // 2  # a multiple of the blocks of the download
BLOCK = 1 << 16
PART = f".{MASKS}.part"
OTHER = CONTENT[::-1]


def cut_at_half(server: WeightServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A download that ends at the half; returns the folder with its first part."""
    server.cuts[MASKS] = [HALF]
    with monkeypatch.context() as patched:
        patched.setattr(retries, "ATTEMPTS", 1)
        with pytest.raises(WeightsError, match=r"the connection was interrupted|ended after"):
            fetch("tractseg-masks", folder)
    where = folder / "tractseg-masks"
    assert files_under(where) == {PART, f"{PART}.json"}
    assert (where / PART).read_bytes() == CONTENT[:HALF]
    return where


def test_after_a_cut_only_the_rest_is_requested(
    server: WeightServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = cut_at_half(server, tmp_path, monkeypatch)
    fractions: list[float] = []
    assert fetch("tractseg-masks", tmp_path, fractions.append) == where
    assert (where / MASKS).read_bytes() == CONTENT
    assert server.starts(MASKS) == [0, HALF]
    assert server.sent[MASKS] == len(CONTENT)
    assert fractions[0] > 0.5
    assert files_under(where) == {MASKS, "checksums.json", "origins.json"}


def test_one_call_continues_by_itself(server: WeightServer, tmp_path: Path) -> None:
    server.cuts[MASKS] = [HALF, BLOCK, 0]
    assert (fetch("tractseg-masks", tmp_path) / MASKS).read_bytes() == CONTENT
    assert server.starts(MASKS) == [0, HALF, HALF + BLOCK, HALF + BLOCK]
    assert server.sent[MASKS] == len(CONTENT)


def test_a_file_that_changed_in_the_meantime_is_downloaded_from_its_start(
    server: WeightServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = cut_at_half(server, tmp_path, monkeypatch)
    server.files[MASKS] = OTHER
    fetch("tractseg-masks", tmp_path)
    assert (where / MASKS).read_bytes() == OTHER


@pytest.mark.parametrize("with_length", [True, False])
def test_a_server_without_ranges_sends_all_again(
    server: WeightServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_length: bool
) -> None:
    where = cut_at_half(server, tmp_path, monkeypatch)
    server.has_ranges, server.with_length = False, with_length
    fetch("tractseg-masks", tmp_path)
    assert (where / MASKS).read_bytes() == CONTENT
    assert server.starts(MASKS) == [0, HALF]
    assert server.sent[MASKS] == HALF + len(CONTENT)


def test_without_etag_and_date_nothing_is_continued(
    server: WeightServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.has_validators = False
    where = cut_at_half(server, tmp_path, monkeypatch)
    fetch("tractseg-masks", tmp_path)
    assert (where / MASKS).read_bytes() == CONTENT
    assert server.starts(MASKS) == [0, 0]


@pytest.mark.parametrize("size", [0, len(CONTENT) + 1, len(CONTENT) * 2], ids=["empty", "one more", "double"])
def test_a_part_of_an_impossible_size_is_replaced(
    server: WeightServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    where = cut_at_half(server, tmp_path, monkeypatch)
    (where / PART).write_bytes(bytes(size))
    fetch("tractseg-masks", tmp_path)
    assert (where / MASKS).read_bytes() == CONTENT


def test_a_part_that_was_damaged_is_noticed_at_the_end_and_all_is_downloaded_again(
    server: WeightServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = cut_at_half(server, tmp_path, monkeypatch)
    (where / PART).write_bytes(bytes(HALF))
    fetch("tractseg-masks", tmp_path)
    assert (where / MASKS).read_bytes() == CONTENT
    assert server.starts(MASKS) == [0, HALF, 0]


def test_notes_that_cannot_be_read_start_the_download_again(
    server: WeightServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = cut_at_half(server, tmp_path, monkeypatch)
    (where / f"{PART}.json").write_text('{"url": 3}')
    fetch("tractseg-masks", tmp_path)
    assert server.starts(MASKS) == [0, 0]


def test_a_part_from_another_server_is_not_continued(
    server: WeightServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_at_half(server, tmp_path, monkeypatch)
    fetch("tractseg-masks", tmp_path, base_url=server.mirror)
    assert server.starts(MASKS) == [0, 0]


def test_a_cut_that_appears_to_be_the_end_is_noticed_by_the_published_checksum(
    server: WeightServer, tmp_path: Path
) -> None:
    server.with_length = False
    server.cuts[MASKS] = [HALF]
    with pytest.raises(WeightsError, match="published checksum: expected the MD5"):
        fetch("tractseg-masks", tmp_path)
    assert files_under(tmp_path) == set()


def test_a_server_that_ends_in_the_middle_is_asked_again_and_the_part_remains(
    server: WeightServer, tmp_path: Path
) -> None:
    server.delay = 0.02

    def stop_at_half(fraction: float) -> None:
        if fraction > 0.4:
            server.delay = 1.0
            server._server.shutdown()
            server._server.server_close()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch("tractseg-masks", tmp_path, stop_at_half)
    assert (tmp_path / "tractseg-masks" / PART).stat().st_size > HALF // 2
    with pytest.raises(WeightsError, match="cannot be reached"):
        fetch("tractseg-masks", tmp_path)
    assert (tmp_path / "tractseg-masks" / PART).stat().st_size > HALF // 2


def test_the_download_of_a_killed_process_is_continued(server: WeightServer, tmp_path: Path) -> None:
    server.delay = 0.05
    part = tmp_path / "tractseg-masks" / PART
    code = (
        "import sys, pathlib\n"
        "from kwneuro_assets.weights import fetch\n"
        "fetch('tractseg-masks', pathlib.Path(sys.argv[1]))"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) as process:
        deadline = time.monotonic() + 60
        while not part.exists() or part.stat().st_size < HALF:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    done = part.stat().st_size
    assert 0 < done < len(CONTENT)
    server.delay = 0
    where = fetch("tractseg-masks", tmp_path)
    assert (where / MASKS).read_bytes() == CONTENT
    assert server.starts(MASKS) == [0, done]
    assert files_under(where) == {MASKS, "checksums.json", "origins.json"}
