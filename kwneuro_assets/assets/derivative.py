"""The one mechanism behind every derivative.

`@derivative` turns a function of values and settings into a Dagster asset partitioned by subject. It gives the
asset its inputs (the function's parameters), code version (from its settings class), data version, provenance,
metadata, summary and picture, so that an asset module says nothing but what it computes.
"""

# No postponed annotations here: Dagster looks at the type of `context` when the asset is defined.

import inspect
import platform
import time
import typing
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetIn,
    AssetsDefinition,
    BetaWarning,
    DataVersion,
    Failure,
    MetadataValue,
    Output,
    asset,
)

from kwneuro_assets.assets.memory import PeakMemory
from kwneuro_assets.errors import ActionableError
from kwneuro_assets.imaging import Dwi, MapSet, NotApplicable, Volume
from kwneuro_assets.settings import PipelineSettings, Section
from kwneuro_assets.storage.io_manager import Made
from kwneuro_assets.storage.names import NAMES
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.subjects import SubjectKey, subject_partitions
from kwneuro_assets.versioning.code import Parameters, code_version, parameters
from kwneuro_assets.versioning.content import Value, data_version
from kwneuro_assets.versioning.records import INPUT_DATA_VERSION_TAG, INPUT_DATA_VERSIONS, Recorded, recorded

# Known to be beta, and wanted: without it Dagster makes up a version that changes with every run.
warnings.filterwarnings("ignore", "Parameter `data_version` of initializer `Output", BetaWarning)

Inputs = Mapping[str, Any]
Picture = Callable[[Any, Inputs, str], bytes]
Summary = Callable[[Any, Inputs], Mapping[str, float | int | str]]

SOURCES = ("dwi", "provided_mask")  # observed where they lie, never materialized
_INJECTED = ("settings", "progress", "weights")  # parameters of an asset function that are no assets


@dataclass(frozen=True)
class Derivative:
    """What `@derivative` knows of an asset; `build` makes the asset of it for given settings."""

    compute: Callable[..., Value]
    group: str
    version: int
    picture: Picture
    summary: Summary
    kinds: frozenset[str] = frozenset()
    libraries: tuple[str, ...] = ()
    bids: Mapping[str, Any] = field(default_factory=dict)
    pool: str | None = None

    @property
    def name(self) -> str:
        return self.compute.__name__

    @property
    def description(self) -> str:
        return inspect.cleandoc(self.compute.__doc__ or "")

    def inputs(self, settings: PipelineSettings) -> tuple[str, ...]:
        """The assets it is computed from. A parameter with a default is one only where the settings provide it."""
        provided = {"provided_mask"} if settings.brain_mask.method == "provided" else set()
        return tuple(
            name
            for name, parameter in inspect.signature(self.compute).parameters.items()
            if name not in _INJECTED and (parameter.default is parameter.empty or name in provided)
        )

    def own_settings(self, settings: PipelineSettings) -> Section | None:
        """The parameters it uses, and no others."""
        kind = typing.get_type_hints(self.compute).get("settings")
        return settings.view(kind) if kind else None

    def code_version(self, settings: PipelineSettings) -> str:
        return code_version(self.version, self.own_settings(settings))

    def build(self, settings: PipelineSettings) -> AssetsDefinition:
        """The Dagster asset, with these settings as its parameters."""
        own = self.own_settings(settings)
        plain = parameters(own)
        taken = set(inspect.signature(self.compute).parameters) & set(_INJECTED)

        @asset(
            name=self.name,
            description=self.description,
            group_name=self.group,
            kinds=set(self.kinds),
            tags={"bids_suffix": NAMES[self.name].suffix},
            metadata={"parameters": MetadataValue.json(plain)},
            partitions_def=subject_partitions,
            code_version=self.code_version(settings),
            ins={
                name: AssetIn(input_manager_key="source" if name in SOURCES else None) for name in self.inputs(settings)
            },
            io_manager_key="derivatives",
            required_resource_keys={"progress", "weights"},
            pool=self.pool,
        )
        def step(context: AssetExecutionContext, **inputs: Any) -> Output[Made]:
            injected = {
                "settings": own,
                "progress": lambda fraction: context.resources.progress.report(context, fraction),
                "weights": context.resources.weights,
            }
            return self._run(context, plain, inputs, {name: injected[name] for name in taken})

        return step

    def _run(
        self, context: AssetExecutionContext, plain: Parameters, inputs: Inputs, injected: Mapping[str, Any]
    ) -> Output[Made]:
        subject = SubjectKey.parse(context.partition_key)
        known = {name: _recorded_input(context, name) for name in inputs}
        context.resources.progress.report(context, 0.0)
        started = time.perf_counter()
        with PeakMemory() as memory:
            value = _not_applicable(inputs) or self._computed(inputs, injected)
        seconds = time.perf_counter() - started
        made_version = data_version(value)
        provenance = Provenance(
            description=self.description,
            code_version=context.assets_def.code_versions_by_key[context.asset_key] or "",
            data_version=made_version,
            parameters=plain,
            input_data_versions={name: event.data_version for name, event in known.items()},
            sources=_source_uris(subject, known),
            bids={**self.bids, **self._spatial_reference(subject)},
        )
        figure = None if isinstance(value, NotApplicable) else self._figure(context, value, inputs)
        metadata = {
            **({"picture": _thumbnail(figure)} if figure else {}),
            **({} if isinstance(value, NotApplicable) else self.summary(value, inputs)),
            **_describe(value),
            "seconds": round(seconds, 2),
            "peak_memory_mb": round(memory.peak / 1e6),
            "code_version": provenance.code_version,
            "data_version": made_version,
            INPUT_DATA_VERSIONS: MetadataValue.json(dict(provenance.input_data_versions)),
            "parameters": MetadataValue.json(plain),
            "libraries": MetadataValue.json(_versions(self.libraries)),
        }
        context.resources.progress.report(context, 1.0)
        return Output(
            Made(value, provenance, figure),
            data_version=DataVersion(made_version),
            metadata=metadata,
            # Dagster records the hash of nothing for the version of an observed parent; this is the true one.
            tags={f"{INPUT_DATA_VERSION_TAG}/{name}": known[name].data_version for name in inputs if name in SOURCES},
        )

    def _spatial_reference(self, subject: SubjectKey) -> dict[str, str]:
        """All images of a subject lie on the grid of its denoised series."""
        if self.name in ("denoised_dwi", "fiber_response"):
            return {}
        reference = NAMES["denoised_dwi"].file(subject, ".nii.gz")
        return {"SpatialReference": f"bids::{subject.folder}/{reference}"}

    def _computed(self, inputs: Inputs, injected: Mapping[str, Any]) -> Value:
        """The value; an error that a person can act on is shown as its sentence, without the code's path to it."""
        try:
            return self.compute(**inputs, **injected)
        except ActionableError as error:
            raise Failure(str(error), allow_retries=False) from None

    def _figure(self, context: AssetExecutionContext, value: Value, inputs: Inputs) -> bytes | None:
        """The picture; one that cannot be drawn is told and costs nobody the derivative."""
        try:
            return self.picture(value, inputs, f"{context.partition_key}  {self.name}")
        except Exception:
            context.log.exception(f"the picture of {self.name} could not be drawn; the derivative itself is whole")
            return None


