"""The values of the paper's training recipe, and how a plans file changes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.plans.files import RECIPE_KEY as KEY

LOSSES = ("ce_dice", "weighted_bce_iou")
CLIPPING = ("value", "norm")


@dataclass(frozen=True)
class Recipe:
    """The values of the paper's recipe ("strictly EMCAD's"); the defaults are those for Synapse.

    Args:
        base: The data set with these values: ``synapse`` or ``binary`` (ColonDB, ClinicDB, ISIC 2017).
        epochs: Passes over all training slices (volumes) or images.
        batch_size: Slices or images per iteration.
        learning_rate: Constant learning rate of AdamW.
        weight_decay: Weight decay of AdamW, on every parameter.
        loss: ``ce_dice``, or ``weighted_bce_iou`` (for two classes; pixels near the edge of the object count more).
        ce_weight: Weight of cross-entropy in ``ce_dice``.
        dice_weight: Weight of Dice in ``ce_dice`` (over all classes and the whole batch).
        scales: Sizes at which each batch is trained, with one step per size, relative to the network's ``input_size``
            or, if it has none, to the patch.
        clipping: Limit of the gradient; ``None`` for no limit.
        clipping_by: The limit applies to each element (``value``) or to the norm of all elements (``norm``).
        rotation: Largest random rotation in degrees, for a quarter of the samples.
        quarter_turns_and_flips: Random quarter turn and flip, for half of the samples.
        test_time_mirroring: Whether predictions average over flips, as nnU-Net's do.
        iterations_per_epoch: Iterations per epoch; ``None`` for one pass over the data.
        validation_iterations: Validation batches per epoch; ``None`` for all validation data.
    """

    base: str = "synapse"
    epochs: int = 300
    batch_size: int = 6
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    loss: str = "ce_dice"
    ce_weight: float = 0.3
    dice_weight: float = 0.7
    scales: tuple[float, ...] = (1.0,)
    clipping: float | None = None
    clipping_by: str = "value"
    rotation: float = 20.0
    quarter_turns_and_flips: bool = True
    test_time_mirroring: bool = False
    iterations_per_epoch: int | None = None
    validation_iterations: int | None = None

    @classmethod
    def choose(cls, foreground_labels: int, overrides: Mapping[str, Any] | None, where: str) -> Recipe:
        """The recipe of a configuration: that for Synapse if it has several labels, else that for binary data sets.

        Args:
            foreground_labels: Number of labels (or regions) without the background.
            overrides: ``paper_recipe`` of the configuration, or ``None``.
            where: Name of the configuration, for error messages.

        Raises:
            InputError: a key is unknown or a value is unusable; the message lists all of them.
        """
        overrides = dict(overrides or {})
        base = overrides.get("base", "synapse" if foreground_labels > 1 else "binary")
        if base not in BASES:
            raise InputError(f"{KEY} of {where} has the base {base!r}: it is {' or '.join(BASES)}")
        names = [field.name for field in fields(cls)]
        unknown = [f"{key!r} is unknown" for key in overrides if key not in names]
        if unknown:
            raise InputError(f"{KEY} of {where} cannot be used: the valid keys are {', '.join(names)}", unknown)
        if isinstance(overrides.get("scales"), list):
            overrides["scales"] = tuple(overrides["scales"])
        recipe = replace(BASES[base], **overrides)
        problems = recipe._problems()
        if recipe.loss == "weighted_bce_iou" and foreground_labels != 1:
            problems.append(f"loss 'weighted_bce_iou' is for one foreground label, and there are {foreground_labels}")
        if problems:
            raise InputError(f"{KEY} of {where} cannot be used", problems)
        return recipe

    def _problems(self) -> list[str]:
        def number(value: Any) -> bool:
            return isinstance(value, int | float) and not isinstance(value, bool)

        def count(value: Any) -> bool:
            return isinstance(value, int) and not isinstance(value, bool) and value > 0

        valid = {
            "epochs": (count(self.epochs), "a whole number above 0"),
            "batch_size": (count(self.batch_size), "a whole number above 0"),
            "learning_rate": (number(self.learning_rate) and self.learning_rate > 0, "a number above 0"),
            "weight_decay": (number(self.weight_decay) and self.weight_decay >= 0, "a number from 0"),
            "loss": (self.loss in LOSSES, f"one of {', '.join(LOSSES)}"),
            "ce_weight": (number(self.ce_weight) and self.ce_weight >= 0, "a number from 0"),
            "dice_weight": (number(self.dice_weight) and self.dice_weight >= 0, "a number from 0"),
            "scales": (
                isinstance(self.scales, tuple)
                and len(self.scales) > 0
                and all(number(scale) and scale > 0 for scale in self.scales),
                "a list of numbers above 0",
            ),
            "clipping": (self.clipping is None or (number(self.clipping) and self.clipping > 0), "null or above 0"),
            "clipping_by": (self.clipping_by in CLIPPING, f"one of {', '.join(CLIPPING)}"),
            "rotation": (number(self.rotation) and 0 <= self.rotation <= 180, "0 to 180 degrees"),
            "quarter_turns_and_flips": (isinstance(self.quarter_turns_and_flips, bool), "true or false"),
            "test_time_mirroring": (isinstance(self.test_time_mirroring, bool), "true or false"),
            "iterations_per_epoch": (
                self.iterations_per_epoch is None or count(self.iterations_per_epoch),
                "null or a whole number above 0",
            ),
            "validation_iterations": (
                self.validation_iterations is None or count(self.validation_iterations),
                "null or a whole number above 0",
            ),
        }
        return [
            f"{name!r} is {getattr(self, name)!r}: it must be {wanted}"
            for name, (good, wanted) in valid.items()
            if not good
        ]

    def to_json(self) -> dict[str, Any]:
        """All values, as ``paper_recipe`` of a plans file."""
        return {**asdict(self), "scales": list(self.scales)}

    def describe(self, overridden: Mapping[str, Any] | None = None) -> str:
        """One line per value, with a mark at those that the plans set."""
        lines = [
            f"  {name:<24} {value}{'  (set in the plans)' if name in (overridden or {}) else ''}"
            for name, value in self.to_json().items()
        ]
        return "\n".join(["The paper's recipe:", *lines])


BASES = {
    "synapse": Recipe(),
    "binary": Recipe(
        base="binary",
        epochs=200,
        batch_size=16,
        loss="weighted_bce_iou",
        scales=(0.75, 1.0, 1.25),
        clipping=0.5,
        rotation=0.0,
        quarter_turns_and_flips=False,
    ),
}
IMAGE_SIZES = {"synapse": 224, "binary": 352}  # height and width to which the paper resizes
