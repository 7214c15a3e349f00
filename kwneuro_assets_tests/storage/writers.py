"""Separate processes that write to a store: tests kill them, suspend them, or run them concurrently."""

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

from kwneuro_assets.cli.main import main
from kwneuro_assets.imaging import Dwi, GradientTable, MapSet, NotApplicable, Volume
from kwneuro_assets.imaging.content_hash import Value, data_version
from kwneuro_assets.storage import lease, remote_staging, retries
from kwneuro_assets.storage import store as store_module
from kwneuro_assets.storage.names import NAMES
from kwneuro_assets.storage.sidecar import Provenance, Sidecar
from kwneuro_assets.storage.stage import Stage
from kwneuro_assets.storage.staging import staged
from kwneuro_assets.storage.store import DerivativeStore, StoreError
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets_tests.testkit import small_dataset
from kwneuro_assets_tests.testkit.small_dataset import AFFINES, table

SUBJECT = SubjectKey("01")
ASSET = "dti"  # the store accepts any value type for an asset
ROOT_FILES = {"dataset_description.json", ".bidsignore", "README.md"}

Tuning = Mapping[str, float]
# The delay that a dead process causes to the next one: below a second instead of half a minute. Seconds.
QUICK_LEASE: Tuning = {"LEASE": 0.15, "HEARTBEAT": 0.04, "POLL": 0.02, "SETTLE": 0.05}
# No heartbeat after the first: a suspended process is never between reading the lock and writing a heartbeat.
NO_HEARTBEAT: Tuning = {**QUICK_LEASE, "HEARTBEAT": 1000.0}
# No process dies: waiting writers poll often.
QUICK_POLL: Tuning = {"POLL": 0.03}
SMALL_PARTS = 20_000  # bytes: the larger files below are uploaded in several parts

Send = Callable[[Any], None]


def tune(tuning: Tuning) -> None:
    """Set the constants of the lease, and small parts, in this process."""
    for name, seconds in tuning.items():
        setattr(lease, name, seconds)
    remote_staging.PART = SMALL_PARTS
    retries.FIRST_DELAY = 0.01


@cache
def value(number: int) -> Value:
    """A value that depends on `number`; four kinds alternate, with different files and sizes."""
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
    provenance = Provenance(f"number {number}", "1-00000000", version(number))
    store.write(asset, SUBJECT, value(number), provenance, b"a figure of number %d" % number)


def stored_number(store: DerivativeStore, asset: str = ASSET) -> int | None:
    """The number of the stored value, complete and verified; None if it is not in the store."""
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
    """All files of a store with these derivatives, each of which must be complete."""
    found = set(ROOT_FILES)
    for asset in assets:
        sidecar = store.check(asset, SUBJECT)
        found |= {f"{SUBJECT.folder}/{name}" for name in sidecar.files} | {str(NAMES[asset].sidecar(SUBJECT))}
    return found


_PROCESSES = multiprocessing.get_context("forkserver")
# Slow imports are done once, so that each process starts its work at once.
_PROCESSES.set_forkserver_preload(
    [
        __name__, "s3fs", "kwneuro_assets.cli.main", "kwneuro_assets.cli.console", "kwneuro_assets.definitions",
        "kwneuro_assets.figures.subject", "matplotlib.backends.backend_agg", "scipy.ndimage", "scipy.special",
    ]
)  # fmt: skip


class Writer:
    """A process that runs `work(send, *arguments)` and sends messages."""

    def __init__(
        self, work: Callable[..., None], *arguments: object, environment: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._messages, theirs = _PROCESSES.Pipe(duplex=False)
        variables = {**os.environ, **environment}
        self._process = _PROCESSES.Process(target=_run, args=(theirs, variables, work, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def next(self, seconds: float = 60) -> Any:
        """The next message. Raises TimeoutError, and EOFError if the process has ended."""
        if not self._messages.poll(seconds):
            raise TimeoutError
        return self._messages.recv()

    def rest(self) -> list[Any]:
        """All messages until the process ends. Raises AssertionError if it failed."""
        messages = []
        while True:
            try:
                messages.append(self.next())
            except EOFError:
                break
        self._process.join()
        assert self._process.exitcode in (0, -SIGKILL), messages
        return messages

    def kill(self) -> None:
        """End it at once (SIGKILL), with all processes that it started."""
        if self._process.is_alive():
            try:
                os.killpg(self._process.pid or 0, SIGKILL)
            except ProcessLookupError:  # it has not called setsid yet
                self._process.kill()
        self._process.join()

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def send(self, number: Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)


def _run(
    messages: Connection, environment: dict[str, str], work: Callable[..., None], arguments: Iterable[Any]
) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)  # the server's address is newer than the fork server
    work(messages.send, *arguments)


def write_forever(send: Send, url: str, first: int, tuning: Tuning) -> None:
    """Write ascending numbers; sends each twice, when its writing begins and when it is stored."""
    tune(tuning)
    store = DerivativeStore(url)
    number = first

    @contextmanager
    def reported(*arguments: Any) -> Iterator[Stage]:
        with staged(*arguments) as stage:
            send(number)
            yield stage

    store_module.staged = reported  # type: ignore[assignment, attr-defined]
    while True:
        write(store, number)
        send(number)
        number += 1


def write_all(send: Send, url: str, numbers: Iterable[int], tuning: Tuning) -> None:
    """Write these numbers; sends each when it is stored."""
    tune(tuning)
    store = DerivativeStore(url)
    for number in numbers:
        write(store, number)
        send(number)


def write_until_commit(send: Send, url: str, number: int, asset: str, tuning: Tuning) -> None:
    """Write all uncommitted files, send the asset, and wait for SIGUSR1 before the commit."""
    tune(tuning)
    store = DerivativeStore(url)
    commit = store._commit
    resumed = threading.Event()
    signal(SIGUSR1, lambda *_: resumed.set())

    def wait_and_commit(stage: Stage, asset: str, subject: SubjectKey, sidecar: Sidecar) -> None:
        send(asset)
        resumed.wait()
        commit(stage, asset, subject, sidecar)

    store._commit = wait_and_commit  # type: ignore[method-assign]
    write(store, number, asset)
    send("written")


def write_with_a_stop(send: Send, url: str, number: int, act: int, tuning: Tuning) -> None:
    """Write a value on S3, but suspend the process (SIGSTOP) before the given act of the commit.

    Sends the name of the act, and at the end the error or None.
    """
    tune(tuning)
    store = DerivativeStore(url)
    counted = itertools.count()

    def stop_before(kind: type, name: str) -> None:
        method = getattr(kind, name)

        def act_or_stop(self: object, *names: str) -> None:
            if next(counted) == act:
                send(" ".join([name, *names]))
                os.kill(os.getpid(), SIGSTOP)
            method(self, *names)

        setattr(kind, name, act_or_stop)

    stop_before(remote_staging._S3Stage, "require_lock")
    stop_before(remote_staging._S3Stage, "remove")
    stop_before(remote_staging._Upload, "complete")  # after the last check of the lease
    try:
        write(store, number)
    except retries.StorageError as error:
        send(str(error))
    else:
        send(None)


def run_command(send: Send, home: str, arguments: Sequence[str]) -> None:
    """Run the command line on the project folder `home`; sends each line that it prints."""
    tune(QUICK_LEASE)
    os.environ["KWNEURO_HOME"] = home
    os.chdir(home)

    class Sent(io.StringIO):
        def write(self, text: str) -> int:
            for line in filter(None, text.splitlines()):
                send(line)
            return super().write(text)

    with redirect_stdout(Sent()), redirect_stderr(Sent()):
        main(arguments)
