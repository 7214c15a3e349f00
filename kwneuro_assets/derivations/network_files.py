"""Safe loading of network weights: files from the internet or a mirror cannot run code.

PyTorch's files are pickles, and a pickle can call any function. nnU-Net unpickles its files without restrictions, and
builds its network from the classes that `plans.json` names.
"""

from __future__ import annotations

import json
import pickle
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kwneuro_assets.imaging import InvalidData

_DATASET, _PLANS, _CHECKPOINT = "dataset.json", "plans.json", "fold_all/checkpoint_final.pth"
NNUNET_FILES = (_DATASET, _PLANS, _CHECKPOINT)  # of a model with one fold, trained on all data
_NEEDED = {"network_weights", "trainer_name", "init_args"}
_USED = {*_NEEDED, "inference_allowed_mirroring_axes"}
_NETWORK_CLASS = re.compile(r"dynamic_network_architectures\.architectures\.\w+\.\w+")
_LAYER_CLASS = re.compile(r"torch\.nn\.(modules\.\w+\.)?\w+")
_REFUSED_GLOBAL = re.compile(r"\bGLOBAL ([\w.]+)")
_REMEDY = "Remove the file and fetch it again from a trusted source."


def load_weights(path: Path, expected: str) -> Any:
    """The content of a PyTorch weights file: tensors on the CPU, numbers, strings and containers of them.

    Raises InvalidData, with the file, what was `expected` and the reason, if the file holds anything else; nothing of
    it is run.
    """
    import torch

    # For NumPy numbers in training logs. Never removed: this is process-wide, and other threads may be loading, too.
    torch.serialization.add_safe_globals(_numpy_globals())
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types of errors
        refused = InvalidData("network weights", expected=expected, found=_reason(error), remedy=_REMEDY)
        raise refused.at(path) from error


@contextmanager
def safe_nnunet_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder for nnU-Net's predictor with the checked content of `folder`, which cannot run code.

    The parts of the checkpoint that prediction needs are written to a new file, so that nnU-Net opens no downloaded
    file. Raises InvalidData if a file is not one that nnU-Net writes.
    """
    import torch

    checkpoint = load_weights(folder / _CHECKPOINT, "a checkpoint of nnU-Net without code")
    if not isinstance(checkpoint, dict) or not checkpoint.keys() >= _NEEDED:
        raise InvalidData(
            "network weights",
            expected=f"a checkpoint of nnU-Net with {', '.join(sorted(_NEEDED))}",
            found=", ".join(map(str, checkpoint)) if isinstance(checkpoint, dict) else f"a {type(checkpoint).__name__}",
            remedy=_REMEDY,
        ).at(folder / _CHECKPOINT)
    plans = _read_json(folder / _PLANS)
    _require_known_classes(plans, folder / _PLANS)
    with tempfile.TemporaryDirectory(prefix="kwneuro-nnunet-") as scratch:
        copy = Path(scratch)
        (copy / _CHECKPOINT).parent.mkdir()
        torch.save({name: value for name, value in checkpoint.items() if name in _USED}, copy / _CHECKPOINT)
        del checkpoint
        (copy / _PLANS).write_text(json.dumps(plans), encoding="utf-8")
        (copy / _DATASET).write_text(json.dumps(_read_json(folder / _DATASET)), encoding="utf-8")
        yield copy


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidData("network files", expected="JSON", found=str(error), remedy=_REMEDY).at(path) from None


def _require_known_classes(plans: Any, path: Path) -> None:
    """Raises InvalidData if `plans` names other classes than known networks: nnU-Net imports and calls them."""
    for architecture in _architectures(plans):
        arguments = architecture.get("arch_kwargs") or {}
        names = [(_NETWORK_CLASS, architecture.get("network_class_name"))]
        names += [(_LAYER_CLASS, arguments.get(key)) for key in architecture.get("_kw_requires_import") or ()]
        for known, name in names:
            if name is not None and not known.fullmatch(str(name)):
                raise InvalidData(
                    "network files",
                    expected="networks of dynamic_network_architectures with layers of torch.nn",
                    found=f"{name}",
                    remedy=_REMEDY,
                ).at(path)


def _architectures(tree: Any) -> Iterator[dict[str, Any]]:
    """The architectures at any level of the plans, because configurations may inherit from each other."""
    if isinstance(tree, dict) and ("network_class_name" in tree or "_kw_requires_import" in tree):
        yield tree
    for branch in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _architectures(branch)


def _numpy_globals() -> list[Any]:
    """The globals of a pickled NumPy number: the function, under its names in NumPy 1 and 2, and the types."""
    scalar = np.float64(0).__reduce__()[0]
    types = {type(np.dtype(code)) for code in "?bhilqBHILQefd"}
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return [*((scalar, name) for name in names), np.dtype, *sorted(types, key=str)]


def _reason(error: Exception) -> str:
    """The reason in one line, without torch's advice to load the file unsafely."""
    text = str(error)
    if isinstance(error, pickle.UnpicklingError) and (refused := _REFUSED_GLOBAL.search(text)):
        return f"a file that calls {refused[1]}, which weights do not need"
    *_, reason = text.partition("WeightsUnpickler error: ")
    return f"{type(error).__name__}: {(reason or text).strip().splitlines()[0] if text.strip() else 'no reason given'}"
