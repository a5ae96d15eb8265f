"""The paper's numbers, for the columns beside ours: Tables 1 to 5 of arXiv:2604.03297v1 (``paper.csv``)."""

import csv
import re
from functools import cache
from importlib import resources
from typing import NamedTuple

from nnunetv2_xattnres.catalogue import NETWORKS, STUDIES

MAIN = (1, 2)  # tables with the main results


class PaperScore(NamedTuple):
    """A score of the paper: Dice and IoU in per cent, HD95 in voxels as printed; None where the paper prints nothing.

    ``classes`` maps a column heading of Table 1 to the Dice of that class.
    """

    dice: float | None
    hd95: float | None
    iou: float | None
    classes: dict[str, float]


# column of Table 1: words in our label's name; KL and KR are the kidneys, GB the gallbladder, PC the pancreas
_CLASS_WORDS = {
    "Aorta": {"aorta"},
    "GB": {"gallbladder"},
    "KL": {"kidney", "left"},
    "KR": {"kidney", "right"},
    "Liver": {"liver"},
    "PC": {"pancreas"},
    "Spleen": {"spleen"},
    "SM": {"stomach"},
}
_DATASETS = {
    "synapse": "Synapse",
    "btcv": "Synapse",
    "colondb": "ColonDB",
    "clinicdb": "ClinicDB",
    "isic2017": "ISIC 2017",
}


def paper_dataset(name: str) -> str | None:
    """The paper's data set to which a name such as ``Dataset011_ClinicDB`` refers, or None."""
    plain = re.sub(r"[^a-z0-9]", "", re.sub(r"^Dataset\d+", "", name).lower())
    return next((title for key, title in _DATASETS.items() if key in plain), None)


def paper_score(dataset: str | None, network: str, variant: str, tables: tuple[int, ...] = MAIN) -> PaperScore | None:
    """The paper's score of a network and a variant (keys of the catalogue), from the first table that has it."""
    name = NETWORKS[network].paper if network in NETWORKS else None
    if dataset is None or name is None:
        return None
    found = (_scores().get((table, dataset, name, variant)) for table in tables)
    return next((score for score in found if score is not None), None)


def paper_in_table(study: str, dataset: str | None, network: str, variant: str) -> PaperScore | None:
    """The paper's score in the table of a study. Tables 4 and 5 have Synapse only."""
    return paper_score(dataset, network, variant, STUDIES[study].paper_tables)


def note_of(study: str, dataset: str | None) -> list[str]:
    """What readers must know about the paper's table of a study."""
    if 4 in STUDIES[study].paper_tables and dataset == "Synapse":
        return ["Full: the paper's Table 4 prints the number of its network with skip connections (76.40)."]
    if 5 in STUDIES[study].paper_tables:
        return ["With skip connections (the routing both), as the paper's 76.40 for zero shows."]
    return []


def paper_class(score: PaperScore, label: str) -> float | None:
    """The paper's Dice of a class by our label's name, such as ``left_kidney``, or None."""
    words = set(re.split(r"[^a-z]+", label.lower()))
    return next(
        (score.classes[title] for title, needed in _CLASS_WORDS.items() if score.classes and needed <= words), None
    )


@cache
def _scores() -> dict[tuple[int, str, str, str], PaperScore]:
    """Maps table, data set, network and variant to the score."""
    text = resources.files(__package__).joinpath("paper.csv").read_text(encoding="utf-8")
    found = {}
    for row in csv.DictReader(text.splitlines()):
        key = int(row["table"]), row["dataset"], row["network"], row["variant"]
        dice, hd95, iou = (float(row[name]) if row[name] else None for name in ("dice", "hd95", "iou"))
        found[key] = PaperScore(dice, hd95, iou, {name: float(row[name]) for name in _CLASS_WORDS if row[name]})
    return found
