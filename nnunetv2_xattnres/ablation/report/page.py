"""The content of a report, before it is written as a page or as Markdown."""

import re
from dataclasses import dataclass, replace
from typing import NamedTuple

from nnunetv2_xattnres import __version__
from nnunetv2_xattnres.ablation.report import text
from nnunetv2_xattnres.ablation.report.figures import Figure, bar_figures, curve_figures
from nnunetv2_xattnres.ablation.report.panels import Panel, legend
from nnunetv2_xattnres.ablation.report.results import Results
from nnunetv2_xattnres.ablation.report.scale import LABEL, SCALED_DOWN, departures
from nnunetv2_xattnres.ablation.report.tables import Table, all_tables
from nnunetv2_xattnres.visualization.overlay import data_uri


class PageTile(NamedTuple):
    """A picture in the form that the page needs."""

    title: str
    caption: str
    image: str
    width: int
    height: int


class PagePanel(NamedTuple):
    """A case's pictures, and a file with all of them side by side."""

    case: str
    tiles: list[PageTile]
    file: str


@dataclass(frozen=True)
class Page:
    """The content of a report, in the order of the page; empty parts are left out."""

    title: str
    subtitle: str
    missing_summary: str
    missing: list[str]
    findings: list[text.Finding]
    cautions: list[str]
    tables: list[Table]
    bars: list[Figure]
    panels: list[PagePanel]
    panel_problems: list[str]
    panel_rule: str
    curves: list[Figure]
    facts: list[tuple[str, str]]
    fact_warnings: list[str]
    cells: list[list[str]]
    commands: list[tuple[str, list[str]]]

    version = __version__
    findings_rule = text.FINDINGS_RULE
    reading = text.READING
    cell_header = text.CELL_HEADER

    @property
    def tile_columns(self) -> int:
        """Number of pictures per row."""
        return min(max(5, *(len(panel.tiles) for panel in self.panels), 0), 8)

    @property
    def sections(self) -> list[tuple[str, str]]:
        """Anchor and name of each part that is not empty."""
        names = [
            (self.missing, "missing", "Missing"),
            (self.findings, "short", "In short"),
            (self.tables, "tables", "Tables"),
            (self.bars, "bars", "Dice by routing"),
            (self.panels, "pictures", "Pictures"),
            (self.curves, "curves", "Training"),
            (self.facts, "run", "What was run"),
        ]
        return [(anchor, name) for content, anchor, name in names if content]


def describe(results: Results, panels: list[Panel], problems: list[str]) -> Page:
    """The page of a study; ``problems`` has a line per picture that could not be made."""
    missing_summary, missing = text.missing(results)
    facts, warnings = text.facts(results)
    departed, smaller = departures(results)
    if departed:
        facts.append(("Other than the paper's recipe", "; ".join(departed)))
    label = f", {LABEL}" if smaller else ""
    tables = all_tables(results) if results.complete else []
    figures = [
        [figure._replace(caption=f"{LABEL.capitalize()}. {figure.caption}") if smaller else figure for figure in kind]
        for kind in (bar_figures(results), curve_figures(results))
    ]
    return Page(
        title=f"Ablation study on {results.study.dataset}{label}",
        subtitle=text.subtitle(results),
        missing_summary=missing_summary,
        missing=missing,
        findings=text.findings(results),
        cautions=[SCALED_DOWN] * smaller + text.cautions(results),
        tables=[replace(table, title=table.title + label) for table in tables],
        bars=figures[0],
        panels=[_page_panel(panel, index) for index, panel in enumerate(panels)],
        panel_problems=problems,
        panel_rule=legend(results) if panels else "",
        curves=figures[1],
        facts=facts,
        fact_warnings=warnings,
        cells=text.cell_rows(results),
        commands=text.commands(results),
    )


def _page_panel(panel: Panel, index: int) -> PagePanel:
    tiles = [
        PageTile(tile.title, tile.caption, data_uri(tile.image), tile.image.shape[1], tile.image.shape[0])
        for tile in panel.tiles
    ]
    return PagePanel(panel.case, tiles, f"case_{index}_{re.sub(r'[^A-Za-z0-9._-]', '_', panel.case)}.png")
