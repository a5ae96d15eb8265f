"""The table that ``warmstart`` prints: what is taken, what is new, and what did not fit."""

from __future__ import annotations

from collections.abc import Iterable

from nnunetv2_xattnres.warmstart.transfer import Comparison


def lines(found: Comparison) -> list[str]:
    """One line per part of the network and per tensor that did not fit, then what the network has no use for."""
    rows = [("taken", *row, "") for row in _parts(found.taken, found.sizes)]
    rows += [("new", *row, "not in the source") for row in _parts(found.new, found.sizes)]
    rows += [
        ("did not fit, new", misfit.name, f"{found.sizes[misfit.name]:,}", f"here {_shape(misfit.here)}, there "
         f"{_shape(misfit.there)}")
        for misfit in found.misfits
    ]  # fmt: skip
    rows += [("not needed", part, "", f"{count} tensors of the source") for part, count in _counts(found.left)]
    table = [("", "part", "parameters", ""), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(3)]
    return [f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}".rstrip() for row in table]


def summary(found: Comparison) -> str:
    """The numbers in one line."""
    total, taken = sum(found.sizes.values()), sum(found.sizes[name] for name in found.taken)
    return (
        f"{taken:,} of {total:,} parameters taken ({100 * taken / total:.1f}%): {len(found.taken)} tensors taken, "
        f"{len(found.new)} new, {len(found.misfits)} did not fit"
    )


def _parts(names: Iterable[str], sizes: dict[str, int]) -> list[tuple[str, str]]:
    totals: dict[str, int] = {}
    for name in names:
        totals[_part(name)] = totals.get(_part(name), 0) + sizes[name]
    return [(part, f"{total:,}") for part, total in totals.items()]


def _counts(names: Iterable[str]) -> list[tuple[str, int]]:
    counts: dict[str, int] = {}
    for name in names:
        counts[_part(name)] = counts.get(_part(name), 0) + 1
    return list(counts.items())


def _part(name: str) -> str:
    """A name as far as its first number: ``encoder.stages.0`` of ``encoder.stages.0.0.convs.0.conv.weight``."""
    parts = name.split(".")
    numbers = [index for index, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[0] + 1] if numbers else parts[:-1])


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "one number"
