"""The networks of one step: their verified weights and the device. What was used is recorded for the provenance."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from kwneuro_assets.derivations.devices import PRECISION, NetworkDevice, select_device
from kwneuro_assets.resources.network_weights import NOT_INSTALLED, UsedWeights, digests_in_use, require_weights
from kwneuro_assets.settings import PipelineSettings


class StepNetworks:
    """Weights and device as one step uses them. A derivative's function gets it as its parameter `networks`."""

    def __init__(self, settings: PipelineSettings, names: Collection[str]) -> None:
        """`names` are the networks that the derivative declares: no other one is provided."""
        self.settings = settings
        self._weights: dict[str, UsedWeights] = {}
        self.names = tuple(names)
        self._device: NetworkDevice | None = None
        self._mirrors = False

    def folder(self, name: str) -> Path:
        """The folder of a network's weights, verified; downloaded if they are not installed.

        Raises WeightsError if they are not available or damaged, and ValueError if the derivative does not declare the
        network: its weights would not count for the code version.
        """
        if name not in self.names:
            raise ValueError(f"{name}: expected one of the declared networks ({', '.join(self.names) or 'none'})")
        if name not in self._weights:
            self._weights[name] = require_weights(name, self.settings)
        return self._weights[name].folder

    def digests(self) -> dict[str, str]:
        """The SHA-256 of each weights file of the declared networks, by `<network>/<file>`, for comparisons.

        Networks that are not installed are downloaded. Of the others, only files that changed since they were last read
        are read. Raises as `folder`.
        """
        found = digests_in_use(self.names, self.settings)
        return self.verified_digests() if NOT_INSTALLED in found.values() else found

    def verified_digests(self) -> dict[str, str]:
        """As `digests`, of the files as they are read now. Raises as `folder`."""
        for name in self.names:
            self.folder(name)
        return {file: digest for name in self.names for file, digest in self._weights[name].digests.items()}

    @property
    def device(self) -> NetworkDevice:
        """The device of the settings. Raises InvalidData if PyTorch does not have it."""
        return self._device or self._select(None)

    def device_with(self, mirroring: Literal["auto"] | bool) -> NetworkDevice:
        """As `device`, for a network that may also segment mirrored copies; whether it does is recorded, too."""
        self._mirrors = True
        return self._select(None if mirroring == "auto" else mirroring)

    @property
    def note(self) -> str:
        """What the user must know about the weights, such as that they are the demo's; "" if there is nothing."""
        return "; ".join(sorted({used.note for used in self._weights.values() if used.note}))

    def used(self) -> Mapping[str, Any]:
        """The device, as it was used in the end, and the note, as fields of the sidecar; empty if no network ran."""
        device = self._device
        if device is None:
            return {"Note": self.note} if self.note else {}
        return {
            "Device": device.name,
            "Precision": PRECISION,
            **({"Mirroring": device.mirroring} if self._mirrors else {}),
            **({"Note": self.note} if self.note else {}),
        }

    def _select(self, mirroring: bool | None) -> NetworkDevice:
        chosen = self.settings.networks
        fallback = chosen.out_of_memory == "cpu"
        self._device = NetworkDevice(select_device(chosen.device), fallback=fallback, mirroring=mirroring)
        return self._device
