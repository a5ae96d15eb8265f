"""The table of the benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


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
