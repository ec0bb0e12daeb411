"""Charts put values where their axes say."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chestmap.reports.svg_plot import Axis, Chart, Line, linear, path, spread, svg


def test_a_value_lies_where_the_axes_say():
    chart = Chart(
        title="t",
        x=Axis(label="x", low=0, high=10, ticks=(0, 10)),
        y=Axis(label="y", low=0, high=1, ticks=(0, 1)),
        lines=(Line(x=(0, 5, 10), y=(0, 0.5, 1)),),
        size=(440, 330),
    )
    left, top, width, height = chart.inner
    expected = [(left, top + height), (left + width / 2, top + height / 2), (left + width, top)]
    found = [tuple(map(float, point.split(","))) for point in path(chart.lines[0], chart)[1:].split("L")]
    assert found == [pytest.approx(point, abs=0.06) for point in expected]


def test_a_logarithmic_axis_gives_each_doubling_the_same_room():
    axis = Axis(label="x", low=0.125, high=8, ticks=(0.125, 1, 8), log=True)
    assert [axis.share(value) for value in (0.125, 1, 8, 100, 0.01)] == pytest.approx([0, 0.5, 1, 1, 0])


def test_ends_of_lines_are_kept_where_points_are_left_out():
    chart = Chart(title="t", x=Axis(label="x"), y=Axis(label="y"), lines=())
    line = Line(x=[index / 4000 for index in range(4001)], y=[0.5] * 4001)
    points = path(line, chart).split("L")
    assert len(points) < 1300
    assert points[-1].startswith(f"{chart.inner[0] + chart.inner[2]:.1f},")


@given(st.lists(st.integers(-(10**6), 10**6).map(lambda eighths: eighths / 8), min_size=1, max_size=20))
def test_ticks_are_few_and_hold_the_values(values):
    axis = linear("x", values)
    assert axis.low <= min(values) + 1e-6 * abs(min(values))
    assert axis.high >= max(values) - 1e-6 * abs(max(values))
    assert 2 <= len(axis.ticks) <= 8


@given(st.lists(st.floats(0, 300), max_size=12).map(sorted))
def test_labels_keep_their_order_and_distance(places):
    moved = spread(places, 15.0, 0.0, 300.0)
    assert len(moved) == len(places)
    assert all(later - earlier > 14.999 for earlier, later in pairwise(moved))
    assert all(0 <= place <= 300.001 for place in moved)


def test_labels_that_do_not_collide_stay():
    assert spread([10, 50, 51], 15, 0, 300) == pytest.approx([10, 43, 58])


def test_names_are_escaped_and_read_aloud():
    text = svg(
        Chart(
            title='<"title">',
            x=Axis(label="<x>"),
            y=Axis(label="y"),
            lines=(Line(x=(0, 1), y=(0, 1), name="<n>", label="<l>"),),
        )
    )
    assert 'aria-label="&lt;&quot;title&quot;&gt;"' in text
    assert not re.search(r"<[xnl]>", text)
