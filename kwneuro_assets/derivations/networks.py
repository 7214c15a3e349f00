"""The environment of third-party networks: deterministic, quiet, one thread per forward pass."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO


@contextmanager
def inference() -> Iterator[None]:
    """PyTorch without gradients, deterministic, with one thread per forward pass; restores the settings on exit.

    PyTorch selects convolution algorithms by the number of threads, and these round differently: 40 % of HD-BET 1's
    probabilities differ between one and two threads, by up to 1e-5, which changes voxels at the edge of the brain.
    """
    import torch

    before = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        try:
            with _convolutions_on_a_gpu(), torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(before)


def _convolutions_on_a_gpu() -> AbstractContextManager[None]:
    """A context in which cuDNN gives the same bits in each run, in the precision of a CPU.

    Its benchmark may select another convolution in another run, and TF32 has ten bits instead of 23.
    """
    import torch

    context: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, deterministic=True, benchmark=False, allow_tf32=False
    )
    return context


def network_threads(count: int) -> ThreadPoolExecutor:
    """A pool of `count` threads that treat denormal numbers (below 1e-38) as zero.

    Nearly half of HD-BET 1's weights are denormal, and arithmetic with them is so slow that the network takes seven
    times as long. The mode belongs to a thread and to the threads that it starts. In new threads it therefore includes
    PyTorch's threads, and does not affect the rest of the process.
    """
    import torch

    return ThreadPoolExecutor(count, initializer=torch.set_flush_denormal, initargs=(True,))


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """In this thread, denormal numbers count as zero within the context, and not afterwards.

    For a single forward pass; see `network_threads`.
    """
    import torch

    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def quiet() -> Iterator[None]:
    """Discards what this thread writes to stdout and stderr, but not the output of other threads (a progress bar).

    Some tools print messages on import, so import them inside this context, too.
    """
    thread = threading.get_ident()
    with (
        redirect_stdout(_WithoutThread(sys.stdout, thread)),
        redirect_stderr(_WithoutThread(sys.stderr, thread)),
    ):
        yield


class _WithoutThread:
    """A stream that discards the output of one thread."""

    def __init__(self, stream: TextIO, thread: int) -> None:
        self._stream = stream
        self._thread = thread

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._thread else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def needs_extra(name: str) -> Iterator[None]:
    """Converts ModuleNotFoundError in this context to one that names the extra of this package to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.name} is not installed: pip install 'kwneuro-assets[{name}]'", name=error.name
        ) from error
