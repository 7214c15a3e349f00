"""Plots of response functions."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from scipy.special import sph_harm_y

from kwneuro_assets.derivations.group_response import mean_response
from kwneuro_assets.figures import subject as figures
from kwneuro_assets.figures.group import members_of
from kwneuro_assets.figures.layout import draw_layout
from kwneuro_assets.figures.response_plot import MAX_THIN, response_plot
from kwneuro_assets.figures.tissues import TISSUES
from kwneuro_assets.imaging import NotApplicable, ResponseFunction, TissueResponses
from kwneuro_assets_tests.derivations.tissues import (
    ACROSS,
    ALONG,
    GRAY,
    S0_GRAY,
    S0_WATER,
    S0_WHITE,
    WATER,
    true_responses,
)
from kwneuro_assets_tests.figures.heads import counted

BVALUES = np.array([0.0, 1000, 3000])
ONE_FIBER = ResponseFunction(np.array([200.0, -130, 40, -9, 2]), 3000, 300)
BOLD = 2
WARNING = "#ff5a36"


def drawn(response, subjects=None):
    group = members_of(response, {"fiber_response": subjects}) if subjects else None
    return draw_layout("response", [response_plot(response, group)]).figure


def curves(axes, thin=False):
    """Lines of the mean or, thin, of the subjects; not the fiber, of two points, and empty lines."""
    lines = [line for line in axes.get_lines() if len(line.get_xdata()) > 2 and np.isfinite(line.get_ydata()).any()]
    return [line for line in lines if (line.get_linewidth() < BOLD) == thin]


def texts(figure):
    return [text.get_text() for text in figure.texts]


def group_of(response, count, seed=0):
    """Subjects with other gains and, a little, other coefficients."""
    random = np.random.default_rng(seed)

    def own():
        gain = random.uniform(0.5, 2)
        if isinstance(response, ResponseFunction):
            return replace(response, coefficients=response.coefficients * gain * random.normal(1, 0.05, 5))
        return replace(response, wm=response.wm * random.normal(1, 0.05, response.wm.shape)).scaled(gain)

    return {f"sub-{index:03}": own() for index in range(count)}


def test_the_profile_of_one_fiber_is_the_sum_of_its_spherical_harmonics():
    (profile,) = curves(drawn(ONE_FIBER).axes[0])
    angle = profile.get_xdata()
    # The oracle: SciPy's orthonormal harmonics with m = 0, degree by degree.
    expected = sum(
        coefficient * sph_harm_y(2 * index, 0, np.arccos(np.cos(angle)), 0).real
        for index, coefficient in enumerate(ONE_FIBER.coefficients)
    )
    np.testing.assert_allclose(profile.get_ydata(), np.abs(expected), rtol=1e-10, atol=1e-10)


def test_white_matter_has_a_profile_per_shell_and_each_tissue_a_mean_signal():
    around, over_bvalue = drawn(true_responses(order=20)).axes
    angle = np.linspace(0, 2 * np.pi, 721)

    profiles = curves(around)
    assert len(profiles) == 2
    for line, bvalue in zip(profiles, BVALUES[1:], strict=True):
        expected = S0_WHITE * np.exp(-bvalue * (ACROSS + (ALONG - ACROSS) * np.cos(angle) ** 2))
        np.testing.assert_allclose(line.get_ydata(), expected, atol=1e-4)  # the expansion ends at order 20
    white, gray, csf = curves(over_bvalue)
    np.testing.assert_allclose(gray.get_ydata(), S0_GRAY * np.exp(-GRAY * BVALUES))
    np.testing.assert_allclose(csf.get_ydata(), S0_WATER * np.exp(-WATER * BVALUES))
    cosine = np.linspace(0, 1, 20001)
    mean = [np.trapezoid(S0_WHITE * np.exp(-b * (ACROSS + (ALONG - ACROSS) * cosine**2)), cosine) for b in BVALUES]
    np.testing.assert_allclose(white.get_ydata(), mean, rtol=1e-6)
    assert over_bvalue.get_yscale() == "log"
    assert [line.get_color() for line in (white, gray, csf)] == [tissue.color for tissue in TISSUES]


def test_each_line_has_a_label_in_its_color():
    figure = drawn(counted(true_responses()))
    legend = {text.get_text(): to_rgb(text.get_color()) for text in figure.texts}
    around, over_bvalue = figure.axes
    names = ["b = 1000", "b = 3000", "white matter", "gray matter", "CSF"]
    colors = [to_rgb(line.get_color()) for line in (*curves(around), *curves(over_bvalue))]
    assert [legend[name] for name in names] == colors
    assert len(set(colors)) == len(colors)


def test_the_caption_names_shells_order_and_origin():
    assert "Three tissues, b = 0, 1000, 3000 s/mm², order 10, from files" in texts(drawn(true_responses()))
    counts = "Three tissues, b = 0, 1000, 3000 s/mm², order 10, from 300 WM, 142 GM and 100 CSF voxels"
    assert counts in texts(drawn(counted(true_responses())))
    assert "WM response, b = 3000 s/mm², order 8, from 300 voxels" in texts(drawn(ONE_FIBER))


@pytest.mark.parametrize("own", [true_responses(order=8), ONE_FIBER], ids=["tissues", "fiber"])
def test_subjects_that_differ_only_by_their_gain_are_drawn_beneath_the_mean(own):
    around = drawn(own, {"sub-01": own.scaled(0.3), "sub-02": own.scaled(7)}).axes[0]
    means, subjects = curves(around), curves(around, thin=True)
    assert len(subjects) == 2 * len(means)
    for number, subject in enumerate(subjects):
        mean = means[number // 2]
        np.testing.assert_allclose(subject.get_ydata(), mean.get_ydata(), rtol=1e-9, atol=1e-9)
        assert list(around.get_lines()).index(subject) < list(around.get_lines()).index(mean)


def test_the_mean_signals_of_the_subjects_are_scaled_to_the_mean():
    own = true_responses()
    brighter_csf = replace(own, csf=own.csf * 8).scaled(3)
    over_bvalue = drawn(own, {"sub-01": brighter_csf}).axes[1]
    # Eight times the CSF signal, one tissue of three: the gain, a geometric mean, reduces it by half.
    for thin, bold, times in zip(curves(over_bvalue, thin=True), curves(over_bvalue), (0.5, 0.5, 4), strict=True):
        np.testing.assert_allclose(thin.get_ydata(), times * bold.get_ydata(), rtol=1e-9)
        assert thin.get_color() == bold.get_color()


def test_the_coefficients_of_the_subjects_are_drawn_beside_the_bars_even_with_a_lower_order():
    lower = ResponseFunction(ONE_FIBER.coefficients[:3] * 2, 3000, 300)
    _, bars = drawn(ONE_FIBER, {"sub-01": lower, "sub-02": ONE_FIBER}).axes
    first, second = ([height for (_, height), _ in marks.get_segments()] for marks in bars.collections)
    np.testing.assert_allclose(first, ONE_FIBER.coefficients[:3])
    np.testing.assert_allclose(second, ONE_FIBER.coefficients)


def test_subjects_without_a_comparable_response_are_counted_and_not_drawn():
    own = true_responses()
    others = {
        "sub-03": ONE_FIBER,
        "sub-04": replace(own, bvalues=np.array([0.0, 1000, 2000])),
        "sub-05": NotApplicable("too few directions"),
    }
    figure = drawn(own, {"sub-01": own, "sub-02": own, **others})
    assert "Mean of 2 subjects; thin lines: each subject, scaled to the mean (2 left out, 1 not applicable)" in texts(
        figure
    )
    assert len(curves(figure.axes[0], thin=True)) == 2 * 2
    assert len(curves(drawn(own, others).axes[0], thin=True)) == 0


def test_for_a_large_group_some_subjects_are_drawn_and_the_note_says_how_many():
    figure = drawn(ONE_FIBER, group_of(ONE_FIBER, MAX_THIN + 50))
    assert len(curves(figure.axes[0], thin=True)) == MAX_THIN
    assert f"Mean of {MAX_THIN + 50} subjects; thin lines: {MAX_THIN} of them, scaled to the mean" in texts(figure)


def test_the_figure_of_a_group_does_not_depend_on_the_order_of_its_subjects():
    subjects = group_of(true_responses(), 5)
    backwards = dict(reversed(subjects.items()))
    mean = mean_response(subjects)
    png = figures.group_response_figure(mean, {"fiber_response": subjects}, "group")
    assert png == figures.group_response_figure(mean, {"fiber_response": backwards}, "group")
    assert png != figures.group_response_figure(mean, {}, "group")


def test_a_negative_signal_has_the_warning_color_on_every_shell():
    white = np.array([[700.0, 0, 0], [400, -700, 300], [380, -780, 400]])
    around = drawn(TissueResponses(BVALUES, white, [900, 500, 100], [2000, 100, 10])).axes[0]
    assert [line.get_color() for line in curves(around)].count(WARNING) == 2
    positive = drawn(true_responses(order=20)).axes[0]
    assert WARNING not in [line.get_color() for line in curves(positive)]


def many_shells():
    bvalues = np.arange(0.0, 5250, 250)
    white = np.exp(-3e-4 * bvalues)[:, None] * np.array([2400.0, -1500, 500, -100, 20])
    return TissueResponses(bvalues, white, 3000 * np.exp(-8e-4 * bvalues), 50 + 6000 * np.exp(-2e-3 * bvalues), 1, 1, 1)


@pytest.mark.parametrize(
    "response",
    [true_responses(), counted(true_responses()), many_shells(), ONE_FIBER, ONE_FIBER.scaled(1e5)],
    ids=["files", "counted", "many shells", "fiber", "bright fiber"],
)
@pytest.mark.parametrize("subjects", [0, 3])
def test_no_text_is_clipped_or_overlaps_another(response, subjects):
    figure = drawn(response, group_of(response, subjects) | {"sub-x": NotApplicable("none")} if subjects else None)
    figure.canvas.draw()
    boxes = {}
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text() and is_drawn(text):
            boxes[text] = text.get_window_extent()
    for box in boxes.values():
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width
        assert box.y0 >= 0
        assert box.y1 <= figure.bbox.height
    for (one, box), (other, its) in itertools.combinations(boxes.items(), 2):
        assert not box.overlaps(its), f"{one.get_text()!r} overlaps {other.get_text()!r}"
    assert len(boxes) > 15


def is_drawn(text):
    """Whether a text is drawn; ticks beyond the limits of their axis have texts that are not."""
    axis = [axis for axes in text.figure.axes for axis in (axes.xaxis, axes.yaxis)]
    for one in axis:
        every = {label for tick in (*one.majorTicks, *one.minorTicks) for label in (tick.label1, tick.label2)}
        if text in every:
            return text in {label for tick in one._update_ticks() for label in (tick.label1, tick.label2)}
    return True
