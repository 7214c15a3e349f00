"""Gzip that several threads write: one member, the same bytes, readable by whatever reads gzip."""

from __future__ import annotations

import gzip
import io
import itertools
import subprocess
import threading
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import isal_zlib

from kwneuro_assets.storage import gzip_stream
from kwneuro_assets.storage.gzip_stream import BLOCK, is_in_blocks, read_gzip, write_gzip


def compressed(content: bytes, cuts: list[int], threads: int) -> bytes:
    file = io.BytesIO()
    edges = [0, *sorted(cuts), len(content)]
    write_gzip(file, (memoryview(content)[a:b] for a, b in itertools.pairwise(edges)), threads)
    return file.getvalue()


def read(stored: bytes, threads: int) -> bytes:
    stream = io.BufferedReader(io.BytesIO(stored))  # type: ignore[arg-type]  # a raw stream as good as any
    assert is_in_blocks(stream)
    with read_gzip(stream, threads) as contents:
        return contents.read()


def numbers(count: int) -> bytes:
    """Some that compress and some that do not."""
    random = np.random.default_rng(count).normal(size=count // 8 + 1).astype(np.float32)
    return (random.tobytes() + bytes(count))[:count]


SIZES = [0, 1, 5000, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 3 * BLOCK + 7]


@pytest.mark.parametrize("size", SIZES)
def test_every_number_of_threads_gives_the_same_bytes_which_all_readers_take(size: int) -> None:
    content = numbers(size)
    one = compressed(content, [], 1)
    assert compressed(content, [], 2) == compressed(content, [], 4) == one
    assert gzip.decompress(one) == content
    single = zlib.decompressobj(wbits=31)  # a reader that knows one member alone
    assert single.decompress(one) == content
    assert single.eof
    assert not single.unused_data
    done = subprocess.run(["gzip", "-dc"], input=one, capture_output=True, check=True)
    assert done.stdout == content
    assert one[3:8] == b"\4" + bytes(4), "a field of our own, neither a name nor a time"
    assert read(one, 1) == read(one, 3) == content


@given(st.sampled_from(SIZES), st.data())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_how_the_stream_is_cut_changes_no_byte(size: int, data: st.DataObject) -> None:
    content = numbers(size)
    cuts = data.draw(st.lists(st.integers(0, size), max_size=8))
    assert compressed(content, cuts, 2) == compressed(content, [], 1)


def test_where_the_compressor_lies_in_memory_changes_no_byte() -> None:
    random = np.random.default_rng(3)
    sparse = np.zeros(BLOCK // 4, np.float32)  # a few numbers among zeros, as in maps of one tract
    few = random.random(sparse.size) < 0.003
    sparse[few] = random.normal(size=np.count_nonzero(few))
    held, found = [], set()
    for _ in range(1500):
        held.append(isal_zlib.compressobj(gzip_stream.COMPRESSION_LEVEL))  # the next one lies elsewhere
        found.add(gzip_stream._compressed(memoryview(sparse).cast("B")).stored)
    assert len(found) == 1


class Full(io.RawIOBase):
    """A disk with room for so many bytes."""

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


def test_an_error_of_who_gives_the_stream_reaches_the_caller() -> None:
    def pieces():  # type: ignore[no-untyped-def]
        yield memoryview(bytes(3 * BLOCK))
        raise ValueError("the source is gone")

    with pytest.raises(ValueError, match="the source is gone"):
        write_gzip(io.BytesIO(), pieces(), 2)


MARK = b"\0\0\xff\xff"  # what a block ends with


@pytest.mark.parametrize("distance", [4, 100, 70_000, BLOCK - 2, BLOCK])
def test_what_ends_a_block_may_stand_within_one(distance: int) -> None:
    """Random bytes are stored as they are, and the marks among them."""
    random = np.random.default_rng(distance).bytes(3 * BLOCK + 5)
    pieces = [random[start : start + distance - len(MARK)] + MARK for start in range(0, len(random), distance)]
    content = b"".join(pieces)
    stored = compressed(content, [], 2)
    assert stored.count(MARK) >= min(len(pieces), 4)
    assert read(stored, 1) == read(stored, 3) == gzip.decompress(stored) == content


def test_zeros_may_follow_and_nothing_else() -> None:
    content = numbers(2 * BLOCK + 9)
    stored = compressed(content, [], 2)
    assert read(stored + bytes(3000), 2) == content
    with pytest.raises(zlib.error, match="checksum or its length"):
        read(stored + b"more", 2)


def test_a_stream_of_another_writer_is_not_taken_for_ours() -> None:
    for other in (gzip.compress(b"content"), b"\x1f\x8b", b"", b"not gzip at all, and long enough for a header"):
        assert not is_in_blocks(io.BufferedReader(io.BytesIO(other)))  # type: ignore[arg-type]


BROKEN = (EOFError, zlib.error, isal_zlib.IsalError)


@given(st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_flipped_bit_or_a_missing_end_is_found(data: st.DataObject) -> None:
    content = numbers(2 * BLOCK + 9)
    stored = bytearray(compressed(content, [], 2))
    if data.draw(st.booleans()):
        del stored[data.draw(st.integers(20, len(stored) - 1)) :]
    else:
        stored[data.draw(st.integers(20, len(stored) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(BROKEN):
        read(bytes(stored), 2)


def test_a_broken_block_is_told_at_once_and_not_after_all_that_follows() -> None:
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

    with pytest.raises(BROKEN):
        for _ in gzip_stream._contents(Counted(bytes(stored)), 1):  # type: ignore[arg-type]
            pass
    assert taken < 20 * BLOCK


def test_a_reader_that_stops_early_leaves_no_thread() -> None:
    before = threading.active_count()
    stream = io.BufferedReader(io.BytesIO(compressed(numbers(20 * BLOCK), [], 2)))  # type: ignore[arg-type]
    with read_gzip(stream, 3) as contents:
        assert contents.read(100) == numbers(20 * BLOCK)[:100]
    assert threading.active_count() == before
