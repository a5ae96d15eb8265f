"""The results as tables: rows for CSV files, and the same in Markdown and on the page."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunetv2_xattnres.architectures.readers import CURRENT, Reader
from nnunetv2_xattnres.routing_maps.analysis import Analysis
from nnunetv2_xattnres.routing_maps.partitions import AWAY, BOUNDARY, BY_CLASS, BY_DISTANCE, BY_OUTCOME, EVERYWHERE
from nnunetv2_xattnres.routing_maps.summary import (
    HELD,
    REVERSED,
    Claim,
    Estimate,
    Split,
    claims,
    decoders,
    entropies,
    estimates,
    splits,
)

MISSING = "–"


@dataclass(frozen=True)
class Table:
    """Header and rows as text; the first columns, as many as ``names``, are words."""

    title: str
    header: list[str]
    rows: list[list[str]]
    names: int = 1
    note: str = ""


@dataclass(frozen=True)
class Results:
    """Everything that is said about a run, in numbers.

    Attributes:
        analysis: What they come from.
        splits: Mean weights of each stage in each group of pixels.
        entropies: One for each reader.
        claim: The paper's claim, over the decoder stages together.
        claims: The same for each stage.
        knock_out: Module path to the change of the mean Dice without each entry; empty if not asked for.
    """

    analysis: Analysis
    splits: list[Split]
    entropies: list[Estimate]
    claim: Claim
    claims: list[Claim]
    knock_out: dict[str, list[Estimate]]

    @classmethod
    def of(cls, analysis: Analysis) -> Results:
        """Means, intervals and the claim of an analysis."""
        together, single = claims(analysis.readers, analysis.groups, analysis.cases)
        return cls(
            analysis,
            splits(analysis.readers, analysis.groups, analysis.cases),
            entropies(analysis.readers, analysis.cases),
            together,
            single,
            _knock_out(analysis),
        )

    def split(self, by: str, reader: Reader) -> list[Split]:
        """The groups of one partition, for one reader."""
        return [item for item in self.splits if item.by == by and item.reader is reader]


def _knock_out(analysis: Analysis) -> dict[str, list[Estimate]]:
    if not analysis.dice:
        return {}
    found = {}
    for reader in analysis.readers:
        differences = np.stack([without[reader.module] - whole for whole, without in analysis.dice])
        with np.errstate(invalid="ignore"):
            scored = ~np.isnan(differences)
            per_case = np.where(scored, differences, 0).sum(2) / np.where(scored.any(2), scored.sum(2), np.nan)
        found[reader.module] = estimates(per_case)
    return found


def all_entries(readers: Sequence[Reader]) -> list[str]:
    """Every entry that some reader has, in the order of computation; the current feature comes last."""
    names = dict.fromkeys(entry for reader in readers for entry in reader.entries if entry != CURRENT)
    return [*names, CURRENT]


def claim_sentence(results: Results) -> str:
    """The paper's claim on these cases, in one sentence with its numbers."""
    claim, edges, unit = results.claim, results.analysis.edges, results.analysis.unit
    if not claim.cases:
        return (
            f"The paper's claim cannot be looked at: no case has both pixels up to {edges[0]:g} {unit} from a boundary "
            f"and pixels over {edges[1]:g} {unit} away."
        )
    mean = claim.difference.mean
    only_decoder = all(reader.stage.startswith("decoder") for reader in shown_readers(results))
    stages = "decoder stages" if only_decoder else "stages"
    direction = "finer" if mean < 0 else "coarser"
    low, high = (without_minus_zero(f"{end:+.3f}") for end in claim.difference[1:])
    interval = f"95 % interval {low} to {high}, "
    size = "less than 0.001" if abs(mean) < 0.001 else f"{abs(mean):.3f}"
    verdict = {
        HELD: "The paper's claim held",
        REVERSED: "The paper's claim did not hold",
    }.get(claim.reading, "These cases cannot decide the paper's claim")
    return (
        f"{verdict}: in the {stages} together, pixels up to {edges[0]:g} {unit} from a boundary listen to entries "
        f"that are on average {size} octaves of resolution {direction} than pixels over {edges[1]:g} {unit} "
        f"away ({'' if math.isnan(claim.difference.low) else interval}{_count(claim.cases, 'case')}; "
        "1 octave is a factor of 2 per axis)."
    )


