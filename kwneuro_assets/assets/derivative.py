"""The declaration of a derivative: what an asset module says about the function that computes it.

`@derivative` turns a function of values and settings into a `Derivative`. The function's parameters name its inputs;
the classes of its settings determine the parameters that count for the code version. `mechanism.building` makes a
Dagster asset of it, `mechanism.execution` runs it: partition, data version, provenance, metadata, figure and sidecar
come from there, so that an asset module states only what it computes. The mechanism names no asset.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dagster import DagsterInstance

from kwneuro_assets.imaging.content_hash import Value
from kwneuro_assets.qc.checks import Check
from kwneuro_assets.qc.metrics import CheckName
from kwneuro_assets.reports.content import Step
from kwneuro_assets.resources.network_weights import digests_in_use
from kwneuro_assets.settings import PipelineSettings, Section
from kwneuro_assets.versioning.code import Code, Parameters, library_versions, parameters, release

Inputs = Mapping[str, Any]
Figure = Callable[[Any, Inputs, str], bytes] | None
Summary = Callable[[Any, Inputs], Mapping[str, float | int | str | Mapping[str, float]]]
Pool = str | Callable[[PipelineSettings], str | None] | None
Names = tuple[str, ...] | Callable[[PipelineSettings], tuple[str, ...]]
Condition = Callable[[PipelineSettings], bool]
Members = Callable[[DagsterInstance, PipelineSettings], list[str]]

# Parameters of a derivative's function that are neither assets nor settings; `mechanism.execution` provides them.
PROVIDED = ("subject", "progress", "networks", "steps", "stored_file", "previous", "project")


@dataclass(frozen=True)
class Project:
    """What a snapshot of the project is taken from: the event log and the settings."""

    instance: DagsterInstance
    settings: PipelineSettings


@dataclass(frozen=True)
class Checks:
    """The asset checks of a derivative.

    Attributes:
        descriptions: What each check examines, by its name.
        evaluate: Returns the result of each check, from the value and the settings.
    """

    descriptions: Mapping[CheckName, str]
    evaluate: Callable[[Any, PipelineSettings], tuple[Check, ...]]


@dataclass(frozen=True)
class Derivative:
    """A declared derivative; `derivative` documents the fields."""

    compute: Callable[..., Value]
    group: str
    version: int
    figure: Figure
    summary: Summary
    kinds: frozenset[str] = frozenset()
    libraries: tuple[str, ...] = ()
    version_relevant: Names = ()
    networks: Names = ()
    bids: Mapping[str, Any] = field(default_factory=dict)
    dictionary: Callable[[Any], Mapping[str, Any]] | None = None
    pool: Pool = None
    optional_inputs: Mapping[str, Condition] = field(default_factory=dict)
    may_be_missing: frozenset[str] = frozenset()
    accepts_not_applicable: frozenset[str] = frozenset()
    reference_grid: str | None = None
    members: Members | None = None
    only_if: Condition | None = None
    checks: Checks | None = None
    follows_members: bool = False
    is_snapshot: bool = False

    def __post_init__(self) -> None:
        parameters = inspect.signature(self.compute).parameters
        with_default = {name for name, one in parameters.items() if one.default is not one.empty}
        if with_default != self.may_be_missing.union(self.optional_inputs):
            raise TypeError(
                f"{self.name}: expected a default for exactly the optional_inputs and those that may_be_missing, found "
                f"{sorted(self.may_be_missing.union(self.optional_inputs))} and parameters with a default "
                f"{sorted(with_default)}"
            )
        if unknown := self.accepts_not_applicable - set(parameters):
            raise TypeError(f"{self.name}: accepts_not_applicable names no parameter: {', '.join(sorted(unknown))}")
        fields = [field for kind in self.views.values() for field in kind.model_fields]
        if len(fields) != len(set(fields)):
            raise TypeError(f"{self.name}: expected parameters with different names, found {', '.join(sorted(fields))}")

    @property
    def name(self) -> str:
        """The asset's name: that of the function."""
        return self.compute.__name__

    @property
    def docstring(self) -> str:
        """The function's docstring, in Markdown, without indentation."""
        return inspect.cleandoc(self.compute.__doc__ or "")

    @property
    def description(self) -> str:
        """What the derivative is, in plain text: the first paragraph of the docstring, on one line."""
        return " ".join(self.docstring.partition("\n\n")[0].split())

    @property
    def is_partitioned(self) -> bool:
        """Whether there is one value per subject, not one for the group."""
        return self.members is None

    @property
    def views(self) -> Mapping[str, type[Section]]:
        """The parameters of the function that take settings: any whose type is a section, or a part of one."""
        return _views(self.compute)

    @property
    def injected(self) -> tuple[str, ...]:
        """The parameters of the function that are not assets."""
        names = inspect.signature(self.compute).parameters
        return tuple(name for name in names if name in PROVIDED or name in self.views)

    @property
    def unread_inputs(self) -> frozenset[str]:
        """Names of the inputs of which the function takes the record, a `Step`, and not the value."""
        kinds = typing.get_type_hints(self.compute)
        return frozenset(name for name, kind in kinds.items() if kind is Step or Step in typing.get_args(kind))

    @property
    def required_inputs(self) -> tuple[str, ...]:
        """Names of the input assets that it has under any settings and without which it cannot be computed."""
        names = inspect.signature(self.compute).parameters
        others = {*self.injected, *self.optional_inputs, *self.may_be_missing}
        return tuple(name for name in names if name not in others)

    def exists(self, settings: PipelineSettings) -> bool:
        """Whether there is such an asset under these settings."""
        return self.only_if is None or self.only_if(settings)

    def inputs(self, settings: PipelineSettings) -> tuple[str, ...]:
        """Names of the input assets under these settings, in the order of the function's parameters."""
        injected = self.injected
        return tuple(
            name
            for name in inspect.signature(self.compute).parameters
            if name not in injected and (name not in self.optional_inputs or self.optional_inputs[name](settings))
        )

    def own_settings(self, settings: PipelineSettings) -> dict[str, Section]:
        """The settings that the function takes, and no others, by the name of its parameter."""
        return {name: settings.view(kind) for name, kind in self.views.items()}

    def network_names(self, settings: PipelineSettings) -> tuple[str, ...]:
        """Names of the networks whose weights it uses under these settings."""
        return self.networks(settings) if callable(self.networks) else self.networks

    def code(self, settings: PipelineSettings) -> Code:
        """Algorithm version, parameters, version-relevant libraries and network weights under these settings."""
        relevant = self.version_relevant(settings) if callable(self.version_relevant) else self.version_relevant
        own = self.own_settings(settings).values()
        return Code(
            self.version,
            own_parameters(own),
            {name: release(found) for name, found in library_versions(relevant).items()},
            {key: settings.section_of(type(one)) for one in own for key in type(one).model_fields},
            digests_in_use(self.network_names(settings), settings),
        )

    def code_version(self, settings: PipelineSettings) -> str:
        """The code version under these settings: `<algorithm version>-<8 hex digits>`."""
        return self.code(settings).version

    def pool_name(self, settings: PipelineSettings) -> str | None:
        """The concurrency pool of the step under these settings; None if it has none."""
        return self.pool(settings) if callable(self.pool) else self.pool


