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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, NoReturn

from dagster import (
    AssetDep,
    AssetExecutionContext,
    AssetIn,
    AssetsDefinition,
    BetaWarning,
    DataVersion,
    Failure,
    MaterializeResult,
    MetadataValue,
    PartitionsDefinition,
    asset,
)

from kwneuro_assets.assets.memory import PeakMemory
from kwneuro_assets.errors import ActionableError
from kwneuro_assets.imaging import Dwi, MapSet, NotApplicable, Volume
from kwneuro_assets.imaging.volume import OnGrid
from kwneuro_assets.processes import mark_process
from kwneuro_assets.settings import PipelineSettings, Section, SettingsError
from kwneuro_assets.storage.deferred import DEFERRED, Deferred
from kwneuro_assets.storage.io_manager import Lost, Made
from kwneuro_assets.storage.names import NAMES
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.subjects import GROUP, StoreKey, SubjectKey, subject_partitions
from kwneuro_assets.versioning.code import Code, library_versions, parameters, release
from kwneuro_assets.versioning.content import Value, data_version
from kwneuro_assets.versioning.records import (
    INPUT_DATA_VERSION_TAG,
    INPUT_DATA_VERSIONS,
    NOT_APPLICABLE,
    Recorded,
    is_lost,
    recorded,
    report_lost,
)
from kwneuro_assets.weights.resource import UsedWeights

# Known to be beta, and wanted: without it Dagster makes up a version that changes with every run.
warnings.filterwarnings("ignore", "Parameter `data_version` of initializer `Output", BetaWarning)

Inputs = Mapping[str, Any]
Picture = Callable[[Any, Inputs, str], bytes]
Summary = Callable[[Any, Inputs], Mapping[str, float | int | str]]
Pool = str | Callable[[PipelineSettings], str | None] | None  # a concurrency pool, or which one under given settings

