"""Times the ingestion sensor over a dataset of thousands of subjects, on a disk and on S3, and checks its result.

    make bench ARGS="ingestion"                                  # 10,000 subjects on a disk
    make bench ARGS="ingestion --s3 --subjects 1000"             # also on S3; the server is moto on this machine
    make bench ARGS="ingestion --scratch DIR --json out.json"    # stores the dataset in DIR for later benchmarks

The instance is new, on SQLite. Ticks run one after the other in one process, as in a code server, with Dagster's
checks: first until all subjects are ingested, then without changes, then with some changed b-vectors and some removed
subjects. The DWIs are tiny, so that the times are those of everything but reading; the time of reading and hashing the
same files is measured separately.
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
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from dagster import DagsterInstance, build_sensor_context
from rich.console import Console
from rich.table import Table
from upath import UPath

from kwneuro_assets.cli.project_folder import use_project_folder
from kwneuro_assets.settings import load_settings
from kwneuro_assets.storage.location import is_local, location
from kwneuro_assets.versioning.partitions import PARTITIONS
from kwneuro_assets_tests.testkit.s3_server import S3Server, counted_requests

GRID, B0_VOLUMES, DIRECTIONS = (4, 4, 4), 2, 10
CHANGED = REMOVED = 50
READ_ALONE = 1000  # subjects
IDLE_TICKS = 3
UPLOADS_AT_ONCE = 32
READS_AT_ONCE = 4  # the maximum of the sensor
STALLED = 20  # consecutive ticks without a newly ingested subject
DESCRIPTION = "dataset_description.json"  # written last
SETTINGS = "ingestion: {settle_seconds: 0}\n"
INDEX_PREFIX = "kwneuro_assets/source"  # prefix of the ingest index in the instance
ROWS = {
    "write_seconds": "dataset written, s",
    "objects": "files",
    "list_find_seconds": "LIST of all objects by s3fs find, s",
    "list_pages_seconds": "LIST of all objects by pages, s",
    "read_alone_seconds": f"only reading and hashing, {READ_ALONE:,} subjects, s",
    "first_seconds": "first tick, s",
    "ticks": "ticks until all subjects are ingested",
    "longest_seconds": "longest tick, s",
    "per_1000_seconds": "all ticks, per 1,000 subjects, s",
    "idle_seconds": "tick without changes, s (median of 3)",
    "changed_seconds": f"tick with {CHANGED} changed and {REMOVED} removed, s",
    "changed_ticks": "ticks for these changes",
    "command_seconds": "command without changes, new process, s",
    "command_peak_mb": "peak memory of the command, MB",
    "peak_mb": "peak memory of the ticks, MB",
    "first_lists": "LIST requests of the first tick",
    "idle_lists": "LIST requests of a tick without changes",
    "idle_lists_per_1000": "the same per 1,000 objects",
    "requests": "all requests, by operation",
    "index_mb": "ingest index, MB",
    "index_bytes_per_subject": "ingest index per subject, bytes",
    "instance_mb": "the instance's databases, MB",
}
Results = dict[str, Any]


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=10_000)
    parser.add_argument("--s3", action="store_true", help="also on S3")
    parser.add_argument("--only-s3", action="store_true", help="only on S3")
    parser.add_argument("--scratch", type=Path, help="folder that stores the dataset for later benchmarks")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args(words)
    places = {} if arguments.only_s3 else {"disk": _disk}
    places |= {"S3": _s3} if arguments.s3 or arguments.only_s3 else {}
    found: dict[str, Results] = {}
    with tempfile.TemporaryDirectory() as temporary:
        stored = (arguments.scratch or Path(temporary)).absolute() / f"source-{arguments.subjects}"
        seconds = _timed(lambda: _write_once(stored, arguments.subjects))
        for name, place in places.items():
            home = Path(temporary) / name
            with place(stored, home / "source") as (url, variables, results):
                found[name] = {"write_seconds": seconds, "objects": 3 * arguments.subjects + 1, **results}
                found[name] |= _measured(home, url, variables, arguments.subjects)
    _print(found)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    if not all(one["correct"] for one in found.values()):
        sys.exit("the sensor did not ingest the expected changes")


def dataset(subjects: int) -> Iterator[tuple[str, bytes]]:
    """The path and content of every file: one DWI per subject, each with other content."""
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
    yield DESCRIPTION, b'{"Name": "many subjects", "BIDSVersion": "1.10.0"}\n'


def directions(rotation: float) -> bytes:
    """A bvec file of directions on a spiral over half a sphere, rotated about its axis by `rotation` radians."""
    height = 1 - (np.arange(DIRECTIONS) + 0.5) / DIRECTIONS
    angle = np.arange(DIRECTIONS) * np.pi * (3 - np.sqrt(5)) + rotation
    radius = np.sqrt(1 - height**2)
    table = np.zeros((3, B0_VOLUMES + DIRECTIONS))
    table[:, B0_VOLUMES:] = radius * np.cos(angle), radius * np.sin(angle), height
    return "".join(" ".join(f"{value:.6f}" for value in row) + "\n" for row in table).encode()


def _write_once(root: Path, subjects: int) -> None:
    if (root / DESCRIPTION).exists():
        return
    for name, content in dataset(subjects):
        path = root / name
        if path.suffix == ".gz":  # the first file of a subject
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


Place = Iterator[tuple[str, Mapping[str, str], Results]]


@contextmanager
def _disk(stored: Path, source: Path) -> Place:
    shutil.copytree(stored, source)
    yield str(source), {}, {}


@contextmanager
def _s3(stored: Path, source: Path) -> Place:
    with S3Server() as server:
        bucket = server.new_bucket()
        files = [path for path in stored.rglob("*") if path.is_file()]

        def put(path: Path) -> None:
            key = f"study/{path.relative_to(stored).as_posix()}"
            server.client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())

        def put_all() -> None:
            with ThreadPoolExecutor(UPLOADS_AT_ONCE) as pool:
                list(pool.map(put, files))

        seconds = _timed(put_all)
        url = f"s3://{bucket}/study"
        results = {"write_seconds": seconds, **_in_new_process("list", Path(), url, server.environment())}
        yield url, server.environment(), results


def _measured(home: Path, url: str, variables: Mapping[str, str], subjects: int) -> Results:
    results = _in_new_process("read", home, url, variables)
    results |= _in_new_process("ticks", home, url, variables, subjects)
    command = _in_new_process("command", home, url, variables)
    return {**results, **command, "correct": results["correct"] and command["correct"]}


def _print(found: dict[str, Results]) -> None:
    table = Table("", *found, box=None, pad_edge=False)
    for key, title in ROWS.items():
        if any(key in results for results in found.values()):
            table.add_row(title, *(_cell(results.get(key)) for results in found.values()))
    table.add_row("as expected", *("yes" if results["correct"] else "NO" for results in found.values()))
    Console(width=110).print(table)
    for name, results in found.items():
        print(f"{name}: " + " | ".join(f"{what}: {message}" for what, message in results["messages"].items()))


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count:,} {name}" for name, count in value.items()) or "none"
    return "" if value is None else f"{value:,}"


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return round(time.perf_counter() - started, 2)


def _environment(url: str, variables: Mapping[str, str]) -> dict[str, str]:
    foreign = ("KWNEURO_", "DAGSTER_", "AWS_")
    own = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**own, **variables, "KWNEURO_SOURCE": url}


def _in_new_process(what: str, home: Path, url: str, variables: Mapping[str, str], *words: object) -> Any:
    """The result of one of ACTIONS in a new process, in the environment of the project folder `home`."""
    command = [sys.executable, "-m", "benchmarks.ingestion", what, str(home), *map(str, words)]
    done = subprocess.run(command, env=_environment(url, variables), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{what} failed")
    return json.loads(done.stdout.splitlines()[-1])


def _list(home: Path) -> Results:
    """The time in which the server lists all objects, as a reference."""
    import boto3
    import s3fs

    place = location(os.environ["KWNEURO_SOURCE"])
    bucket, _, prefix = place.path.partition("/")
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    fs = s3fs.S3FileSystem(skip_instance_cache=True)
    return {
        "list_pages_seconds": _timed(lambda: [page["KeyCount"] for page in pages]),
        "list_find_seconds": _timed(lambda: fs.find(place.path, detail=True)),
    }


def _read(home: Path) -> Results:
    """The time of reading, decompressing and hashing the files of some subjects."""
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


def _command(home: Path) -> Results:
    """The command `ingest` in a new process, without changes in the source."""
    command = [sys.executable, "-m", "kwneuro_assets.cli", "--home", str(home), "ingest", "--json"]
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    report = json.loads(done.stdout)
    return {
        "command_seconds": round(time.perf_counter() - started, 2),
        "command_peak_mb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3),
        "correct": not (report["added"] or report["changed"]),
    }


def _ticks(home: Path, subjects: str) -> Results:
    """Results of the ticks in one process, as in a code server."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "settings.yaml").write_text(SETTINGS)
    logging.disable(logging.INFO)  # one line per new subject
    settings = use_project_folder(home)
    count = int(subjects)
    remote = not is_local(location(settings.source.url))
    counted = counted_requests() if remote else nullcontext(Counter[str]())
    with counted as requests, DagsterInstance.get() as instance:
        tick = _ticker(instance, requests)
        first = _until(tick, lambda: len(instance.get_dynamic_partitions(PARTITIONS)), count)
        idle = [tick() for _ in range(IDLE_TICKS)]
        before, changed, removed = _versions(instance), *_change(settings.source.url, count)
        later = _until(
            tick, lambda: len(_changed(before, instance)) + len(_removed(instance)), len(changed) + len(removed)
        )
        correct = _changed(before, instance) == changed and _removed(instance) == removed
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        index_bytes = _index_bytes(instance)
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
        "index_mb": round(index_bytes / 1e6, 2),
        "index_bytes_per_subject": round(index_bytes / count),
        "instance_mb": round(_size(Path(os.environ["DAGSTER_HOME"])) / 1e6, 1),
        "messages": {"first": first[0]["message"], "no change": idle[-1]["message"], "changed": later[-1]["message"]},
        "correct": correct,
        **(
            {
                "first_lists": first[0]["lists"],
                "idle_lists": lists,
                "idle_lists_per_1000": round(1000 * lists / (3 * count), 2),
                "requests": dict(requests),
            }
            if remote
            else {}
        ),
    }


