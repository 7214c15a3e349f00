"""The mean response function of a group is independent of the gain of the images."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from kwneuro_assets.derivations.group_response import Response, mean_response, scaled_to
from kwneuro_assets.imaging import InvalidData, NotApplicable, ResponseFunction, TissueResponses
from kwneuro_assets_tests.derivations.tissues import true_responses

FIBER = ResponseFunction(np.array([600.0, -300, 80]), 3000, 300)
OTHER = ResponseFunction(np.array([600.0, -200, 20]), 3000, 200)


def mean(*responses: Response | NotApplicable) -> Response:
    found = mean_response({f"sub-{number}": one for number, one in enumerate(responses)})
    assert not isinstance(found, NotApplicable), found
    return found


def fiber(response: Response) -> ResponseFunction:
    assert isinstance(response, ResponseFunction)
    return response


def tissues(response: Response) -> TissueResponses:
    assert isinstance(response, TissueResponses)
    return response


def test_the_shape_of_the_mean_does_not_depend_on_the_gain() -> None:
    expected = (FIBER.coefficients + OTHER.coefficients) / 2 / 600
    for gain in (0.1, 1.0, 7.0):
        found = fiber(mean(FIBER, OTHER.scaled(gain)))
        np.testing.assert_allclose(found.coefficients / found.coefficients[0], expected, rtol=1e-14)
        assert found.coefficients[0] == pytest.approx(600 * (1 + gain) / 2)  # the mean of the subjects
        assert found.voxels == 500


def test_the_mean_of_one_subject_is_its_own_response() -> None:
    np.testing.assert_array_equal(fiber(mean(FIBER)).coefficients, FIBER.coefficients)


def test_the_group_response_is_scaled_to_the_intensities_of_the_subject() -> None:
    """FODs then do not depend on the gain of the images."""
    group = mean(FIBER, OTHER.scaled(3))
    one, brighter = (fiber(scaled_to(group, OTHER.scaled(gain))) for gain in (3.0, 30.0))
    assert one.coefficients[0] == pytest.approx(1800)
    np.testing.assert_allclose(brighter.coefficients, 10 * one.coefficients, rtol=1e-14)
    assert one.coefficients[1] / one.coefficients[0] == pytest.approx(-250 / 600)


def test_the_ratios_between_tissues_of_a_subject_are_preserved() -> None:
    """One gain for all tissues: separate factors would hide that the GM of one subject is brighter."""
    one = true_responses()
    other = replace(one, gm=one.gm * 1.5).scaled(2.0)
    found = tissues(mean(one, other))
    ratio = found.gm[0] / found.csf[0]
    assert one.gm[0] / one.csf[0] < ratio < other.gm[0] / other.csf[0]
    again = tissues(mean(one.scaled(5.0), other))
    np.testing.assert_allclose(again.gm / again.csf[0], found.gm / found.csf[0], rtol=1e-12)
    np.testing.assert_allclose(again.wm / again.csf[0], found.wm / found.csf[0], rtol=1e-12)
    assert found.bvalues.tolist() == one.bvalues.tolist()


def test_orders_are_cut_to_the_lowest_and_b_values_are_averaged() -> None:
    shorter = ResponseFunction(np.array([500.0, -200]), 2980)
    found = fiber(mean(FIBER, shorter))
    assert (found.order, found.bvalue) == (2, 2990)
    assert tissues(mean(true_responses(8), true_responses(4))).order == 4


def test_responses_unlike_most_are_excluded_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    lower = ResponseFunction(np.array([900.0, -100]), 1000)
    with caplog.at_level(logging.WARNING):
        found = fiber(mean(lower, FIBER, OTHER, true_responses()))
    np.testing.assert_array_equal(found.coefficients, fiber(mean(FIBER, OTHER)).coefficients)
    assert "2 of 4 response functions are excluded, because most are of one fiber at b=3000" in caplog.text
    assert "sub-0 (of one fiber at b=1000), sub-3 (of three tissues at b=0, 1000, 3000)" in caplog.text


def test_subjects_without_a_response_are_ignored() -> None:
    missing = NotApplicable("one shell")
    np.testing.assert_array_equal(fiber(mean(missing, FIBER)).coefficients, FIBER.coefficients)
    assert mean_response({"sub-1": missing}) == NotApplicable("None of 1 subjects has a fiber response.")


def test_a_subject_unlike_the_group_raises_an_error_with_the_remedy() -> None:
    with pytest.raises(InvalidData, match=r"one fiber at b=1000, found of one fiber at b=3000.*csd\.group_subjects"):
        scaled_to(FIBER, ResponseFunction(np.array([900.0, -100]), 1000))
    with pytest.raises(InvalidData, match="of three tissues at b=0, 1000, 3000"):
        scaled_to(FIBER, true_responses())


def test_the_order_of_subjects_does_not_change_the_result() -> None:
    members = {f"sub-{number}": OTHER.scaled(1 + number / 7) for number in range(9)} | {"sub-a": FIBER}
    backwards = dict(reversed(members.items()))
    first, second = mean_response(members), mean_response(backwards)
    assert isinstance(first, ResponseFunction)
    assert isinstance(second, ResponseFunction)
    assert first.coefficients.tobytes() == second.coefficients.tobytes()