SOURCES = ("dwi", "provided_mask")  # observed where they lie, never materialized
FORCE_TAG = "kwneuro/force"  # of a run whose steps are made again, fresh or not
KEPT = "kept"  # metadata of a step that had nothing to do
GROUP_RESPONSE = "group_response"  # made of all subjects together, and so without a partition
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
    decisive: tuple[str, ...] = ()
    bids: Mapping[str, Any] = field(default_factory=dict)
    pool: Pool = None

    @property
    def name(self) -> str:
        return self.compute.__name__

    @property
    def description(self) -> str:
        return inspect.cleandoc(self.compute.__doc__ or "")

    def inputs(self, settings: PipelineSettings) -> tuple[str, ...]:
        """The assets it is computed from. A parameter with a default is one only where the settings provide it."""
        given = {
            "provided_mask": settings.brain_mask.method == "provided",
            "denoised_dwi": settings.csd.series != "source",
            "dwi": settings.csd.series != "denoised",
            GROUP_RESPONSE: settings.csd.group_response,
        }
        provided = {name for name, wanted in given.items() if wanted}
        return tuple(
            name
            for name, parameter in inspect.signature(self.compute).parameters.items()
            if name not in _INJECTED and (parameter.default is parameter.empty or name in provided)
        )

    def own_settings(self, settings: PipelineSettings) -> Section | None:
        """The parameters it uses, and no others."""
        kind = typing.get_type_hints(self.compute).get("settings")
        return settings.view(kind) if kind else None

    def code(self, settings: PipelineSettings) -> Code:
        """What decides, with its inputs, what it becomes under these settings."""
        own = self.own_settings(settings)
        section = settings.section_of(type(own)) if own else ""
        releases = {name: release(found) for name, found in library_versions(self.decisive).items()}
        return Code(self.version, parameters(own), releases, section)

    def code_version(self, settings: PipelineSettings) -> str:
        return self.code(settings).version

    def build(self, settings: PipelineSettings) -> AssetsDefinition:
        """The Dagster asset, with these settings as its parameters."""
        own = self.own_settings(settings)
        code = self.code(settings)
        taken = set(inspect.signature(self.compute).parameters) & set(_INJECTED)

        @asset(
            name=self.name,
            description=self.description,
            group_name=self.group,
            kinds=set(self.kinds),
            tags={"bids_suffix": NAMES[self.name].suffix},
            metadata={"parameters": MetadataValue.json(dict(code.parameters))},
            code_version=code.version,
            partitions_def=self._partitions(),
            ins=self._ins(settings),
            deps=self._deps(),
            io_manager_key="derivatives",
            required_resource_keys={"progress", "weights", "derivatives"},
            pool=self.pool(settings) if callable(self.pool) else self.pool,
        )
        def step(context: AssetExecutionContext, **inputs: Any) -> MaterializeResult[Any]:  # a kept one has no value
            weights = UsedWeights(context.resources.weights)
            injected = {
                "settings": own,
                "progress": lambda fraction: context.resources.progress.report(context, fraction),
                "weights": weights,
            }
            deferred = self._deferred(context, settings, inputs)
            return self._run(context, code, deferred, {name: injected[name] for name in taken}, weights)

        return step

    def _partitions(self) -> PartitionsDefinition | None:
        return subject_partitions

    def _ins(self, settings: PipelineSettings) -> dict[str, AssetIn]:
        """The inputs that Dagster gives."""
        managers = {name: "source" if name in SOURCES else None for name in self.inputs(settings)}
        return {name: AssetIn(input_manager_key=key, metadata=DEFERRED) for name, key in managers.items()}

    def _deps(self) -> Sequence[AssetDep]:
        """The inputs that Dagster knows of and does not give."""
        return ()

    def _deferred(
        self, context: AssetExecutionContext, settings: PipelineSettings, inputs: Mapping[str, Deferred]
    ) -> Mapping[str, Deferred]:
        """What it is made from, of those inputs that Dagster gives."""
        return inputs

    def _partition(self, context: AssetExecutionContext) -> str | None:
        """The subject that a step is about; None for the group."""
        return context.partition_key

    def _key(self, context: AssetExecutionContext) -> StoreKey:
        partition = self._partition(context)
        return GROUP if partition is None else SubjectKey.parse(partition)

    def _run(
        self,
        context: AssetExecutionContext,
        code: Code,
        deferred: Mapping[str, Deferred],
        injected: Mapping[str, Any],
        weights: UsedWeights,
    ) -> MaterializeResult[Made]:
        mark_process(context)
        known = {name: one.known or _never_made(one) for name, one in deferred.items()}
        fresh = None if FORCE_TAG in context.run.tags else self._fresh(context, code, known)
        if fresh is not None:
            return _kept(context, fresh, known)
        context.resources.progress.report(context, 0.0)
        inputs = self._gathered({name: _loaded(context, one) for name, one in deferred.items()})
        started = time.perf_counter()
        with PeakMemory() as memory:
            value = _not_applicable(inputs) or self._computed(inputs, injected, code)
        seconds = time.perf_counter() - started
        made_version = data_version(value)
        libraries = _libraries({*self.libraries, *self.decisive})
        provenance = Provenance(
            description=self.description,
            code_version=code.version,
            data_version=made_version,
            parameters=code.parameters,
            libraries=libraries,
            weights=weights.digests,
            input_data_versions={name: event.data_version for name, event in known.items()},
            sources=tuple(uri for name, event in known.items() for uri in self._sources(context, name, event)),
            bids={**self.bids, **self._spatial_reference(context)},
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
            "parameters": MetadataValue.json(dict(code.parameters)),
            "libraries": MetadataValue.json(libraries),
            **({"weights": MetadataValue.json(weights.digests)} if weights.digests else {}),
        }
        context.resources.progress.report(context, 1.0)
        return MaterializeResult(
            value=Made(value, provenance, figure),
            data_version=DataVersion(made_version),
            metadata=metadata,
            tags=_source_versions(known),
        )

    def _gathered(self, inputs: Mapping[str, Value]) -> Inputs:
        """The inputs as the function takes them."""
        return inputs

    def _fresh(self, context: AssetExecutionContext, code: Code, known: Mapping[str, Recorded]) -> Recorded | None:
        """What was made before, where making it again would give the same and the store still has it."""
        partition = self._partition(context)
        before = recorded(context.instance, self.name, partition)
        if (
            before is None
            or before.code_version != code.version
            or before.input_data_versions != {name: event.data_version for name, event in known.items()}
            or is_lost(context.instance, self.name, partition, before)
        ):
            return None
        is_there = context.resources.derivatives.holds(self.name, self._key(context), before.data_version)
        return before if is_there else None

    def _sources(self, context: AssetExecutionContext, name: str, event: Recorded) -> list[str]:
        """The files, as BIDS URIs, of what was recorded of an input."""
        if name in SOURCES:
            return [f"bids:source:{file}" for file in event.values.get("files") or []]
        return stored_uris(name, GROUP if name == GROUP_RESPONSE else self._key(context), event)

    def _spatial_reference(self, context: AssetExecutionContext) -> dict[str, str]:
        """All images of a subject lie on the grid of its denoised series."""
        if self.name in ("denoised_dwi", "fiber_response", GROUP_RESPONSE):
            return {}
        subject = self._key(context)
        reference = NAMES["denoised_dwi"].file(subject, ".nii.gz")
        return {"SpatialReference": f"bids::{subject.folder}/{reference}"}

    def _computed(self, inputs: Inputs, injected: Mapping[str, Any], code: Code) -> Value:
        with _told_in_a_sentence():
            value = self.compute(**inputs, **injected)
            if parameters(injected.get("settings")) != code.parameters:
                raise SettingsError("a file that the settings name changed while the run used it: run again")
            return value

    def _figure(self, context: AssetExecutionContext, value: Value, inputs: Inputs) -> bytes | None:
        """The picture; one that cannot be drawn is told and costs nobody the derivative."""
        try:
            return self.picture(value, inputs, f"{self._key(context)}  {self.name}")
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
    decisive: tuple[str, ...] = (),
    bids: Mapping[str, Any] | None = None,
    pool: Pool = None,
    mechanism: type[Derivative] = Derivative,
) -> Callable[[Callable[..., Value]], Derivative]:
    """Declare a derivative: its asset group, the number of its algorithm (raised whenever the numbers it gives
    change), its picture and summary, the libraries whose versions are told beside it, those that are decisive (another
    release was measured to give other numbers, and so makes it stale: docs/versions.md), what its sidecar says in BIDS
    terms, the concurrency pool that it counts in, and the kind of `Derivative` that it is."""

    def declare(compute: Callable[..., Value]) -> Derivative:
        return mechanism(
            compute, group, version, picture, summary, frozenset(kinds), libraries, decisive, bids or {}, pool
        )

    return declare


