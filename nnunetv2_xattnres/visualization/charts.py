"""Draws bar charts of scores (as in the paper's Figure 1) and training curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib

from nnunetv2_xattnres.catalogue import GREY, VARIANTS
from nnunetv2_xattnres.visualization.svg import STYLE, figure_to_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 4.3  # inches: legible on a phone without scrolling; two or three fit side by side on a desktop


class Bar(NamedTuple):
    """One bar: ``values`` are the single runs in per cent, ``paper`` is the paper's number or None."""

    label: str
    variant: str
    values: Sequence[float]
    paper: float | None = None


class Curve(NamedTuple):
    """One training: ``loss`` and ``dice`` (per cent) per epoch; curves with the same label share a legend entry."""

    label: str
    variant: str
    epochs: Sequence[int]
    loss: Sequence[float]
    dice: Sequence[float]


def colour(variant: str) -> str:
    """The colour of a variant in every figure."""
    return VARIANTS[variant].colour if variant in VARIANTS else GREY


def bar_chart(title: str, bars: Sequence[Bar], base: Bar | None, name: str) -> tuple[str, str]:
    """A bar chart as SVG, and its caption. Dots are single runs, and a dashed line marks ``base``.

    If all bars are close together, the axis does not start at 0, and the caption says so.
    """
    from matplotlib.figure import Figure

    means = [sum(bar.values) / len(bar.values) for bar in bars]
    bottom, top = _limits(bars)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
        axes = figure.add_subplot()
        positions = range(len(bars))
        axes.bar(
            positions, [mean - bottom for mean in means], bottom=bottom, width=0.62,
            color=[colour(bar.variant) for bar in bars], alpha=0.8, zorder=2,
        )  # fmt: skip
        for position, bar in zip(positions, bars, strict=True):
            offsets = [0.1 * (index - (len(bar.values) - 1) / 2) for index in range(len(bar.values))]
            axes.plot(
                [position + offset for offset in offsets], bar.values, "o", markersize=4,
                markerfacecolor="white", markeredgecolor="black", markeredgewidth=0.8, zorder=4,
            )  # fmt: skip
            if bar.paper is not None:
                axes.plot(position + 0.36, bar.paper, marker=4, markersize=7, color="#b00060", zorder=5)
        if base is not None:
            axes.axhline(
                sum(base.values) / len(base.values), linestyle="--", linewidth=1, color=STYLE["text.color"], zorder=3
            )
        axes.set_xticks(list(positions), [f"{bar.label}\n{mean:.2f}" for bar, mean in zip(bars, means, strict=True)])
        axes.tick_params(axis="x", length=0)
        axes.set_xlim(-0.6, len(bars) - 0.4)
        axes.set_ylim(bottom, top)
        axes.set_ylabel("Dice %")
        axes.set_title(title, loc="left", fontsize=10)
    words = f' Dashed: the level of "{base.label}".' if base is not None else ""
    return _finish(figure, title, bars, name, bottom, words)


def list_chart(title: str, bars: Sequence[Bar], name: str) -> tuple[str, str]:
    """Like :func:`bar_chart` for many bars with long labels: they lie, the first one on top."""
    from matplotlib.figure import Figure

    means = [sum(bar.values) / len(bar.values) for bar in bars]
    bottom, top = _limits(bars)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.9 + 0.25 * len(bars)), layout="constrained")
        axes = figure.add_subplot()
        positions = range(len(bars))
        axes.barh(
            positions, [mean - bottom for mean in means], left=bottom, height=0.62,
            color=[colour(bar.variant) for bar in bars], alpha=0.8, zorder=2,
        )  # fmt: skip
        for position, bar in zip(positions, bars, strict=True):
            axes.plot(
                bar.values, [position] * len(bar.values), "o", markersize=3,
                markerfacecolor="white", markeredgecolor="black", markeredgewidth=0.8, zorder=4,
            )  # fmt: skip
            if bar.paper is not None:
                axes.plot(bar.paper, position + 0.36, marker=6, markersize=6, color="#b00060", zorder=5)
        axes.set_yticks(list(positions), [f"{bar.label}  {mean:.2f}" for bar, mean in zip(bars, means, strict=True)])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.set_xlim(bottom, top)
        axes.set_xlabel("Dice %")
        axes.set_title(title, loc="left", fontsize=10)
    return _finish(figure, title, bars, name, bottom, "")


