"""Measures how cost grows with stages, patch size, width and history, one at a time; prints a table and a plot."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nnunetv2_xattnres.architectures import XAttnRes
from nnunetv2_xattnres.benchmark.cases import unet_arguments
from nnunetv2_xattnres.benchmark.measure import measure_networks

STAGES = (4, 5, 6, 7, 8)
PATCHES = (64, 128, 256, 384)
WIDTHS = (8, 16, 32, 64)
HISTORIES = (1, 2, 4, 8, 16)


class _OneReader(nn.Module):
    """A single XAttnRes over a history of ``count`` smaller and equal maps of ``width`` channels."""

    def __init__(self, count: int, width: int = 32) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))  # makes the maps need gradients, as in a network
        self.mix = XAttnRes([width] * count, width, nn.Conv2d)
        nn.init.normal_(self.mix.query)

    def forward(self, x: Tensor) -> Tensor:
        """Every second entry is of half the size, the others are as large as ``x``."""
        x = x * self.scale
        half = x[..., ::2, ::2]
        return self.mix([half if index % 2 else x for index in range(len(self.mix.projections))], x)


class _NoReader(nn.Module):
    """The comparison of the reader: one pass over the map."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per point: ``factor``, ``value``, then the result of :func:`measure_networks`."""
    factors: tuple[tuple[str, Sequence[int], Callable[[int], tuple[dict[str, nn.Module], tuple[int, ...]]]], ...] = (
        ("stages", STAGES, lambda stages: (_unets(stages, 16), (1, 3, 256, 256))),
        ("patch side", PATCHES, lambda side: (_unets(5, 16), (1, 3, side, side))),
        ("width", WIDTHS, lambda width: (_unets(5, width), (1, 3, 128, 128))),
        ("history", HISTORIES, lambda count: ({"base": _NoReader(), "ours": _OneReader(count)}, (1, 32, 256, 256))),
    )
    rows = []
    for factor, values, build in factors:
        for value in values:
            torch.manual_seed(0)
            networks, shape = build(value)
            rows.append({"factor": factor, "value": value,
                         **measure_networks(networks, shape, args, f"{factor} {value}")})  # fmt: skip
    return rows


def _unets(stages: int, width: int) -> dict[str, nn.Module]:
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    from nnunetv2_xattnres.architectures import XAttnResUNet

    arguments = unet_arguments(2, stages, width)
    return {"base": PlainConvUNet(**arguments), "ours": XAttnResUNet(**arguments, routing=None)}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The table of what XAttnRes adds to each point, and the ratio to the network without it."""
    lines = [f"\n{'':20}{'step: base':>12}{'added':>11}{'ratio':>8}{'memory: base':>15}{'added':>11}{'ratio':>8}"]
    for row in rows:
        cells = [f"{row['factor']:12}{row['value']:>8}"]
        for what, unit, scale, digits in (("step", "s", 1, 3), ("memory", "MiB", 2**20, 0)):
            base, ours = row[what]["base"] / scale, row[what]["ours"] / scale
            cells.append(f"{base:>10.{digits}f} {unit}{ours - base:>+9.{digits}f} {unit}")
            cells.append(f"{row[f'{what}_ratio']['ours']:>7.2f}x")
        lines.append("".join(cells))
    return "\n".join(lines)


def plot(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Plot the added step time and memory against each factor."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    factors = list(dict.fromkeys(row["factor"] for row in rows))
    figure, axes = pyplot.subplots(2, len(factors), figsize=(3.4 * len(factors), 5.6), squeeze=False)
    for column, factor in enumerate(factors):
        points = [row for row in rows if row["factor"] == factor]
        # cost should be linear in the number of pixels
        x = [row["value"] ** 2 if factor == "patch side" else row["value"] for row in points]
        label = "pixels" if factor == "patch side" else "history entries" if factor == "history" else factor
        for line, (what, unit, scale) in enumerate((("step", "s", 1), ("memory", "MiB", 2**20))):
            axis = axes[line][column]
            added = [(row[what]["ours"] - row[what]["base"]) / scale for row in points]
            axis.plot(x, added, marker="o", color="#1f5fa8")
            axis.set_ylim(bottom=0)
            axis.set_xlabel(label)
            axis.set_ylabel(f"added {'time a step' if what == 'step' else 'peak memory'} ({unit})")
            axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
