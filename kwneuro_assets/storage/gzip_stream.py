"""Gzip streams that several threads write and read, though one member is what any reader of gzip finds.

As pigz does it: the stream is cut into blocks of one size, each is compressed for itself, and what comes out is joined
under one checksum. A field of the header, which readers skip that do not know it, tells how large the blocks are: where
one ends is seen from the mark that follows it, and so they are decompressed beside each other, too.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, NamedTuple

from isal import isal_zlib

from kwneuro_assets.threads import map_ahead

COMPRESSION_LEVEL = 1  # isal's levels 2 and 3 take longer and gain under 3 % on float32 images
BLOCK = 1 << 18  # bytes of the stream that are compressed together; another number gives other bytes
_THREADS = 16  # at most: each is two blocks ahead, and beside so many the one that joins them would not keep up
_HEAD = 8  # bytes of a block that are flushed before the others, see _compressed
_HEAD_STORED = 32  # bytes; more than these become, and less than any whole block becomes
_RAW = -15  # deflate with a window of 2^15 bytes, and no header of its own
_BLOCKS = b"KW" + struct.pack("<HI", 4, BLOCK)  # the field of the header
# Deflate, with an extra field, without name and time, of no system (RFC 1952).
_HEADER = b"\x1f\x8b\x08\x04" + bytes(4) + b"\x00\xff" + struct.pack("<H", len(_BLOCKS)) + _BLOCKS
# How a flush ends (RFC 1951: an empty block that is stored); it may stand within a block as well.
_MARK = re.compile(rb"\0\0\xff\xff")
_END = b"\x03\x00"  # an empty last block
_Broken: type[Exception] = isal_zlib.IsalError  # type: ignore[assignment]  # isal types its exception class as an instance
_READ = 1 << 20  # bytes of the file that are read and searched for marks at once
_MOST = BLOCK + BLOCK // 8  # bytes that a block becomes, at most: what does not compress is stored


class _Block(NamedTuple):
    """A block as it is stored, what it holds (nothing where it is no block), and the checksum and the size of that."""

    stored: bytes | memoryview
    content: bytes
    crc: int
    size: int


def write_gzip(file: IO[bytes], pieces: Iterable[memoryview], threads: int) -> None:
    """Compress `pieces`, one after the other, into `file` as one gzip stream: the same bytes for any number of threads,
    and however the stream is cut into pieces, which are bytes in one dimension."""
    file.write(_HEADER)
    crc = size = 0
    for block in map_ahead(_compressed, _blocks(pieces), min(threads, _THREADS)):
        file.write(block.stored)
        crc = isal_zlib.crc32_combine(crc, block.crc, block.size)
        size += block.size
    file.write(_END + _trailer(crc, size))


def is_in_blocks(stream: io.BufferedReader) -> bool:
    """Whether a stream, at its start, is one that `write_gzip` wrote."""
    return stream.peek(len(_HEADER))[: len(_HEADER)] == _HEADER


def read_gzip(stream: io.BufferedReader, threads: int) -> io.BufferedReader:
    """What such a stream holds, decompressed ahead of its reader. Raises EOFError, zlib.error or IsalError for a broken
    one."""
    return io.BufferedReader(_Reader(_contents(stream, threads)), BLOCK)


class _Reader(io.RawIOBase):
    def __init__(self, contents: Iterator[bytes]) -> None:
        self._contents = contents
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        target = memoryview(buffer).cast("B")  # type: ignore[arg-type]  # as io.RawIOBase promises
        if not self._left:
            self._left = memoryview(next(self._contents, b""))
        count = min(len(target), len(self._left))
        target[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def close(self) -> None:
        if not self.closed:
            self._contents.close()  # type: ignore[attr-defined]  # a generator, whose threads end with it
        super().close()


def _contents(stream: io.BufferedReader, threads: int) -> Iterator[bytes]:
    stream.read(len(_HEADER))
    crc = size = 0
    rest = b""
    for part in map_ahead(_decompressed, _parts(stream), min(threads, _THREADS)):
        if part.content and not rest:
            found = [part]
        else:  # a mark within a block cut it, or its end was taken for that of a head
            found, rest = _found(rest, memoryview(part.stored))
        if len(rest) > 2 * _MOST:
            raise zlib.error("a block that cannot be decompressed")
        for block in found:
            crc = isal_zlib.crc32_combine(crc, block.crc, block.size)
            size += block.size
            yield block.content
    last = isal_zlib.decompressobj(_RAW)
    content = last.decompress(rest)
    if not last.eof or len(last.unused_data) < len(_trailer(0, 0)):
        raise EOFError("it ends before its end is marked")
    crc = isal_zlib.crc32_combine(crc, isal_zlib.crc32(content), len(content))
    trailer = _trailer(crc, size + len(content))
    if not last.unused_data.startswith(trailer) or last.unused_data[len(trailer) :].strip(b"\0"):
        raise zlib.error("its checksum or its length is wrong")
    if content:
        yield content


def _found(rest: bytes, stored: memoryview) -> tuple[list[_Block], bytes]:
    """The blocks in what was left and what comes next, where any mark may be the end of one, and what is left then."""
    found = []
    *ended, last = _cut(stored, least=0)
    for piece in ended:
        rest += piece
        block = _decompressed(rest)
        if block.content:
            found.append(block)
            rest = b""
    return found, rest + bytes(last)


def _parts(stream: io.BufferedReader) -> Iterator[memoryview]:
    """What is stored, cut behind each mark but those of the blocks' heads."""
    rest = b""
    while read := stream.read(_READ):
        *whole, last = _cut(memoryview(rest + read), _HEAD_STORED)
        yield from whole
        rest = bytes(last)
        if len(rest) > 2 * _READ:
            raise zlib.error("a block that does not end")
    yield memoryview(rest)


