"""Gzip written by several threads: one member, the same bytes for any number of threads, for any gzip reader."""

from __future__ import annotations

import gzip
import io
import itertools
import subprocess
import threading
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import isal_zlib

from kwneuro_assets.storage import gzip_stream
from kwneuro_assets.storage.gzip_stream import BLOCK, BROKEN_STREAM, is_in_blocks, read_gzip, write_gzip


def compressed(content: bytes, cuts: list[int], threads: int) -> bytes:
    file = io.BytesIO()
    edges = [0, *sorted(cuts), len(content)]
    write_gzip(file, (memoryview(content)[a:b] for a, b in itertools.pairwise(edges)), threads)
    return file.getvalue()


def read(stored: bytes, threads: int) -> bytes:
    stream = io.BufferedReader(io.BytesIO(stored))  # type: ignore[arg-type]  # a raw stream suffices
    assert is_in_blocks(stream)
    with read_gzip(stream, threads) as contents:
        return contents.read()


def numbers(count: int) -> bytes:
    """Bytes of which some compress and some do not."""
    random = np.random.default_rng(count).normal(size=count // 8 + 1).astype(np.float32)
    return (random.tobytes() + bytes(count))[:count]


SIZES = [0, 1, 5000, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 3 * BLOCK + 7]


@pytest.mark.parametrize("size", SIZES)
def test_every_number_of_threads_gives_the_same_bytes_which_all_readers_accept(size: int) -> None:
    content = numbers(size)
    one = compressed(content, [], 1)
    assert compressed(content, [], 2) == compressed(content, [], 4) == one
    assert gzip.decompress(one) == content
    single = zlib.decompressobj(wbits=31)  # a reader that reads a single member
    assert single.decompress(one) == content
    assert single.eof
    assert not single.unused_data
    done = subprocess.run(["gzip", "-dc"], input=one, capture_output=True, check=True)
    assert done.stdout == content
    assert one[3:8] == b"\4" + bytes(4), "an extra field, neither a name nor a time"
    assert read(one, 1) == read(one, 3) == content


@given(st.sampled_from(SIZES), st.data())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_the_pieces_of_the_content_change_no_byte(size: int, data: st.DataObject) -> None:
    content = numbers(size)
    cuts = data.draw(st.lists(st.integers(0, size), max_size=8))
    assert compressed(content, cuts, 2) == compressed(content, [], 1)


def test_the_address_of_the_compressor_changes_no_byte() -> None:
    random = np.random.default_rng(3)
    sparse = np.zeros(BLOCK // 4, np.float32)  # a few numbers among zeros, as in maps of one tract
    few = random.random(sparse.size) < 0.003
    sparse[few] = random.normal(size=np.count_nonzero(few))
    allocated, found = [], set()
    for _ in range(1500):
        allocated.append(isal_zlib.compressobj(gzip_stream.COMPRESSION_LEVEL))  # moves the next one in memory
        found.add(gzip_stream._compressed(memoryview(sparse).cast("B")).stored)
    assert len(found) == 1


class Full(io.RawIOBase):
    """A disk with `room` bytes of free space."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, content: object) -> int:
        self.room -= len(content)  # type: ignore[arg-type]
        if self.room < 0:
            raise OSError(28, "No space left on device")
        return len(content)  # type: ignore[arg-type]


@pytest.mark.parametrize("room", [0, 100, BLOCK, 3 * BLOCK])
def test_an_error_of_the_disk_reaches_the_caller(room: int) -> None:
    content = np.random.default_rng(0).bytes(4 * BLOCK)
    with pytest.raises(OSError, match="No space left"):
        write_gzip(Full(room), iter([memoryview(content)]), 3)  # type: ignore[arg-type]


def test_an_error_of_the_iterator_of_pieces_reaches_the_caller() -> None:
    def pieces():  # type: ignore[no-untyped-def]
        yield memoryview(bytes(3 * BLOCK))
        raise ValueError("the source was removed")

    with pytest.raises(ValueError, match="the source was removed"):
        write_gzip(io.BytesIO(), pieces(), 2)


MARK = b"\0\0\xff\xff"  # the end of a block


@pytest.mark.parametrize("distance", [4, 100, 70_000, BLOCK - 2, BLOCK])
def test_the_end_mark_may_occur_within_a_block(distance: int) -> None:
    """Random bytes do not compress: they are stored unchanged, with the marks among them."""
    random = np.random.default_rng(distance).bytes(3 * BLOCK + 5)
    pieces = [random[start : start + distance - len(MARK)] + MARK for start in range(0, len(random), distance)]
    content = b"".join(pieces)
    stored = compressed(content, [], 2)
    assert stored.count(MARK) >= min(len(pieces), 4)
    assert read(stored, 1) == read(stored, 3) == gzip.decompress(stored) == content


def read_all(stored: bytes, threads: int) -> tuple[bytes, int, int]:
    """The content, the number of trailing bytes, and the number of bytes read from the file."""
    file = io.BufferedReader(io.BytesIO(stored))  # type: ignore[arg-type]
    with read_gzip(file, threads) as contents:
        return contents.read(), contents.trailing, file.seek(0, io.SEEK_CUR)


CONTENT = numbers(2 * BLOCK + 9)
OURS = compressed(CONTENT, [], 2)
THEIRS = gzip.compress(CONTENT, 1)
THREADS = (0, 1, 3)  # 0: readers of a header
TRAILING = {
    "nothing": (b"", 0),
    "zeros": (bytes(3000), 0),
    "one byte": (b"x", 1),
    "half of gzip's magic": (b"\x1f", 1),
    "text": (b"more", 4),
    "zeros, then text": (bytes(70_000) + b"more", 70_004),
    "marks of blocks": (b"x" + MARK * 1000, 4001),
    "what ends a stream": (b"\x03\x00" * 20, 40),
    "megabytes without a mark": (b"\x55" * 5_000_000, 5_000_000),
}


@pytest.mark.parametrize("stored", [OURS, THEIRS], ids=["ours", "theirs"])
@pytest.mark.parametrize(("trailing", "count"), TRAILING.values(), ids=list(TRAILING))
def test_bytes_after_a_complete_stream_are_counted_and_read(stored: bytes, trailing: bytes, count: int) -> None:
    for threads in THREADS:
        assert read_all(stored + trailing, threads) == (CONTENT, count, len(stored + trailing))


@pytest.mark.parametrize("first", [OURS, THEIRS], ids=["ours", "theirs"])
@pytest.mark.parametrize("second", [OURS, THEIRS, gzip.compress(b"")], ids=["ours", "theirs", "of nothing"])
@pytest.mark.parametrize("between", [b"", bytes(10), bytes(300_000)], ids=["next", "padded", "far"])
def test_members_may_follow_each_other(first: bytes, second: bytes, between: bytes) -> None:
    for threads in THREADS:
        stored = first + between + second + between
        assert read_all(stored, threads)[:2] == (CONTENT + gzip.decompress(second), 0)
        assert read_all(stored + b"more", threads)[1] == len(between) + 4
        with pytest.raises(BROKEN_STREAM):
            read_all(first + between + second[:-1], threads)
        with pytest.raises(BROKEN_STREAM):
            read_all(first[:-1] + between.replace(b"\0", b"x") + b"more than a trailer", threads)


def test_many_small_members_are_one_stream() -> None:
    """bgzip writes such streams."""
    pieces = [CONTENT[start : start + 1000] for start in range(0, len(CONTENT), 1000)]
    stored = b"".join(map(gzip.compress, pieces))
    for threads in THREADS:
        assert read_all(stored, threads) == (CONTENT, 0, len(stored))


def test_a_stream_of_another_writer_is_not_mistaken_for_ours() -> None:
    for other in (gzip.compress(b"content"), b"\x1f\x8b", b"", b"not gzip at all, and long enough for a header"):
        assert not is_in_blocks(io.BufferedReader(io.BytesIO(other)))  # type: ignore[arg-type]


@given(st.data())
@settings(max_examples=120, deadline=None, derandomize=True)
def test_a_flipped_bit_or_a_missing_end_is_detected(data: st.DataObject) -> None:
    stored = bytearray(data.draw(st.sampled_from([OURS, THEIRS])))
    if data.draw(st.booleans()):
        del stored[data.draw(st.integers(20, len(stored) - 1)) :]
    else:
        stored[data.draw(st.integers(20, len(stored) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    stored += data.draw(st.sampled_from([b"", b"more"]))
    with pytest.raises(BROKEN_STREAM):
        read_all(bytes(stored), data.draw(st.sampled_from(THREADS)))


def test_a_damaged_block_is_reported_before_the_rest_of_the_stream_is_read() -> None:
    numbers = np.random.default_rng(0).normal(size=40 * BLOCK // 4).astype(np.float32)
    stored = bytearray(compressed(numbers.tobytes(), [], 2))
    stored[100_000:100_100] = bytes(100)
    taken = 0

    class Counted(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            nonlocal taken
            block = super().read(size)
            taken += len(block)
            return block

    with pytest.raises(BROKEN_STREAM):
        for _ in gzip_stream._contents(Counted(bytes(stored)), 1):  # type: ignore[arg-type]
            pass
    assert taken < 20 * BLOCK


@pytest.mark.parametrize("write", [lambda content: compressed(content, [], 2), gzip.compress], ids=["ours", "theirs"])
def test_a_reader_that_stops_early_leaves_no_thread(write: Callable[[bytes], bytes]) -> None:
    before = set(threading.enumerate())
    stream = io.BufferedReader(io.BytesIO(write(numbers(20 * BLOCK))))  # type: ignore[arg-type]
    with read_gzip(stream, 3) as contents:
        assert contents.read(100) == numbers(20 * BLOCK)[:100]
    for _ in range(500):  # threads end after the block that they have begun
        if set(threading.enumerate()) <= before:
            break
        time.sleep(0.01)
    assert set(threading.enumerate()) <= before  # threads of earlier tests may have ended meanwhile
