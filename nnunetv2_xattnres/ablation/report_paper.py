"""The paper's numbers, for the columns beside ours: Tables 1 to 5 of arXiv:2604.03297v1."""

import re
from typing import NamedTuple


class PaperScore(NamedTuple):
    """Dice and IoU in per cent; HD95 as printed (computed in voxels); None where the paper prints nothing."""

    dice: float | None
    hd95: float | None = None
    iou: float | None = None
    classes: tuple[float, ...] = ()


# Table 1's columns: aorta, gallbladder, kidneys (left, right), liver, pancreas, spleen, stomach
SYNAPSE_CLASSES = ("Aorta", "GB", "KL", "KR", "Liver", "PC", "Spleen", "SM")

# (data set, network, variant)
SCORES: dict[tuple[str, str, str], PaperScore] = {
    # Tables 1 and 3
    ("Synapse", "U-Net", "baseline"): PaperScore(
        76.25, 26.93, 65.96, (89.93, 54.42, 78.87, 72.87, 92.71, 59.65, 85.98, 75.55)
    ),
    ("Synapse", "U-Net", "both"): PaperScore(
        76.40, 26.71, 66.17, (85.20, 55.81, 75.92, 71.73, 94.96, 60.50, 88.71, 78.34)
    ),
    ("Synapse", "U-Net", "noskip"): PaperScore(72.70, 31.44),
    ("Synapse", "U-Net", "replace"): PaperScore(76.31, 26.95),
    ("Synapse", "EMCAD", "baseline"): PaperScore(
        83.63, 15.68, 74.65, (88.14, 68.87, 88.08, 84.10, 95.26, 68.51, 92.17, 83.92)
    ),
    ("Synapse", "EMCAD", "both"): PaperScore(
        83.75, 15.58, 74.85, (89.80, 68.00, 88.23, 84.78, 95.00, 66.70, 92.74, 84.75)
    ),
    ("Synapse", "EMCAD", "noskip"): PaperScore(75.47, 28.97),
    ("Synapse", "EMCAD", "replace"): PaperScore(83.45, 15.73),
    # Tables 2 and 3
    ("ColonDB", "U-Net", "baseline"): PaperScore(86.01),
    ("ColonDB", "U-Net", "both"): PaperScore(86.22),
    ("ColonDB", "U-Net", "noskip"): PaperScore(83.28),
    ("ColonDB", "U-Net", "replace"): PaperScore(86.07),
    ("ColonDB", "EMCAD", "baseline"): PaperScore(92.31),
    ("ColonDB", "EMCAD", "both"): PaperScore(92.40),
    ("ColonDB", "EMCAD", "noskip"): PaperScore(89.81),
    ("ColonDB", "EMCAD", "replace"): PaperScore(92.28),
    # Table 2
    ("ClinicDB", "U-Net", "baseline"): PaperScore(92.13),
    ("ClinicDB", "U-Net", "both"): PaperScore(92.35),
    ("ClinicDB", "EMCAD", "baseline"): PaperScore(95.21),
    ("ClinicDB", "EMCAD", "both"): PaperScore(95.32),
    ("ISIC 2017", "U-Net", "baseline"): PaperScore(82.13),
    ("ISIC 2017", "U-Net", "both"): PaperScore(82.25),
    ("ISIC 2017", "EMCAD", "baseline"): PaperScore(85.95),
    ("ISIC 2017", "EMCAD", "both"): PaperScore(86.13),
    # Table 4
    ("Synapse", "U-Net", "encoder"): PaperScore(74.09, 29.50),
    ("Synapse", "U-Net", "decoder"): PaperScore(75.62, 28.02),
    # Table 5
    ("Synapse", "U-Net", "init_random"): PaperScore(75.74, 27.82),
    ("Synapse", "U-Net", "init_kaiming"): PaperScore(74.32, 29.20),
    ("Synapse", "U-Net", "init_xavier"): PaperScore(75.55, 28.07),
}

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
    """Which of the paper's data sets a name such as ``Dataset011_ClinicDB`` means, or None."""
    plain = re.sub(r"[^a-z0-9]", "", re.sub(r"^Dataset\d+", "", name).lower())
    return next((title for key, title in _DATASETS.items() if key in plain), None)


def paper_score(dataset: str | None, network: str, variant: str) -> PaperScore | None:
    """The paper's score of a network (``unet``, ``resenc``, ``paper-unet``: its U-Net; ``emcad``) and a variant."""
    if dataset is None:
        return None
    return SCORES.get((dataset, "EMCAD" if network == "emcad" else "U-Net", variant))


def paper_in_table(study: str, dataset: str | None, network: str, variant: str) -> PaperScore | None:
    """The same for the table of a study: the paper has ``position`` and ``init`` (Tables 4 and 5) for Synapse only."""
    if study in ("position", "init") and dataset != "Synapse":
        return None
    if study == "position" and variant == "replace":  # Table 4 prints another number for it than Table 3
        variant = "both"
    return paper_score(dataset, network, variant) if study == "skip" or network != "emcad" else None


def paper_class(score: PaperScore, label: str) -> float | None:
    """The paper's Dice of a class by our label's name, such as ``left_kidney``, or None."""
    words = set(re.split(r"[^a-z]+", label.lower()))
    for title, needed in _CLASS_WORDS.items():
        if score.classes and needed <= words:
            return score.classes[SYNAPSE_CLASSES.index(title)]
    return None
