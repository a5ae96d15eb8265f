"""The tables of a report in the paper's form: main results (Tables 1 and 2), skip (3), position (4), query init (5)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import numpy as np

from nnunetv2_xattnres.ablation.report.paper import note_of, paper_class, paper_dataset, paper_in_table, paper_score
from nnunetv2_xattnres.ablation.report.results import Configuration, Results
from nnunetv2_xattnres.ablation.report.statistics import Difference, Spread, spread
from nnunetv2_xattnres.catalogue import NETWORKS, STUDIES, VARIANTS, Study, method_title, network_title, reads
from nnunetv2_xattnres.evaluation.scoring import CATALOGUE

MISSING = "–"
MINUS = "−"  # as wide as a plus, unlike a hyphen
ORDER = ("dice", "hd95", "iou", "nsd")  # of columns, as in the paper, which has no NSD


class Row(NamedTuple):
    """A row of a table; ``kind`` is ``ours``, ``paper`` or ``delta``."""

    kind: str
    cells: list[str]


@dataclass
class Table:
    """A table with its title and notes; ``text_columns`` are aligned to the left, all other columns are numbers."""

    name: str
    title: str
    header: list[str]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    text_columns: tuple[int, ...] = (0,)


def all_tables(results: Results) -> list[Table]:
    """All tables for which the study has configurations, in the paper's order."""
    studies = [study for study in STUDIES.values() if study.compares is None]
    tables: list[Table | None] = [main_table(results)]
    tables += [(network_table if study.cells else study_table)(results, study) for study in studies]
    return [table for table in tables if table is not None]


def main_table(results: Results) -> Table:
    """All configurations, metrics and classes; below them, the paper's rows and the difference of ``both``."""
    labels = list(results.labels)
    classes = labels if len(labels) > 1 else []
    dataset = paper_dataset(results.study.dataset)
    metrics = [metric for metric in ORDER if metric in results.metrics]
    headings = [CATALOGUE[metric].heading(results.unit) for metric in metrics]
    hours = _hours(results)
    last = [*["hours"] * bool(hours), "seeds"]
    header = ["Method", *headings, *[f"{label} Dice %" for label in classes], *last]
    rows = []
    for item in sorted(results.configurations, key=lambda item: results.networks.index(item.network)):
        cells = [_mean_sd(item, metric) for metric in metrics]
        for index in range(len(classes)):
            cells.append(mean_sd(spread(item.scores["dice"][:, :, index : index + 1]) if item.seeds else None, 100))
        cells += [plain(hours.get(item.name))] * bool(hours)
        rows.append(Row("ours", [item.title, *cells, seed_text(item)]))
        paper = paper_score(dataset, item.network, item.variant)
        if paper is not None:
            values = [plain(getattr(paper, metric, None)) for metric in metrics]
            values += [plain(paper_class(paper, label)) for label in classes]
            rows.append(Row("paper", ["paper", *values, *[""] * len(last)]))
        base = results.find(item.network, "baseline")
        if item.variant == "both" and base is not None and item.seeds:
            cells = _delta_cells(results, base, item, metrics, len(classes))
            rows.append(Row("delta", ["Δ to baseline", *cells, *[""] * len(last)]))
    title = "Main results" + (
        " (the paper's Table 1)" if dataset == "Synapse" else " (the paper's Table 2)" * bool(dataset)
    )
    notes = [] if dataset is None else [_paper_note(results, dataset)]
    if hours:
        devices = ", ".join(dict.fromkeys(str(item.record.get("device", MISSING)) for item in results.complete))
        notes.append(f"Hours: of one cell (training, prediction, scores), mean over cells, on {devices}.")
    return Table("main", title, header, rows, notes + _distance_notes(results))


