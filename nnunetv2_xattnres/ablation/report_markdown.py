"""A report as Markdown, with its figures as files beside it."""

from typing import Any

from nnunetv2_xattnres.ablation.report_tables import Table


def markdown(report: dict[str, Any]) -> str:
    """The whole report; figures are linked as ``figures/NAME``."""
    lines = [f"# {report['title']}", "", report["subtitle"], ""]
    if report["missing"]:
        lines += [f"**{report['missing_summary']}**", "", *_items(report["missing"])]
    if report["findings"]:
        lines += ["## In short", "", report["findings_rule"], ""]
        lines += _items([f"{item.subject}: {item.numbers}: **{item.reading}**" for item in report["findings"]])
    lines += [line for text in report["cautions"] for line in (f"**{text}**", "")]
    if report["tables"]:
        lines += ["## Tables", "", *_items(report["reading"])]
        for table in report["tables"]:
            lines += [f"### {table.title}", "", *_table(table), "", *_items(table.notes)]
    for title, key in (("Dice by routing", "bars"), ("Training", "curves")):
        if report[key]:
            lines += [f"## {title}", ""]
            for figure in report[key]:
                lines += [f"![{figure.name}](figures/{figure.name}.svg)", "", figure.caption, ""]
    if report["panels"]:
        lines += ["## Pictures", "", report["panel_rule"], ""]
        for panel in report["panels"]:
            titles = ", ".join(f"{tile.title} {tile.caption}".strip() for tile in panel.tiles)
            lines += [f"![{panel.case}](figures/{panel.file})", "", f"{panel.case}, from left to right: {titles}.", ""]
    lines += ["## What was run", ""]
    lines += _items([f"{name}: {value}" for name, value in report["facts"]] + report["fact_warnings"])
    rows = [[_escape(cell) for cell in row] for row in [report["cell_header"], *report["cells"]]]
    lines += [_row(rows[0]), _row([":--", ":--", ":--", "--:", "--:"]), *map(_row, rows[1:]), ""]
    for name, commands in report["commands"]:
        lines += [f"### {name}", "", "```", *commands, "```", ""]
    return "\n".join(lines)


def _items(texts: list[str]) -> list[str]:
    return [*(f"- {text}" for text in texts), ""] if texts else []


def _table(table: Table) -> list[str]:
    marks = [":--" if index in table.text_columns else "--:" for index in range(len(table.header))]
    lines = [_row([_escape(cell) for cell in table.header]), _row(marks)]
    for row in table.rows:
        cells = [_escape(cell) for cell in row.cells]
        lines.append(_row(cells if row.kind == "ours" else [f"*{cell}*" if cell else "" for cell in cells]))
    return lines


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escape(cell: str) -> str:
    return cell.replace("|", r"\|")
