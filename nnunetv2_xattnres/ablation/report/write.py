"""Writes the report of an ablation study: a folder with a self-contained page, Markdown and CSV files."""

import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from nnunetv2_xattnres.ablation.report import csv_files
from nnunetv2_xattnres.ablation.report.markdown import markdown
from nnunetv2_xattnres.ablation.report.page import Page, describe
from nnunetv2_xattnres.ablation.report.panels import Panel, make_panels
from nnunetv2_xattnres.ablation.report.results import Results, load_results
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.outputs import take_place
from nnunetv2_xattnres.visualization.pages import render_page
from nnunetv2_xattnres.visualization.svg import standalone

PAGE = "report.html"
FILES = (PAGE, "report.md", "cases.csv", "configurations.csv", "differences.csv", "figures")


def write_report(study: Path, output: Path | None = None) -> Path:
    """Write the report of a study, which may be incomplete, and return the path of its page.

    Args:
        study: Folder that ``nnunetv2_xattnres ablate`` wrote.
        output: Folder for ``report.html`` (self-contained), ``report.md`` with ``figures/``, ``cases.csv``,
            ``configurations.csv`` and ``differences.csv``; by default ``report`` in the study's folder. An
            existing report is replaced as a whole.

    Raises:
        InputError: ``study`` is no study, its scores are not comparable, ``output`` holds something else, or the report
            cannot be written. An existing report then stays.
    """
    output = study / "report" if output is None else output
    _check_output(output)
    results = load_results(study)
    panels, problems = make_panels(results)
    page = describe(results, panels, problems)
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        _write(temporary, results, page, panels)
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


def _write(folder: Path, results: Results, page: Page, panels: list[Panel]) -> None:
    texts = (
        render_page("ablation/report/page.html.j2", report=page),
        markdown(page),
        csv_files.case_table(results),
        csv_files.configuration_table(results),
        csv_files.difference_table(results),
    )
    for name, text in zip(FILES[:-1], texts, strict=True):
        (folder / name).write_text(text, encoding="utf-8")
    figures = folder / FILES[-1]
    figures.mkdir()
    for figure in [*page.bars, *page.curves]:
        (figures / f"{figure.name}.svg").write_text(standalone(figure.svg), encoding="utf-8")
    for panel, described in zip(panels, page.panels, strict=True):
        gap = np.full((panel.tiles[0].image.shape[0], 4, 3), 255, dtype=np.uint8)
        strip = [part for tile in panel.tiles for part in (tile.image, gap)][:-1]
        Image.fromarray(np.concatenate(strip, axis=1)).save(figures / described.file)


def _replace(new: Path, output: Path) -> None:
    """Replace the old report by the new one; if that fails, the old one stays."""
    former = new.with_name(f"{new.name}.former")
    take_place(new, output, former)
    shutil.rmtree(former, ignore_errors=True)


def _check_output(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file: name a folder for the report.")
    others = sorted({path.name for path in output.iterdir()} - set(FILES)) if output.is_dir() else []
    if others:  # the folder is replaced as a whole
        raise InputError(f"{output} holds more than a report: name an empty or a new folder.", others)
