"""Processes of their own that write to a store: tests kill them, stop them, or let them meet."""

from __future__ import annotations

import io
import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from multiprocessing.connection import Connection
from signal import SIGKILL, SIGSTOP, SIGUSR1, Signals, signal
from types import MappingProxyType
from typing import Any

import numpy as np

from kwneuro_assets.cli import main
from kwneuro_assets.imaging import Dwi, GradientTable, MapSet, NotApplicable, Volume
from kwneuro_assets.storage import lease, patience, remote_staging
from kwneuro_assets.storage import store as store_module
from kwneuro_assets.storage.names import NAMES
from kwneuro_assets.storage.sidecar import Provenance, Sidecar
from kwneuro_assets.storage.staging import Stage, staged
from kwneuro_assets.storage.store import DerivativeStore, StoreError
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets.versioning.content import Value, data_version
from kwneuro_assets_tests import small_dataset
from kwneuro_assets_tests.small_dataset import AFFINES, table

SUBJECT = SubjectKey("01")
ASSET = "dti"  # the store does not ask which type of value an asset has
ROOT_FILES = {"dataset_description.json", ".bidsignore", "README.md"}

Tuning = Mapping[str, float]
# What a process that died costs the next one: a second where it is half a minute in earnest. Seconds.
QUICK_LEASE: Tuning = {"LEASE": 0.15, "BEAT": 0.04, "POLL": 0.02, "SETTLE": 0.05}
# No sign of life but the first: who stands still does not do so between a look at the lock and a beat.
NO_BEAT: Tuning = {**QUICK_LEASE, "BEAT": 1000.0}
# Nobody dies: writers that wait ask often.
QUICK_POLL: Tuning = {"POLL": 0.03}
SMALL_PARTS = 20_000  # bytes: the larger files below are uploaded in several parts

Tell = Callable[[Any], None]


def tune(tuning: Tuning) -> None:
    """Set the constants of the lease, and parts that are small, in this process."""
    for name, seconds in tuning.items():
        setattr(lease, name, seconds)
    remote_staging.PART = SMALL_PARTS
    patience.FIRST_DELAY = 0.01


@cache
def value(number: int) -> Value:
    """A value that no other number has; four kinds in turn, with other files and sizes."""
    random = np.random.default_rng(number)

    def noise(*shape: int) -> Volume:
        return Volume(random.random(shape, np.float32), AFFINES["oblique"])

    kind = number % 4
    if kind == 0:
        return MapSet({"fa": noise(24, 24, 24), "md": noise(24, 24, 24)})
    if kind == 1:
        directions = table()
        image = small_dataset.signal(directions) + random.random(len(directions.bvals), np.float32)
        gradients = GradientTable(directions.bvals, directions.world, "world")
        return Dwi(Volume(image, AFFINES["oblique"]), gradients)
    if kind == 2:
        return MapSet({"fa": noise(16, 16, 16), "rd": noise(16, 16, 16), "evals": noise(16, 16, 16, 3)})
    return NotApplicable(f"number {number} has one shell")


@cache
def version(number: int) -> str:
    return data_version(value(number))


def write(store: DerivativeStore, number: int, asset: str = ASSET) -> None:
    made = Provenance(f"number {number}", "1-00000000", version(number))
    store.write(asset, SUBJECT, value(number), made, b"a picture of number %d" % number)


def standing(store: DerivativeStore, asset: str = ASSET) -> int | None:
    """The number of the value that stands, whole and verified; None where it is not in the store."""
    try:
        found, sidecar = store.read(asset, SUBJECT)
    except StoreError as error:
        if "is not in the store" in str(error):
            return None
        raise
    number = int(sidecar.provenance.description.removeprefix("number "))
    assert data_version(found) == sidecar.data_version == version(number)
    return number


def names_of(store: DerivativeStore, *assets: str) -> set[str]:
    """All files that a store with these derivatives, each of them whole, should hold."""
    found = set(ROOT_FILES)
    for asset in assets:
        sidecar = store.check(asset, SUBJECT)
        found |= {f"{SUBJECT.folder}/{name}" for name in sidecar.files} | {str(NAMES[asset].sidecar(SUBJECT))}
    return found


_PROCESSES = multiprocessing.get_context("forkserver")
# What takes seconds to import is imported once: the processes themselves begin at once, with what they do.
_PROCESSES.set_forkserver_preload(
    [
        __name__, "s3fs", "kwneuro_assets.cli", "kwneuro_assets.console", "kwneuro_assets.definitions",
        "kwneuro_assets.quality.figures", "matplotlib.backends.backend_agg", "scipy.ndimage", "scipy.special",
    ]
)  # fmt: skip