def study_table(results: Results, study: Study) -> Table | None:
    """The table of one study, in which each network has its own base; ``None`` if the study was not planned."""
    chosen = [
        item
        for network in results.networks
        for variant in study.variants
        for item in results.configurations
        if (item.network, item.variant) == (network, variant) and study.sharing & set(item.studies)
    ]
    if not chosen:
        return None
    several = len({item.network for item in chosen}) > 1
    dataset = paper_dataset(results.study.dataset)
    papers = [paper_in_table(study.key, dataset, item.network, item.variant) for item in chosen]
    has_paper, has_distance = any(papers), any(paper and paper.hd95 for paper in papers)
    columns = [study.column, *["Skip", "XAttnRes"] * study.marks]
    has_nsd = "nsd" in results.metrics
    header = [*columns, "Dice %", *["paper"] * has_paper, f"HD95 {results.unit}", *["paper"] * has_distance]
    header += ["NSD %"] * has_nsd
    base = study.base if study.marks else study.variants[study.base].row
    header += [f"Δ Dice to {base}", "95 % interval", "reading", "seeds"]
    rows = []
    for item, paper in zip(chosen, papers, strict=True):
        row = [*_first_cells(study, item, several), _mean_sd(item, "dice")]
        row += [plain(paper.dice if paper else None)] * has_paper
        row.append(_mean_sd(item, "hd95"))
        row += [plain(paper.hd95 if paper else None)] * has_distance
        row += [_mean_sd(item, "nsd")] if has_nsd else []
        row += _difference_cells(results, item, study.base)
        rows.append(Row("ours", [*row, seed_text(item)]))
    text = (*range(len(columns)), len(header) - 2)
    return Table(study.key, study.title, header, rows, note_of(study.key, dataset), text)


def network_table(results: Results, study: Study) -> Table | None:
    """One row per network, as in the paper's Table 2: what it costs, its scores, the paper's numbers beside ours."""
    chosen = [item for pair in study.cells for item in results.configurations if (item.network, item.variant) == pair]
    chosen = [item for item in chosen if study.key in item.studies]
    if not chosen:
        return None
    dataset = paper_dataset(results.study.dataset)
    papers = [paper_in_table(study.key, dataset, item.network, item.variant) for item in chosen]
    has_paper, has_distance = any(papers), any(paper and paper.hd95 for paper in papers)
    has_nsd = "nsd" in results.metrics
    header = [study.column, "Params M", "paper", "MACs G", "paper", "Dice %", *["paper"] * has_paper]
    header += [f"HD95 {results.unit}", *["paper"] * has_distance, "IoU %", *["NSD %"] * has_nsd, "seeds"]
    rows = []
    for item, paper in zip(chosen, papers, strict=True):
        variant = VARIANTS[item.variant]
        row = [method_title(item.network, item.variant)]
        printed = NETWORKS[item.network].paper_cost.get(item.variant, (None, None))
        for ours, theirs in zip(_cost(item.network, item.variant), printed, strict=True):
            row += [plain(ours), plain(theirs)]
        row += [_mean_sd(item, "dice"), *[plain(paper.dice if paper else None)] * has_paper]
        row += [_mean_sd(item, "hd95"), *[plain(paper.hd95 if paper else None)] * has_distance, _mean_sd(item, "iou")]
        row += [_mean_sd(item, "nsd")] if has_nsd else []
        rows.append(Row("ours", [*row, seed_text(item)]))
        if reads(variant) and (base := results.find(item.network, study.base)) is not None and item.seeds:
            found = results.compare(base, item)
            cells = [""] * (len(header) - 1)
            cells[header.index("Dice %") - 1] = signed(found.value, 100)
            rows.append(Row("delta", [f"Δ to {network_title(item.network)}", *cells]))
    note = "Parameters and multiply-accumulates: for 3 x 256x256 and one class, as in the paper, without attention."
    return Table(study.key, study.title, header, rows, [note])


@cache
def _cost(network: str, variant: str) -> tuple[float, float]:
    """Parameters in millions and multiply-accumulates in billions, as ``complexity`` counts them by default."""
    from nnunetv2_xattnres.benchmark.complexity import builder
    from nnunetv2_xattnres.benchmark.cost import count_cost  # imports torch, which takes seconds

    cost = count_cost(builder(network, variant, (256, 256), 3, 1), (1, 3, 256, 256))
    return cost.parameters / 1e6, cost.macs / 1e9


