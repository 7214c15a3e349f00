"""Network weights as a Dagster resource."""

from __future__ import annotations

from pathlib import Path

from dagster import ConfigurableResource
from pydantic import Field

from kwneuro_assets.weights.fetching import require_verified


class NetworkWeights(ConfigurableResource[None]):
    """Gives a network's weights to the step that needs them, fetching them the first time."""

    folder: str = Field(description="Where weights are kept and fetched to.")

    def verified(self, network: str) -> tuple[Path, dict[str, str]]:
        """The folder of a network's weights and the SHA-256 of each file. Raises WeightsError."""
        return require_verified(network, Path(self.folder).expanduser())


class UsedWeights:
    """What one step has of the weights: it remembers which files were used, as they decide what comes out."""

    def __init__(self, weights: NetworkWeights) -> None:
        self._weights = weights
        self.digests: dict[str, str] = {}

    def require(self, network: str) -> Path:
        """The folder of a network's weights, verified. Raises WeightsError where they cannot be had."""
        folder, digests = self._weights.verified(network)
        self.digests |= {f"{network}/{file}": digest for file, digest in digests.items()}
        return folder
