"""The run queue of an instance, with its two limits open to the environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagster import DagsterInstance

from kwneuro_assets.dagster_internals import ConfigurableClassData, QueuedRunCoordinator
from kwneuro_assets.threads import whole_number

NETWORK_POOL = "network"  # steps that hold a neural network in memory


class RunQueue(QueuedRunCoordinator):
    """Dagster's queued run coordinator; `KWNEURO_MAX_RUNS` sets how many runs (subjects) go at once, and
    `KWNEURO_NETWORK_SLOTS` how many of them may contain a network step. dagster.yaml takes no variables there.
    """

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> RunQueue:
        runs = whole_number("KWNEURO_MAX_RUNS")
        chosen = {"max_concurrent_runs": runs} if runs is not None else {}
        return cls(inst_data=inst_data, **{**config_value, **chosen})

    def register_instance(self, instance: DagsterInstance) -> None:
        super().register_instance(instance)
        slots = whole_number("KWNEURO_NETWORK_SLOTS")
        if slots is not None:
            instance.event_log_storage.set_concurrency_slots(NETWORK_POOL, slots)
