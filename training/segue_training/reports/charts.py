"""Line charts as SVG in the colours of the surrounding page, light or dark.

matplotlib draws them in placeholder colours, which are then replaced by CSS variables.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final, Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

Role = Literal["ink", "muted", "grid", "first", "second"]

_PLACEHOLDERS: Final[Mapping[Role, str]] = {
    "ink": "#010101",
    "muted": "#020202",
    "grid": "#030303",
    "first": "#040404",
    "second": "#050505",
}

_INCHES: Final = (4.9, 3.1)
"""Small, so that the text stays legible on a phone."""

_STYLE: Final[Mapping[Any, Any]] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": _PLACEHOLDERS["ink"],
    "axes.edgecolor": _PLACEHOLDERS["grid"],
    "axes.labelcolor": _PLACEHOLDERS["muted"],
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "xtick.color": _PLACEHOLDERS["grid"],
    "xtick.labelcolor": _PLACEHOLDERS["muted"],
    "ytick.color": _PLACEHOLDERS["grid"],
    "ytick.labelcolor": _PLACEHOLDERS["muted"],
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.borderaxespad": 0.0,
    "legend.handlelength": 1.4,
}

_MARKED: Final = 40
"""Curves with at most this many points get markers."""


@dataclass(frozen=True)
class Curve:
    """A line through points; non-finite values leave a gap."""

    name: str
    role: Role
    points: Sequence[tuple[float, float]]
    is_dense: bool = False
    """The points sample a function finely; they are not measurements."""


def line_chart(name: str, curves: Sequence[Curve], x_label: str, y_label: str, marked: float | None = None) -> str:
    """Return an `<svg>` element labelled `name` for screen readers, with a vertical line at x = `marked`.

    The same arguments give the same text. Names must be unique within a page: element ids depend on them.
    """
    with rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=_INCHES, layout="constrained")
        axes = figure.subplots()
        if marked is not None:
            axes.axvline(marked, color=_PLACEHOLDERS["muted"], linewidth=1, dashes=(2, 3))
        for curve in curves:
            _draw(axes, curve)
        _label(axes, x_label, y_label)
        if len(curves) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=len(curves))
        return _element(_svg(figure), name)


def _draw(axes: Axes, curve: Curve) -> None:
    marker = "" if curve.is_dense or len(curve.points) > _MARKED else "o"
    xs, ys = [x for x, _ in curve.points], [y for _, y in curve.points]
    axes.plot(xs, ys, color=_PLACEHOLDERS[curve.role], label=curve.name, linewidth=1.8, marker=marker, markersize=3.5)


def _label(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(axis="y", color=_PLACEHOLDERS["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_xlim(left=0)


def _svg(figure: Figure) -> str:
    content = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(content, format="svg", transparent=True, metadata=no_metadata)
    return content.getvalue()


def _element(document: str, name: str) -> str:
    """Return the root element of an SVG document, scalable and in the page's font and colours."""
    svg = document[document.index("<svg") :].strip()
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', rf'\1 role="img" aria-label="{escape(name)}"', svg)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # would apply to the whole page
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    svg = re.sub(r' id="(?:figure|axes|patch|text|line2d|xtick|ytick|legend|matplotlib\.axis)_\d+"', "", svg)
    for role, colour in _PLACEHOLDERS.items():
        svg = svg.replace(colour, f"var(--{role})")
    return svg
