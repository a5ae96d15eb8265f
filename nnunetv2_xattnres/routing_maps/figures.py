"""Figures of a run as SVG: matrices, stacked bars by group, and estimates with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import matplotlib
import numpy as np

from nnunetv2_xattnres.architectures.readers import Reader
from nnunetv2_xattnres.routing_maps.colours import entry_colours
from nnunetv2_xattnres.routing_maps.partitions import AWAY, BOUNDARY, BY_CLASS, BY_DISTANCE, BY_OUTCOME, EVERYWHERE
from nnunetv2_xattnres.routing_maps.summary import Estimate, Split
from nnunetv2_xattnres.routing_maps.tables import Results, all_entries, shown_readers, without_minus_zero
from nnunetv2_xattnres.visualization.charts import WIDTH
from nnunetv2_xattnres.visualization.svg import INK, STYLE, figure_to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE = 0.26  # inches per row
SPLITS = (BY_DISTANCE, BY_CLASS, BY_OUTCOME)


class Chart(NamedTuple):
    """A figure: name of its file, SVG, the words below it, and the part of the page that it belongs to."""

    name: str
    svg: str
    caption: str
    section: str


def charts(results: Results) -> list[Chart]:
    """All figures, in the order of the page."""
    readers = results.analysis.readers
    means = [results.split(EVERYWHERE, reader)[0].weights for reader in readers]
    found = [
        matrix_chart(readers, means, "Mean weight, %", "matrix", "Blues"),
        _intervals(
            ["together", *(reader.stage for reader in readers)],
            [results.claim.difference, *(claim.difference for claim in results.claims)],
            "boundary minus away, octaves of resolution", 1.0, 0.0, "claim",
            "Left of the line: boundaries listen to finer entries, as the paper claims. Bars: 95 % interval over "
            "cases. Together: the mean of the decoder stages.",
        ),
        _intervals(
            [reader.stage for reader in readers], results.entropies, "entropy, % of its largest value", 100.0, None,
            "entropy", "100 %: all entries weigh the same. Bars: 95 % interval over cases.",
        ),
    ]  # fmt: skip
    if results.knock_out:
        values = [results.knock_out[reader.module] for reader in readers]
        found.append(matrix_chart(readers, values, "Change of Dice without the entry, points", "knock_out"))
    for by in SPLITS:
        found += [
            _stacked(results, reader, by)
            for reader in shown_readers(results)
            if by in results.analysis.groups and results.split(by, reader)
        ]
    return found


def matrix_chart(
    readers: Sequence[Reader], values: Sequence[Sequence[Estimate]], title: str, name: str, colours: str = "PuOr"
) -> Chart:
    """Stages in rows, entries in columns, the mean of each times 100 in its cell; ``PuOr`` has its middle at 0."""
    entries = all_entries(readers)
    cells = np.full((len(readers), len(entries)), np.nan)
    for row, (reader, estimates) in enumerate(zip(readers, values, strict=True)):
        for entry, value in zip(reader.entries, estimates, strict=True):
            cells[row, entries.index(entry)] = 100 * value.mean
    finite = np.abs(cells[np.isfinite(cells)])
    top = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    signed = colours == "PuOr"
    with matplotlib.rc_context(STYLE):
        figure = _figure(max(WIDTH, 1.1 + 0.36 * len(entries)), 1.4 + LINE * len(readers))
        axes = figure.add_subplot()
        image = axes.imshow(
            np.ma.masked_invalid(cells), cmap=colours, vmin=-top if signed else 0, vmax=top, aspect="auto"
        )
        for (row, column), value in np.ndenumerate(cells):
            if math.isfinite(value):
                dark = sum(image.cmap(image.norm(value))[:3]) < 1.6
                signed_text = without_minus_zero(f"{value:+.{1 if top >= 10 else 2}f}")
                text = signed_text if signed else f"{value:.0f}"
                axes.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if dark else "#111111")
        axes.set_xticks(range(len(entries)), entries, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(readers)), [reader.stage for reader in readers])
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xlabel("entry")
        axes.set_ylabel("stage")
        axes.set_title(title, loc="left", fontsize=10)
    words = "Rows: stages. Columns: what they listen to. Empty: the entry comes later."
    if signed:
        words += " Negative: the prediction is worse without the entry."
    return Chart(name, figure_to_svg(figure, name, f"{title}, of each stage and entry"), words, name)


def _stacked(results: Results, reader: Reader, by: str) -> Chart:
    """One bar for each group of pixels, made of the mean weights of the entries."""
    items = [item for item in results.split(by, reader) if item.group not in (BOUNDARY, AWAY)]
    colours = entry_colours(results.analysis.readers)
    rows = -(-len(reader.entries) // 3)
    with matplotlib.rc_context(STYLE):
        figure = _figure(WIDTH, 1.05 + 0.2 * rows + LINE * len(items))
        axes = figure.add_subplot()
        places = range(len(items))
        left = np.zeros(len(items))
        for index, entry in enumerate(reader.entries):
            widths = np.array([100 * item.weights[index].mean for item in items])
            axes.barh(places, widths, left=left, height=0.8, color=colours[entry], label=entry, linewidth=0)
            left += widths
        axes.set_yticks(places, [_short(item) for item in items])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(items) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        axes.set_xlabel("mean weight, %")
        unit = f", {results.analysis.unit}" if by == BY_DISTANCE else ""
        axes.set_title(f"{reader.stage}: by {by}{unit}", loc="left", fontsize=10)
        figure.legend(loc="outside lower center", ncols=3, fontsize=8, handlelength=1, columnspacing=1)
    name = f"{by.replace(' ', '_')}_{reader.stage.replace(' ', '_')}"
    text = f"{reader.stage}: mean weights of the entries by {by}{unit}"
    words = "Grey: the current feature. Dark: fine; light: coarse."
    return Chart(name, figure_to_svg(figure, name, text), words, by)


def _intervals(
    labels: Sequence[str],
    values: Sequence[Estimate],
    axis: str,
    scale: float,
    line: float | None,
    name: str,
    words: str,
) -> Chart:
    with matplotlib.rc_context(STYLE):
        figure = _figure(WIDTH, 0.75 + LINE * len(labels))
        axes = figure.add_subplot()
        if line is not None:
            axes.axvline(line, color=INK, linewidth=0.8, linestyle="--")
        for place, value in enumerate(values):
            if not math.isnan(value.low):
                axes.plot([scale * value.low, scale * value.high], [place, place], color="#0072b2", linewidth=2)
            axes.plot(scale * value.mean, place, "o", color="#0072b2", markersize=5)
        axes.set_yticks(range(len(labels)), labels)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.locator_params(axis="x", nbins=4)  # labels of a narrow range have many digits
        axes.set_xlabel(axis)
    text = ", ".join(f"{label} {scale * value.mean:.3g}" for label, value in zip(labels, values, strict=True))
    return Chart(name, figure_to_svg(figure, name, f"{axis}: {text}"), words, name)


def _short(item: Split) -> str:
    return item.group if len(item.group) <= 24 else item.group[:23] + "…"


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def bare(axes: Axes) -> None:
    """Without ticks and frame, for pictures."""
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
