"""Network weights as a Dagster resource."""

from __future__ import annotations

from pathlib import Path

from dagster import ConfigurableResource
from pydantic import Field

from kwneuro_assets.weights import require


class NetworkWeights(ConfigurableResource[None]):
    """Gives a network's weights to the step that needs them, fetching them the first time."""

    folder: str = Field(description="Where weights are kept and fetched to.")

    def require(self, network: str) -> Path:
        """The folder of a network's weights, verified. Raises WeightsError where they cannot be had."""
        return require(network, Path(self.folder).expanduser())
