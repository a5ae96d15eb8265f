"""A report as Markdown, with its figures as files beside it."""

from nnunetv2_xattnres.ablation.report.page import Page
from nnunetv2_xattnres.ablation.report.tables import Table


def markdown(page: Page) -> str:
    """The whole report; figures are linked as ``figures/NAME``."""
    lines = [f"# {page.title}", "", page.subtitle, ""]
    if page.missing:
        lines += [f"**{page.missing_summary}**", "", *_items(page.missing)]
    if page.findings:
        lines += ["## In short", "", page.findings_rule, ""]
        lines += _items([f"{item.subject}: {item.numbers}: **{item.reading}**" for item in page.findings])
    lines += [line for text in page.cautions for line in (f"**{text}**", "")]
    if page.tables:
        lines += ["## Tables", "", *_items(page.reading)]
        for table in page.tables:
            lines += [f"### {table.title}", "", *_table(table), "", *_items(table.notes)]
    for title, figures in (("Dice by routing", page.bars), ("Training", page.curves)):
        if figures:
            lines += [f"## {title}", ""]
            for figure in figures:
                lines += [f"![{figure.name}](figures/{figure.name}.svg)", "", figure.caption, ""]
    if page.panels:
        lines += ["## Pictures", "", page.panel_rule, ""]
        for panel in page.panels:
            titles = ", ".join(f"{tile.title} {tile.caption}".strip() for tile in panel.tiles)
            lines += [f"![{panel.case}](figures/{panel.file})", "", f"{panel.case}, from left to right: {titles}.", ""]
    lines += ["## What was run", ""]
    lines += _items([f"{name}: {value}" for name, value in page.facts] + page.fact_warnings)
    rows = [[_escape(cell) for cell in row] for row in [page.cell_header, *page.cells]]
    lines += [_row(rows[0]), _row([":--", ":--", ":--", "--:", "--:"]), *map(_row, rows[1:]), ""]
    for name, commands in page.commands:
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
