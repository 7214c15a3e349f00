"""Weights of the neural networks: their files, location, download, verification and exchange."""

from kwneuro_assets.weights.digest_cache import digests
from kwneuro_assets.weights.errors import WeightsError
from kwneuro_assets.weights.fetching import fetch, require
from kwneuro_assets.weights.installed import Origin, locate, origins, verify
from kwneuro_assets.weights.networks import NETWORKS, Network, WeightFile

__all__ = [
    "NETWORKS",
    "Network",
    "Origin",
    "WeightFile",
    "WeightsError",
    "digests",
    "fetch",
    "locate",
    "origins",
    "require",
    "verify",
]
