"""Times the store against the operations that it is based on, and prints a table.

    make bench ARGS="storage"                    # an image of the size of a real DWI, local and S3
    make bench ARGS="storage --volumes 20 --repeats 1"

The local peer is isal's compression or decompression of the same voxels in memory and the sha256 of the compressed
bytes. The peer on S3 is s3fs's `put` or `get` of the compressed file. The S3 server is moto on this machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from isal import isal_zlib
from rich.console import Console
from rich.table import Table

from kwneuro_assets.imaging import Volume
from kwneuro_assets.storage.gzip_stream import COMPRESSION_LEVEL
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.storage.store import DerivativeStore, Verify
from kwneuro_assets.subjects import SubjectKey

GRID = (128, 128, 60)
ASSET, SUBJECT = "tract_orientations", SubjectKey("01")  # an asset whose value is a 4-D image
Timed = Callable[[], object]


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--volumes", type=int, default=193, help="volumes of 128 x 128 x 60 float32 voxels; 193 are 759 MB"
    )
    parser.add_argument("--repeats", type=int, default=3, help="number of repeats, of which the median counts")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args(words)
    image = _image(arguments.volumes)
    with tempfile.TemporaryDirectory() as scratch:
        rows = [*_local(image, Path(scratch), arguments.repeats), *_s3(image, Path(scratch), arguments.repeats)]
    _print(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def _image(volumes: int) -> Volume:
    """A head in air: a signal with another decay in each volume and little noise, zero outside."""
    random = np.random.default_rng(0)
    z, y, x = (np.linspace(-1, 1, size) for size in reversed(GRID))
    head = (x[:, None, None] ** 2 + y[None, :, None] ** 2 + z[None, None, :] ** 2) < 1
    signal = random.uniform(200, 1000, GRID) * head
    array = np.empty((*GRID, volumes), np.float32, order="F")
    for index in range(volumes):
        array[..., index] = (signal * random.uniform(0.2, 1) + random.normal(0, 10, GRID)).clip(0) * head
    return Volume(array, np.diag([-2.0, 2.0, 2.0, 1.0]))


def _local(image: Volume, scratch: Path, repeats: int) -> list[dict[str, object]]:
    voxels = image.array.ravel(order="F").view(np.uint8).data
    compressed: dict[str, bytes] = {}

    def compress() -> None:
        compressed["file"] = isal_zlib.compress(voxels, COMPRESSION_LEVEL, wbits=31)
        hashlib.sha256(compressed["file"]).hexdigest()

    def decompress() -> None:
        hashlib.sha256(compressed["file"]).hexdigest()
        isal_zlib.decompress(compressed["file"], wbits=31, bufsize=image.array.nbytes)

    url = str(scratch / "store")
    rows = [_compared("write, local", _writing(url, image), "compress + sha256", compress, repeats)]
    for verify in ("always", "never"):
        what = f"read, local, verify: {verify}"
        rows.append(_compared(what, _reading(url, verify), "sha256 + decompress", decompress, repeats))
    return rows


def _s3(image: Volume, scratch: Path, repeats: int) -> list[dict[str, object]]:
    import s3fs

    from kwneuro_assets_tests.testkit.s3_server import S3Server

    stored = scratch / "store" / f"{SUBJECT.folder}/{SUBJECT}_desc-tractorientations_dwimap.nii.gz"
    with S3Server() as server:
        os.environ.update(server.environment())
        bucket = server.new_bucket()
        fs = s3fs.S3FileSystem()
        url = f"s3://{bucket}/store"

        def put() -> None:
            fs.put_file(str(stored), f"{bucket}/stored.nii.gz")

        def get() -> None:
            fs.get_file(f"{bucket}/stored.nii.gz", str(scratch / "back.nii.gz"))

        rows = [_compared("write, S3", _writing(url, image), "s3fs put", put, repeats)]
        for verify in ("always", "never"):
            rows.append(_compared(f"read, S3, verify: {verify}", _reading(url, verify), "s3fs get", get, repeats))
        return rows


def _writing(url: str, image: Volume) -> Timed:
    def write() -> None:
        # Another version each time, as for a changed derivative.
        provenance = Provenance("benchmark", "1-00000000", f"{time.monotonic_ns():064d}")
        DerivativeStore(url).write(ASSET, SUBJECT, image, provenance)

    return write


def _reading(url: str, verify: Verify) -> Timed:
    return lambda: DerivativeStore(url, verify=verify).read(ASSET, SUBJECT)


def _compared(what: str, ours: Timed, peer_name: str, peer: Timed, repeats: int) -> dict[str, object]:
    """Time both alternately, so that other processes of the machine affect both."""
    seconds: dict[Timed, list[float]] = {ours: [], peer: []}
    for _ in range(repeats):
        for timed in (peer, ours):
            started = time.perf_counter()
            timed()
            seconds[timed].append(time.perf_counter() - started)
    mine, theirs = statistics.median(seconds[ours]), statistics.median(seconds[peer])
    return {
        "operation": what,
        "seconds": round(mine, 2),
        "peer": peer_name,
        "peer_seconds": round(theirs, 2),
        "ours / peer": round(mine / theirs, 2),
    }


def _print(rows: list[dict[str, object]]) -> None:
    table = Table(*rows[0], box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)
