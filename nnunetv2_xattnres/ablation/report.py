"""Write the report of an ablation study: one folder with a page that needs no network, Markdown and CSV."""

import os
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from nnunetv2_xattnres import __version__
from nnunetv2_xattnres.ablation import report_csv, report_text
from nnunetv2_xattnres.ablation.report_data import Results, load_results
from nnunetv2_xattnres.ablation.report_figures import bar_figures, curve_figures
from nnunetv2_xattnres.ablation.report_markdown import markdown
from nnunetv2_xattnres.ablation.report_panels import Panel, legend, make_panels
from nnunetv2_xattnres.ablation.report_tables import all_tables
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.visualization.overlay import data_uri
from nnunetv2_xattnres.visualization.svg import standalone

PAGE = "report.html"
FILES = (PAGE, "report.md", "cases.csv", "configurations.csv", "differences.csv", "figures")


class PageTile(NamedTuple):
    """A picture as the page needs it."""

    title: str
    caption: str
    image: str
    width: int
    height: int


class PagePanel(NamedTuple):
    """A case's pictures, and the file that shows them side by side."""

    case: str
    tiles: list[PageTile]
    file: str


def write_report(study: Path, output: Path | None = None) -> Path:
    """Write the report of a study, complete or not, and return its page.

    Args:
        study: Folder that ``nnunetv2_xattnres ablate`` wrote.
        output: Folder for ``report.html`` (self-contained), ``report.md`` with ``figures/``, ``cases.csv``,
            ``configurations.csv`` and ``differences.csv``; by default ``report`` in the study's folder. A report that
            is there already is replaced as a whole.

    Raises:
        InputError: ``study`` is no study, its scores do not go together, ``output`` holds something else, or the
            report cannot be written; the report that is there already stays then.
    """
    output = study / "report" if output is None else output
    _check_output(output)
    results = load_results(study)
    panels, problems = make_panels(results)
    report = describe(results, panels, problems)
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        _write(temporary, results, report, panels)
        _replace(temporary, output)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise InputError(
            f"the report cannot be written to {output} ({error.strerror or error}): free space there, and type "
            "`nnunetv2_xattnres ablate ... --report`"
        ) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return output / PAGE


def describe(results: Results, panels: list[Panel], problems: list[str]) -> dict[str, Any]:
    """Everything that the page and the Markdown say."""
    missing_summary, missing = report_text.missing(results)
    facts, warnings = report_text.facts(results)
    scored = bool(results.complete)
    content: dict[str, Any] = {
        "version": __version__,
        "title": f"Ablation study on {results.study.dataset}",
        "subtitle": report_text.subtitle(results),
        "missing_summary": missing_summary,
        "missing": missing,
        "findings": report_text.findings(results),
        "findings_rule": report_text.FINDINGS_RULE,
        "cautions": report_text.cautions(results),
        "reading": report_text.READING,
        "tables": all_tables(results) if scored else [],
        "bars": bar_figures(results),
        "panels": [_page_panel(panel, index) for index, panel in enumerate(panels)],
        "panel_problems": problems,
        "panel_rule": legend(results) if panels else "",
        "tile_columns": min(max(5, *(len(panel.tiles) for panel in panels), 0), 8),
        "curves": curve_figures(results),
        "facts": facts,
        "fact_warnings": warnings,
        "cell_header": report_text.CELL_HEADER,
        "cells": report_text.cell_rows(results),
        "commands": report_text.commands(results),
    }
    names = {
        "missing": ("missing", "Missing"),
        "findings": ("short", "In short"),
        "tables": ("tables", "Tables"),
        "bars": ("bars", "Dice by routing"),
        "panels": ("pictures", "Pictures"),
        "curves": ("curves", "Training"),
        "facts": ("run", "What was run"),
    }
    content["sections"] = [section for key, section in names.items() if content[key]]
    return content


def _page_panel(panel: Panel, index: int) -> PagePanel:
    tiles = [
        PageTile(tile.title, tile.caption, data_uri(tile.image), tile.image.shape[1], tile.image.shape[0])
        for tile in panel.tiles
    ]
    return PagePanel(panel.case, tiles, f"case_{index}_{re.sub(r'[^A-Za-z0-9._-]', '_', panel.case)}.png")


def _write(folder: Path, results: Results, report: dict[str, Any], panels: list[Panel]) -> None:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pages = Environment(
        loader=PackageLoader("nnunetv2_xattnres.ablation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    texts = (
        pages.get_template("report.html.j2").render(report=report),
        markdown(report),
        report_csv.case_table(results),
        report_csv.configuration_table(results),
        report_csv.difference_table(results),
    )
    for name, text in zip(FILES[:-1], texts, strict=True):
        (folder / name).write_text(text, encoding="utf-8")
    figures = folder / FILES[-1]
    figures.mkdir()
    for figure in [*report["bars"], *report["curves"]]:
        (figures / f"{figure.name}.svg").write_text(standalone(figure.svg), encoding="utf-8")
    for panel, described in zip(panels, report["panels"], strict=True):
        gap = np.full((panel.tiles[0].image.shape[0], 4, 3), 255, dtype=np.uint8)
        strip = [part for tile in panel.tiles for part in (tile.image, gap)][:-1]
        Image.fromarray(np.concatenate(strip, axis=1)).save(figures / described.file)


def _replace(new: Path, output: Path) -> None:
    """Put the new report where the old one is, which stays until that has worked."""
    former = new.with_name(f"{new.name}.former")
    if output.exists():
        output.rename(former)
    try:
        new.rename(output)
    except OSError:
        if former.exists():
            former.rename(output)
        raise
    shutil.rmtree(former, ignore_errors=True)


def _check_output(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file: name a folder for the report.")
    others = sorted({path.name for path in output.iterdir()} - set(FILES)) if output.is_dir() else []
    if others:  # the folder is replaced as a whole
        raise InputError(f"{output} holds more than a report: name an empty or a new folder.", others)
