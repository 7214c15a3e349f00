"""The one error of network weights."""

from __future__ import annotations

from kwneuro_assets.errors import ActionableError


class WeightsError(ActionableError):
    """Weights that are not there, cannot be fetched or are not what they were: one line that says what to do."""
