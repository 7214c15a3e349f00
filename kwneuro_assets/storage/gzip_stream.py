"""Gzip streams that several threads write and read; gzip streams of other writers are read, too.

A stream written here is a single member to any gzip reader. As in pigz, it is cut into blocks of equal size, each is
compressed independently, and the results are joined under one checksum. An extra field of the header, which other
readers skip, holds the block size: each block ends with a flush mark, so that blocks are decompressed in parallel, too.
`isal.igzip_threaded` does not suffice, as it decompresses with a single thread; nor do `pgzip` and `mgzip`, which use
zlib, several times slower than ISA-L.

As gzip itself does, the reader accepts further members, zeros as padding, and trailing bytes that are not gzip, which
it counts. Anything that starts like a member must be intact.
"""

from __future__ import annotations

import io
import re
import struct
import threading
import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from itertools import chain, repeat
from typing import IO, NamedTuple

from isal import igzip_lib, isal_zlib

from kwneuro_assets.threads import map_ahead

COMPRESSION_LEVEL = 1  # isal's levels 2 and 3 take longer and gain under 3 % on float32 images
MAGIC = b"\x1f\x8b"
BLOCK = 1 << 18  # bytes of the stream compressed together; another number gives different output
_MAX_THREADS = 16  # each is two blocks ahead; the thread that joins them could not keep up with more
_HEAD = 8  # bytes of a block that are flushed before the others, see _compressed
_HEAD_STORED = 32  # bytes; more than a compressed head, and less than any complete compressed block
_RAW = -15  # raw deflate: a window of 2^15 bytes, no header
_BLOCKS = b"KW" + struct.pack("<HI", 4, BLOCK)  # the extra field of the header
# Deflate, with an extra field, without name and time, unknown operating system (RFC 1952).
_HEADER = b"\x1f\x8b\x08\x04" + bytes(4) + b"\x00\xff" + struct.pack("<H", len(_BLOCKS)) + _BLOCKS
# The end of a flush (RFC 1951: an empty stored block); these bytes may also occur within a block.
_MARK = re.compile(rb"\0\0\xff\xff")
_END = b"\x03\x00"  # an empty last block
# isal types its exception class as an instance.
_Broken: type[Exception] = isal_zlib.IsalError  # type: ignore[assignment]
BROKEN_STREAM: tuple[type[Exception], ...] = (EOFError, zlib.error, _Broken, igzip_lib.IsalError)  # type: ignore[assignment]
_READ = 1 << 20  # bytes of the file read and searched for marks in one step
_MAX_STORED = BLOCK + BLOCK // 8  # bytes of a compressed block: incompressible data is stored
_INFLATED = 1 << 18  # bytes of another writer's stream read, and inflated, in one step
_INFLATED_HEADER = 1 << 13  # the same if the reader may need no more than a header


class _Block(NamedTuple):
    """A block as it is stored, its content (empty if it is no valid block), and the content's checksum and size.

    The last block of the deflate stream may be shorter or empty; `rest` is then what follows the end of the stream.
    """

    stored: bytes | memoryview
    content: bytes
    crc: int
    size: int
    rest: bytes | None = None

    @property
    def is_valid(self) -> bool:
        return bool(self.content) or self.rest is not None


def write_gzip(file: IO[bytes], pieces: Iterable[memoryview], threads: int) -> None:
    """Compress `pieces` (1-D, bytes) in order into `file` as one gzip stream.

    The output depends neither on the number of threads nor on how the content is cut into pieces.
    """
    file.write(_HEADER)
    crc = size = 0
    for block in map_ahead(_compressed, _blocks(pieces), min(threads, _MAX_THREADS)):
        file.write(block.stored)
        crc = isal_zlib.crc32_combine(crc, block.crc, block.size)
        size += block.size
    file.write(_END + _trailer(crc, size))


def is_in_blocks(stream: io.BufferedReader) -> bool:
    """Whether `write_gzip` wrote the stream, which must be at its start."""
    return stream.peek(len(_HEADER))[: len(_HEADER)] == _HEADER