def _not_applicable(inputs: Inputs) -> NotApplicable | None:
    """What follows when an input does not exist for this subject: neither does this."""
    for name, value in inputs.items():
        if isinstance(value, NotApplicable):
            return NotApplicable(f"needs {name}, which is not applicable: {value.reason}")
    return None


@contextmanager
def _told_in_a_sentence() -> Iterator[None]:
    """An error that a person can act on is shown as its sentence, without the code's path to it."""
    try:
        yield
    except ActionableError as error:
        raise Failure(str(error), allow_retries=False) from None


def _loaded(context: AssetExecutionContext, deferred: Deferred) -> Value:
    """An input. Where the store does not have it as the log says, that is recorded, so that it will be made again."""
    with _told_in_a_sentence():
        try:
            return deferred.load()
        except Lost as error:
            report_lost(context.instance, deferred.asset, deferred.partition, str(error))
            raise


def _kept(context: AssetExecutionContext, before: Recorded, known: Mapping[str, Recorded]) -> MaterializeResult[Made]:
    """A step that has nothing to do: nothing is loaded, computed or stored; what was recorded is recorded again."""
    context.log.info(f"{context.asset_key.to_user_string()} is fresh: kept as it is")
    return MaterializeResult(
        data_version=DataVersion(before.data_version),
        metadata={**before.metadata, KEPT: True},
        tags=_source_versions(known),
    )


def _source_versions(known: Mapping[str, Recorded]) -> dict[str, str]:
    """Dagster records the hash of nothing for the version of an observed parent; this is the true one."""
    return {f"{INPUT_DATA_VERSION_TAG}/{name}": event.data_version for name, event in known.items() if name in SOURCES}


def _never_made(deferred: Deferred) -> NoReturn:
    with _told_in_a_sentence():
        deferred.load()
    raise AssertionError("what the event log does not know was loaded")


def stored_uris(asset: str, key: StoreKey, event: Recorded) -> list[str]:
    """The files of a derivative, as BIDS URIs; its sidecar where it has no others."""
    files = [file for file in event.values.get("files") or [] if not file.endswith("_figure.png")]
    return [f"bids::{PurePosixPath(key.folder, file)}" for file in files] or [f"bids::{NAMES[asset].sidecar(key)}"]


def _describe(value: Value) -> dict[str, str]:
    """Shape and voxel size in words, as far as the value has them."""
    if isinstance(value, NotApplicable):
        return {NOT_APPLICABLE: value.reason}
    if isinstance(value, MapSet):
        first = next(iter(value.values()))
        maps = ", ".join(name + "".join(f" ({size})" for size in one.shape[3:]) for name, one in value.items())
        return {"shape": f"{_times(first.grid)}: {maps}", "voxel_size_mm": _times(first.voxel_size)}
    image: OnGrid | None = value.volume if isinstance(value, Dwi) else value if isinstance(value, Volume) else None
    return {"shape": _times(image.shape), "voxel_size_mm": _times(image.voxel_size)} if image else {}


def _times(sizes: Iterable[float]) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)


def _thumbnail(figure: bytes) -> MetadataValue[Any]:
    from kwneuro_assets.quality.render import markdown_image, thumbnail

    return MetadataValue.md(markdown_image(thumbnail(figure)))


def _libraries(names: Iterable[str]) -> dict[str, str]:
    return {"python": platform.python_version(), **library_versions(("kwneuro-assets", "numpy", *sorted(names)))}
