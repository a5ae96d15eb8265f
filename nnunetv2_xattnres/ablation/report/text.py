"""The texts of a report: its subject, findings, missing cells, and what was run."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

from nnunetv2_xattnres.ablation.report.results import Configuration, Results
from nnunetv2_xattnres.ablation.report.tables import MISSING, interval, signed
from nnunetv2_xattnres.ablation.study import State
from nnunetv2_xattnres.catalogue import STUDIES, network_title, variant_title
from nnunetv2_xattnres.evaluation.tables import CONVENTION_TEXT
from nnunetv2_xattnres.nnunet_layout import TEST_IMAGES, VALIDATION

CELL_HEADER = ["Cell", "State", "Device", "Dice %", "hours"]
FINDINGS_RULE = (
    "Against the same network's baseline. Both: XAttnRes and skip connections; replace: XAttnRes instead of them; "
    "no skip: neither."
)
# printed once, above the tables
READING = [
    "± is the standard deviation over seeds of the mean over cases, then over classes.",
    "Δ: difference in points of Dice, paired by case, seeds averaged first. The interval is a bootstrap over cases, "
    "not corrected for the number of comparisons; it does not include the randomness of training.",
    '"Left out": classes in cases for which some run of either has no score. Δ leaves them out and the means do not, '
    "so that Δ can differ from the difference of the means.",
    '"Within seed spread": the difference is at most the standard deviation of the difference between two single '
    'runs, so other seeds may reverse it. "Better" and "worse" need both: an interval without 0, and seeds that are '
    "significant by themselves (Welch's t test at 5\u00a0%).",
]


def subtitle(results: Results) -> str:
    """One line: how many cells are complete, and the seeds, folds and cases."""
    done, planned = len(results.complete), len(results.observations)
    seeds = len({item.cell.seed for item in results.observations})
    folds = list(dict.fromkeys(item.cell.fold for item in results.observations))
    fold_text = f"fold{'s' * (len(folds) > 1)} {', '.join(map(str, folds))}"
    cases = f" · {len(results.cases)} cases" if results.cases else ""
    return f"{done} of {planned} cells complete · {seeds} seed{'s' * (seeds > 1)} · {fold_text}{cases}"


class Finding(NamedTuple):
    """The comparison of one routing with its baseline."""

    subject: str
    numbers: str
    reading: str


def findings(results: Results) -> list[Finding]:
    """Compares each routing of each network with the baseline, if both have scores."""
    found = []
    for network in results.networks:
        base = results.find(network, STUDIES["skip"].base)
        for variant in reversed(STUDIES["skip"].variants):
            item = results.find(network, variant)
            if base is not None and item is not None and item is not base:
                subject = f"{network_title(network)}, {variant_title(variant)}"
                found.append(_finding(results, subject, base, item))
    return found


def _finding(results: Results, subject: str, base: Configuration, item: Configuration) -> Finding:
    found = results.compare(base, item)
    numbers = (
        f"{signed(found.value, 100)} points of Dice (95\u00a0% interval {interval(found, 100)}, {found.cases} cases)"
    )
    return Finding(subject, numbers, found.reading)


def cautions(results: Results) -> list[str]:
    """Warnings about too few seeds or cases."""
    seeds = [len(item.seeds) for item in results.configurations if item.seeds]
    lines = []
    if seeds and min(seeds) == 1:
        lines.append("A single seed proves nothing about a method: train at least three.")
    elif seeds and min(seeds) == 2:
        lines.append("Two seeds give only a rough idea of their spread: train at least three.")
    if len(results.cases) < 10 and results.cases:
        lines.append(f"{len(results.cases)} cases are few for an interval: take it as a rough guide.")
    if any(item.partial for item in results.configurations):
        lines.append("Some configurations have scores for a part of their folds only: their means are of other cases.")
    return lines


def missing(results: Results) -> tuple[str, list[str]]:
    """A summary of the cells without scores, and a line per cell; both are empty if the study is complete."""
    left = [item for item in results.observations if item.state != State.COMPLETE]
    if not left:
        return "", []
    counts = ", ".join(f"{number} {state}" for state, number in Counter(item.state for item in left).items())
    text = (
        f"This study is not complete: {len(left)} of {len(results.observations)} cells have no scores yet ({counts})."
    )
    return text, [f"{item.cell.name}: {item.state}" + (f" ({item.detail})" if item.detail else "") for item in left]


def facts(results: Results) -> tuple[list[tuple[str, str]], list[str]]:
    """What was run, as pairs of name and value, and a line per inconsistency."""
    study, records = results.study, [item.record for item in results.complete]
    cells = [item.cell for item in results.observations]
    versions = [record.get("versions", {}) for record in records]
    names = dict.fromkeys(name for version in versions for name in version)
    found = {name: _distinct(version.get(name) for version in versions) for name in names}
    hours = [record["hours"] for record in records if record.get("hours") is not None]
    where = {TEST_IMAGES: "the test images (imagesTs)", VALIDATION: "the validation cases of each fold"}
    pairs = [
        ("Data set", study.dataset),
        ("Scored on", ", ".join(where.get(str(text), str(text)) for text in _distinct(_get(records, "predicted")))),
        ("Scores", "; ".join([CONVENTION_TEXT[results.convention], *results.rules])),
        ("Configuration", f"{study.configuration} of {study.base_plans}, variants in {study.plans}"),
        ("Trainer", ", ".join(_distinct(cell.trainer for cell in cells))),
        ("Studies", ", ".join(dict.fromkeys(study for cell in cells for study in cell.study))),
        ("Folds", ", ".join(_distinct(str(cell.fold) for cell in cells))),
        ("Seeds", ", ".join(_distinct(str(cell.seed) for cell in cells))),
        ("Versions", ", ".join(f"{name} {' / '.join(values)}" for name, values in found.items())),
        ("Device", ", ".join(_distinct(_get(records, "device")))),
        ("Host", ", ".join(_distinct(_get(records, "host")))),
        ("Time", f"{sum(hours):.2f} hours in all, {sum(hours) / len(hours):.2f} per cell" if hours else ""),
        ("When", _period(records)),
    ]
    warnings = [
        f"The cells were run with different versions of {name}: {', '.join(values)}."
        for name, values in found.items()
        if len(values) > 1
    ]
    if len(_distinct(_get(records, "predicted"))) > 1:
        warnings.append("Some cells are scored on test images and others on validation cases: do not compare them.")
    return [(name, value) for name, value in pairs if value], warnings


def cell_rows(results: Results) -> list[list[str]]:
    """One row per cell under :data:`CELL_HEADER`."""
    rows = []
    for item in results.observations:
        record = item.record
        dice = MISSING if item.dice is None else f"{100 * item.dice:.2f}"
        hours = MISSING if record.get("hours") is None else f"{record['hours']:.2f}"
        rows.append([item.cell.name, item.state, str(record.get("device") or MISSING), dice, hours])
    return rows


def commands(results: Results) -> list[tuple[str, list[str]]]:
    """The commands of every cell that has started."""
    return [(item.cell.name, item.record["commands"]) for item in results.observations if item.record.get("commands")]


def _get(records: list[dict[str, Any]], key: str) -> list[Any]:
    return [record.get(key) for record in records]


def _distinct(values: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(str(value) for value in values if value is not None))


def _period(records: list[dict[str, Any]]) -> str:
    times = [
        datetime.fromisoformat(time)
        for record in records
        for time in (record.get("started"), record.get("finished"))
        if time
    ]
    if not times:
        return ""
    first, last = (f"{time:%Y-%m-%d %H:%M}" for time in (min(times), max(times)))
    return f"{first} to {last}"