class GzipStream(io.BufferedReader):
    """The content of a gzip stream. Reading raises one of BROKEN_STREAM if it is not intact."""

    def __init__(self, contents: Generator[bytes, None, int]) -> None:
        self._reader = _Reader(contents)
        super().__init__(self._reader, BLOCK)

    @property
    def trailing(self) -> int:
        """The number of trailing bytes that are neither gzip nor padding; known once the stream was read to its end."""
        return self._reader.trailing


def read_gzip(stream: io.BufferedReader, threads: int) -> GzipStream:
    """The content of the stream, decompressed ahead of its reader.

    Uses `threads` threads if `write_gzip` wrote the stream, else one. With 0 threads, it is decompressed while it is
    read.
    """
    if threads and is_in_blocks(stream):
        return GzipStream(_contents(stream, threads))
    if threads:
        return GzipStream(_ahead(_members(_pieces(stream, _INFLATED), _INFLATED)))
    return GzipStream(_members(_pieces(stream, _INFLATED_HEADER), _INFLATED_HEADER))


def _pieces(stream: io.BufferedReader, size: int) -> Iterator[bytes]:
    return iter(lambda: stream.read(size), b"")


class _Reader(io.RawIOBase):
    """The bytes that a generator yields; its return value is the number of trailing bytes."""

    def __init__(self, contents: Generator[bytes, None, int]) -> None:
        self.trailing = 0
        self._contents = contents
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        target = memoryview(buffer).cast("B")  # type: ignore[arg-type]  # as io.RawIOBase promises
        if not self._left:
            try:
                self._left = memoryview(next(self._contents))
            except StopIteration as end:
                self.trailing = end.value or self.trailing  # an exhausted generator has no value
                return 0
        count = min(len(target), len(self._left))
        target[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def close(self) -> None:
        if not self.closed:
            self._contents.close()  # ends its threads
        super().close()


def _ahead(contents: Generator[bytes, None, int]) -> Generator[bytes, None, int]:
    """The same bytes, computed in a thread of its own: the next ones are inflated while the reader copies these."""
    in_use = threading.RLock()  # a call of `contents` that has begun ends before they are closed

    def following(_: None) -> bytes | int:
        with in_use:
            try:
                return next(contents)
            except StopIteration as end:
                return int(end.value or 0)

    try:
        with closing(map_ahead(following, repeat(None), 1)) as pieces:  # type: ignore[type-var]
            for piece in pieces:
                if isinstance(piece, int):
                    return piece
                yield piece
    finally:
        with in_use:
            contents.close()
    raise AssertionError("`following` never ends")


def _members(pieces: Iterator[bytes], max_size: int = _INFLATED) -> Generator[bytes, None, int]:
    """The content of consecutive members, in non-empty pieces of at most `max_size` bytes; returns the number of
    trailing bytes.
    """
    rest, trailing = _next_member(b"", pieces)
    while rest:
        member = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP)
        while True:
            if content := member.decompress(rest, max_size):
                yield content
            if member.eof:
                break
            rest = next(pieces, b"") if member.needs_input else b""
            if member.needs_input and not rest:
                raise EOFError("it is truncated")
        rest, trailing = _next_member(member.unused_data, pieces)
    return trailing


def _next_member(rest: bytes, pieces: Iterator[bytes]) -> tuple[bytes, int]:
    """The start of the next member after padding; or nothing, and the number of trailing bytes."""
    padding = 0
    while True:
        start = rest.lstrip(b"\0")
        padding += len(rest) - len(start)
        if len(start) >= len(MAGIC) or not (piece := next(pieces, b"")):
            break
        rest = start + piece
    if start.startswith(MAGIC):
        return start, 0
    return b"", padding + len(start) + sum(map(len, pieces)) if start else 0


def _contents(stream: io.BufferedReader, threads: int) -> Generator[bytes, None, int]:
    """The content of a stream in blocks, and of any members after it; returns the number of trailing bytes."""
    stream.read(len(_HEADER))
    crc = size = 0
    pending, rest = b"", None
    parts = map_ahead(_decompressed, _parts(stream), min(threads, _MAX_THREADS))
    for part in parts:
        if part.is_valid and not pending:
            found = [part]
        else:  # a mark within a block cut it, or its end was mistaken for that of a head
            found, pending = _reassembled(pending, memoryview(part.stored))
        for block in found:
            crc = isal_zlib.crc32_combine(crc, block.crc, block.size)
            size += block.size
            rest = block.rest
            if block.content:
                yield block.content
        if rest is not None:
            break
        if len(pending) > 2 * _MAX_STORED:
            raise zlib.error("a block cannot be decompressed")
    if rest is None:
        raise EOFError("it is truncated")
    trailer = _trailer(crc, size)
    following = chain([pending], (bytes(part.stored) for part in parts))
    while len(rest) < len(trailer) and (piece := next(following, None)) is not None:
        rest += piece
    if len(rest) < len(trailer):
        raise EOFError("it is truncated")
    if not rest.startswith(trailer):
        raise zlib.error("its checksum or its length is wrong")
    return (yield from _members(filter(None, chain([rest[len(trailer) :]], following))))


