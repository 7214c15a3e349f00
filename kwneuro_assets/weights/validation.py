"""Whether files are weights of a certain network, and hold nothing else: no code, no other network."""

from __future__ import annotations

import filecmp
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kwneuro_assets.demo.networks import FOLDER as DEMO
from kwneuro_assets.derivations.network_files import load_weights, safe_nnunet_folder
from kwneuro_assets.derivations.tractseg_network import PEAKS
from kwneuro_assets.imaging import InvalidData
from kwneuro_assets.weights.errors import WeightsError
from kwneuro_assets.weights.networks import Network, WeightFile

_CHANNELS = 3 * PEAKS  # of TractSeg's networks
_HEADS = ("output_2", "output_3", "conv_5")  # the layers of TractSeg's network with one filter per class
_INPUT, _OUTPUT = "contr_1_1.0.weight", "conv_5.weight"
_LAYERS = {
    *(f"{side}_{level}_{n}.0" for side in ("contr", "expand") for level in (1, 2, 3, 4) for n in (1, 2)),
    "encode_1.0", "encode_2.0", *(f"deconv_{level}.0" for level in (1, 2, 3, 4)), *_HEADS,
}  # fmt: skip


def require_weights_of(network: Network, folder: Path) -> None:
    """Raises InvalidData unless the files in `folder` are weights of that network; no code in them is run.

    Raises WeightsError if they are the demo's, or if PyTorch, which reads them, is not installed.
    """
    for name in network.installed_files:
        if (DEMO / name).is_file() and filecmp.cmp(DEMO / name, folder / name, shallow=False):
            raise WeightsError(f"weights of {network.name}: found those of the demo, which know synthetic heads only")
    try:
        if network.name == "hd-bet":
            _require_hd_bet(folder)
        else:
            for file in network.files:
                _require_tractseg(file, folder / file.name)
    except ModuleNotFoundError as error:
        raise WeightsError(
            f"weights of {network.name}: {error.name} is not installed, which reads them: pip install "
            f"'kwneuro-assets[{'hdbet' if network.name == 'hd-bet' else 'tractseg'}]'"
        ) from error


@contextmanager
def named(shown: Mapping[Path, Path]) -> Iterator[None]:
    """Errors in this context name the files of the user (the values) in place of copies of them (the keys)."""
    try:
        yield
    except InvalidData as error:
        user = shown.get(Path(error.where), Path(error.where))
        raise InvalidData(
            error.problem, expected=error.expected, found=error.found, remedy=error.remedy, where=str(user)
        ) from None


def _require_tractseg(file: WeightFile, path: Path) -> None:
    expected = f"TractSeg's, for {file.classes} classes"
    content = load_weights(path, expected)
    state = content.get("unet") if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise _other(expected, f"no entry 'unet' ({_kind(content)})", path)
    layers = {f"{layer}.{kind}" for layer in _LAYERS for kind in ("weight", "bias")}
    if state.keys() != layers:
        odd = sorted(map(str, state.keys() ^ layers))
        raise _other(expected, f"another network: {len(odd)} tensors are missing or unknown, such as {odd[0]}", path)
    shapes = {name: tuple(getattr(tensor, "shape", ())) for name, tensor in state.items()}
    if shapes[_INPUT][1:2] != (_CHANNELS,):
        raise _other(expected, f"a first layer of shape {shapes[_INPUT]} for other than {_CHANNELS} channels", path)
    for head in _HEADS:
        if shapes[f"{head}.weight"][:1] != (file.classes,):
            raise _other(expected, f"{(*shapes[_OUTPUT], 'no')[0]} classes", path)


def _require_hd_bet(folder: Path) -> None:
    with safe_nnunet_folder(folder) as checked:
        dataset = json.loads((checked / "dataset.json").read_text(encoding="utf-8"))
    labels, channels = (dataset.get(key) if isinstance(dataset, dict) else None for key in ("labels", "channel_names"))
    for what, entries, count in (("labels", labels, 2), ("channels", channels, 1)):
        if not isinstance(entries, dict) or len(entries) != count:
            found = f"{len(entries)} {what}" if isinstance(entries, dict) else f"no {what}"
            raise _other("HD-BET's, with one channel and two labels", found, folder / "dataset.json")


def _other(expected: str, found: str, path: Path) -> InvalidData:
    return InvalidData("network weights", expected=expected, found=found).at(path)


def _kind(content: Any) -> str:
    return f"entries {', '.join(map(str, list(content)[:3]))}" if isinstance(content, dict) else type(content).__name__
