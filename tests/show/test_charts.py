"""Charts as XML: whole, inside their frame, and saying what they were told."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzvideo.show.charts import Axis, histogram, lines

numbers = st.floats(-1e6, 1e6, allow_nan=False)
AXES = Axis("layer", 0, 10), Axis("share", 0, 1)


def points(chart: ET.Element, tag: str) -> list[list[tuple[float, float]]]:
    made = []
    for element in chart.iter(tag):
        pairs = (pair.split(",") for pair in element.get("points", "").split())
        made.append([(float(x), float(y)) for x, y in pairs])
    return made


@given(numbers, st.floats(1e-6, 1e7), st.integers(2, 12))
def test_ticks_are_round_few_and_inside(low: float, span: float, most: int) -> None:
    high = low + span
    if high - low < 1e-9 * max(1.0, abs(low)):
        return  # as good as a point
    ticks = Axis("", low, high).ticks(most)
    slack = 1e-6 * (high - low)
    assert len(ticks) <= most + 1
    assert all(low - slack <= tick <= high + slack for tick in ticks)
    if len(ticks) > 1:
        step = (ticks[-1] - ticks[0]) / (len(ticks) - 1)
        np.testing.assert_allclose(np.diff(ticks), step, rtol=1e-6, atol=slack)
        digits = f"{step:.3e}".split("e")[0].rstrip("0").rstrip(".")
        assert digits in ("1", "2", "5")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (1, 11, [2, 4, 6, 8, 10]),
        (-0.5, 0.5, [-0.4, -0.2, 0, 0.2, 0.4]),
        (0, 1000, [0, 200, 400, 600, 800, 1000]),
    ],
)
def test_ticks_one_would_choose(low: float, high: float, expected: list[float]) -> None:
    assert Axis("", low, high).ticks() == pytest.approx(expected, abs=1e-12)


def test_a_line_goes_through_its_points() -> None:
    text = lines("How it goes", *AXES, [("", [0, 5, 10], [0, 0.5, 1])])
    chart = ET.fromstring(text)
    assert chart.attrib | {"class": ""} == chart.attrib | {"class": "", "role": "img"}
    assert chart.get("aria-label") == "How it goes"
    ((first, middle, last),) = points(chart, "polyline")
    assert first[0] < middle[0] < last[0]
    assert first[1] > middle[1] > last[1]  # a picture counts from its top
    assert middle == pytest.approx(np.mean([first, last], axis=0), abs=0.1)
    assert len(list(chart.iter("circle"))) == 3
    # The ends stand where the axes do.
    axis = next(line for line in chart.iter("line") if line.get("class") == "axis")
    assert (first[0], last[0]) == (float(axis.get("x1", "")), float(axis.get("x2", "")))
    assert first[1] == float(axis.get("y1", ""))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.booleans())
def test_nothing_is_drawn_outside(ys: list[float], marks: bool) -> None:
    xs = np.linspace(0, 10, len(ys))
    chart = ET.fromstring(lines("t", *AXES, [("one", xs, ys), ("two", xs, ys[::-1])], marks))
    _, _, width, height = map(float, chart.get("viewBox", "").split())
    for line in points(chart, "polyline"):
        assert len(line) == len(ys)
        assert all(0 <= x <= width and 0 <= y <= height for x, y in line)
    assert [t.text for t in chart.iter("text") if "name" in t.get("class", "")] == ["one", "two"]


@given(st.lists(st.floats(-0.5, 1), min_size=1, max_size=200))
def test_a_histogram_holds_every_value(values: list[float]) -> None:
    chart = ET.fromstring(histogram("t", Axis("cosine", 0, 1), [("all", values)]))
    (steps,) = points(chart, "polygon")
    bottom = steps[0][1]
    heights = np.array([bottom - y for _, y in steps])
    counts, _ = np.histogram(np.clip(values, 0, 1), 24, (0, 1))
    expected = np.concatenate([[0], np.repeat(counts / counts.max(), 2), [0]])
    np.testing.assert_allclose(heights / heights.max(), expected, atol=0.01)


def test_no_values_are_no_error() -> None:
    ET.fromstring(histogram("t", Axis("cosine", 0, 1), [("none", [])]))
    ET.fromstring(lines("t", *AXES, [("none", [], [])]))


def test_an_axis_that_is_one_point() -> None:
    """As of two frames, which have one neighbour."""
    chart = ET.fromstring(
        lines("t", Axis("s", 1.234, 1.234), Axis("c", 0, 1), [("", [1.234], [1])])
    )
    (((x, y),),) = points(chart, "polyline")
    assert np.isfinite([x, y]).all()
    assert len(list(chart.iter("circle"))) == 1


def test_words_are_words() -> None:
    words = "</text><script>alert(1)</script>\"' & <"
    series = [(words, [0, 1], [0, 1]), (words, [0, 1], [1, 0])]
    for text in (
        lines(words, Axis(words, 0, 1), AXES[1], series),
        histogram(words, Axis(words, 0, 1), [(name, ys) for name, _, ys in series]),
    ):
        chart = ET.fromstring(text)
        assert "script" not in {element.tag for element in chart.iter()}
        assert chart.get("aria-label") == words
        assert [t.text for t in chart.iter("text")].count(words) == 3
        assert not re.search(r"<script", text)
