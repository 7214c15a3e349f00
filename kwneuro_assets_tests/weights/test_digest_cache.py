"""Digests of weights for the code version: hashed once, from a cache that changed files do not pass."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kwneuro_assets.weights import WeightsError, digest_cache, digests
from kwneuro_assets.weights.networks import NETWORKS

ENDINGS = NETWORKS["tractseg-endings"].installed_files[0]
ORIENTATIONS = NETWORKS["tractseg-orientations"].installed_files


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were hashed, in their order."""
    names: list[str] = []

    def counted(path: Path) -> str:
        names.append(path.name)
        return sha256(path.read_bytes())

    monkeypatch.setattr(digest_cache, "file_sha256", counted)
    monkeypatch.setattr(digest_cache, "_known", {})
    return names


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write(folder: Path, content: bytes) -> Path:
    path = folder / "tractseg-endings" / ENDINGS
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def settle() -> None:
    time.sleep(digest_cache.MIN_AGE + 0.01)


def forget() -> None:
    """As a new process knows nothing."""
    digest_cache._known.clear()


def test_absent_weights_have_no_digests(tmp_path: Path) -> None:
    assert digests("tractseg-endings", tmp_path) is None
    assert not (tmp_path / "digests.json").exists()


def test_an_unknown_network_is_reported(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="found 'none'"):
        digests("none", tmp_path)


def test_an_unchanged_file_is_hashed_once_also_by_other_processes(tmp_path: Path, hashed: list[str]) -> None:
    write(tmp_path, b"one")
    settle()
    expected = {ENDINGS: sha256(b"one")}
    assert digests("tractseg-endings", tmp_path) == digests("tractseg-endings", tmp_path) == expected
    forget()
    assert digests("tractseg-endings", tmp_path) == expected
    assert hashed == [ENDINGS]


def test_a_real_other_process_reads_the_cache(tmp_path: Path) -> None:
    write(tmp_path, b"one")
    settle()
    digests("tractseg-endings", tmp_path)
    code = (
        "import sys, pathlib\n"
        "from kwneuro_assets.weights import digest_cache\n"
        "digest_cache.file_sha256 = None\n"
        "print(digest_cache.digests('tractseg-endings', pathlib.Path(sys.argv[1])))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert sha256(b"one") in done.stdout


def test_a_file_changed_in_place_of_the_same_size_and_time_is_noticed_and_so_is_the_way_back(tmp_path: Path) -> None:
    path = write(tmp_path, b"one")
    time_of_one = path.stat().st_mtime_ns
    for content in (b"one", b"two", b"one"):
        with path.open("r+b") as file:
            file.write(content)
        os.utime(path, ns=(time_of_one, time_of_one))
        settle()
        assert digests("tractseg-endings", tmp_path) == {ENDINGS: sha256(content)}


def test_changes_in_quick_succession_are_noticed(tmp_path: Path) -> None:
    path = write(tmp_path, b"000")
    for number in range(50):
        path.write_bytes(b"%03d" % number)
        assert digests("tractseg-endings", tmp_path) == {ENDINGS: sha256(b"%03d" % number)}


def test_a_file_that_was_replaced_by_another_is_noticed_and_the_old_one_is_known_again(
    tmp_path: Path, hashed: list[str]
) -> None:
    path = write(tmp_path, b"one")
    settle()
    assert digests("tractseg-endings", tmp_path) == {ENDINGS: sha256(b"one")}
    path.rename(tmp_path / "before")
    write(tmp_path, b"two")
    settle()
    assert digests("tractseg-endings", tmp_path) == {ENDINGS: sha256(b"two")}
    (tmp_path / "before").replace(path)
    assert digests("tractseg-endings", tmp_path) == {ENDINGS: sha256(b"one")}
    assert len(hashed) == 3


@pytest.mark.parametrize("content", [b"", b"no json", b"[1]", b'{"%s": 3}', b'{"%s": [[1, 2], "no digest"]}'])
def test_a_broken_cache_is_ignored_and_written_again(tmp_path: Path, content: bytes, hashed: list[str]) -> None:
    path = write(tmp_path, b"one")
    settle()
    cache = tmp_path / "digests.json"
    cache.write_bytes(content.replace(b"%s", str(path).encode()))
    assert digests("tractseg-endings", tmp_path) == {ENDINGS: sha256(b"one")}
    forget()
    assert digests("tractseg-endings", tmp_path) == {ENDINGS: sha256(b"one")}
    assert hashed == [ENDINGS]


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, hashed: list[str]) -> None:
    write(tmp_path, b"one")
    (tmp_path / "digests.json").mkdir()
    settle()
    assert digests("tractseg-endings", tmp_path) == digests("tractseg-endings", tmp_path)
    assert hashed == [ENDINGS]
    assert list(tmp_path.glob(".digests*")) == []


def test_the_folder_of_a_tool_shares_the_cache(tmp_path: Path, hashed: list[str]) -> None:
    folder = tmp_path / "home" / ".tractseg"
    folder.mkdir(parents=True)
    for name in ORIENTATIONS:
        (folder / name).write_text(name)
    settle()
    found = digests("tractseg-orientations", tmp_path / "own")
    assert found == {name: sha256(name.encode()) for name in ORIENTATIONS}
    assert set(json.loads((tmp_path / "own" / "digests.json").read_text())) == {
        str(folder / name) for name in ORIENTATIONS
    }
    forget()
    assert digests("tractseg-orientations", tmp_path / "own") == found
    assert hashed == list(ORIENTATIONS)


def test_many_writers_leave_a_valid_cache(tmp_path: Path) -> None:
    names = [name for name in NETWORKS if name != "hd-bet"]
    for name in names:
        for file in NETWORKS[name].installed_files:
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / file).write_text(file)
    settle()
    code = (
        "import sys, pathlib\n"
        "from kwneuro_assets.weights import digest_cache, digests\n"
        "for _ in range(10):\n"
        "    digest_cache._known.clear()\n"
        "    (pathlib.Path(sys.argv[1]) / 'digests.json').unlink(missing_ok=True)\n"
        "    for name in sys.argv[2:]: print(sorted(digests(name, pathlib.Path(sys.argv[1])).values()))"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), *names], stdout=subprocess.PIPE) for _ in range(3)
    ]
    outputs = {writer.communicate()[0] for writer in writers}
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert len(outputs) == 1
    assert json.loads((tmp_path / "digests.json").read_text())
    assert {path.name for path in tmp_path.glob(".*")} == set()