def tables(results: Results) -> list[Table]:
    """All tables, in the order of the page."""
    analysis = results.analysis
    entries = all_entries(analysis.readers)
    found = [_weights("Mean weights, in per cent", results, EVERYWHERE, entries, [EVERYWHERE])]
    rows = [
        [claim.stage or "together", _signed(claim.difference), claim.reading, str(claim.cases)]
        for claim in [results.claim, *results.claims]
    ]
    found.append(
        Table(
            "Boundary minus away from it, in octaves of resolution",
            ["stage", "difference", "the claim", "cases"],
            rows,
            note="Negative: boundaries listen to finer entries, as the paper claims.",
        )
    )
    rows = [[reader.stage, _percent(value)] for reader, value in zip(analysis.readers, results.entropies, strict=True)]
    found.append(
        Table(
            "Entropy of the weights, in per cent of its largest value",
            ["stage", "entropy"],
            rows,
            note="100: all entries weigh the same, as before training. 0: one entry has all the weight.",
        )
    )
    if results.knock_out:
        rows = [
            [reader.stage, *_by_entry(reader, results.knock_out[reader.module], entries, _points)]
            for reader in analysis.readers
        ]
        found.append(
            Table(
                "Change of the mean Dice without an entry, in points",
                ["stage", *entries],
                rows,
                note="Negative: the prediction is worse without the entry.",
            )
        )
    for by, title in (
        (BY_CLASS, "Mean weights by class, in per cent"),
        (BY_DISTANCE, f"Mean weights by distance to the nearest boundary, in per cent; distances in {analysis.unit}"),
        (BY_OUTCOME, "Mean weights by right and wrong pixels, in per cent"),
    ):
        if by in analysis.groups:
            found.append(_weights(title, results, by, entries, list(analysis.groups[by])))
    return found


def _weights(title: str, results: Results, by: str, entries: Sequence[str], groups: Sequence[str]) -> Table:
    names = ["stage"] if by == EVERYWHERE else ["stage", "pixels"]
    rows = []
    for reader in results.analysis.readers:
        for item in results.split(by, reader):
            if item.group in groups:
                words = [reader.stage] if by == EVERYWHERE else [reader.stage, group_title(item.group, results)]
                rows.append([*words, *_by_entry(reader, item.weights, entries, _percent), str(item.cases)])
    note = "In brackets: the 95 % interval, a bootstrap over cases." if len(results.analysis.names) > 1 else ""
    return Table(title, [*names, *entries, "cases"], rows, len(names), note)


def group_title(group: str, results: Results) -> str:
    """A group with its distances, where its name does not say them."""
    edges, unit = results.analysis.edges, results.analysis.unit
    return {
        BOUNDARY: f"boundary: up to {edges[0]:g} {unit}",
        AWAY: f"away: over {edges[1]:g} {unit}",
    }.get(group, group)


def _by_entry(reader: Reader, values: Sequence[Estimate], entries: Sequence[str], write: object) -> list[str]:
    found = dict(zip(reader.entries, values, strict=True))
    return [write(found[entry]) if entry in found else "" for entry in entries]  # type: ignore[operator]


def _percent(value: Estimate) -> str:
    return _estimate(value, 100, "{:.1f}")


def _points(value: Estimate) -> str:
    return _estimate(value, 100, "{:+.2f}")


def _signed(value: Estimate) -> str:
    return _estimate(value, 1, "{:+.3f}")


def _estimate(value: Estimate, scale: float, form: str) -> str:
    if math.isnan(value.mean):
        return MISSING
    mean, low, high = (without_minus_zero(form.format(scale * number)) for number in value)
    return mean if math.isnan(value.low) else f"{mean} ({low} to {high})"


def without_minus_zero(text: str) -> str:
    """``+0.0`` for ``-0.0``, which a small negative number is rounded to."""
    return "+" + text[1:] if text.startswith("-") and not text.strip("-0.") else text


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def weights_csv(results: Results) -> str:
    """One row for each split, stage, group and entry; weights from 0 to 1."""
    rows = [
        [item.by, item.reader.stage, item.group, entry, *_numbers(value), item.cases, item.pixels]
        for item in results.splits
        for entry, value in zip(item.reader.entries, item.weights, strict=True)
    ]
    return _csv(["split", "stage", "pixels", "entry", "mean", "low", "high", "cases", "pixel_count"], rows)


def stages_csv(results: Results) -> str:
    """One row for each stage: entropy (0 to 1) and the claim (octaves)."""
    rows = [
        [reader.stage, *_numbers(entropy), *_numbers(claim.difference), claim.reading, claim.cases]
        for reader, entropy, claim in zip(results.analysis.readers, results.entropies, results.claims, strict=True)
    ]
    header = ["stage", "entropy", "entropy_low", "entropy_high", "boundary_minus_away", "low", "high", "claim", "cases"]
    together = ["together", "", "", "", *_numbers(results.claim.difference)]
    return _csv(header, [*rows, [*together, results.claim.reading, results.claim.cases]])


def knock_out_csv(results: Results) -> str:
    """One row for each stage and entry: the change of the mean Dice (0 to 1) without it."""
    rows = [
        [reader.stage, entry, *_numbers(value), len(results.analysis.dice)]
        for reader in results.analysis.readers
        for entry, value in zip(reader.entries, results.knock_out[reader.module], strict=True)
    ]
    return _csv(["stage", "entry", "dice_difference", "low", "high", "cases"], rows)


def _numbers(value: Estimate) -> list[str]:
    return ["" if math.isnan(number) else f"{number:.6g}" for number in value]


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def shown_readers(results: Results) -> list[Reader]:
    """The stages that figures are drawn of."""
    return decoders(results.analysis.readers)
