"""The run queue of the Dagster instance, with limits from environment variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagster import DagsterInstance

from kwneuro_assets.launchers.gpus import is_gpu
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.threads import environment_integer
from kwneuro_assets.versioning.dagster_internals import ConfigurableClassData, QueuedRunCoordinator

# The concurrency pools of steps that have a neural network in memory: on a CPU, and on a GPU. The environment variable
# sets the number of their slots, which is `default_limit` in dagster.yaml otherwise.
NETWORK_POOL, GPU_POOL = "network", "gpu"
SLOTS = {NETWORK_POOL: "KWNEURO_NETWORK_SLOTS", GPU_POOL: "KWNEURO_GPU_SLOTS"}


def network_pool(settings: PipelineSettings) -> str:
    """The concurrency pool of a step with a neural network, by `networks.device`."""
    return GPU_POOL if is_gpu(settings.networks.device) else NETWORK_POOL


class RunQueue(QueuedRunCoordinator):
    """Dagster's QueuedRunCoordinator with limits from the environment.

    `KWNEURO_MAX_RUNS` sets how many runs (subjects) execute at the same time, and `KWNEURO_NETWORK_SLOTS` and
    `KWNEURO_GPU_SLOTS` how many of these may have a step with a neural network, on a CPU and on a GPU.

    Plain dagster.yaml cannot do this (checked with dagster 1.13.27): `max_concurrent_runs: {env: NAME}` works here, but
    has no default, so that every command fails if NAME is not set; `concurrency.runs` and `concurrency.pools` take
    integers only; and the limit of a single pool is stored in the instance, not in dagster.yaml.
    """

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> RunQueue:
        runs = environment_integer("KWNEURO_MAX_RUNS")
        overrides = {"max_concurrent_runs": runs} if runs is not None else {}
        return cls(inst_data=inst_data, **{**config_value, **overrides})

    def register_instance(self, instance: DagsterInstance) -> None:
        super().register_instance(instance)
        for pool, variable in SLOTS.items():
            slots = environment_integer(variable)
            if slots is not None:
                instance.event_log_storage.set_concurrency_slots(pool, slots)
