"""Tables of scores for the terminal and in Markdown: Dice and IoU in per cent, HD95 with its unit."""

import math
from typing import Any

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
    rows = [["class", "Dice %", "IoU %", f"HD95 {scores['unit']}", "cases"]]
    for name, values in scores["per_label"].items():
        counted = str(values["n_dice"])
        if values["n_hd95"] != values["n_dice"]:
            counted += f" (HD95: {values['n_hd95']})"
        rows.append([name, *_three(values), counted])
    total = len({row["case"] for row in scores["cases"]})
    rows.append(["mean over classes", *_three(scores["mean"]), str(total)])
    return rows


def terminal_table(scores: dict[str, Any]) -> str:
    """The table for a terminal, followed by the convention and the notes."""
    rows = score_rows(scores)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column in (0, 4) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "-" * max(map(len, lines))
    lines = [lines[0], rule, *lines[1:-1], rule, lines[-1]]
    lines += ["", f"convention {CONVENTION_TEXT[scores['convention']]}", *_note_lines(scores, "note: ")]
    return "\n".join(lines)


def markdown_table(scores: dict[str, Any]) -> str:
    """The same as a Markdown table."""
    rows = [[cell.replace("|", r"\|") for cell in row] for row in score_rows(scores)]
    rows[-1] = [f"**{cell}**" for cell in rows[-1]]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "| :-- | --: | --: | --: | :-- |")
    text = f"Convention {CONVENTION_TEXT[scores['convention']]}."
    return "\n".join([*lines, "", text, *(f"\n{line}" for line in _note_lines(scores, "Note: "))]) + "\n"


def _three(values: dict[str, Any]) -> list[str]:
    return [number(values["dice"], 100), number(values["iou"], 100), number(values["hd95"])]


def _note_lines(scores: dict[str, Any], prefix: str, most: int = 10) -> list[str]:
    notes = scores["notes"]
    more = [f"{prefix}and {len(notes) - most} more, all of them in the JSON file"] if len(notes) > most else []
    return [prefix + note for note in notes[:most]] + more
