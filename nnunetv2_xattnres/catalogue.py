"""The networks, variants and studies of this package: every fact about them, once. All lists elsewhere come from here.

A new network is its class, one entry in :data:`NETWORKS` and its test; a new variant is one entry in :data:`VARIANTS`.
Nothing here imports torch: commands list these names before they need it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

_NONE: Mapping[str, Any] = MappingProxyType({})
GREY = "#8a8f98"
TRAINER = "nnUNetTrainer_XAttnRes"


class Labels(NamedTuple):
    """What a variant is called in the table and in the bar chart of one study."""

    row: str
    bar: str


@dataclass(frozen=True)
class Variant:
    """A routing with a name: a row of the paper's Table 3, 4 or 5.

    Args:
        key: Name in configurations, trainers and on the command line.
        skip_connections: See :class:`~nnunetv2_xattnres.architectures.routing.Routing`, also for the next three.
        encoder: XAttnRes in the encoder.
        decoder: XAttnRes in the decoder.
        title: Name in reports.
        colour: Colour in figures: one of Okabe and Ito's, which people with colour blindness tell apart.
        studies: Key of each study that compares it, and its labels there.
        query_init: Initialisation of the queries.
    """

    key: str
    skip_connections: bool
    encoder: bool
    decoder: bool
    title: str
    colour: str
    studies: Mapping[str, Labels]
    query_init: str = "zero"

    @property
    def has_own_init(self) -> bool:
        """Whether it differs from another variant in the initialisation only."""
        return self.query_init != "zero"

    @property
    def routing(self) -> dict[str, Any]:
        """The ``routing`` of a plans file."""
        found = {name: getattr(self, name) for name in ("skip_connections", "encoder", "decoder")}
        return {**found, "query_init": self.query_init} if self.has_own_init else found


@dataclass(frozen=True)
class Network:
    """A network that a plans file can name.

    Args:
        key: Name on the command line.
        title: Name in reports.
        class_name: Import path of the class.
        stock: Import path of nnU-Net's class that it extends; plans have to name one of the two. ``None`` for a network
            that does not depend on the network in the plans.
        planner: nnU-Net's planner that writes plans with ``stock``.
        dimensions: 2, 3 or both.
        outputs: Outputs that training has a loss for; networks with ``stock`` have as many as the plans say.
        encoder: Default pretrained encoder, ``None`` for a network without one.
        encoder_reads: Whether XAttnRes can be in its encoder.
        takes_routing: Whether it has XAttnRes at all; a network without it has the variant ``baseline`` only.
        trainers: Trainers that train it by another recipe: the general trainer's name to theirs.
        paper: Name in the paper's tables, ``None`` where they do not have it.
        paper_cost: Parameters (millions) and multiply-accumulates (billions) of Table 2, by variant.
    """

    key: str
    title: str
    class_name: str
    stock: str | None = None
    planner: str | None = None
    dimensions: tuple[int, ...] = (2,)
    outputs: int = 1
    encoder: str | None = None
    encoder_reads: bool = True
    takes_routing: bool = True
    trainers: Mapping[str, str] = field(default_factory=lambda: _NONE)
    paper: str | None = None
    paper_cost: Mapping[str, tuple[float, float]] = field(default_factory=lambda: _NONE)

    @property
    def infix(self) -> str:
        """Its part of a configuration's name; networks that extend nnU-Net's own have none."""
        return "" if self.stock else f"{self.key.replace('-', '_')}_"

    @property
    def variants(self) -> list[str]:
        """The variants that differ from one another in this network, in the catalogue's order."""
        if not self.takes_routing:
            return [key for key, variant in VARIANTS.items() if variant.skip_connections and not reads(variant)]
        # without XAttnRes in the encoder, a variant whose two halves differ would repeat one whose halves do not
        return [key for key, variant in VARIANTS.items() if self.encoder_reads or variant.encoder == variant.decoder]


@dataclass(frozen=True)
class Study:
    """An ablation of the paper.

    Args:
        key: Name on the command line.
        base: The variant that the others are compared with.
        title: Title of its table.
        chart: Title of its bar charts, after the network's.
        column: First heading of its table.
        paper_tables: The paper's tables with its numbers, the first one that has a number counts.
        compares: Key of the study whose variants, table and chart it shares; by default its own.
        networks: Networks that it compares beside the one that is asked for.
        marks: Whether its table has one row per network and variant, with a mark for skip connections and for XAttnRes.
    """

    key: str
    base: str
    title: str
    chart: str
    column: str
    paper_tables: tuple[int, ...]
    compares: str | None = None
    networks: tuple[str, ...] = ()
    marks: bool = False

    @property
    def sharing(self) -> set[str]:
        """Keys of all studies in its table and chart: itself, and those that compare the same."""
        return {key for key, each in STUDIES.items() if self.key in (key, each.compares)}

    @property
    def variants(self) -> dict[str, Labels]:
        """The variants that it compares, with their labels, in the catalogue's order."""
        key = self.compares or self.key
        return {variant.key: variant.studies[key] for variant in VARIANTS.values() if key in variant.studies}


