"""``nnunetv2_xattnres complexity``: the costs of every network and routing, beside the paper's figures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from nnunetv2_xattnres.benchmark.cases import unet_blocks
from nnunetv2_xattnres.catalogue import NETWORKS, VARIANTS, routings
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.plans.variants import check_options

if TYPE_CHECKING:
    from torch import nn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``complexity``."""
    parser.add_argument(
        "--size", nargs="+", type=int, default=[256, 256], metavar="N",
        help="input size in pixels or voxels: H W, or D H W (default: 256 256)",
    )  # fmt: skip
    parser.add_argument("--channels", type=int, default=3, metavar="N", help="input channels (default: 3)")
    parser.add_argument("--classes", type=int, default=1, metavar="N", help="output channels (default: 1)")
    networks, names = list(NETWORKS), [key for key, variant in VARIANTS.items() if not variant.has_own_init]
    for option, choices, default in (("network", networks, networks), ("routing", names, list(routings()))):
        left_out = f" but {', '.join(sorted({*choices} - {*default}))}" if default != choices else ""
        parser.add_argument(
            f"--{option}", nargs="+", choices=choices, default=default, metavar=option.upper(),
            help=f"{option}s: {', '.join(choices)} (default: all{left_out})",
        )  # fmt: skip
    text = "encoder of the networks that can have it: pvt_v2_b0 to pvt_v2_b5 (default: pvt_v2_b2)"
    parser.add_argument("--encoder", metavar="NAME", help=text)
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    if len(args.size) not in (2, 3) or min(args.size) < 1:
        raise InputError(f"--size {' '.join(map(str, args.size))}: give two or three positive numbers")
    if min(args.channels, args.classes) < 1:
        raise InputError(f"--channels {args.channels} --classes {args.classes}: give at least 1")
    networks = [network for network in args.network if len(args.size) in NETWORKS[network].dimensions]
    if not networks:
        raise InputError(f"{' and '.join(args.network)} are 2D networks: give --size H W")
    variants = dict.fromkeys(name for network in networks for name in NETWORKS[network].variants)
    if not variants.keys() & set(args.routing):
        raise InputError(f"--routing {' '.join(args.routing)}: {', '.join(networks)} can have {', '.join(variants)}")
    check_options(networks, args.encoder)
    rows = measure_all(networks, args.routing, args.size, args.channels, args.classes, args.encoder)
    if args.json:
        print(
            json.dumps({"input": [1, args.channels, *args.size], "classes": args.classes, "networks": rows}, indent=2)
        )
    else:
        print_table(rows, args)
    return 0


def measure_all(
    networks: Sequence[str],
    routings: Sequence[str],
    size: Sequence[int],
    channels: int,
    classes: int,
    encoder: str | None = None,
) -> list[dict[str, Any]]:
    """One row per network and routing.

    Returns:
        ``network``, ``routing``, ``parameters``, ``macs``, ``activation_bytes``; ``over_baseline``, the differences of
        these three to the baseline (``None`` if the baseline was not requested); ``paper``, with ``parameters``,
        ``macs`` and their differences to the paper's baseline (``None`` if it prints none).
    """
    from nnunetv2_xattnres.benchmark.cost import count_cost

    cells = [
        (network, routing) for network in networks for routing in routings if routing in NETWORKS[network].variants
    ]
    rows: list[dict[str, Any]] = []
    for network, routing in tqdm(cells, desc="measuring", leave=False, disable=not sys.stderr.isatty()):
        cost = count_cost(builder(network, routing, size, channels, classes, encoder), (1, channels, *size))
        base = next((row for row in rows if (row["network"], row["routing"]) == (network, "baseline")), None)
        paper = _paper(network, routing) if NETWORKS[network].encoder in (None, encoder) or not encoder else None
        rows.append({
            "network": network,
            "routing": routing,
            "parameters": cost.parameters,
            "macs": cost.macs,
            "activation_bytes": cost.activation_bytes,
            "over_baseline": None if base is None else {
                "parameters": cost.parameters - base["parameters"],
                "macs": cost.macs - base["macs"],
                "activation_bytes": cost.activation_bytes - base["activation_bytes"],
            },
            "paper": paper,
        })  # fmt: skip
    return rows


def _paper(network: str, routing: str) -> dict[str, int] | None:
    printed = NETWORKS[network].paper_cost
    if routing not in printed:
        return None
    figures = []
    for value, base, unit in zip(printed[routing], printed["baseline"], (1e6, 1e9), strict=True):
        figures += [round(value * unit), round((value - base) * unit)]
    return dict(zip(("parameters", "parameters_over_baseline", "macs", "macs_over_baseline"), figures, strict=True))


