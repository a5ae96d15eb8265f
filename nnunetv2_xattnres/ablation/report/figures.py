"""The charts of a report: bars (as in the paper's Figure 1) and training curves."""

import math
from typing import NamedTuple

from nnunetv2_xattnres.ablation.observe import Observation
from nnunetv2_xattnres.ablation.report.paper import paper_dataset, paper_in_table
from nnunetv2_xattnres.ablation.report.results import Configuration, Results
from nnunetv2_xattnres.ablation.report.statistics import seed_means
from nnunetv2_xattnres.catalogue import STUDIES, Study, method_title, network_title, variant_title
from nnunetv2_xattnres.nnunet_layout import read_epochs
from nnunetv2_xattnres.visualization.charts import Bar, Curve, bar_chart, curve_chart, list_chart


class Figure(NamedTuple):
    """A chart for the page: inline SVG and its caption."""

    name: str
    svg: str
    caption: str


def bar_figures(results: Results) -> list[Figure]:
    """One chart per study and network; studies with the same comparison share one."""
    dataset = paper_dataset(results.study.dataset)
    figures = []
    for study in STUDIES.values():
        if study.compares is not None:
            continue
        if study.cells:
            figures += _network_figure(results, study, dataset)
            continue
        for network in results.networks:
            bars = []
            for variant, labels in study.variants.items():
                item = results.find(network, variant)
                if item is not None and study.sharing & set(item.studies):
                    bars += _bar(study, dataset, item, labels.bar)
            if bars:
                name = f"bars-{study.key}-{network}"
                title = f"{network_title(network)}: {study.chart}"
                dashed = next((bar for bar in bars if bar.variant == study.base), None)
                figures.append(Figure(name, *bar_chart(title, bars, dashed, name)))
    return figures


def _network_figure(results: Results, study: Study, dataset: str | None) -> list[Figure]:
    """One chart with a bar per network and variant of a study's list."""
    bars = []
    for network, variant in study.cells:
        item = results.find(network, variant)
        if item is not None and study.key in item.studies:
            bars += _bar(study, dataset, item, method_title(network, variant))
    name = f"bars-{study.key}"
    return [Figure(name, *list_chart(study.chart, bars, name))] if bars else []


def _bar(study: Study, dataset: str | None, item: Configuration, label: str) -> list[Bar]:
    """The bar of a configuration; none where no seed has a score."""
    values = [value for value in (100 * mean for mean in seed_means(item.scores["dice"])) if not math.isnan(value)]
    paper = paper_in_table(study.key, dataset, item.network, item.variant)
    return [Bar(label, item.variant, values, paper.dice if paper else None)] if values else []


def curve_figures(results: Results) -> list[Figure]:
    """One chart per network, with a curve for every run that has a log of nnU-Net."""
    figures = []
    for network in results.networks:
        curves = []
        for item in results.observations:
            if item.cell.network == network:
                curve = read_curve(results, item)
                if curve is not None:
                    curves.append(curve)
        if curves:
            name = f"curves-{network}"
            words = (
                f"{len(curves)} runs, one line each. Pseudo Dice: nnU-Net's own, on patches of the validation cases."
            )
            title = network_title(network)
            figures.append(Figure(name, curve_chart(title, curves, name), words))
    return figures


def read_curve(results: Results, item: Observation) -> Curve | None:
    """Loss and pseudo Dice (per cent) of a cell's training from nnU-Net's logs, or None."""
    epochs = read_epochs(results.study.training_logs(item.cell))
    if not epochs:
        return None
    loss, dice = zip(*epochs.values(), strict=True)
    label = variant_title(item.cell.variant)
    return Curve(label, item.cell.variant, list(epochs), loss, [100 * value for value in dice])
