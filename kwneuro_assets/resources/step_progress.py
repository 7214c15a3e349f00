"""Progress reports of steps: to the run's log by default, to a progress bar on the command line."""

from __future__ import annotations

import time
from typing import Protocol

from dagster import AssetExecutionContext

LOG_INTERVAL = 20  # seconds between two log lines of one step: shows that it is alive without filling the log


class ProgressReporter(Protocol):
    """Receives the fraction of a step that is done."""

    def report(self, context: AssetExecutionContext, fraction: float) -> None:
        """`fraction` is 0 when the step starts and 1 when its value is computed."""


class LoggedProgress:
    """Writes a line to the run's log at intervals while a long step computes."""

    def __init__(self) -> None:
        self._logged: dict[str, float] = {}

    def report(self, context: AssetExecutionContext, fraction: float) -> None:
        """Log the percentage if the last line of this step is at least `LOG_INTERVAL` seconds old."""
        name, now = context.asset_key.to_user_string(), time.monotonic()
        if fraction <= 0:
            self._logged[name] = now
        elif fraction < 1 and now - self._logged.get(name, now) >= LOG_INTERVAL:
            self._logged[name] = now
            context.log.info(f"{name}: {fraction:.0%}")
