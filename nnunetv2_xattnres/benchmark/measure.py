"""Measures step time, peak memory and multiply-accumulates of base, literal and ours, which take turns in one run."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from functools import partial
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from nnunetv2_xattnres.architectures import use_kernel
from nnunetv2_xattnres.benchmark.bandwidth import bandwidth
from nnunetv2_xattnres.benchmark.cases import CASE_NAMES, CASES, CPU_CASES, ROUTINGS, build
from nnunetv2_xattnres.benchmark.cost import count_cost
from nnunetv2_xattnres.benchmark.literal import make_literal
from nnunetv2_xattnres.benchmark.timing import seconds
from nnunetv2_xattnres.errors import InputError

PICTURES = (".png", ".jpg", ".svg", ".pdf")  # what matplotlib draws without further programs


def prepare(args: argparse.Namespace) -> None:
    """Check the options and the device, and force the kernel.

    Raises:
        InputError: an option or the device cannot be used.
    """
    ignored = [name for name in ("scaling", "plot", "compile", "cpu_clock", "threads") if getattr(args, name)]
    if args.check and ignored:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in ignored)
        raise InputError(f"--check has an order of its own and does not go with {options}: leave one of them out")
    if args.minutes is not None and not args.check:
        raise InputError("--minutes is for --check: add that, or leave it out")
    if args.scaling and args.case:
        raise InputError("--scaling has networks of its own and does not go with --case: leave one of them out")
    if args.plot:
        if not args.scaling:
            raise InputError("--plot draws what --scaling measures: add that, or leave it out")
        if args.plot.suffix.lower() not in PICTURES:
            raise InputError(f"--plot {args.plot}: the name of the picture ends in {', '.join(PICTURES)}")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch finds no CUDA device here. Measure with --device cpu.")
    for option in ("repeats", "threads"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise InputError(f"--{option} {value}: give at least 1")
    try:
        use_kernel(args.kernel)
    except ValueError as error:
        raise InputError(f"--kernel: {error}") from error


def describe_machine(args: argparse.Namespace) -> str:
    """One line about the machine and the versions."""
    if args.device == "cuda":
        where = f"{torch.cuda.get_device_name()}, float16 autocast"
    else:
        where = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} CPU thread(s), float32"
    clock = "processor time" if args.cpu_clock else "wall-clock time"
    compiled = ", torch.compile" if args.compile else ""
    return f"{where}, torch {torch.__version__}{compiled}, {clock}, median of {args.repeats} rounds"


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per case: ``case``, ``shape`` and for each form ``step``, ``inference`` (s) and ``memory`` (bytes)."""
    names = args.case or (CPU_CASES if args.device == "cpu" else CASE_NAMES)
    rows = []
    for name in names:
        torch.manual_seed(0)
        networks = {form: build(name, routing) for form, routing in ROUTINGS.items()}
        ours = networks["ours"]
        if not args.no_literal:
            literal = build(name, "both")
            literal.load_state_dict(ours.state_dict())
            networks["literal"] = make_literal(literal)
        shape = CASES[name].shape
        one = (1, *shape[1:])
        counted = {form: count_cost(partial(build, name, routing), one).macs for form, routing in ROUTINGS.items()}
        rows.append(
            {
                "case": name,
                "text": CASES[name].text,
                "shape": shape,
                **measure_networks(networks, shape, args, name),
                "macs": counted,
                "bandwidth": bandwidth(ours, shape, args.device, args.repeats),
            }
        )
    return rows


def measure_networks(
    networks: dict[str, nn.Module], shape: tuple[int, ...], args: argparse.Namespace, text: str
) -> dict[str, dict[str, float]]:
    """``step``, ``inference`` (seconds) and ``memory`` (bytes) of each network, in the order base, ours, …"""
    x = torch.rand(shape, device=args.device)
    for network in networks.values():
        network.to(args.device)
    runs: dict[str, Any] = {
        name: torch.compile(network) if args.compile else network for name, network in networks.items()
    }
    clock = process_time if args.cpu_clock else perf_counter
    results: dict[str, dict[str, float]] = {}
    for what, function in (("step", _step), ("inference", _inference)):
        times: dict[str, list[float]] = {name: [] for name in runs}
        rounds = tqdm(range(args.repeats + 1), desc=f"{text} {what}", leave=False, disable=not sys.stderr.isatty())
        for index in rounds:
            for name, network in runs.items():
                taken = seconds(partial(function, network, x), x.is_cuda, clock)
                if index:  # the first round is a warm-up
                    times[name].append(taken)
        results[what] = {name: median(values) for name, values in times.items()}
        results[f"{what}_ratio"] = {
            name: median(t / base for t, base in zip(times[name], times["base"], strict=True)) for name in runs
        }
    memory: dict[str, float] = {name: _peak_memory(network, x, args) for name, network in runs.items()}
    results["memory"] = memory
    results["memory_ratio"] = {name: value / memory["base"] for name, value in memory.items()}
    return results


def _step(network: nn.Module, x: Tensor) -> None:
    network.train()
    network.zero_grad(set_to_none=True)
    with torch.autocast("cuda", dtype=torch.float16, enabled=x.is_cuda):
        outputs = network(x)
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        loss = sum(output.float().square().mean() for output in outputs)
    loss.backward()


def _inference(network: nn.Module, x: Tensor) -> None:
    network.eval()
    with torch.inference_mode(), torch.autocast("cuda", dtype=torch.float16, enabled=x.is_cuda):
        network(x)


def _peak_memory(network: nn.Module, x: Tensor, args: argparse.Namespace) -> int:
    """Peak bytes of a training step: weights, gradients, activations and the kernels' own buffers."""
    network.zero_grad(set_to_none=True)
    fixed = sum(tensor.nbytes for tensor in [*network.parameters(), *network.buffers(), x])
    if x.is_cuda:
        others = torch.cuda.memory_allocated()  # weights of all networks, and gradients of some
        torch.cuda.reset_peak_memory_stats()
        _step(network, x)
        return fixed + torch.cuda.max_memory_allocated() - others
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        _step(network, x)
    network.zero_grad(set_to_none=True)
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return fixed + peak


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The table: seconds and bytes, and the ratios to base."""
    lines = [f"\n{'':12}{'form':9}{'step':>9}{'':8}{'inference':>10}{'':8}{'peak memory':>13}"]
    for row in rows:
        shape = "x".join(map(str, row["shape"]))
        lines.append(f"{row['case']}: {row['text']}, {shape}")
        for form in sorted(row["step"], key=("base", "literal", "ours").index):
            cells = [f"{'':12}{form:9}"]
            for what, width in (("step", 9), ("inference", 10)):
                cells.append(f"{row[what][form]:>{width - 2}.3f} s{_ratio(row, what, form):>8}")
            cells.append(f"{row['memory'][form] / 2**20:>9.0f} MiB{_ratio(row, 'memory', form):>8}")
            lines.append("".join(cells))
        if "macs" in row:
            base, ours = row["macs"]["base"] / 1e9, row["macs"]["ours"] / 1e9
            forward, copy = row["bandwidth"]["forward"] / 1e9, row["bandwidth"]["copy"] / 1e9
            lines.append(f"{'':12}multiply-accumulates of one image: {base:.2f}G, with XAttnRes {ours - base:+.3f}G")
            lines.append(f"{'':12}largest aggregation, forward: {forward:.1f} GB/s; a copy: {copy:.1f} GB/s")
    return "\n".join(lines)


def _ratio(row: dict[str, Any], what: str, form: str) -> str:
    return "" if form == "base" else f"{row[f'{what}_ratio'][form]:.2f}x"
