"""The cells of an ablation study: configurations x folds x seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nnunetv2_xattnres.arguments import parse_names
from nnunetv2_xattnres.catalogue import NETWORKS
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.json_files import check_entries, kind_of

_ENTRIES: Mapping[str, type] = {
    "configuration": str, "variant": str, "network": str, "study": list, "trainer": str, "seed": float,
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One training with its prediction and its scores.

    Args:
        configuration: Configuration of the plans file, such as ``2d_replace``.
        variant: Its routing, such as ``replace``.
        network: Key of :data:`~nnunetv2_xattnres.catalogue.NETWORKS`.
        study: The studies to which the cell belongs, such as ``("skip", "position")``.
        trainer: nnU-Net trainer that trains it.
        fold: Fold of ``splits_final.json``, or ``all``.
        seed: Value of ``XATTNRES_SEED``.
    """

    configuration: str
    variant: str
    network: str
    study: tuple[str, ...]
    trainer: str
    fold: int | str
    seed: int

    @property
    def name(self) -> str:
        """Name of the cell's folder, unique in its study."""
        return f"{self.configuration}__fold{self.fold}__seed{self.seed}"

    def to_json(self) -> dict[str, Any]:
        """The entry in ``study.json``."""
        return {"name": self.name, **asdict(self), "study": list(self.study)}

    @classmethod
    def from_json(cls, entry: Any, where: str) -> Cell:
        """Read what :meth:`to_json` wrote; ``where`` is its place, for the message.

        Raises:
            InputError: it is something else.
        """
        advice = "it is not a cell of this version: repair it"
        if not isinstance(entry, dict):
            raise InputError(f"{where} is {kind_of(entry)} and not an object: {advice}")
        check_entries(entry, where, _ENTRIES, advice)
        if not isinstance(entry.get("fold"), int) and entry.get("fold") != "all":
            raise InputError(f"{where} has the fold {entry.get('fold')}, and not a number or all: {advice}")
        values = {name: entry[name] for name in (*_ENTRIES, "fold")}
        return cls(**{**values, "study": tuple(values["study"])})


def expand(
    configurations: Mapping[str, Mapping[str, Any]], trainer: str, folds: Sequence[int | str], seeds: Iterable[int]
) -> list[Cell]:
    """All cells, seed by seed: so a study that is stopped early has already compared every variant.

    Args:
        configurations: Name to ``{"variant", "network", "studies"}``, as :func:`make_variants` finds them.
        trainer: Trainer of all cells, except for networks to which the catalogue gives their own trainer.
        folds: Folds to train.
        seeds: Seeds with which each configuration is trained.
    """

    trainers = {key: network.trainers.get(trainer, trainer) for key, network in NETWORKS.items()}
    return [
        Cell(name, found["variant"], found["network"], tuple(found["studies"]), trainers[found["network"]], fold, seed)
        for seed in seeds
        for fold in folds
        for name, found in configurations.items()
    ]


def parse_folds(values: Sequence[str]) -> list[int | str]:
    """The folds as a list: ``0 1``, also written ``0,1``, or ``all``.

    Raises:
        InputError: a value is neither a number nor ``all``.
    """
    folds: list[int | str] = []
    for name in parse_names(values, "--folds"):
        if name != "all" and not name.isdecimal():
            raise InputError(f"--folds {' '.join(values)}: {name!r} is neither a number nor the word all")
        folds.append(name if name == "all" else int(name))
    return folds