def _first_cells(study: Study, item: Configuration, several: bool) -> list[str]:
    """The first cells of a row, which name its configuration."""
    name = network_title(item.network)
    if study.marks:
        variant = VARIANTS[item.variant]
        return [name, *["✓" if has else MISSING for has in (variant.skip_connections, reads(variant))]]
    return [f"{name}: " * several + study.variants[item.variant].row]


def _hours(results: Results) -> dict[str, float]:
    """Mean hours of a configuration's complete cells, by the configuration's name."""
    found: dict[str, list[float]] = {}
    for item in results.complete:
        if item.record.get("hours") is not None:
            found.setdefault(item.cell.configuration, []).append(item.record["hours"])
    return {name: sum(hours) / len(hours) for name, hours in found.items()}


def _difference_cells(results: Results, item: Configuration, base_variant: str) -> list[str]:
    if item.variant == base_variant:
        return [MISSING, MISSING, ""]
    base = results.find(item.network, base_variant)
    if not item.seeds or base is None:
        return [MISSING, MISSING, "not complete"]
    found = results.compare(base, item)
    return [signed(found.value, 100), interval(found, 100), found.reading]


def _distance_notes(results: Results) -> list[str]:
    """Notes on missing HD95: a model that finds nothing has none, so its mean looks better than it is."""
    counts = {
        item.title: int((np.isnan(item.scores["hd95"]) & ~np.isnan(item.scores["dice"])).sum())
        for item in results.configurations
        if item.seeds
    }
    found = [f"{title} {count}" for title, count in counts.items() if count]
    if not found:
        return []
    text = "HD95 is not defined, and left out of its mean, where only one of reference and prediction has the class: "
    return [text + ", ".join(found) + " (over all seeds, cases and classes). Δ leaves such a case out on both sides."]


def _delta_cells(
    results: Results, base: Configuration, item: Configuration, metrics: Sequence[str], classes: int
) -> list[str]:
    cells = [signed(results.compare(base, item, metric).value, CATALOGUE[metric].scale) for metric in metrics]
    return cells + [signed(results.compare(base, item, "dice", index).value, 100) for index in range(classes)]


def _paper_note(results: Results, dataset: str) -> str:
    text = (
        f'"paper": the number printed for {dataset}; its U-Net has 1.06 M parameters and a recipe and split of its own,'
    )
    text += " so compare differences rather than levels."
    if dataset == "Synapse" and results.convention != "transunet":
        text += " Its scores follow the convention `transunet`, ours here `nnunet`."
    return text


def _mean_sd(item: Configuration, metric: str) -> str:
    return mean_sd(spread(item.scores[metric]) if item.seeds else None, CATALOGUE[metric].scale)


def mean_sd(value: Spread | None, scale: float) -> str:
    """Mean and standard deviation, as in ``91.23 ± 0.31``; the mean alone for a single seed."""
    if value is None or not value.seeds or math.isnan(value.mean):
        return MISSING
    text = f"{value.mean * scale:.2f}"
    return text if math.isnan(value.sd) else f"{text} ± {value.sd * scale:.2f}"


def plain(value: float | None) -> str:
    """Two decimals, or a dash."""
    return MISSING if value is None else f"{value:.2f}"


def signed(value: float, scale: float) -> str:
    """Two decimals with a sign that is as wide as a digit."""
    if math.isnan(value):
        return MISSING
    return f"{value * scale:+.2f}".replace("-", MINUS)


def interval(found: Difference, scale: float) -> str:
    """``−0.41 to +0.80``."""
    if math.isnan(found.low):
        return MISSING
    return f"{signed(found.low, scale)} to {signed(found.high, scale)}"


def seed_text(item: Configuration) -> str:
    """The number of seeds, and whether something is missing."""
    if not item.seeds:
        return "0"
    planned = len(item.seeds) + len(item.missing_seeds)
    text = str(len(item.seeds)) + (f" of {planned}" if item.missing_seeds else "")
    return text + (", folds missing" if item.partial else "")
