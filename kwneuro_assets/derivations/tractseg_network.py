"""TractSeg's networks: configuration, weights, and one forward pass.

The weights decide how wide a network is: those of TractSeg have 64 filters, those of the demo fewer.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kwneuro_assets.derivations.devices import loaded
from kwneuro_assets.derivations.network_files import load_weights
from kwneuro_assets.derivations.networks import denormals_as_zero, inference, needs_extra, quiet
from kwneuro_assets.imaging import InvalidData

PEAKS = 3  # that the networks use, each with three components


@dataclass(frozen=True)
class TractNetwork:
    """A trained network of TractSeg.

    Attributes:
        config: TractSeg's configuration.
        weights: The file of its weights.
        bundles: The names of what it segments: bundles, or endings of bundles.
    """

    config: Any
    weights: Path
    bundles: tuple[str, ...]

    @property
    def classes(self) -> int:
        """The number of its outputs: one for each name, or three if the outputs are vectors."""
        return int(self.config.NR_OF_CLASSES)

    @property
    def cube(self) -> int:
        """The number of voxels along each edge of the cube that it takes its slices from."""
        return int(self.config.INPUT_DIM[0])

    def module(self, device: str) -> Any:
        """The PyTorch module on that device, loaded once in this process.

        Raises InvalidData if the file has no weights, or those of another network.
        """
        file = self.weights.stat()
        key = ("tractseg", self.config.EXP_NAME, self.classes, self.weights, file.st_size, file.st_mtime_ns, device)
        return loaded(key, lambda: _module(self).to(device))

    def outputs(self, module: Any, slices: Any) -> Any:
        """Probabilities, or vectors, (n, classes, a, b) of the slices (n, 9, a, b), both PyTorch tensors."""
        with denormals_as_zero():
            outputs = module(slices)
        # TractSeg's probabilities may be denormal.
        return outputs if self.config.EXPERIMENT_TYPE == "peak_regression" else outputs.sigmoid()


def tract_network(name: str, classes: str, weights: Path) -> TractNetwork:
    """The network of TractSeg's configuration `name` for its set of bundles `classes`.

    Raises FileNotFoundError if the file of weights is missing; ModuleNotFoundError if TractSeg is not installed.
    """
    if not weights.is_file():
        raise FileNotFoundError(f"TractSeg's network weights do not exist: {weights}")
    with needs_extra("tractseg"), inference(), quiet():
        from tractseg.data.dataset_specific_utils import get_bundle_names, get_correct_input_dim
        from tractseg.libs.exp_utils import get_correct_labels_type

        config = importlib.import_module(f"tractseg.experiments.pretrained_models.{name}").Config()
    bundles = tuple(get_bundle_names(classes)[1:])  # the first is the background
    config.CLASSES = classes
    config.NR_OF_CLASSES = len(bundles) * (3 if config.EXPERIMENT_TYPE == "peak_regression" else 1)
    config.INPUT_DIM = get_correct_input_dim(config)
    config.VERBOSE = False
    return TractNetwork(get_correct_labels_type(config), weights, bundles)


def _module(network: TractNetwork) -> Any:
    """The module with its weights, on the CPU, built as TractSeg's `BaseModel` does for inference."""
    config = network.config
    expected = f"TractSeg's, for {network.classes} classes"
    stored = load_weights(network.weights, expected)
    with quiet():
        kind = getattr(importlib.import_module(f"tractseg.models.{config.MODEL.lower()}"), config.MODEL)
    # TractSeg's own loading silently leaves random weights if the file lacks the key `unet`.
    try:
        state = stored["unet"]
        module = kind(
            n_input_channels=3 * PEAKS,
            n_classes=network.classes,
            n_filt=_filters(state),
            batchnorm=config.BATCH_NORM,
            dropout=config.USE_DROPOUT,
            upsample=config.UPSAMPLE_TYPE,
        )
        module.load_state_dict(state)  # weights of lower precision become float32
    except Exception as error:  # weights of another network, or no weights
        raise InvalidData(
            "network weights",
            expected=expected,
            found=f"{type(error).__name__}: {str(error).splitlines()[0]}",
            remedy="Remove the file and fetch it again.",
        ).at(network.weights) from error
    return module.eval()


def _filters(state: Any) -> int:
    """The number of filters of the first convolution. Raises StopIteration if there is none."""
    return int(next(tensor.shape[0] for tensor in state.values() if tensor.ndim == 4))
