"""The mean response of a group: of the shape of its members, whatever the gain of each one's images."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from kwneuro_assets.derivations.group_response import Response, mean_response, scaled_to
from kwneuro_assets.imaging import InvalidData, NotApplicable, ResponseFunction, TissueResponses
from kwneuro_assets_tests.derivations.tissues import true_responses

FIBRE = ResponseFunction(np.array([600.0, -300, 80]), 3000, 300)
OTHER = ResponseFunction(np.array([600.0, -200, 20]), 3000, 200)


def mean(*responses: Response | NotApplicable) -> Response:
    found = mean_response({f"sub-{number}": one for number, one in enumerate(responses)})
    assert not isinstance(found, NotApplicable), found
    return found


def fibre(response: Response) -> ResponseFunction:
    assert isinstance(response, ResponseFunction)
    return response


def tissues(response: Response) -> TissueResponses:
    assert isinstance(response, TissueResponses)
    return response


def test_the_shape_is_the_mean_of_shapes_whatever_the_gain() -> None:
    expected = (FIBRE.coefficients + OTHER.coefficients) / 2 / 600
    for gain in (0.1, 1.0, 7.0):
        found = fibre(mean(FIBRE, OTHER.scaled(gain)))
        np.testing.assert_allclose(found.coefficients / found.coefficients[0], expected, rtol=1e-14)
        assert found.coefficients[0] == pytest.approx(600 * (1 + gain) / 2)  # the mean of what was measured
        assert found.voxels == 500


def test_a_group_of_one_is_that_one() -> None:
    np.testing.assert_array_equal(fibre(mean(FIBRE)).coefficients, FIBRE.coefficients)


def test_a_subject_gets_the_shape_of_the_group_in_its_own_intensities() -> None:
    """So that what is deconvolved does not depend on the gain of its images."""
    group = mean(FIBRE, OTHER.scaled(3))
    one, brighter = (fibre(scaled_to(group, OTHER.scaled(gain))) for gain in (3.0, 30.0))
    assert one.coefficients[0] == pytest.approx(1800)
    np.testing.assert_allclose(brighter.coefficients, 10 * one.coefficients, rtol=1e-14)
    assert one.coefficients[1] / one.coefficients[0] == pytest.approx(-250 / 600)


def test_tissues_keep_their_ratios_within_a_subject() -> None:
    """One gain for all three: a factor for each tissue would even out that one subject's grey matter is brighter."""
    one = true_responses()
    other = replace(one, grey=one.grey * 1.5).scaled(2.0)
    found = tissues(mean(one, other))
    ratio = found.grey[0] / found.water[0]
    assert one.grey[0] / one.water[0] < ratio < other.grey[0] / other.water[0]
    again = tissues(mean(one.scaled(5.0), other))
    np.testing.assert_allclose(again.grey / again.water[0], found.grey / found.water[0], rtol=1e-12)
    np.testing.assert_allclose(again.white / again.water[0], found.white / found.water[0], rtol=1e-12)
    assert found.bvalues.tolist() == one.bvalues.tolist()


def test_orders_are_cut_to_the_lowest_and_b_values_averaged() -> None:
    shorter = ResponseFunction(np.array([500.0, -200]), 2980)
    found = fibre(mean(FIBRE, shorter))
    assert (found.order, found.bvalue) == (2, 2990)
    assert tissues(mean(true_responses(8), true_responses(4))).order == 4


def test_responses_unlike_most_are_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    lower = ResponseFunction(np.array([900.0, -100]), 1000)
    with caplog.at_level(logging.WARNING):
        found = fibre(mean(lower, FIBRE, OTHER, true_responses()))
    np.testing.assert_array_equal(found.coefficients, fibre(mean(FIBRE, OTHER)).coefficients)
    assert "2 of 4 responses are left out, as most are of one fibre at b=3000" in caplog.text
    assert "sub-0 (of one fibre at b=1000), sub-3 (of three tissues at b=0, 1000, 3000)" in caplog.text


def test_those_without_a_response_do_not_count_and_nobody_makes_no_group() -> None:
    missing = NotApplicable("one shell")
    np.testing.assert_array_equal(fibre(mean(missing, FIBRE)).coefficients, FIBRE.coefficients)
    assert mean_response({"sub-1": missing}) == NotApplicable("None of 1 subjects has a fibre response.")


def test_a_subject_unlike_the_group_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(InvalidData, match=r"one fibre at b=1000, found of one fibre at b=3000.*csd\.group_subjects"):
        scaled_to(FIBRE, ResponseFunction(np.array([900.0, -100]), 1000))
    with pytest.raises(InvalidData, match="of three tissues at b=0, 1000, 3000"):
        scaled_to(FIBRE, true_responses())


def test_the_order_of_the_subjects_changes_no_bit() -> None:
    members = {f"sub-{number}": OTHER.scaled(1 + number / 7) for number in range(9)} | {"sub-a": FIBRE}
    backwards = dict(reversed(members.items()))
    first, second = mean_response(members), mean_response(backwards)
    assert isinstance(first, ResponseFunction)
    assert isinstance(second, ResponseFunction)
    assert first.coefficients.tobytes() == second.coefficients.tobytes()
