"""The tables of ``bench --check``: correctness, the networks, the training; ratios beside their bounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from nnunetv2_xattnres.benchmark.cases import Case
from nnunetv2_xattnres.benchmark.check.flow import Row
from nnunetv2_xattnres.benchmark.check.items import CORRECTNESS, PHANTOM, TRAINERS
from nnunetv2_xattnres.benchmark.check.process import DONE

# Goals: ratios to base, by part, kind (eager or compiled) and dimensions of the image
STEP_BOUNDS = {("compiled", 2): 1.15, ("compiled", 3): 1.2, ("eager", 2): 1.3, ("eager", 3): 1.3}
INFERENCE_BOUND, MEMORY_BOUND, COPY_BOUND = 1.15, 1.2, 0.7


def tables(rows: Sequence[Row]) -> str:
    """Everything that was found, at most 100 columns wide."""
    return "\n".join(line for part in (_correctness, _networks, _trainings) for line in part(rows))


def _correctness(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if row.item.name != CORRECTNESS:
            continue
        figures = row.outcome.figures
        if "machine" in figures:
            yield f"\n{figures['machine']}"
        yield "\nOutputs and gradients against the equations in float64 (relative in norm, the worst tensor)"
        for dtype, worst in figures.get("worst", {}).items():
            bound, error = float(worst["bound"]), float(worst["error"])
            wrong = "" if error <= bound else "   WRONG"
            yield f"    {dtype:10}{error:8.1e}   bound {bound:.1e}   {worst['where']}{wrong}"
        if figures.get("compared"):
            yield f"    {figures['compared']} of {figures['of']} comparisons made, {len(figures['wrong'])} tensors wrong"
            yield from (f"      {line}" for line in figures["wrong"][:5])
            yield f"    computed by {_forms(figures)}"
        yield from _state(row)


def _networks(rows: Sequence[Row]) -> Iterator[str]:
    heading = f"\n{'':18}{'step':>13}{'':7}{'inference':>12}{'':7}{'peak memory':>13}{'':7}{'first call':>12}"
    for row in rows:
        if not row.item.function.endswith("timings:measure"):
            continue
        yield heading
        heading = ""
        case = Case(*row.item.arguments["case"])
        yield f"{row.item.name}: {case.text}, {'x'.join(map(str, case.shape))}"
        figures = row.outcome.figures
        if "first" in figures:
            yield from (_form_line(form, figures) for form in ("base", "ours"))
        if "forms" in figures:
            yield f"    readers computed by {_forms(figures)}"
        yield from _bandwidth(figures)
        above = list(_above(row, case))
        if above:
            yield f"    ABOVE THE BOUND: {', '.join(above)}"
        yield from _state(row)


def _form_line(form: str, figures: dict[str, Any]) -> str:
    cells = [f"    {form:14}"]
    for what, unit, scale, digits, width in (
        ("step", "ms", 1e-3, 1, 13),
        ("inference", "ms", 1e-3, 1, 12),
        ("memory", "GiB", 2**30, 2, 13),
        ("first", "s", 1, 1, 12),
    ):
        value = figures.get(what, {}).get(form)
        cells.append(
            f"{'-':>{width}}" if value is None else f"{value / scale:>{width - 1 - len(unit)}.{digits}f} {unit}"
        )
        ratio = None if form == "base" or value is None else _ratio(figures, what)
        cells.append(f"{'':7}" if ratio is None else f"{ratio:6.2f}x")
    return "".join(cells).rstrip()


def _ratio(figures: dict[str, Any], what: str) -> float | None:
    values = figures.get(what, {})
    if not {"base", "ours"} <= set(values):
        return None
    return values.get("ratio", values["ours"] / values["base"])


def _above(row: Row, case: Case) -> Iterator[str]:
    """What costs more than it should."""
    kind = "compiled" if row.item.arguments["compiled"] else "eager"
    bounds = {
        "step": STEP_BOUNDS[kind, len(case.shape) - 2],
        "inference": INFERENCE_BOUND,
        "memory": MEMORY_BOUND,
    }
    for what, bound in bounds.items():
        ratio = _ratio(row.outcome.figures, what)
        if ratio is not None and ratio > bound:
            yield f"{what} {ratio:.2f}x (bound {bound:.2f}x)"


def _bandwidth(figures: dict[str, Any]) -> Iterator[str]:
    shares = []
    for layout, values in figures.get("bandwidth", {}).items():
        share = values["forward"] / values["copy"]
        below = "" if share >= COPY_BOUND else f", BELOW {COPY_BOUND:.0%}"
        shares.append(f"{values['forward'] / 1e9:.0f} GB/s {layout} ({share:.0%} of a copy{below})")
    if shares:
        yield "    largest aggregation, forward: " + shares[0]
        yield from (f"{'':34}{share}" for share in shares[1:])


def _trainings(rows: Sequence[Row]) -> Iterator[str]:
    chosen = [row for row in rows if row.item.name in (PHANTOM, *TRAINERS)]
    if chosen:
        yield f"\n{'nnU-Net trains on a phantom':28}{'first epoch':>12}{'second epoch':>14}{'ratio':>8}{'training loss':>20}"
    base = next((row.outcome.figures.get("epochs") for row in chosen if row.item.name == TRAINERS[0]), None)
    for row in chosen:
        epochs = row.outcome.figures.get("epochs")
        if epochs:
            losses = [float(loss) for loss in row.outcome.figures["losses"]]
            ratio = f"{epochs[1] / base[1]:.2f}x" if base and row.item.name != TRAINERS[0] else ""
            text = " to ".join(f"{loss:.3f}" for loss in losses)
            yield f"    {row.item.name:24}{epochs[0]:>10.1f} s{epochs[1]:>12.1f} s{ratio:>8}{text:>20}"
        elif row.outcome.state != DONE:
            yield f"    {row.item.name}"
        yield from _state(row)


def _forms(figures: dict[str, Any]) -> str:
    forms = figures.get("forms", {})
    total = sum(forms.values())
    text = ", ".join(f"{form} in {count} of {total} calls" for form, count in forms.items())
    reason = figures.get("no_triton")
    return (text or "the plain form alone") + (f" (no Triton: {reason})" if reason else "")


def _state(row: Row) -> Iterator[str]:
    outcome = row.outcome
    if outcome.state != DONE:
        yield f"    {outcome.state}: {outcome.message}"
        if outcome.log and outcome.state == "failed":
            yield from (f"      | {line[:90]}" for line in outcome.log[-6:])