def _ticker(instance: DagsterInstance, requests: Counter[str]) -> Callable[[], Results]:
    """A function that executes a tick of the ingestion sensor and returns its results; loads a code location."""
    from kwneuro_assets.automation.ingestion_sensor import SENSOR
    from kwneuro_assets.definitions import build

    definitions = build(load_settings())
    sensor = definitions.resolve_sensor_def(SENSOR)

    def tick() -> Results:
        before = _lists(requests)
        opened = build_sensor_context(
            instance=instance, instance_ref=instance.get_ref(), definitions=definitions, sensor_name=SENSOR
        )
        started = time.perf_counter()
        with opened as context:
            data = sensor.evaluate_tick(context)
        seconds = round(time.perf_counter() - started, 2)
        return {"seconds": seconds, "lists": _lists(requests) - before, "message": data.skip_message}

    return tick


def _until(tick: Callable[[], Results], ingested: Callable[[], int], wanted: int) -> list[Results]:
    """Execute ticks until `wanted` subjects are ingested; exits after STALLED ticks without progress."""
    ticks: list[Results] = []
    best, stalled = ingested(), 0
    while best < wanted:
        ticks.append(tick())
        now = ingested()
        best, stalled = (now, 0) if now > best else (best, stalled + 1)
        if stalled == STALLED:
            sys.exit(f"after {len(ticks)} ticks, {best} of {wanted} subjects are ingested: {ticks[-1]['message']}")
    return ticks


