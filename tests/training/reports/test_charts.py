import math
import re
from xml.etree import ElementTree as ET

import pytest
from segue_training.reports.charts import Curve, line_chart

FALLING = Curve("training", "first", [(1, 3.0), (2, 2.0), (3, 1.5)])
OTHER = Curve("validation", "second", [(1, 3.1), (2, math.nan), (3, 1.9)])
SVG = "{http://www.w3.org/2000/svg}"


def test_a_chart_is_well_formed_and_names_what_it_shows() -> None:
    root = ET.fromstring(line_chart('a <b> & "c"', [FALLING, OTHER], "step", "nats <&>", 3))
    assert root.tag == f"{SVG}svg"
    assert root.attrib["aria-label"] == 'a <b> & "c"'
    assert {"width", "height"}.isdisjoint(root.attrib)
    assert {"training", "validation", "step", "nats <&>"} <= {text.text for text in root.iter(f"{SVG}text")}


def test_colours_and_fonts_are_the_pages() -> None:
    svg = line_chart("a", [FALLING, OTHER], "step", "nats", 3)
    assert not re.search(r"(fill|stroke): #", svg)
    assert set(re.findall(r"var\(--(\w+)\)", svg)) == {"ink", "muted", "grid", "first", "second"}
    assert set(re.findall(r"font-family: ([^;\"]*)", svg)) == {"inherit"}
    assert "<style" not in svg


def test_a_curve_falls_where_its_values_do() -> None:
    """SVG's y grows downwards."""
    svg = line_chart("a", [FALLING], "step", "nats")
    paths = re.findall(r'<path d="([^"]*)"[^>]*stroke: var\(--first\); stroke-width: 1\.8', svg)
    points = [tuple(map(float, point.split()[1:])) for point in paths[0].strip().splitlines()]
    (x1, y1), (x2, y2), (x3, y3) = points
    assert x3 - x2 == pytest.approx(x2 - x1, rel=1e-3)
    assert y2 - y1 == pytest.approx(2 * (y3 - y2), rel=1e-3)
    assert y3 > y2 > y1


def test_the_same_curves_give_the_same_text_and_two_charts_share_no_ids() -> None:
    one, again, two = (line_chart(name, [FALLING], "step", "nats") for name in ("a", "a", "b"))
    assert one == again
    ids = [set(re.findall(r'\bid="([^"]*)"', svg)) for svg in (one, two)]
    assert ids[0]
    assert ids[0].isdisjoint(ids[1])


def test_values_that_are_not_finite_leave_a_gap() -> None:
    assert "nan" not in line_chart("a", [OTHER, Curve("c", "ink", [(1, math.inf)])], "step", "nats").lower()
