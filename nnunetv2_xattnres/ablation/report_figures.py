"""The drawn figures of a report: bars (Figure 1) and the curves of the trainings."""

import math
import re
from typing import NamedTuple

import numpy as np

from nnunetv2_xattnres.ablation.observe import Observation
from nnunetv2_xattnres.ablation.report_data import NETWORK_NAMES, Results, variant_name
from nnunetv2_xattnres.ablation.report_paper import paper_dataset, paper_in_table
from nnunetv2_xattnres.ablation.statistics import seed_means
from nnunetv2_xattnres.visualization.charts import Bar, Curve, bar_chart, curve_chart


class Figure(NamedTuple):
    """A drawing for the page: inline SVG, with the words below it."""

    name: str
    svg: str
    caption: str


# study: its variants in the paper's order, and the one that the dashed line is drawn for
STUDY_BARS = {
    "skip": (("baseline", "noskip", "replace", "both"), "baseline"),
    "position": (("noskip", "encoder", "decoder", "replace"), "noskip"),
    "init": (("both", "init_random", "init_kaiming", "init_xavier"), "both"),
}


def bar_figures(results: Results) -> list[Figure]:
    """One chart a study and network; the studies skip and backbone are one and the same chart."""
    dataset = paper_dataset(results.study.dataset)
    figures = []
    for study, (variants, base) in STUDY_BARS.items():
        for network in results.networks:
            bars = []
            for variant in variants:
                item = results.find(network, variant)
                asked = item is not None and ({study} | ({"backbone"} if study == "skip" else set())) & set(
                    item.studies
                )
                values = [100 * value for value in seed_means(item.scores["dice"])] if item and asked else []
                if values := [value for value in values if not math.isnan(value)]:
                    paper = paper_in_table(study, dataset, network, variant)
                    bars.append(Bar(_bar_label(study, variant), variant, values, paper.dice if paper else None))
            if bars:
                name = f"bars-{study}-{network}"
                title = f"{NETWORK_NAMES.get(network, network)}: {STUDY_NAMES[study]}"
                dashed = next((bar for bar in bars if bar.variant == base), None)
                figures.append(Figure(name, *bar_chart(title, bars, dashed, name)))
    return figures


STUDY_NAMES = {"skip": "skip connections", "position": "position, no skip connections", "init": "query initialisation"}


def _bar_label(study: str, variant: str) -> str:
    if study == "init":
        return (
            "zero"
            if variant == "both"
            else variant.removeprefix("init_").replace("kaiming", "Kaiming").replace("xavier", "Xavier")
        )
    if study == "position":
        return {"noskip": "none", "replace": "full"}.get(variant, variant)
    return variant_name(variant)


def curve_figures(results: Results) -> list[Figure]:
    """One chart a network with every run that has left a log of nnU-Net's."""
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
            title = NETWORK_NAMES.get(network, network)
            figures.append(Figure(name, curve_chart(title, curves, name), words))
    return figures


def read_curve(results: Results, item: Observation) -> Curve | None:
    """Loss and pseudo Dice of a cell's training from nnU-Net's logs, or None.

    A resumed training has several logs; where they overlap, the later one counts.
    """
    epochs: dict[int, dict[str, float]] = {}
    for log in results.study.training_logs(item.cell):
        epoch = None
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            if found := re.search(r": +Epoch (\d+) *$", line):
                epoch = epochs.setdefault(int(found[1]), {})
            elif epoch is not None and (found := re.search(r": +train_loss +(\S+)", line)):
                epoch["loss"] = _number(found[1])
            elif epoch is not None and (found := re.search(r": +Pseudo dice +\[(.*)\]", line)):
                values = [_number(value) for value in re.findall(r"(?:\(|^|, )(nan|-?[\d.]+(?:e-?\d+)?)", found[1])]
                values = [value for value in values if not np.isnan(value)]
                epoch["dice"] = 100 * sum(values) / len(values) if values else float("nan")
    whole = sorted(number for number, values in epochs.items() if {"loss", "dice"} <= values.keys())
    if not whole:
        return None
    label = variant_name(item.cell.variant)
    loss, dice = ([epochs[number][key] for number in whole] for key in ("loss", "dice"))
    return Curve(label, item.cell.variant, whole, loss, dice)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
