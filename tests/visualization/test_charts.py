"""Charts as SVG: what is drawn, what is said about it, and that several fit on one page."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from nnunetv2_xattnres.visualization.charts import Bar, Curve, bar_chart, curve_chart
from nnunetv2_xattnres.visualization.svg import INK, standalone

BARS = [Bar("baseline", "baseline", [92.1, 92.5]), Bar("both", "both", [92.4, 92.2], paper=92.35)]


def test_words_say_what_is_drawn():
    svg, words = bar_chart("U-Net", BARS, BARS[0], "bars")
    assert "The axis starts at" in words
    assert 'Dashed: the level of "baseline"' in words
    assert "Triangles" in words
    assert "baseline 92.30, both 92.30" in ElementTree.fromstring(svg).get("aria-label")
    _, words = bar_chart("U-Net", [Bar("both", "both", [92.0])], None, "bars")
    assert "Dashed" not in words
    assert "Triangles" not in words


def test_axis_starts_at_zero_where_the_bars_differ_much():
    _, words = bar_chart("U-Net", [Bar("a", "both", [90.0]), Bar("b", "noskip", [10.0])], None, "bars")
    assert "not at 0" not in words


@pytest.mark.parametrize("kind", ["bars", "curves"])
def test_svg_fits_any_page(kind):
    """Well-formed, in the page's text colour, nothing loaded, and every id with the name in front."""
    if kind == "bars":
        svg = bar_chart("A & B < C", BARS, BARS[0], "left")[0]
    else:
        curve = Curve("both", "both", [0, 1], [0.5, 0.2], [10.0, 50.0])
        svg = curve_chart("A & B < C", [curve, curve._replace(variant="init_random")], "left")
    ElementTree.fromstring(svg)
    assert INK not in svg
    assert "currentColor" in svg
    assert "<image" not in svg
    identifiers = re.findall(r'\bid="([^"]*)"', svg)
    assert identifiers
    assert all(identifier.startswith("left-") for identifier in identifiers)
    used = set(re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', svg))
    assert {first or second for first, second in used} <= set(identifiers)
    assert ElementTree.fromstring(standalone(svg).encode()).tag.endswith("svg")


def test_same_data_same_file():
    assert bar_chart("U-Net", BARS, None, "bars") == bar_chart("U-Net", BARS, None, "bars")


def test_runs_of_one_routing_share_a_legend_entry():
    curves = [Curve("both", "both", [0, 1], [0.5, 0.2], [10.0, 50.0])] * 3
    svg = curve_chart("U-Net", curves, "curves")
    assert len(re.findall(r">both<", svg)) == 1
