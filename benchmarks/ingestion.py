"""Times the ingestion sensor over a dataset of thousands of subjects, on a disk and on S3, and checks what it takes in.

    make bench ARGS="ingestion"                                  # 10,000 subjects on a disk
    make bench ARGS="ingestion --s3 --subjects 1000"             # on S3, too; its server is moto's, on this machine
    make bench ARGS="ingestion --scratch DIR --json out.json"    # the dataset is kept there, and used the next time

The instance is a new one, on SQLite. Ticks follow one another in one process, as in a code server, and are all that it
does of them, Dagster's own checks included: first until all subjects are taken in, then with no change, then with some
b-vectors changed and some subjects removed. A series is as small as it can be, so that the time is that of all else;
what it takes to read and hash the same files and nothing more is told beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from dagster import DagsterInstance, build_sensor_context
from rich.console import Console
from rich.table import Table
from upath import UPath

from kwneuro_assets.home import settle
from kwneuro_assets.settings import load_settings
from kwneuro_assets.storage.location import is_local, location
from kwneuro_assets.subjects import PARTITIONS

GRID, B0_VOLUMES, DIRECTIONS = (4, 4, 4), 2, 10
CHANGED = REMOVED = 50
READ_ALONE = 1000  # subjects
IDLE_TICKS = 3
UPLOADS_AT_ONCE = 32
READS_AT_ONCE = 4  # as many as the sensor's at most
STALLED = 20  # ticks in a row that take in no subject
WHOLE = "dataset_description.json"  # written last
SETTINGS = "ingestion: {settle_seconds: 0}\n"
NOTES = "kwneuro_assets/source"  # under which the instance keeps what was seen
ROWS = {
    "write_seconds": "dataset written, s",
    "objects": "files",
    "list_find_seconds": "LIST of all alone by s3fs find, s",
    "list_pages_seconds": "LIST of all alone by pages, s",
    "read_alone_seconds": f"read and hashed alone, {READ_ALONE:,} subjects, s",
    "first_seconds": "first tick, s",
    "ticks": "ticks until all is taken in",
    "longest_seconds": "longest tick, s",
    "per_1000_seconds": "all ticks, per 1,000 subjects, s",
    "idle_seconds": "tick with no change, s (median of 3)",
    "changed_seconds": f"tick with {CHANGED} changed and {REMOVED} removed, s",
    "changed_ticks": "ticks that it takes",
    "command_seconds": "command with nothing to do, fresh process, s",
    "command_peak_mb": "its peak, MB",
    "peak_mb": "peak of the process of the ticks, MB",
    "first_lists": "LIST requests of the first tick",
    "idle_lists": "LIST requests of a tick with no change",
    "idle_lists_per_1000": "the same per 1,000 objects",
    "requests": "all requests, by operation",
    "remembered_mb": "what is remembered, MB",
    "remembered_per_subject": "the same per subject, bytes",
    "instance_mb": "the instance's databases, MB",
}
Figures = dict[str, Any]


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=10_000)
    parser.add_argument("--s3", action="store_true", help="on S3, too")
    parser.add_argument("--only-s3", action="store_true", help="on S3 alone")
    parser.add_argument("--scratch", type=Path, help="folder in which the dataset is kept for the next time")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    arguments = parser.parse_args(words)
    places = {} if arguments.only_s3 else {"disk": _disk}
    places |= {"S3": _s3} if arguments.s3 or arguments.only_s3 else {}
    found: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as temporary:
        kept = (arguments.scratch or Path(temporary)).absolute() / f"source-{arguments.subjects}"
        seconds = _timed(lambda: _write_once(kept, arguments.subjects))
        for name, place in places.items():
            home = Path(temporary) / name
            with place(kept, home / "source") as (url, variables, figures):
                found[name] = {"write_seconds": seconds, "objects": 3 * arguments.subjects + 1, **figures}
                found[name] |= _measured(home, url, variables, arguments.subjects)
    _print(found)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    if not all(one["right"] for one in found.values()):
        sys.exit("the sensor did not take in all that changed, or took in what did not")


def dataset(subjects: int) -> Iterator[tuple[str, bytes]]:
    """The path and the content of every file: a series of each subject, no two of which are the same."""
    import nibabel

    shape = (*GRID, B0_VOLUMES + DIRECTIONS)
    header = nibabel.Nifti1Image(np.zeros(shape, np.int16), np.diag([-2.0, 2.0, 2.0, 1.0])).to_bytes()[:352]
    random = np.random.default_rng(0)
    bvals = b"0 " * B0_VOLUMES + b"1000 " * DIRECTIONS + b"\n"
    for number in range(subjects):
        key = f"sub-{number:05}"
        voxels = random.integers(100, 1000, shape, np.int16)
        packer = zlib.compressobj(1, wbits=31)
        yield f"{key}/dwi/{key}_dwi.nii.gz", packer.compress(header + voxels.tobytes()) + packer.flush()
        yield f"{key}/dwi/{key}_dwi.bval", bvals
        yield f"{key}/dwi/{key}_dwi.bvec", directions(0)
    yield WHOLE, b'{"Name": "many subjects", "BIDSVersion": "1.10.0"}\n'


def directions(turned: float) -> bytes:
    """b-vectors on a spiral over half a sphere, turned about its axis by so many radians."""
    height = 1 - (np.arange(DIRECTIONS) + 0.5) / DIRECTIONS
    angle = np.arange(DIRECTIONS) * np.pi * (3 - np.sqrt(5)) + turned
    wide = np.sqrt(1 - height**2)
    table = np.zeros((3, B0_VOLUMES + DIRECTIONS))
    table[:, B0_VOLUMES:] = wide * np.cos(angle), wide * np.sin(angle), height
    return "".join(" ".join(f"{value:.6f}" for value in row) + "\n" for row in table).encode()


def _write_once(root: Path, subjects: int) -> None:
    if (root / WHOLE).exists():
        return
    for name, content in dataset(subjects):
        path = root / name
        if path.suffix == ".gz":  # the first of a subject
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


Place = Iterator[tuple[str, Mapping[str, str], Figures]]


@contextmanager
def _disk(kept: Path, source: Path) -> Place:
    shutil.copytree(kept, source)
    yield str(source), {}, {}


@contextmanager
def _s3(kept: Path, source: Path) -> Place:
    from kwneuro_assets_tests.s3_server import S3Server

    with S3Server() as server:
        bucket = server.new_bucket()
        files = [path for path in kept.rglob("*") if path.is_file()]

        def put(path: Path) -> None:
            key = f"study/{path.relative_to(kept).as_posix()}"
            server.client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())

        def put_all() -> None:
            with ThreadPoolExecutor(UPLOADS_AT_ONCE) as pool:
                list(pool.map(put, files))

        seconds = _timed(put_all)
        url = f"s3://{bucket}/study"
        figures = {"write_seconds": seconds, **_apart("list", Path(), url, server.environment())}
        yield url, server.environment(), figures


def _measured(home: Path, url: str, variables: Mapping[str, str], subjects: int) -> Figures:
    figures = _apart("read", home, url, variables)
    figures |= _apart("ticks", home, url, variables, subjects)
    command = _apart("command", home, url, variables)
    return {**figures, **command, "right": figures["right"] and command["right"]}


def _print(found: dict[str, Figures]) -> None:
    table = Table("", *found, box=None, pad_edge=False)
    for key, title in ROWS.items():
        if any(key in figures for figures in found.values()):
            table.add_row(title, *(_cell(figures.get(key)) for figures in found.values()))
    table.add_row("as expected", *("yes" if figures["right"] else "NO" for figures in found.values()))
    Console(width=110).print(table)
    for name, figures in found.items():
        print(f"{name}: " + " | ".join(f"{what}: {told}" for what, told in figures["told"].items()))


def _cell(figure: Any) -> str:
    if isinstance(figure, dict):
        return ", ".join(f"{count:,} {name}" for name, count in figure.items()) or "none"
    return "" if figure is None else f"{figure:,}"


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return round(time.perf_counter() - started, 2)


def _environment(url: str, variables: Mapping[str, str]) -> dict[str, str]:
    foreign = ("KWNEURO_", "DAGSTER_", "AWS_")
    own = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**own, **variables, "KWNEURO_SOURCE": url}


def _apart(what: str, home: Path, url: str, variables: Mapping[str, str], *words: object) -> Any:
    """What one of ACTIONS says, done in a fresh process, in the environment of the project folder `home`."""
    command = [sys.executable, "-m", "benchmarks.ingestion", what, str(home), *map(str, words)]
    done = subprocess.run(command, env=_environment(url, variables), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{what} failed")
    return json.loads(done.stdout.splitlines()[-1])


def _list(home: Path) -> Figures:
    """How long the server itself takes to name all objects, so that it can be told apart from what is ours."""
    import boto3  # type: ignore[import-untyped]
    import s3fs  # type: ignore[import-untyped]

    place = location(os.environ["KWNEURO_SOURCE"])
    bucket, _, prefix = place.path.partition("/")
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    fs = s3fs.S3FileSystem(skip_instance_cache=True)
    return {
        "list_pages_seconds": _timed(lambda: [page["KeyCount"] for page in pages]),
        "list_find_seconds": _timed(lambda: fs.find(place.path, detail=True)),
    }


def _read(home: Path) -> Figures:
    """Some subjects' files read, unpacked and hashed, and nothing more."""
    place = location(os.environ["KWNEURO_SOURCE"])
    keys = [path.name for path in place.iterdir() if path.name.startswith("sub-")][:READ_ALONE]

    def one(key: str) -> None:
        for extension in ("nii.gz", "bval", "bvec"):
            content = _bytes(place / key / "dwi" / f"{key}_dwi.{extension}")
            hashlib.sha256(content).hexdigest()
            if extension == "nii.gz":
                zlib.decompress(content, wbits=31)

    def read_all() -> None:
        with ThreadPoolExecutor(READS_AT_ONCE) as pool:
            list(pool.map(one, keys))

    return {"read_alone_seconds": _timed(read_all)}


