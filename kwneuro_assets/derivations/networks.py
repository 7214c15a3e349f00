"""The state in which the networks of others run: repeatable, quiet, one thread to each pass."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO


@contextmanager
def inference() -> Iterator[None]:
    """PyTorch without gradients, repeatable, one thread to each pass; put back after.

    PyTorch chooses its convolutions by the number of threads, and they round differently: of HD-BET 1's probabilities
    two in five differ between one thread and two, by up to 1e-5, enough to turn a voxel at the brain's edge.
    """
    import torch

    before = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        try:
            # On a GPU the benchmark of cuDNN would pick another convolution on another day.
            with torch.backends.cudnn.flags(deterministic=True, benchmark=False), torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(before)


def network_threads(count: int) -> ThreadPoolExecutor:
    """Threads in which networks run with denormal numbers (below 1e-38) taken as zero.

    Nearly half of HD-BET 1's weights are denormal, and a processor computes with them so slowly that the whole
    takes seven times as long. The mode belongs to a thread and to those that it starts: in fresh threads it holds
    throughout, PyTorch's own below them included, and nobody else's arithmetic changes.
    """
    import torch

    return ThreadPoolExecutor(count, initializer=torch.set_flush_denormal, initargs=(True,))


@contextmanager
def quiet() -> Iterator[None]:
    """Drops what this thread writes to stdout and stderr; other threads, with a progress bar say, are still heard.

    The tools print notes, some of them on import, so their imports belong inside too.
    """
    thread = threading.get_ident()
    with (
        redirect_stdout(_Without(sys.stdout, thread)),
        redirect_stderr(_Without(sys.stderr, thread)),
    ):
        yield


class _Without:
    """A stream without what one thread writes to it."""

    def __init__(self, stream: TextIO, thread: int) -> None:
        self._stream = stream
        self._thread = thread

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._thread else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def needs_extra(name: str) -> Iterator[None]:
    """Turns a failed import into an error that names the extra of this package to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.name} is not installed: pip install 'kwneuro-assets[{name}]'", name=error.name
        ) from error
