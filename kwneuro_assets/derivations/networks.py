"""The state in which the networks of others run: quiet, repeatable, with a set number of threads."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout


@contextmanager
def inference(threads: int | None = None) -> Iterator[None]:
    """PyTorch without gradients, repeatable, on `threads` threads, with nothing printed. All is put back after.

    `threads` defaults to `thread_count()`. The tools write notes and progress bars to stdout and stderr, some of
    them on import, so their imports belong inside too.
    """
    import torch

    from kwneuro_assets.threads import thread_count

    before = torch.get_num_threads()
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Most weights of HD-BET 1 are denormal numbers, which a processor multiplies some 25 times more slowly. Threads
        # take this over from the one that starts them, so it comes before PyTorch starts its own.
        torch.set_flush_denormal(True)
        torch.set_num_threads(threads or thread_count())
        try:
            # On a GPU the benchmark of cuDNN would pick another convolution on another day.
            with torch.backends.cudnn.flags(deterministic=True, benchmark=False), torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(before)
            torch.set_flush_denormal(False)


def network_threads(count: int) -> ThreadPoolExecutor:
    """Threads in which networks run with numbers too small for the normal range (below 1e-38) taken as zero.

    Whole layers of a trained network can be such numbers, and a processor computes with them a hundred times
    slower: HD-BET 1 takes four times as long. The mode belongs to a thread and to those that it starts, so fresh
    threads have it throughout, PyTorch's own below them included, and nobody else's arithmetic changes.
    """
    import torch

    return ThreadPoolExecutor(count, initializer=torch.set_flush_denormal, initargs=(True,))


@contextmanager
def needs_extra(name: str) -> Iterator[None]:
    """Turns a failed import into an error that names the extra of this package to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.name} is not installed: pip install 'kwneuro-assets[{name}]'", name=error.name
        ) from error
