"""A plot of accuracy against distance, one panel per curriculum.

Lines are means over the seeds; bars reach from the worst seed to the best. Each model has its own marker and dashes, so
that the plot can be read without colours.
"""

from collections.abc import Mapping
from io import BytesIO
from typing import Any, Final, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from segue_training.models import Architecture
from segue_training.studies.agreement.config import ARCHITECTURES, CURRICULA, DESCRIPTIONS, AgreementConfig, Curriculum
from segue_training.studies.agreement.experiment import Results

DOTS_PER_INCH: Final = 150

_STYLES: Final[Mapping[Architecture, Mapping[str, Any]]] = {
    "lstm": {"color": "#0072b2", "marker": "o", "linestyle": "-", "markersize": 12, "markerfacecolor": "white"},
    "gru": {"color": "#009e73", "marker": "^", "linestyle": "--", "markersize": 6},
    "rnn": {"color": "#d55e00", "marker": "s", "linestyle": "-.", "markersize": 6},
    "mlp": {"color": "#000000", "marker": "x", "linestyle": ":", "markersize": 8},
}
"""From back to front, in colours that the colour-blind can distinguish (Okabe and Ito)."""

_SHIFTS: Final = (0.94, 0.98, 1.02, 1.06)
"""Factors that offset the bars from their distance, so that none hides another."""


def draw(results: Results) -> Figure:
    """Return the plot."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    panels = figure.subplots(1, len(CURRICULA), sharey=True)
    for panel, curriculum in zip(panels, CURRICULA, strict=True):
        _draw_surroundings(panel, results.config)
        _draw_models(panel, results, curriculum)
        panel.set_title(f"training: {DESCRIPTIONS[curriculum]}", fontsize="medium")
    lowest = min(min(outcome.accuracies) for outcome in results.outcomes)
    panels[0].set_ylim(min(0.45, lowest) - 0.05, 1.04)
    panels[0].set_ylabel("share of right verbs")
    seeds = f"mean of {results.config.repeats} seeds, bars from the worst to the best"
    figure.suptitle(f"the cat, … was full; the cats, … were full: does the verb agree? ({seeds})")
    _draw_legend(figure, panels[0])
    return figure


def render(figure: Figure, file_format: Literal["svg", "png"]) -> bytes:
    """Return the plot as a file's content; the same plot gives the same bytes."""
    file = BytesIO()
    with mpl.rc_context({"svg.hashsalt": "segue"}):
        metadata = {"Date": None} if file_format == "svg" else None
        figure.savefig(file, format=file_format, dpi=DOTS_PER_INCH, metadata=metadata)
    return file.getvalue()


def _draw_surroundings(panel: Axes, config: AgreementConfig) -> None:
    shortest, longest = min(config.distances), max(config.distances)
    powers = [2**k for k in range(1, longest.bit_length())]
    panel.set_xscale("log", base=2)
    panel.set_xticks(powers, labels=map(str, powers))
    panel.set_xlim(shortest / 1.2, longest * 1.2)
    panel.set_xlabel("characters between subject and verb")
    panel.grid(axis="y", color="#dddddd")
    panel.axhline(0.5, color="#777777", label="chance")
    reach = config.window - 1.5  # the window holds the subject's last letter, the gap and the verb's "w"
    panel.axvline(reach, color="#777777", linestyle=(0, (1, 3)), label=f"{config.window} characters: what the MLP sees")
    panel.axvspan(config.longest, longest * 1.2, color="#eeeeee", label="longer than in training")


def _draw_models(panel: Axes, results: Results, curriculum: Curriculum) -> None:
    distances = results.config.distances
    for (architecture, style), shift in zip(_STYLES.items(), _SHIFTS, strict=True):
        panel.plot(distances, results.means(curriculum, architecture), label=architecture.upper(), **style)
        seeds = list(zip(*(outcome.accuracies for outcome in results.of(curriculum, architecture)), strict=True))
        beside = [distance * shift for distance in distances]
        worst, best = [min(one) for one in seeds], [max(one) for one in seeds]
        panel.vlines(beside, worst, best, colors=style["color"], linestyles=style["linestyle"])


def _draw_legend(figure: Figure, panel: Axes) -> None:
    """List the models, then the annotations."""
    handles = dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    models = [architecture.upper() for architecture in ARCHITECTURES]
    labels = models + [label for label in handles if label not in models]
    figure.legend([handles[label] for label in labels], labels, loc="outside lower center", ncols=len(labels))