class Writer:
    """A process that runs `work(tell, *arguments)` and tells what it does."""

    def __init__(
        self, work: Callable[..., None], *arguments: object, environment: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._told, theirs = _PROCESSES.Pipe(duplex=False)
        variables = {**os.environ, **environment}
        self._process = _PROCESSES.Process(target=_run, args=(theirs, variables, work, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def next(self, seconds: float = 60) -> Any:
        """What it tells next. Raises TimeoutError, and EOFError where it has ended."""
        if not self._told.poll(seconds):
            raise TimeoutError
        return self._told.recv()

    def rest(self) -> list[Any]:
        """All that it tells until it ends. Raises AssertionError where that was in an error."""
        told = []
        while True:
            try:
                told.append(self.next())
            except EOFError:
                break
        self._process.join()
        assert self._process.exitcode in (0, -SIGKILL), told
        return told

    def kill(self) -> None:
        """End it at once (SIGKILL), whatever it does, with all that it started."""
        if self._process.is_alive():
            try:
                os.killpg(self._process.pid or 0, SIGKILL)
            except ProcessLookupError:  # it has only just begun
                self._process.kill()
        self._process.join()

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def send(self, number: Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)


def _run(told: Connection, environment: dict[str, str], work: Callable[..., None], arguments: Iterable[Any]) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)  # the server's address is newer than the process that this one was forked from
    work(told.send, *arguments)


def write_for_ever(tell: Tell, url: str, first: int, tuning: Tuning) -> None:
    """Write number after number; tells each twice, when its writing begins and when it stands."""
    tune(tuning)
    store = DerivativeStore(url)
    number = first

    @contextmanager
    def told(*where: Any) -> Iterator[Stage]:
        with staged(*where) as stage:
            tell(number)
            yield stage

    store_module.staged = told  # type: ignore[assignment, attr-defined]
    while True:
        write(store, number)
        tell(number)
        number += 1


def write_all(tell: Tell, url: str, numbers: Iterable[int], tuning: Tuning) -> None:
    """Write these numbers, and tell each that stands."""
    tune(tuning)
    store = DerivativeStore(url)
    for number in numbers:
        write(store, number)
        tell(number)


def write_until_files_are_safe(tell: Tell, url: str, number: int, asset: str, tuning: Tuning) -> None:
    """Write all files unseen, tell it, and wait for SIGUSR1 before they are committed."""
    tune(tuning)
    store = DerivativeStore(url)
    commit = store._commit
    going_on = threading.Event()
    signal(SIGUSR1, lambda *_: going_on.set())

    def wait_and_commit(stage: Stage, asset: str, subject: SubjectKey, sidecar: Sidecar) -> None:
        tell(asset)
        going_on.wait()
        commit(stage, asset, subject, sidecar)

    store._commit = wait_and_commit  # type: ignore[method-assign]
    write(store, number, asset)
    tell("written")


def write_with_a_stop(tell: Tell, url: str, number: int, act: int, tuning: Tuning) -> None:
    """Write a value on S3, but stand still (SIGSTOP) before the given act of its commit; tells which one that is,
    and at the end the error, or None."""
    tune(tuning)
    store = DerivativeStore(url)
    counted = itertools.count()

    def stop_before(kind: type, name: str) -> None:
        method = getattr(kind, name)

        def act_or_stop(self: object, *names: str) -> None:
            if next(counted) == act:
                tell(" ".join([name, *names]))
                os.kill(os.getpid(), SIGSTOP)
            method(self, *names)

        setattr(kind, name, act_or_stop)

    stop_before(remote_staging._S3Stage, "require_alone")
    stop_before(remote_staging._S3Stage, "remove")
    stop_before(remote_staging._Upload, "complete")  # behind the last look at the lease
    try:
        write(store, number)
    except patience.StorageError as error:
        tell(str(error))
    else:
        tell(None)


def run_command(tell: Tell, home: str, arguments: Sequence[str]) -> None:
    """The command line, on the project folder `home`; tells each line that it prints."""
    tune(QUICK_LEASE)
    os.environ["KWNEURO_HOME"] = home
    os.chdir(home)

    class Told(io.StringIO):
        def write(self, text: str) -> int:
            for line in filter(None, text.splitlines()):
                tell(line)
            return super().write(text)

    with redirect_stdout(Told()), redirect_stderr(Told()):
        main(arguments)