def _bytes(path: UPath) -> bytes:
    return bytes(path.read_bytes() if is_local(path) else path.fs.cat_file(path.path))


def _command(home: Path) -> Figures:
    """A look from the command line, by a process of its own, that has nothing to do."""
    command = [sys.executable, "-m", "kwneuro_assets.cli", "--home", str(home), "ingest", "--json"]
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    told = json.loads(done.stdout)
    return {
        "command_seconds": round(time.perf_counter() - started, 2),
        "command_peak_mb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3),
        "right": not (told["added"] or told["changed"]),
    }


def _ticks(home: Path, subjects: str) -> Figures:
    """All figures of ticks in one process, as a code server makes them."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "settings.yaml").write_text(SETTINGS)
    logging.disable(logging.INFO)  # a line for each new subject
    settings = settle(home)
    count = int(subjects)
    requests = _noted_requests(settings.source.url)
    with DagsterInstance.get() as instance:
        tick = _ticker(instance, requests)
        first = _until(tick, lambda: len(instance.get_dynamic_partitions(PARTITIONS)), count)
        idle = [tick() for _ in range(IDLE_TICKS)]
        before, changed, removed = _versions(instance), *_change(settings.source.url, count)
        later = _until(tick, lambda: len(_moved(before, instance)) + len(_gone(instance)), len(changed) + len(removed))
        right = _moved(before, instance) == changed and _gone(instance) == removed
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        remembered = _remembered(instance)
    seconds = [one["seconds"] for one in first]
    lists = statistics.median(one["lists"] for one in idle)
    return {
        "first_seconds": seconds[0],
        "ticks": len(first),
        "longest_seconds": max(seconds),
        "per_1000_seconds": round(1000 * sum(seconds) / count, 2),
        "idle_seconds": statistics.median(one["seconds"] for one in idle),
        "changed_seconds": later[0]["seconds"],
        "changed_ticks": len(later),
        "peak_mb": round(peak),
        "remembered_mb": round(remembered / 1e6, 2),
        "remembered_per_subject": round(remembered / count),
        "instance_mb": round(_size(Path(os.environ["DAGSTER_HOME"])) / 1e6, 1),
        "told": {"first": first[0]["told"], "no change": idle[-1]["told"], "changed": later[-1]["told"]},
        "right": right,
        **(
            {
                "first_lists": first[0]["lists"],
                "idle_lists": lists,
                "idle_lists_per_1000": round(1000 * lists / (3 * count), 2),
                "requests": dict(requests),
            }
            if requests is not None
            else {}
        ),
    }


def _ticker(instance: DagsterInstance, requests: Counter[str] | None) -> Callable[[], Figures]:
    """Makes a tick of the ingestion sensor of a code location that is loaded now, and tells of it."""
    from kwneuro_assets.definitions import build
    from kwneuro_assets.ingestion.sensor import SENSOR

    definitions = build(load_settings())
    sensor = definitions.resolve_sensor_def(SENSOR)

    def tick() -> Figures:
        before = _lists(requests)
        opened = build_sensor_context(
            instance=instance, instance_ref=instance.get_ref(), definitions=definitions, sensor_name=SENSOR
        )
        started = time.perf_counter()
        with opened as context:
            told = sensor.evaluate_tick(context)
        seconds = round(time.perf_counter() - started, 2)
        return {"seconds": seconds, "lists": _lists(requests) - before, "told": told.skip_message}

    return tick


def _until(tick: Callable[[], Figures], taken_in: Callable[[], int], wanted: int) -> list[Figures]:
    """Ticks until so many are taken in; gives up where that does not come nearer."""
    ticks: list[Figures] = []
    best, since = taken_in(), 0
    while best < wanted:
        ticks.append(tick())
        now = taken_in()
        best, since = (now, 0) if now > best else (best, since + 1)
        if since == STALLED:
            sys.exit(f"after {len(ticks)} ticks {best} of {wanted} are taken in: {ticks[-1]['told']}")
    return ticks


def _noted_requests(url: str) -> Counter[str] | None:
    """Counts all that this process asks of S3 through s3fs, by operation; None where the source is a folder."""
    if is_local(location(url)):
        return None
    from aiobotocore.client import AioBaseClient  # type: ignore[import-untyped]

    ask, seen = AioBaseClient._make_api_call, Counter[str]()

    async def noted(self: Any, operation: str, arguments: dict[str, Any]) -> Any:
        seen[operation] += 1
        return await ask(self, operation, arguments)

    AioBaseClient._make_api_call = noted
    return seen


def _lists(requests: Counter[str] | None) -> int:
    return sum(count for name, count in (requests or {}).items() if name.startswith("ListObjects"))


def _change(url: str, count: int) -> tuple[set[str], set[str]]:
    """Turn the b-vectors of some subjects and remove others, spread over all; says which."""
    chosen = [f"sub-{number:05}" for number in range(0, count, max(1, count // (CHANGED + REMOVED)))]
    changed, removed = set(chosen[0::2][:CHANGED]), set(chosen[1::2][:REMOVED])
    place = location(url)
    if is_local(place):
        for key in changed:
            (place / key / "dwi" / f"{key}_dwi.bvec").write_bytes(directions(0.1))
        for key in removed:
            shutil.rmtree(str(place / key))
        return changed, removed
    import boto3

    client = boto3.client("s3")  # another one than the sensor's, which must not know of it
    bucket, _, prefix = place.path.partition("/")
    for key in changed:
        client.put_object(Bucket=bucket, Key=f"{prefix}/{key}/dwi/{key}_dwi.bvec", Body=directions(0.1))
    for key in removed:
        for extension in ("nii.gz", "bval", "bvec"):
            client.delete_object(Bucket=bucket, Key=f"{prefix}/{key}/dwi/{key}_dwi.{extension}")
    return changed, removed


def _versions(instance: DagsterInstance) -> dict[str, str]:
    """By subject, the data version of its series that the event log has."""
    from kwneuro_assets.versioning.history import read_history

    known = instance.get_dynamic_partitions(PARTITIONS)
    return {
        key: record.data_version for key, record in read_history(instance, [], ("dwi",), known).records["dwi"].items()
    }


def _moved(before: Mapping[str, str], instance: DagsterInstance) -> set[str]:
    return {key for key, version in _versions(instance).items() if version != before[key]}


def _gone(instance: DagsterInstance) -> set[str]:
    from kwneuro_assets.ingestion.ledger import set_aside

    return {key for key, one in set_aside(instance, load_settings()).items() if one.mark == "removed"}


def _remembered(instance: DagsterInstance) -> int:
    """Bytes of what the looks keep in the instance."""
    from kwneuro_assets.dagster_internals import read_notes

    return sum(len(key) + len(value.encode()) for key, value in read_notes(instance, NOTES).items())


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


ACTIONS: dict[str, Callable[..., Figures]] = {"list": _list, "read": _read, "ticks": _ticks, "command": _command}


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in ACTIONS:
        print(json.dumps(ACTIONS[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])))
    else:
        main(sys.argv[1:])
