"""The numbers of a report as CSV: scores of every case, means of every configuration, differences to the baselines."""

import csv
import io
import math
from collections.abc import Iterable
from typing import Any

from nnunetv2_xattnres.ablation.report.results import Results
from nnunetv2_xattnres.ablation.report.statistics import spread
from nnunetv2_xattnres.catalogue import STUDIES


def case_table(results: Results) -> str:
    """One row per configuration, seed, case and class."""
    rows = []
    for item in results.configurations:
        for place, seed in enumerate(item.seeds):
            for index, case in enumerate(results.cases):
                for column, label in enumerate(results.labels):
                    values = [item.scores[metric][place, index, column] for metric in results.metrics]
                    rows.append([item.name, item.network, item.variant, seed, case, label, *values])
    return _text(["configuration", "network", "variant", "seed", "case", "class", *results.metrics], rows)


def configuration_table(results: Results) -> str:
    """Mean and standard deviation over seeds, per configuration and class; "mean" is over all classes."""
    columns = [f"{metric}_{kind}" for metric in results.metrics for kind in ("mean", "sd")]
    rows = []
    for item in results.configurations:
        for column, label in [
            (slice(None), "mean"),
            *((slice(i, i + 1), name) for i, name in enumerate(results.labels)),
        ]:
            found = [spread(item.scores[metric][:, :, column]) for metric in results.metrics] if item.seeds else []
            values = [number for value in found for number in (value.mean, value.sd)] or [math.nan] * len(columns)
            rows.append([item.name, item.network, item.variant, label, len(item.seeds), *values])
    return _text(["configuration", "network", "variant", "class", "seeds", *columns], rows)


def difference_table(results: Results) -> str:
    """The difference of each configuration to the baseline of each of its studies, for every metric."""
    rows = []
    for item in results.configurations:
        for variant in dict.fromkeys(STUDIES[study].base for study in item.studies if study in STUDIES):
            base = results.find(item.network, variant)
            if base is None or not item.seeds or variant == item.variant:
                continue
            for metric in results.metrics:
                found = results.compare(base, item, metric)
                rows.append([item.name, base.name, metric, *found])
    header = [
        "configuration",
        "baseline",
        "metric",
        "difference",
        "low",
        "high",
        "cases",
        "left_out",
        "seed_spread",
        "seed_p",
        "reading",
    ]
    return _text(header, rows)


def _text(header: list[str], rows: Iterable[list[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([None if isinstance(value, float) and math.isnan(value) else _plain(value) for value in row])
    return buffer.getvalue()


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, float) else value