def reads(variant: Variant) -> bool:
    """Whether any stage of the variant reads from the history."""
    return variant.encoder or variant.decoder


def _by_key(*entries: Any) -> dict[str, Any]:
    return {entry.key: entry for entry in entries}


# fmt: off
VARIANTS: dict[str, Variant] = _by_key(
    Variant("baseline", True, False, False, "baseline", GREY, {"skip": Labels("baseline", "baseline")}),
    Variant("noskip", False, False, False, "no skip", "#D55E00",
            {"skip": Labels("no skip", "no skip"), "position": Labels("None", "none")}),
    Variant("encoder", False, True, False, "encoder only", "#CC79A7", {"position": Labels("Encoder only", "encoder")}),
    Variant("decoder", False, False, True, "decoder only", "#E69F00", {"position": Labels("Decoder only", "decoder")}),
    Variant("replace", False, True, True, "replace", "#009E73",
            {"skip": Labels("replace", "replace"), "position": Labels("Full (enc. + dec.)", "full")}),
    Variant("both", True, True, True, "both", "#2f86d1",
            {"skip": Labels("both", "both"), "init": Labels("Zero", "zero")}),
    Variant("init_random", True, True, True, "both, random init", "#D55E00",
            {"init": Labels("Random", "random")}, "random"),
    Variant("init_kaiming", True, True, True, "both, Kaiming init", "#CC79A7",
            {"init": Labels("Kaiming uniform", "Kaiming")}, "kaiming_uniform"),
    Variant("init_xavier", True, True, True, "both, Xavier init", "#E69F00",
            {"init": Labels("Xavier uniform", "Xavier")}, "xavier_uniform"),
)

_OURS = "nnunetv2_xattnres.architectures"
_STOCK = "dynamic_network_architectures.architectures.unet"
NETWORKS: dict[str, Network] = _by_key(
    Network(
        "unet", "U-Net", f"{_OURS}.XAttnResUNet", f"{_STOCK}.PlainConvUNet", "ExperimentPlanner", (2, 3),
        paper="U-Net",
    ),
    Network(
        "resenc", "ResEnc U-Net", f"{_OURS}.XAttnResResidualEncoderUNet", f"{_STOCK}.ResidualEncoderUNet",
        "nnUNetPlannerResEncM", (2, 3), paper="U-Net",
    ),
    Network(
        "emcad", "EMCAD", f"{_OURS}.EMCADNet", outputs=4, encoder="pvt_v2_b2", encoder_reads=False,
        trainers={TRAINER: "nnUNetTrainer_EMCAD", f"{TRAINER}_Paper": "nnUNetTrainer_EMCAD_Paper"},
        paper="EMCAD", paper_cost={"baseline": (26.76, 5.60), "both": (28.09, 5.76)},
    ),
    Network(
        "paper-unet", "paper's U-Net", f"{_OURS}.PaperUNet", outputs=2,
        paper="U-Net", paper_cost={"baseline": (1.06, 2.50), "both": (1.28, 2.87)},
    ),
)

STUDIES: dict[str, Study] = _by_key(
    Study("skip", "baseline", "Skip connections and XAttnRes (the paper's Table 3)", "skip connections", "Model",
          (3, 1, 2), marks=True),
    Study("position", "noskip", "Application position (the paper's Table 4)", "position, no skip connections",
          "Position", (4,)),
    Study("init", "both", "Pseudo-query initialisation (the paper's Table 5)", "query initialisation",
          "Initialisation", (5,)),
    Study(
        "backbone", "baseline", "Skip connections and XAttnRes (the paper's Table 3)", "skip connections", "Model",
        (3, 1, 2), compares="skip", networks=("emcad", "paper-unet"), marks=True,
    ),
)
# fmt: on


def routings() -> dict[str, dict[str, Any]]:
    """Name to ``routing`` of the variants that differ in more than the initialisation: Tables 3 and 4."""
    return {key: variant.routing for key, variant in VARIANTS.items() if not variant.has_own_init}


def network_title(key: str) -> str:
    """The name of a network in reports; the key itself where a study names a network of another version."""
    return NETWORKS[key].title if key in NETWORKS else key


def variant_title(key: str) -> str:
    """The name of a variant in reports; the key itself where a study names a variant of another version."""
    return VARIANTS[key].title if key in VARIANTS else key