def own_parameters(settings: Iterable[Section]) -> Parameters:
    """The values of all these settings. Raises SettingsError if a file that one names cannot be read."""
    return {key: value for one in settings for key, value in parameters(one).items()}


@functools.cache
def _views(compute: Callable[..., Value]) -> Mapping[str, type[Section]]:
    kinds = {name: kind for name, kind in typing.get_type_hints(compute).items() if name != "return"}
    # Python 3.10 takes a type like list[str] for a class.
    classes = {name: kind for name, kind in kinds.items() if inspect.isclass(kind) and typing.get_origin(kind) is None}
    return {name: kind for name, kind in classes.items() if issubclass(kind, Section)}


def derivative(
    *,
    group: str,
    version: int,
    figure: Figure,
    summary: Summary,
    kinds: Collection[str] = (),
    libraries: tuple[str, ...] = (),
    version_relevant: Names = (),
    networks: Names = (),
    bids: Mapping[str, Any] | None = None,
    dictionary: Callable[[Any], Mapping[str, Any]] | None = None,
    pool: Pool = None,
    optional_inputs: Mapping[str, Condition] | None = None,
    may_be_missing: Collection[str] = (),
    accepts_not_applicable: Collection[str] = (),
    reference_grid: str | None = None,
    members: Members | None = None,
    only_if: Condition | None = None,
    checks: Checks | None = None,
    follows_members: bool = False,
    is_snapshot: bool = False,
) -> Callable[[Callable[..., Value]], Derivative]:
    """Declare a derivative.

    Args:
        group: Asset group in Dagster.
        version: Algorithm version, raised whenever the results change.
        figure: Draws the value as PNG, from the value, the inputs and a title; None for a value that shows itself.
        summary: Computes the summary numbers that the materialization shows, from the value and the inputs.
        kinds: Kinds that Dagster shows, such as the file format.
        libraries: Distributions whose versions are recorded.
        version_relevant: Distributions that are recorded and count for the code version: another release was measured
            to give other numbers, and makes the derivative stale (docs/versions.md). Or a function that returns them
            for given settings.
        networks: Networks whose weights the function uses, or a function that returns them for given settings. The
            digests of their files count for the code version.
        bids: BIDS fields of the sidecar.
        dictionary: Returns further fields for a value, such as the data dictionary of a table.
        pool: Concurrency pool of the step, or a function that returns it for given settings.
        optional_inputs: Parameters with a default: the condition on the settings under which each is an input.
        may_be_missing: Parameters with a default: inputs without which the derivative is computed all the same, with
            the default in their place, if they were never materialized.
        accepts_not_applicable: Inputs that may be `NotApplicable` for a subject: the function gets that value. If any
            other input is `NotApplicable`, so is the derivative, and the function is not called.
        reference_grid: The derivative whose image defines the voxel grid (BIDS `SpatialReference`); None for a value
            without a grid, and for the image that defines it.
        members: For an asset without partitions: the subjects whose values it is computed from. Each input is then a
            mapping from subject to value. None for an asset with one value per subject.
        only_if: The condition on the settings under which the asset exists; None if it always does.
        checks: The asset checks, which are evaluated whenever its step runs.
        follows_members: For an asset without partitions: whether it is stale when members were added or removed.
        is_snapshot: Whether it shows the state of the project, too, so that a step is never skipped as up to date.

    The decorator raises TypeError if the function's defaults do not match `optional_inputs`, or if two of its settings
    have the same name.
    """

    def declare(compute: Callable[..., Value]) -> Derivative:
        return Derivative(
            compute=compute,
            group=group,
            version=version,
            figure=figure,
            summary=summary,
            kinds=frozenset(kinds),
            libraries=libraries,
            version_relevant=version_relevant,
            networks=networks,
            bids=bids or {},
            dictionary=dictionary,
            pool=pool,
            optional_inputs=optional_inputs or {},
            may_be_missing=frozenset(may_be_missing),
            accepts_not_applicable=frozenset(accepts_not_applicable),
            reference_grid=reference_grid,
            members=members,
            only_if=only_if,
            checks=checks,
            follows_members=follows_members,
            is_snapshot=is_snapshot,
        )

    return declare
