"""Network weights: which there are, where they are, how they are fetched and verified."""

from kwneuro_assets.weights.errors import WeightsError
from kwneuro_assets.weights.fetching import fetch, locate, require, verify
from kwneuro_assets.weights.networks import NETWORKS, Network, WeightFile

__all__ = ["NETWORKS", "Network", "WeightFile", "WeightsError", "fetch", "locate", "require", "verify"]
