"""The cells of an ablation study: configurations x folds x seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nnunetv2_xattnres.errors import InputError

# networks of their own recipe: with one of these trainers, EMCAD's cells take the partner
EMCAD_PARTNERS = {
    "nnUNetTrainer_XAttnRes": "nnUNetTrainer_EMCAD",
    "nnUNetTrainer_XAttnRes_Paper": "nnUNetTrainer_EMCAD_Paper",
}


@dataclass(frozen=True)
class Cell:
    """One training with its prediction and its scores.

    Args:
        configuration: Configuration of the plans file, such as ``2d_replace``.
        variant: Its routing, such as ``replace``.
        network: ``unet``, ``resenc``, ``emcad`` or ``paper-unet``.
        study: The studies that it belongs to, such as ``("skip", "position")``.
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
    def from_json(cls, entry: Mapping[str, Any]) -> Cell:
        """Read what :meth:`to_json` wrote."""
        values = {key: value for key, value in entry.items() if key != "name"}
        return cls(**{**values, "study": tuple(values["study"])})


def expand(
    configurations: Mapping[str, Mapping[str, Any]], trainer: str, folds: Sequence[int | str], seeds: Iterable[int]
) -> list[Cell]:
    """All cells, seed by seed: a study that is stopped early has compared every variant already.

    Args:
        configurations: Name to ``{"variant", "network", "studies"}``, as the plans command returns it.
        trainer: Trainer of all cells; EMCAD's take the partner in :data:`EMCAD_PARTNERS` where there is one.
        folds: Folds to train.
        seeds: Seeds to train each with.
    """

    def trainer_of(network: str) -> str:
        return EMCAD_PARTNERS.get(trainer, trainer) if network == "emcad" else trainer

    return [
        Cell(
            name, found["variant"], found["network"], tuple(found["studies"]), trainer_of(found["network"]), fold, seed
        )
        for seed in seeds
        for fold in folds
        for name, found in configurations.items()
    ]


def parse_names(text: str, what: str) -> list[str]:
    """``skip,position`` as a list without repetitions.

    Raises:
        InputError: it holds no name.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise InputError(f"{what} is empty: give names separated by commas")
    return list(dict.fromkeys(names))


def parse_folds(text: str) -> list[int | str]:
    """``0,1`` or ``all`` as a list.

    Raises:
        InputError: something else, with what was given.
    """
    folds: list[int | str] = []
    for name in parse_names(text, "--folds"):
        if name != "all" and not name.isdecimal():
            raise InputError(f"--folds {text}: {name!r} is neither a number nor the word all")
        folds.append(name if name == "all" else int(name))
    return folds
