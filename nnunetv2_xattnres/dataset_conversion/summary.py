"""The summary of a conversion, in a few lines for the user."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nnunetv2_xattnres.dataset_conversion.patch_view import expected_view
from nnunetv2_xattnres.dataset_conversion.plausible import border_note, missing_classes
from nnunetv2_xattnres.dataset_conversion.splits import Split
from nnunetv2_xattnres.errors import folded
from nnunetv2_xattnres.nnunet_layout import dataset_number


@dataclass
class Checked:
    """The properties of one case.

    ``counts`` has the voxels per label, ``border`` the share of foreground along the border (``border_share``).
    """

    problems: list[str] = field(default_factory=list)
    size: tuple[int, ...] = ()
    counts: dict[int, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    border: float = 0.0


@dataclass(frozen=True)
class Summary:
    """The summary of what a conversion wrote."""

    folder: Path
    split: Split
    lines: list[str]

    def __str__(self) -> str:
        return "\n".join(self.lines)


def summarise(
    target: Path, split: Split, checked: Mapping[str, Checked], labels: Mapping[str, int], expected: int, plan: str
) -> Summary:
    """Summarise the cases that were used.

    Args:
        target: The folder of the data set.
        split: The split of the cases.
        checked: Case name to its properties.
        labels: Label name to value, as in ``dataset.json``.
        expected: Number of cases of the complete data set.
        plan: The configuration for the next command.
    """
    used = {name: checked[name] for name in sorted({*split.training, *split.test})}
    sizes = Counter(case.size for case in used.values())
    counts: Counter[int] = Counter()
    for case in used.values():
        counts.update(case.counts)
    lines = [f"{target}", f"  cases   {len(split.training)} in imagesTr, {len(split.test)} in imagesTs"]
    for number, fold in enumerate(split.folds):
        lines.append(f"  fold {number}  {len(fold['train'])} train, {len(fold['val'])} validate")
    unit, axes = ("pixels", "height x width") if plan == "2d" else ("voxels", "as in the files")
    lines.append(f"  sizes   {describe_sizes(sizes)} ({axes})")
    for label, value in labels.items():
        present = sum(case.counts.get(value, 0) > 0 for case in used.values())
        share = counts[value] / max(1, counts.total())
        lines.append(f"  label   {value} {label}: {share:.2%} of the {unit}, in {present} of {len(used)} cases")
    notes = [*split.notes, *(note for case in used.values() for note in case.notes)]
    counted = [case.counts for case in used.values() if case.counts]
    missing = missing_classes(counted, list(labels.values()))
    notes += [f"label {value} {name} occurs in no case" for name, value in labels.items() if value in missing]
    if odd := border_note([case.border for case in used.values() if case.counts]):
        notes.append(odd)
    if view := expected_view([case.size for case in used.values() if case.size], dataset_number(target.name)):
        notes.append(view)
    if len(checked) != expected:
        notes.append(f"{len(checked)} cases were found; the complete data set has {expected}")
    lines += [f"  note    {note}" for note in folded(notes)]
    number = dataset_number(target.name)
    lines += [
        "next:",
        f"  nnunetv2_xattnres inspect {number}",
        f"  nnUNetv2_plan_and_preprocess -d {number} -c {plan} --verify_dataset_integrity",
    ]
    return Summary(target, split, lines)


def describe_sizes(sizes: Counter[tuple[int, ...]]) -> str:
    """The size if all are equal, else the number of sizes, the smallest and the largest."""

    def shown(size: tuple[int, ...]) -> str:
        return "x".join(map(str, size))

    if len(sizes) == 1:
        return shown(next(iter(sizes)))
    return f"{len(sizes)} different, {shown(min(sizes))} to {shown(max(sizes))}"
