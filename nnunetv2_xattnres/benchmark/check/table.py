"""The tables of ``bench --check``: correctness, networks, training; ratios are beside their bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from nnunetv2_xattnres.benchmark.cases import Case
from nnunetv2_xattnres.benchmark.check.flow import Row
from nnunetv2_xattnres.benchmark.check.items import CORRECTNESS, PHANTOM, TRAINERS
from nnunetv2_xattnres.benchmark.check.process import DONE, FAILED

# The goals on a GPU, as ratios to base
STEP_BOUNDS = {("compiled", 2): 1.15, ("compiled", 3): 1.2, ("eager", 2): 1.3, ("eager", 3): 1.3}
INFERENCE_BOUND, MEMORY_BOUND, COPY_BOUND = 1.15, 1.2, 0.7
COLUMNS = (("step", "ms", 1e-3, 1), ("inference", "ms", 1e-3, 1), ("memory", "GiB", 2**30, 2), ("first", "s", 1, 1))
LOG_LINES = 6


def tables(rows: Sequence[Row]) -> str:
    """All results, in at most 100 columns."""
    return "\n".join(line[:100] for part in (_correctness, _networks, _trainings) for line in part(rows))


def _correctness(rows: Sequence[Row]) -> Iterator[str]:
    chosen = [row for row in rows if row.item.name in CORRECTNESS]
    if not chosen:
        return
    found = [row.outcome.figures for row in chosen]
    machine = next((figures["machine"] for figures in found if "machine" in figures), None)
    if machine:
        yield ""
        yield from machine.split("; ")
    yield "\nOutputs and gradients against the equations in float64: relative in norm, the worst tensor"
    for worst in (figures["worst"] for figures in found if "worst" in figures):
        error, bound = float(worst["error"]), float(worst["bound"])
        word = "" if error <= bound else "   WRONG"
        yield f"    {worst['dtype']:10}{error:.1e}   bound {bound:.1e}{word}"
        yield f"              {worst['where']}"
    found = [figures for figures in found if "compared" in figures]
    if found:
        wrong = [line for figures in found for line in figures["wrong"]]
        compared, of = (sum(figures[name] for figures in found) for name in ("compared", "of"))
        yield f"    {compared} of {of} comparisons made; {len(wrong)} tensors are wrong"
        yield from (f"      {line}" for line in wrong[:LOG_LINES])
        forms = sum((Counter(figures["forms"]) for figures in found), Counter())
        yield f"    computed by {_forms({**found[0], 'forms': forms})}"
    for row in chosen:
        if row.outcome.state != DONE:
            yield f"    {row.item.name}"
            yield from _state(row)


def _networks(rows: Sequence[Row]) -> Iterator[str]:
    chosen = [row for row in rows if row.item.function.endswith("timings:measure")]
    if chosen:
        yield f"\n{'':12}{'step':>12}{'inference':>21}{'peak memory':>21}{'first call*':>21}"
    for row in chosen:
        case, figures = Case(*row.item.arguments["case"]), row.outcome.figures
        yield f"{row.item.name}: {case.text}, {'x'.join(map(str, case.shape))}"
        if "first" in figures:
            yield from (_form_line(form, row) for form in ("base", "ours"))
        if "forms" in figures:
            yield f"    readers of ours computed by {_forms(figures)}"
        yield from _bandwidth(row)
        above = list(_above(row, case))
        if above:
            yield f"    ABOVE THE BOUND: {', '.join(above)}"
        yield from _state(row)
    if chosen:
        yield "* with compiling and tuning, while other items may compile too; all else is measured alone"


def _form_line(form: str, row: Row) -> str:
    line = f"    {form:8}"
    for what, unit, scale, digits in COLUMNS:
        value = row.outcome.figures.get(what, {}).get(form)
        cell = "-" if value is None else f"{value / scale:.{digits}f} {unit}"
        ratio = None if form == "base" else _ratio(row, what)
        line += f"{cell:>12}" + (f"{ratio:>7.2f}x " if ratio is not None else " " * 9)
    return line.rstrip()


def _ratio(row: Row, what: str) -> float | None:
    values = row.outcome.figures.get(what, {})
    if what == "first" and not row.item.arguments["compiled"]:
        return None  # the first one also waits for CUDA's libraries
    return values.get("ratio", values["ours"] / values["base"]) if {"base", "ours"} <= set(values) else None


def _above(row: Row, case: Case) -> Iterator[str]:
    """The costs that are above their bounds on a GPU."""
    kind = "compiled" if row.item.arguments["compiled"] else "eager"
    bounds = {"step": STEP_BOUNDS[kind, len(case.shape) - 2], "inference": INFERENCE_BOUND, "memory": MEMORY_BOUND}
    for what, bound in bounds.items():
        ratio = _ratio(row, what)
        if _has_bounds(row) and ratio is not None and ratio > bound:
            yield f"{what} {ratio:.2f}x (bound {bound:.2f}x)"


def _has_bounds(row: Row) -> bool:
    return row.item.arguments["device"] == "cuda"


def _bandwidth(row: Row) -> Iterator[str]:
    lines = []
    for layout, values in row.outcome.figures.get("bandwidth", {}).items():
        share = values["forward"] / values["copy"]
        below = f", BELOW {COPY_BOUND:.0%}" if _has_bounds(row) and share < COPY_BOUND else ""
        forward, copy = (f"{values[name] / 1e9:.0f}" for name in ("forward", "copy"))
        lines.append(f"{layout} {forward} GB/s, {share:.0%} of a copy's {copy} GB/s{below}")
    if lines:
        yield f"    largest aggregation, forward: {lines[0]}"
        yield from (f"{'':34}{line}" for line in lines[1:])


def _trainings(rows: Sequence[Row]) -> Iterator[str]:
    chosen = {row.item.name: row for row in rows if row.item.name in (PHANTOM, *TRAINERS)}
    if not chosen:
        return
    phantom = chosen.pop(PHANTOM, None)
    shape = "x".join(map(str, phantom.outcome.figures.get("shape", []))) if phantom else ""
    yield f"\n{'nnU-Net trains on drawn frames':34}{'1st epoch':>10}{'2nd epoch':>12}{'ratio':>8}{'training loss':>20}"
    if shape:
        yield f"batches of {shape}; the first epoch compiles, while other items may compile too"
    if phantom and phantom.outcome.state != DONE:
        yield from (f"    {PHANTOM}", *_state(phantom))
    base = chosen[TRAINERS[0]].outcome.figures.get("epochs") if TRAINERS[0] in chosen else None
    for name, row in chosen.items():
        epochs = row.outcome.figures.get("epochs")
        line = f"    {name:30}"
        if epochs:
            losses = " to ".join(f"{float(loss):.3f}" for loss in row.outcome.figures["losses"])
            ratio = f"{epochs[1] / base[1]:.2f}x" if base and name != TRAINERS[0] else ""
            line += f"{epochs[0]:>8.1f} s{epochs[1]:>10.1f} s{ratio:>8}{losses:>20}"
        yield line.rstrip()
        if row.outcome.figures.get("forms"):
            yield f"        readers computed by {_forms(row.outcome.figures)}"
        yield from _state(row)


def _forms(figures: dict[str, Any]) -> str:
    forms = figures.get("forms", {})
    total = sum(forms.values())
    text = ", ".join(f"{form} in {count} of {total} calls" for form, count in forms.items())
    reason = figures.get("no_triton")
    return (text or "another form") + (f" (Triton cannot be used: {reason})" if reason else "")


def _state(row: Row) -> Iterator[str]:
    outcome = row.outcome
    if outcome.state != DONE:
        yield f"    {outcome.state}: {outcome.message}"
        if outcome.state == FAILED:
            yield from (f"      | {line}" for line in outcome.log[-LOG_LINES:])
