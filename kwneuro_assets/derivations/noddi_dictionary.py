"""AMICO's NODDI dictionary for one acquisition, from the signals that dmri-amico synthesizes.

An atom is the signal of neurites with one density and one orientation dispersion, symmetric about the fiber direction.
AMICO fits spherical harmonics of order 12 to it, rotates them to each of its directions, samples them at the gradients
and stores the samples as float32. The harmonics of an atom are zonal (seven coefficients per shell), and rotated ones
are the same function of the angle to the new axis (addition theorem). This module therefore stores the coefficients
instead of the samples, and computes the atoms of a direction by a small matrix product in float64.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.harmonics import harmonics, zonal_harmonics
from kwneuro_assets.imaging import GradientTable, InvalidData
from kwneuro_assets.threads import one_blas_thread

HARMONIC_ORDER = 12  # AMICO's, for the rotation of its dictionary
DENSITIES = np.linspace(
    0.1, 0.99, 12
)  # neurite density indices of the atoms: AMICO's, as are the orientation dispersions
DISPERSIONS = np.concatenate([[0.03, 0.06], np.linspace(0.09, 0.99, 10)])

_amico_in_use = threading.Lock()  # its verbosity, and the logger class that its import sets, are global


@dataclass(frozen=True)
class NoddiDictionary:
    """The NODDI atoms at the n volumes of an acquisition.

    `order` (n,) sorts the volumes of the DWI: the `unweighted` b=0 volumes first. All other arrays are in this order.
    `bvals` (n,) are the b-values in s/mm^2: the real one of a b=0 volume, the mean of its shell for any other.
    `cosines` (directions, n) are those of the angles between fiber directions and gradients. `alike` has the positions
    of volumes with equal b-values, and `zonal` their coefficients (harmonics, atoms); volumes without a known direction
    have the mean over all directions. `water` (n,) is the signal of free water. `densities` and `concentrations`
    (atoms,) are the NDI and Watson's kappa of the atoms. `nearest` (181, 181) is AMICO's table of directions by
    integer degrees of inclination and azimuth.
    """

    order: NDArray[np.intp]
    unweighted: int
    bvals: NDArray[np.float64]
    alike: tuple[NDArray[np.intp], ...]
    zonal: tuple[NDArray[np.float64], ...]
    cosines: NDArray[np.float64]
    water: NDArray[np.float64]
    densities: NDArray[np.float64]
    concentrations: NDArray[np.float64]
    nearest: NDArray[np.int16]

    @cached_property
    def scale(self) -> NDArray[np.float64]:
        """(atoms,) one over the norm of the atoms at weighted volumes; from the first direction, as in AMICO."""
        return np.asarray(1 / np.linalg.norm(self.atoms(0)[self.unweighted :, :-1], axis=0))

    def atoms(self, direction: int) -> NDArray[np.float64]:
        """(n, atoms + 1) the signals for one direction divided by S0; the last is that of free water."""
        signals = np.ones((self.water.size, self.densities.size + 1))
        for volumes, zonal in zip(self.alike, self.zonal, strict=True):
            signals[volumes, :-1] = zonal_harmonics(HARMONIC_ORDER, self.cosines[direction, volumes]) @ zonal
        signals[:, -1] = self.water
        return signals

    def direction_of(self, axes: NDArray[np.float64]) -> NDArray[np.intp]:
        """(voxels,) the index of the direction for each of `axes` (voxels, 3), unit vectors of either sign."""
        x, y, z = np.where(axes[:, 1:2] < 0, -axes, axes).T
        angles = np.stack([np.arctan2(np.hypot(x, y), z), np.arctan2(np.abs(y), x)])
        inclination, azimuth = np.floor(angles / np.pi * 180 + 0.5).astype(np.intp)
        return self.nearest[inclination, azimuth].astype(np.intp)


def noddi_dictionary(gradients: GradientTable, dpar: float, diso: float, directions: int) -> NoddiDictionary:
    """The dictionary for `gradients`, with directions in the frame of its b-vectors.

    `dpar` and `diso` are the diffusivities along neurites and of free water, in mm^2/s; `directions` is the number of
    orientations. The b-value of a b=0 volume is its real one, rounded to an integer (AMICO uses 0); any other is the
    mean of its shell. Raises InvalidData if AMICO does not support this number of directions, and ModuleNotFoundError
    if dmri-amico is not installed.
    """
    order = np.argsort(~gradients.b0_mask, kind="stable")
    unweighted = int(np.count_nonzero(gradients.b0_mask))
    bvals = np.where(gradients.b0_mask, np.rint(gradients.bvals), gradients.snapped_bvals())[order]
    bvecs = gradients.bvecs[order]
    shells = np.unique(bvals[bvals > 0])
    concentrations = 1 / np.tan(DISPERSIONS * np.pi / 2)
    with _amico() as amico:
        if not amico.lut.is_valid(directions):
            known = ", ".join(map(str, sorted(amico.lut.valid_dirs())))
            raise InvalidData("noddi.directions", expected=f"one of {known}", found=str(directions))
        # One direction per shell: AMICO's samples depend only on the b-values of a scheme and their order.
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

    of_shells = _zonal(np.stack(signals, axis=1).reshape(shells.size, len(samples), -1), samples)
    has_direction = np.asarray(bvecs.any(axis=1))
    alike, zonal, water = [], [], np.ones(bvals.size)
    for (bvalue, coefficients), known in product(zip(shells, of_shells, strict=True), (True, False)):
        volumes = np.flatnonzero((bvals == bvalue) & (has_direction == known))
        if volumes.size:
            water[volumes] = coefficients[0, -1] / np.sqrt(4 * np.pi)  # an isotropic signal has no other harmonic
            alike.append(volumes)
            zonal.append(coefficients[:, :-1] * (1 if known else np.eye(len(coefficients), 1)))
    return NoddiDictionary(
        order=order,
        unweighted=unweighted,
        bvals=bvals,
        alike=tuple(alike),
        zonal=tuple(zonal),
        cosines=axes @ bvecs.T,
        water=water,
        densities=np.tile(DENSITIES, DISPERSIONS.size),
        concentrations=np.repeat(concentrations, DENSITIES.size),
        nearest=nearest,
    )


def _zonal(signals: NDArray[np.float64], samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """The zonal coefficients (shells, harmonics, atoms) of signals (shells, samples, atoms) symmetric about z."""
    units = samples / np.linalg.norm(samples, axis=1, keepdims=True)
    with one_blas_thread():
        fit = np.linalg.pinv(harmonics(HARMONIC_ORDER, units))
        degrees = np.arange(0, HARMONIC_ORDER + 1, 2)
        return np.asarray(fit[degrees * (degrees + 1) // 2] @ signals)


@contextmanager
def _amico() -> Iterator[Any]:
    """Exclusive use of AMICO: silent, with `sys.exit` as an error, and without its logger class in other modules.

    An error logged by AMICO's loggers ends the process.
    """
    with _amico_in_use:
        loggers = logging.getLoggerClass()
        try:
            import amico
            import amico.lut
            import amico.scheme
            import amico.synthesis
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("NODDI needs dmri-amico: pip install 'kwneuro-assets[noddi]'") from error
        finally:
            logging.setLoggerClass(loggers)  # the import sets the class of all later loggers
        verbosity = amico.get_verbose()
        amico.set_verbose(0)
        try:
            yield amico
        except SystemExit as stop:
            raise RuntimeError(f"AMICO exited with status {stop.code}") from stop
        finally:
            amico.set_verbose(verbosity)
