"""The rules of nnU-Net for the labels in a ``dataset.json``."""

from typing import Any

from nnunetv2_xattnres.errors import few
from nnunetv2_xattnres.nnunet_layout import BACKGROUND, IGNORE


def problems_of_labels(labels: dict[str, Any], order: Any) -> list[str]:
    """What nnU-Net refuses in labels, or understands in another way than they are written; empty if all is right.

    Args:
        labels: Name to a value that ``int`` accepts, or to a list of them, which is a region.
        order: The entry ``regions_class_order``, or None.
    """
    problems = []
    written = {name: value if isinstance(value, list) else [value] for name, value in labels.items()}
    for name, entries in written.items():
        if not entries:
            problems.append(f"label {name} has no value")
        broken = [str(entry) for entry in entries if isinstance(entry, float) and entry != int(entry)]
        if broken:
            problems.append(f"label {name} is {few(broken)}: nnU-Net takes whole numbers, and cuts off the rest")
    values = {name: {int(entry) for entry in entries} for name, entries in written.items()}
    if isinstance(labels.get(BACKGROUND), list) or values.get(BACKGROUND) != {0}:
        problems.append(f'labels need "{BACKGROUND}": 0')
    plain: dict[int, list[str]] = {}
    for name, own in values.items():
        if len(own) == 1:
            plain.setdefault(min(own), []).append(name)
    problems += [
        f"labels {' and '.join(names)} are all {value}: nnU-Net makes one class of them"
        for value, names in plain.items()
        if len(names) > 1
    ]
    ignored = values.pop(IGNORE, None)
    used = sorted(set().union(*values.values()))
    if used != list(range(len(used))):
        problems.append(
            f"labels have the values {few([str(value) for value in used])}: nnU-Net needs 0, 1, 2 and so on"
        )
    elif ignored is not None and (not isinstance(labels[IGNORE], int) or ignored != {len(used)}):
        problems.append(f"label {IGNORE} is {labels[IGNORE]}: nnU-Net needs the number after all others, {len(used)}")
    regions = [name for name, own in values.items() if own != {0}]
    if any(len(written[name]) > 1 for name in values) and (not isinstance(order, list) or len(order) != len(regions)):
        problems.append(
            f"labels have regions: regions_class_order must list {len(regions)} values, one each for {few(regions)}"
        )
    return problems
