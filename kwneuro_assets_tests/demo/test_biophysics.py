"""The forward model of the synthetic tissues."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from kwneuro_assets.demo.biophysics import DISPERSION, PARALLEL, fiber_signal, isotropic_signal

COSINES = np.linspace(0, 1, 7, dtype=np.float32)


def test_there_is_no_attenuation_without_a_gradient() -> None:
    np.testing.assert_allclose(fiber_signal(0, COSINES, np.full(7, 0.6, np.float32)), 1, atol=1e-6)
    assert isotropic_signal(0, 0.6) == pytest.approx(1)


@pytest.mark.parametrize("bvalue", [1000, 3000])
def test_dispersed_sticks_agree_with_an_integral_over_the_watson_distribution(bvalue: float) -> None:
    from scipy.integrate import dblquad

    kappa = 1 / np.tan(np.pi / 2 * DISPERSION)

    def integral(cosine: float, of_signal: bool) -> float:
        def integrand(azimuth: float, z: float) -> float:
            projection = np.sqrt((1 - z**2) * (1 - cosine**2)) * np.cos(azimuth) + z * cosine
            return float(np.exp(kappa * (z**2 - 1)) * (np.exp(-bvalue * PARALLEL * projection**2) if of_signal else 1))

        return float(dblquad(integrand, -1, 1, 0, 2 * np.pi, epsrel=1e-6)[0])

    for cosine in (0.0, 0.5, 1.0):
        found = fiber_signal(bvalue, np.array([cosine], np.float32), np.array([1.0], np.float32))[0]
        # At density 1 there is no extra-neurite water. The sum over 2000 directions has three digits.
        assert found == pytest.approx(integral(cosine, True) / integral(cosine, False), abs=2e-3)


def test_without_neurites_diffusion_is_isotropic() -> None:
    free = fiber_signal(1000, COSINES, np.zeros(7, np.float32))
    np.testing.assert_allclose(free, np.exp(-1000 * PARALLEL), rtol=1e-5)
    assert isotropic_signal(1000, 0.0) == pytest.approx(np.exp(-1000 * PARALLEL))


@pytest.mark.parametrize("density", [0.3, 0.7])
def test_the_signal_of_a_bundle_agrees_with_amicos_noddi_model(density: float) -> None:
    synthesis = pytest.importorskip("amico.synthesis")
    bvals = np.repeat([1000.0, 2000.0, 3000.0], COSINES.size)
    cosines = np.tile(COSINES, 3)
    directions = np.stack([np.sqrt(1 - cosines**2), np.zeros_like(cosines), cosines], axis=1)
    scheme = SimpleNamespace(b=bvals, raw=directions)
    kappa = 1 / np.tan(np.pi / 2 * DISPERSION)
    inside = synthesis.NODDIIntraCellular(scheme).get_signal(PARALLEL, kappa)
    around = synthesis.NODDIExtraCellular(scheme).get_signal(PARALLEL, kappa, density)

    expected = (density * inside + (1 - density) * around).reshape(3, -1)
    for bvalue, signal in zip((1000, 2000, 3000), expected, strict=True):
        found = fiber_signal(bvalue, COSINES, np.full(COSINES.size, density, np.float32))
        # AMICO truncates its Legendre series at order 12 and interpolates the Watson coefficients.
        np.testing.assert_allclose(found, signal, atol=5e-3)