def builder(
    network: str, routing: str, size: Sequence[int], channels: int, classes: int, encoder: str | None = None
) -> Callable[[], nn.Module]:
    """A function that builds the network; nnU-Net's two networks as its planner would for a patch of ``size``."""
    entry = NETWORKS[network]
    module, _, name = entry.class_name.rpartition(".")
    routed = {"routing": VARIANTS[routing].routing} if entry.places else {}
    kwargs: dict[str, Any]
    if entry.stock:
        kwargs = {"input_channels": channels, "num_classes": classes, "deep_supervision": False}
        kwargs.update(unet_kwargs(size, residual="Residual" in entry.stock))
        kwargs["features_per_stage"] = VARIANTS[routing].widen(kwargs["features_per_stage"])
    else:
        kwargs = {"encoder": encoder} if encoder in entry.encoders else {}
        if entry.takes_image_size:
            kwargs["image_size"] = list(size)
    inputs = () if entry.stock else (channels, classes)
    return lambda: getattr(import_module(module), name)(*inputs, **kwargs, **routed)


def unet_kwargs(size: Sequence[int], residual: bool) -> dict[str, Any]:
    """nnU-Net's defaults for a patch of ``size`` at spacing 1: sizes halve to 4, channels double from 32 to 512."""
    from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

    dims = len(size)
    _, strides, kernels, patch, _ = get_pool_and_conv_props([1.0] * dims, list(size), 4, 999999)
    if list(patch) != list(size):
        wanted = " ".join(map(str, patch))
        raise InputError(f"nnU-Net would not plan a patch of {' '.join(map(str, size))}: the next one is {wanted}")
    stages = len(strides)
    if stages < 2:
        raise InputError(f"nnU-Net would not plan a patch of {' '.join(map(str, size))}: give 8 or more along an axis")
    blocks = (1, 3, 4, *[6] * stages)[:stages] if residual else (2,) * stages
    return {
        **unet_blocks(dims, stages),
        "kernel_sizes": kernels,
        "strides": strides,
        "n_blocks_per_stage" if residual else "n_conv_per_stage": blocks,
        "n_conv_per_stage_decoder": ((1,) if residual else (2,)) * (stages - 1),
    }


def print_table(rows: Sequence[dict[str, Any]], args: argparse.Namespace) -> None:
    """The rows as a table of at most 100 columns."""
    size = "x".join(map(str, args.size))
    print(f"Input {args.channels} x {size}, {args.classes} output channel(s), batch 1, float32\n")
    width = max([9, *(1 + len(row["routing"]) for row in rows)])
    print(f"{'':{15 + width}}{'parameters (M)':>16}{'MACs (G)':>17}{'activations':>14}   paper: M, G")
    for line in _lines(rows, width):
        print(line.rstrip())
    print(
        "\nIn brackets: over the baseline of the same network. MACs: multiply-accumulates of convolutions,"
        "\nlinear layers and XAttnRes's products, without the products of attention. Activations: MiB"
        "\nat the peak of a forward pass in training. Paper: Table 2, for 3 x 256x256 and one class."
    )
    if extended := [key for key in NETWORKS if NETWORKS[key].stock and key in {row["network"] for row in rows}]:
        print(f"{', '.join(extended)}: nnU-Net's own networks as it plans them for this patch size.")


def _lines(rows: Sequence[dict[str, Any]], width: int) -> Iterator[str]:
    """Networks with several rows stand apart; ``width``: of the column of routings."""
    previous, alone = None, True
    for index, row in enumerate(rows):
        first = row["network"] != previous
        several = index + 1 < len(rows) and rows[index + 1]["network"] == row["network"]
        if first and previous is not None and (several or not alone):
            yield ""
        alone = not several if first else False
        name = row["network"] if row["network"] != previous else ""
        previous = row["network"]
        over = row["over_baseline"]
        parameters = _figure(row["parameters"], 1e6, over and over["parameters"])
        macs = _figure(row["macs"], 1e9, over and over["macs"])
        memory = f"{row['activation_bytes'] / 2**20:.0f}"
        if over and row["routing"] != "baseline":
            memory += f" ({over['activation_bytes'] / 2**20:+.0f})"
        paper = row["paper"]
        beside = ""
        if paper:
            beside = "   " + _figure(paper["parameters"], 1e6, paper["parameters_over_baseline"])
            beside += ", " + _figure(paper["macs"], 1e9, paper["macs_over_baseline"])
        yield f"{name:15}{row['routing']:{width}}{parameters:>16}{macs:>17}{memory:>14}{beside}"


def _figure(value: int, unit: float, over: int | None) -> str:
    return f"{value / unit:.2f}" + (f" ({over / unit:+.2f})" if over else "")