def _reassembled(pending: bytes, stored: memoryview) -> tuple[list[_Block], bytes]:
    """The blocks in the pending and the next bytes, in which any mark may end a block, and what is then pending."""
    found = []
    pieces = filter(None, _cut(stored, min_size=0))
    for piece in pieces:
        pending += piece
        block = _decompressed(pending)
        if block.is_valid:
            found.append(block)
            pending = b""
        if block.rest is not None:
            return found, b"".join(pieces)
    return found, pending


def _parts(stream: io.BufferedReader) -> Iterator[memoryview]:
    """The stored bytes, cut after each mark except those of the blocks' heads."""
    rest = b""
    while read := stream.read(_READ):
        *complete, last = _cut(memoryview(rest + read), _HEAD_STORED)
        yield from complete
        rest = bytes(last)
        if len(rest) > 2 * _READ:  # not a block: it is damaged, or the stream has ended
            yield memoryview(rest)
            rest = b""
    yield memoryview(rest)


def _cut(stored: memoryview, min_size: int) -> Iterator[memoryview]:
    """Cut after each mark with at least `min_size` bytes before it; the last piece, possibly empty, has no mark."""
    start = 0
    while mark := _MARK.search(stored, start + min_size):
        yield stored[start : mark.end()]
        start = mark.end()
    yield stored[start:]


def _compressed(block: memoryview) -> _Block:
    """The first bytes are flushed separately: in a longer input, ISA-L (2.31) takes the first position that it hashes
    from a register that still holds its stream's address, so that the output occasionally differed. Inputs of up to 16
    bytes take another code path without this bug, and after them everything is hashed correctly.
    """
    compressor = isal_zlib.compressobj(COMPRESSION_LEVEL, isal_zlib.DEFLATED, _RAW)
    pieces = (block[:_HEAD], block[_HEAD:])
    # A flush ends at a byte boundary, where the next block can follow.
    stored = b"".join(compressor.compress(piece) + compressor.flush(isal_zlib.Z_SYNC_FLUSH) for piece in pieces)
    return _Block(stored, b"", isal_zlib.crc32(block), len(block))


def _decompressed(stored: bytes | memoryview) -> _Block:
    """Without content unless this is exactly one complete block of full length, or the end of the stream."""
    inflate = isal_zlib.decompressobj(_RAW)
    try:
        content = inflate.decompress(stored, BLOCK + 1)
        if inflate.eof:
            return _Block(stored, content, isal_zlib.crc32(content), len(content), inflate.unused_data)
        # Only after the true end of a block is the end of a stream accepted.
        inflate.decompress(_END)
    except _Broken:
        content = b""
    if len(content) != BLOCK or not inflate.eof or inflate.unused_data:
        return _Block(stored, b"", 0, 0)
    return _Block(stored, content, isal_zlib.crc32(content), len(content))


def _trailer(crc: int, size: int) -> bytes:
    return struct.pack("<II", crc, size & 0xFFFFFFFF)


def _blocks(pieces: Iterable[memoryview]) -> Iterator[memoryview]:
    """The content in blocks of BLOCK bytes, the last one shorter; copied only if a block spans pieces."""
    rest = bytearray()
    for piece in pieces:
        start = min(BLOCK - len(rest), len(piece)) if rest else 0
        rest += piece[:start]
        if len(rest) == BLOCK:
            yield memoryview(rest)
            rest = bytearray()
        while len(piece) - start >= BLOCK:
            yield piece[start : start + BLOCK]
            start += BLOCK
        rest += piece[start:]
    if rest:
        yield memoryview(rest)