def derivative(
    *,
    group: str,
    version: int,
    picture: Picture,
    summary: Summary,
    kinds: set[str] | frozenset[str] = frozenset(),
    libraries: tuple[str, ...] = (),
    bids: Mapping[str, Any] | None = None,
    pool: str | None = None,
) -> Callable[[Callable[..., Value]], Derivative]:
    """Declare a derivative: its asset group, the number of its algorithm (raised whenever the numbers it gives
    change), its picture and summary, the libraries whose versions are told beside it, what its sidecar says in
    BIDS terms, and the concurrency pool it counts in."""

    def declare(compute: Callable[..., Value]) -> Derivative:
        return Derivative(compute, group, version, picture, summary, frozenset(kinds), libraries, bids or {}, pool)

    return declare


def _not_applicable(inputs: Inputs) -> NotApplicable | None:
    """What follows when an input does not exist for this subject: neither does this."""
    for name, value in inputs.items():
        if isinstance(value, NotApplicable):
            return NotApplicable(f"needs {name}, which is not applicable: {value.reason}")
    return None


def _recorded_input(context: AssetExecutionContext, name: str) -> Recorded:
    known = recorded(context.instance, name, context.partition_key, observed=name in SOURCES)
    if known is None:  # loading the input has told so already
        raise RuntimeError(f"{name} of {context.partition_key} is not in the event log")
    return known


def _source_uris(subject: SubjectKey, known: Mapping[str, Recorded]) -> tuple[str, ...]:
    uris: list[str] = []
    for name, event in known.items():
        files = event.metadata.get("files") or []
        prefix = "bids:source:" if name in SOURCES else f"bids::{subject.folder}/"
        uris += [f"{prefix}{file}" for file in files if not file.endswith("_figure.png")]
        if not files:
            uris.append(f"bids::{NAMES[name].sidecar(subject)}")
    return tuple(uris)


def _describe(value: Value) -> dict[str, str]:
    """Shape and voxel size in words, as far as the value has them."""
    if isinstance(value, NotApplicable):
        return {"not_applicable": value.reason}
    if isinstance(value, MapSet):
        first = next(iter(value.values()))
        maps = ", ".join(name + "".join(f" ({size})" for size in one.shape[3:]) for name, one in value.items())
        return {"shape": f"{_times(first.grid)}: {maps}", "voxel_size_mm": _times(first.voxel_size)}
    if isinstance(value, Dwi):
        value = value.volume
    if isinstance(value, Volume):
        return {"shape": _times(value.shape), "voxel_size_mm": _times(value.voxel_size)}
    return {}


def _times(sizes: Iterable[float]) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)


def _thumbnail(figure: bytes) -> MetadataValue[Any]:
    from kwneuro_assets.quality.render import markdown_image, thumbnail

    return MetadataValue.md(markdown_image(thumbnail(figure)))


def _versions(libraries: tuple[str, ...]) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("kwneuro-assets", "numpy", *libraries):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found