def _limits(bars: Sequence[Bar]) -> tuple[float, float]:
    """Ends of the axis: cut at the lower one where all bars are close together."""
    drawn = [value for bar in bars for value in [*bar.values, *([bar.paper] if bar.paper is not None else [])]]
    low, high = min(drawn), max(drawn)
    margin = max(0.25 * (high - low), 0.4)
    bottom = 0.0 if low - margin < 50 and high - low > 25 else max(0.0, low - 2 * margin)
    return bottom, min(high + margin, 100.0) if high < 99.8 else 100.6


def _finish(figure: Figure, title: str, bars: Sequence[Bar], name: str, bottom: float, words: str) -> tuple[str, str]:
    """The SVG, and the words for below it."""
    words = "Bars: mean over seeds; dots: single seeds." + words
    words += " Triangles: the paper's number." if any(bar.paper is not None for bar in bars) else ""
    words += f" The axis starts at {bottom:.1f} %, not at 0." if bottom else ""
    text = ", ".join(f"{bar.label} {sum(bar.values) / len(bar.values):.2f}" for bar in bars)
    return figure_to_svg(figure, name, f"{title}, Dice in per cent: {text}"), words


def curve_chart(title: str, curves: Sequence[Curve], name: str) -> str:
    """A chart as SVG: validation Dice, and below it training loss, over the epochs, one line per run."""
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        seen: set[str] = set()
        for curve in curves:
            # initialisations have the colours of routings; they are dashed, because one chart can show both
            dashed = curve.variant in VARIANTS and VARIANTS[curve.variant].has_own_init
            style = "--" if dashed else "-"
            line = {"color": colour(curve.variant), "linewidth": 1.2, "alpha": 0.85, "linestyle": style}
            if len(curve.epochs) < 12:  # markers for short runs: a single epoch would be no line
                line |= {"marker": "o", "markersize": 2.5}
            label = {} if curve.label in seen else {"label": curve.label}
            seen.add(curve.label)
            upper.plot(curve.epochs, curve.dice, **line, **label)
            lower.plot(curve.epochs, curve.loss, **line)
        upper.set_ylabel("pseudo Dice %")
        lower.set_ylabel("training loss")
        lower.set_xlabel("epoch")
        lower.xaxis.get_major_locator().set_params(integer=True)
        upper.set_title(title, loc="left", fontsize=10)
        figure.legend(*upper.get_legend_handles_labels(), loc="outside lower center", ncols=min(3, len(seen)))
    return figure_to_svg(figure, name, f"{title}: validation Dice and training loss of {len(curves)} runs")


def routing_chart(entries: Sequence[dict[str, Any]]) -> str:
    """Entropy of the routing and length of the queries over the epochs, one line per stage, as SVG.

    Args:
        entries: Per epoch ``{"epoch", "stages": {name: {"entropy", "query_norm"}}}``; entropy is a part of its maximum.
    """
    from matplotlib.figure import Figure

    epochs = [entry["epoch"] for entry in entries]
    names = list(entries[-1]["stages"])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.4 + 0.12 * len(names)), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        for number, name in enumerate(names):
            # encoder and decoder stages have a colour each; lines of one colour differ in their dashes
            colour, dashes = ("#0072b2", "#d55e00")["decoder" in name], ("-", "--", ":", "-.")[number % 4]
            line = {"color": colour, "linestyle": dashes, "linewidth": 1.2, "marker": "o", "markersize": 2.5}
            upper.plot(epochs, [100 * e["stages"][name]["entropy"] for e in entries], **line, label=name)
            lower.plot(epochs, [e["stages"][name]["query_norm"] for e in entries], **line)
        upper.set_ylabel("entropy, % of uniform")
        lower.set_ylabel("length of the query")
        lower.set_xlabel("epoch")
        lower.xaxis.get_major_locator().set_params(integer=True)
        upper.set_title("What the stages listen to", loc="left", fontsize=10)
        figure.legend(*upper.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure_to_svg(figure, "routing", f"Entropy of the routing of {len(names)} stages over {len(epochs)} epochs")
