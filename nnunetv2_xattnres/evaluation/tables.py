"""Tables of scores for the terminal and in Markdown: Dice, IoU and NSD in per cent, HD95 with its unit."""

import math
from typing import Any

from nnunetv2_xattnres.evaluation.scoring import CATALOGUE, metrics_of, rules_text

MISSING = "–"
CONVENTION_TEXT = {
    "nnunet": "nnunet: spacing from the header, empty pairs left out",
    "transunet": "transunet: distances in voxels, empty masks scored as behind the paper's Table 1",
}


def number(value: float, scale: float = 1.0) -> str:
    """Two decimals, or a dash if the score is not defined."""
    return MISSING if math.isnan(value) else f"{value * scale:.2f}"


def score_rows(scores: dict[str, Any]) -> list[list[str]]:
    """Header, one row per class, and the mean over classes."""
    metrics = metrics_of(scores)
    rows = [["class", *(CATALOGUE[metric].heading(scores["unit"]) for metric in metrics), "cases"]]
    for name, values in scores["per_label"].items():
        counts = {metric: values[f"n_{metric}"] for metric in metrics}
        counted = str(counts[metrics[0]])
        if other := [f"{CATALOGUE[key].title}: {count}" for key, count in counts.items() if str(count) != counted]:
            counted += f" ({', '.join(other)})"
        rows.append([name, *_cells(values, metrics), counted])
    total = len({row["case"] for row in scores["cases"]})
    rows.append(["mean over classes", *_cells(scores["mean"], metrics), str(total)])
    return rows


def terminal_table(scores: dict[str, Any]) -> str:
    """The table for a terminal, followed by the convention and the notes."""
    rows = score_rows(scores)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column in (0, len(row) - 1) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "-" * max(map(len, lines))
    lines = [lines[0], rule, *lines[1:-1], rule, lines[-1]]
    lines += ["", f"convention {CONVENTION_TEXT[scores['convention']]}", *rules_text(scores)]
    lines += _note_lines(scores, "note: ")
    return "\n".join(lines)


def markdown_table(scores: dict[str, Any]) -> str:
    """The same as a Markdown table."""
    rows = [[cell.replace("|", r"\|") for cell in row] for row in score_rows(scores)]
    rows[-1] = [f"**{cell}**" for cell in rows[-1]]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "| :-- | " + "--: | " * (len(rows[0]) - 2) + ":-- |")
    text = "; ".join([f"Convention {CONVENTION_TEXT[scores['convention']]}", *rules_text(scores)]) + "."
    return "\n".join([*lines, "", text, *(f"\n{line}" for line in _note_lines(scores, "Note: "))]) + "\n"


def _cells(values: dict[str, Any], metrics: tuple[str, ...]) -> list[str]:
    return [number(values[metric], CATALOGUE[metric].scale) for metric in metrics]


def _note_lines(scores: dict[str, Any], prefix: str, most: int = 10) -> list[str]:
    notes = scores["notes"]
    more = [f"{prefix}and {len(notes) - most} more, all of them in the JSON file"] if len(notes) > most else []
    return [prefix + note for note in notes[:most]] + more
