"""The dictionary of AMICO's NODDI for one acquisition, from the signals that dmri-amico itself synthesises.

An atom is the signal of neurites of one density and one dispersion, symmetric about the direction of the fibres. AMICO
fits spherical harmonics of order 12 to it, turns these into each of its directions, samples them at the gradients and
keeps all that as float32. The harmonics of an atom are zonal, seven numbers for a shell, and turned ones are the same
function of the angle to the new axis (the addition theorem). So the numbers are kept here in place of the samples, and
the atoms of one direction are a small matrix product, in float64.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.harmonics import harmonics, zonal_harmonics
from kwneuro_assets.imaging import GradientTable, InvalidData
from kwneuro_assets.threads import one_blas_thread

HARMONIC_ORDER = 12  # AMICO's, for the rotation of its dictionary
DENSITIES = np.linspace(0.1, 0.99, 12)  # neurites' share of the tissue: AMICO's, as are the orientation dispersions
DISPERSIONS = np.concatenate([[0.03, 0.06], np.linspace(0.09, 0.99, 10)])

_amico_in_use = threading.Lock()  # its verbosity, and the class of loggers that its import sets, are global


@dataclass(frozen=True)
class NoddiDictionary:
    """The atoms of NODDI at the n volumes of an acquisition, which are in the order of `order`: those with b=0 first.

    `cosines` (directions, n) is between each direction of the fibres and each gradient; `shells` has the places of
    each shell's volumes and `zonal` (shells, harmonics, atoms) its coefficients. `water` (n,) is the signal of free
    water, `densities` and `concentrations` (atoms,) the NDI and Watson's kappa that the atoms stand for, and `nearest`
    (181, 181) AMICO's table of directions by whole degrees of inclination and azimuth.
    """

    order: NDArray[np.intp]
    unweighted: int
    shells: tuple[NDArray[np.intp], ...]
    zonal: NDArray[np.float64]
    cosines: NDArray[np.float64]
    water: NDArray[np.float64]
    densities: NDArray[np.float64]
    concentrations: NDArray[np.float64]
    nearest: NDArray[np.int16]

    @cached_property
    def scale(self) -> NDArray[np.float64]:
        """(atoms,) one over the norm of the atoms' weighted part: that of the first direction serves all in AMICO."""
        return np.asarray(1 / np.linalg.norm(self.atoms(0)[self.unweighted :, :-1], axis=0))

    def atoms(self, direction: int) -> NDArray[np.float64]:
        """(n, atoms + 1) the signals along one direction, 1 at b=0, and that of free water as the last."""
        signals = np.ones((self.water.size, self.densities.size + 1))
        for volumes, zonal in zip(self.shells, self.zonal, strict=True):
            signals[volumes, :-1] = zonal_harmonics(HARMONIC_ORDER, self.cosines[direction, volumes]) @ zonal
        signals[:, -1] = self.water
        return signals

    def direction_of(self, axes: NDArray[np.float64]) -> NDArray[np.intp]:
        """(voxels,) the index of the direction that stands for each of `axes` (voxels, 3), unit vectors of any sign."""
        x, y, z = np.where(axes[:, 1:2] < 0, -axes, axes).T
        angles = np.stack([np.arctan2(np.hypot(x, y), z), np.arctan2(np.abs(y), x)])
        inclination, azimuth = np.floor(angles / np.pi * 180 + 0.5).astype(np.intp)
        return self.nearest[inclination, azimuth].astype(np.intp)


def noddi_dictionary(gradients: GradientTable, dpar: float, diso: float, directions: int) -> NoddiDictionary:
    """The dictionary for `gradients`; directions are in the frame of its b-vectors.

    `dpar` and `diso` are the diffusivities along neurites and of free water in mm^2/s, `directions` the number of
    orientations; each b-value counts as its shell's mean. Raises InvalidData for a number of directions that AMICO
    does not have, ModuleNotFoundError without dmri-amico.
    """
    order = np.argsort(~gradients.b0_mask, kind="stable")
    unweighted = int(np.count_nonzero(gradients.b0_mask))
    bvals, bvecs = gradients.snapped_bvals()[order], gradients.bvecs[order]
    shells = np.unique(bvals[unweighted:])
    concentrations = 1 / np.tan(DISPERSIONS * np.pi / 2)
    with _amico() as amico:
        if not amico.lut.is_valid(directions):
            known = ", ".join(map(str, sorted(amico.lut.valid_dirs())))
            raise InvalidData("noddi.directions", expected=f"one of {known}", found=str(directions))
        # One direction for a shell: of a scheme, AMICO's samples take the b-values and their order alone.
        scheme = amico.scheme.Scheme(np.column_stack([np.tile([0.0, 0.0, 1.0], (shells.size, 1)), shells]))
        dense = amico.lut.create_high_resolution_scheme(scheme)
        inside, outside = amico.synthesis.NODDIIntraCellular(dense), amico.synthesis.NODDIExtraCellular(dense)
        signals = []
        for concentration in concentrations:
            within = inside.get_signal(dpar, concentration)
            for density in DENSITIES:
                signals.append(density * within + (1 - density) * outside.get_signal(dpar, concentration, density))
        signals.append(amico.synthesis.NODDIIsotropic(dense).get_signal(diso))
        samples = np.array(amico.lut.grad)
        axes = np.array(amico.lut.load_directions(directions))
        nearest = np.array(amico.lut.load_precomputed_hash_table(directions)).reshape(181, 181)

    places = tuple(np.flatnonzero(bvals == bvalue) for bvalue in shells)
    zonal = _zonal(np.stack(signals, axis=1).reshape(shells.size, len(samples), -1), samples)
    water = np.ones(bvals.size)
    for volumes, coefficients in zip(places, zonal, strict=True):
        water[volumes] = coefficients[0, -1] / np.sqrt(4 * np.pi)  # a ball has no other harmonic
    return NoddiDictionary(
        order=order,
        unweighted=unweighted,
        shells=places,
        zonal=zonal[..., :-1],
        cosines=axes @ bvecs.T,
        water=water,
        densities=np.tile(DENSITIES, DISPERSIONS.size),
        concentrations=np.repeat(concentrations, DENSITIES.size),
        nearest=nearest,
    )


def _zonal(signals: NDArray[np.float64], samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """(shells, harmonics, atoms) of signals (shells, samples, atoms) that are symmetric about z."""
    units = samples / np.linalg.norm(samples, axis=1, keepdims=True)
    with one_blas_thread():
        fit = np.linalg.pinv(harmonics(HARMONIC_ORDER, units))
        degrees = np.arange(0, HARMONIC_ORDER + 1, 2)
        return np.asarray(fit[degrees * (degrees + 1) // 2] @ signals)


@contextmanager
def _amico() -> Iterator[Any]:
    """AMICO to ourselves: silent, its `sys.exit` an error, and its loggers, whose errors end the process, its own."""
    with _amico_in_use:
        loggers = logging.getLoggerClass()
        try:
            import amico
            import amico.lut
            import amico.scheme
            import amico.synthesis
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("NODDI needs dmri-amico: install kwneuro-assets[noddi]") from error
        finally:
            logging.setLoggerClass(loggers)  # the import makes all loggers that come after of its class
        verbosity = amico.get_verbose()
        amico.set_verbose(0)
        try:
            yield amico
        except SystemExit as stop:
            raise RuntimeError(f"AMICO gave up with exit status {stop.code}") from stop
        finally:
            amico.set_verbose(verbosity)