def _lists(requests: Counter[str]) -> int:
    return sum(count for name, count in requests.items() if name.startswith("ListObjects"))


def _change(url: str, count: int) -> tuple[set[str], set[str]]:
    """Rotate the b-vectors of some subjects and remove others, evenly spaced; returns both sets."""
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

    client = boto3.client("s3")  # not the sensor's client, whose cache must not see the change
    bucket, _, prefix = place.path.partition("/")
    for key in changed:
        client.put_object(Bucket=bucket, Key=f"{prefix}/{key}/dwi/{key}_dwi.bvec", Body=directions(0.1))
    for key in removed:
        for extension in ("nii.gz", "bval", "bvec"):
            client.delete_object(Bucket=bucket, Key=f"{prefix}/{key}/dwi/{key}_dwi.{extension}")
    return changed, removed


def _versions(instance: DagsterInstance) -> dict[str, str]:
    """The data version of `dwi` in the event log, by subject."""
    from kwneuro_assets.versioning.history import read_history

    known = instance.get_dynamic_partitions(PARTITIONS)
    return {
        key: record.data_version for key, record in read_history(instance, [], ("dwi",), known).records["dwi"].items()
    }


def _changed(before: Mapping[str, str], instance: DagsterInstance) -> set[str]:
    return {key for key, version in _versions(instance).items() if version != before[key]}


def _removed(instance: DagsterInstance) -> set[str]:
    from kwneuro_assets.ingestion.ingest_index import unusable_subjects

    return {key for key, one in unusable_subjects(instance, load_settings()).items() if one.problem == "removed"}


def _index_bytes(instance: DagsterInstance) -> int:
    """The size of the ingest index in the instance."""
    from kwneuro_assets.versioning.dagster_internals import read_values

    return sum(len(key) + len(value.encode()) for key, value in read_values(instance, INDEX_PREFIX).items())


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


ACTIONS: dict[str, Callable[..., Results]] = {"list": _list, "read": _read, "ticks": _ticks, "command": _command}


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in ACTIONS:
        print(json.dumps(ACTIONS[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])))
    else:
        main(sys.argv[1:])