def _cut(stored: memoryview, least: int) -> Iterator[memoryview]:
    """Cut behind each mark that has at least so many bytes before it; the last piece, maybe empty, has no mark."""
    start = 0
    while mark := _MARK.search(stored, start + least):
        yield stored[start : mark.end()]
        start = mark.end()
    yield stored[start:]


def _compressed(block: memoryview) -> _Block:
    """With the first bytes flushed, as ISA-L (2.31) takes the first position that it hashes of a longer input from a
    register that still holds its stream's address: the bytes that came out were others now and then. Up to 16 bytes go
    another way, which has no such fault, and behind them everything is hashed as it should be."""
    compressor = isal_zlib.compressobj(COMPRESSION_LEVEL, isal_zlib.DEFLATED, _RAW)
    pieces = (block[:_HEAD], block[_HEAD:])
    # A flush ends at a whole byte, where the next block can follow.
    stored = b"".join(compressor.compress(piece) + compressor.flush(isal_zlib.Z_SYNC_FLUSH) for piece in pieces)
    return _Block(stored, b"", isal_zlib.crc32(block), len(block))


def _decompressed(stored: bytes | memoryview) -> _Block:
    """Without content where this is anything but one whole block of full length."""
    inflate = isal_zlib.decompressobj(_RAW)
    try:
        content = inflate.decompress(stored, BLOCK + 1)
        # Only behind the true end of a block is the end of a stream understood.
        inflate.decompress(_END)
    except _Broken:
        content = b""
    if len(content) != BLOCK or not inflate.eof or inflate.unused_data:
        return _Block(stored, b"", 0, 0)
    return _Block(stored, content, isal_zlib.crc32(content), len(content))


def _trailer(crc: int, size: int) -> bytes:
    return struct.pack("<II", crc, size & 0xFFFFFFFF)


def _blocks(pieces: Iterable[memoryview]) -> Iterator[memoryview]:
    """The stream in blocks of BLOCK bytes, the last one shorter; copied only where a block spans pieces."""
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
