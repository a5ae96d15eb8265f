"""The networks, variants and studies of this package: every fact about them, once. All lists elsewhere come from here.

A new network is its class, one entry in :data:`NETWORKS` and its test; a new variant is one entry in :data:`VARIANTS`.
Nothing here imports torch: commands list these names before they need it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from nnunetv2_xattnres.encoders import PVT, R50_VIT, RES2NET_50, RES2NET_101, RESNET, SWIN

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
        stock_start: Whether it starts as the network without XAttnRes, which the paper does not have.
        width: Factor on the channels of every stage, of the networks that nnU-Net plans.
    """

    key: str
    skip_connections: bool
    encoder: bool
    decoder: bool
    title: str
    colour: str
    studies: Mapping[str, Labels]
    query_init: str = "zero"
    stock_start: bool = False
    width: float = 1.0

    @property
    def has_own_init(self) -> bool:
        """Whether it differs from another variant in its start only."""
        return self.query_init != "zero" or self.stock_start

    @property
    def routing(self) -> dict[str, Any]:
        """The ``routing`` of a plans file."""
        found = {name: getattr(self, name) for name in ("skip_connections", "encoder", "decoder")}
        if self.query_init != "zero":
            found["query_init"] = self.query_init
        if self.stock_start:
            found["stock_start"] = True
        return found

    def widen(self, channels: Sequence[int]) -> Sequence[int]:
        """Channels per stage times :attr:`width`, as multiples of 16: with others, convolutions are slow."""
        return channels if self.width == 1 else [max(16, 16 * round(each * self.width / 16)) for each in channels]


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
        outputs: Outputs in training; networks with ``stock`` have as many as the plans say.
        targets: Targets that nnU-Net makes for them. By default one more than outputs: nnU-Net's loss gives the last
            target no weight, so that each output counts.
        loss: How the paper's recipe joins the losses of several outputs: ``sum``, or ``subsets`` as EMCAD does.
        encoder: Default pretrained encoder, ``None`` for a network without one.
        encoders: The other encoders that it can have.
        places: Where XAttnRes can be: ``encoder``, ``decoder``, both or nowhere. A network without it has the variant
            ``baseline`` only.
        replaces: XAttnRes takes the place of a fusion of all scales: there are ``baseline`` and ``replace`` only.
        takes_image_size: Whether it has position embeddings, whose grid is laid out for an image size.
        takes_regions: Whether it has to know if its outputs are regions, which may overlap, or classes.
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
    targets: int = 0
    loss: str = "sum"
    encoder: str | None = None
    encoders: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    replaces: bool = False
    takes_image_size: bool = False
    takes_regions: bool = False
    trainers: Mapping[str, str] = field(default_factory=lambda: _NONE)
    paper: str | None = None
    paper_cost: Mapping[str, tuple[float, float]] = field(default_factory=lambda: _NONE)

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", self.targets or self.outputs + 1)
        object.__setattr__(self, "encoders", self.encoders or ((self.encoder,) if self.encoder else ()))

    @property
    def infix(self) -> str:
        """Its part of a configuration's name; networks that extend nnU-Net's own have none."""
        return "" if self.stock else f"{self.key.replace('-', '_')}_"

    @property
    def variants(self) -> list[str]:
        """The variants that differ from one another in this network, in the catalogue's order."""
        # the width of nnU-Net's own networks is a list in the plans
        there = {key: variant for key, variant in VARIANTS.items() if self.stock or variant.width == 1}
        if not self.places:
            return [key for key, variant in there.items() if variant.skip_connections and not reads(variant)]
        # without XAttnRes in the encoder, a variant whose two halves differ would repeat one whose halves do not
        alike = {key: variant for key, variant in there.items() if variant.encoder == variant.decoder}
        if self.replaces:
            return [key for key, each in alike.items() if each.skip_connections != each.decoder]
        return list(there if "encoder" in self.places else alike)


@dataclass(frozen=True)
class Study:
    """An ablation of the paper.

    Args:
        key: Name on the command line.
        base: The variant that the others are compared with.
        title: Title of its table.
        chart: Title of its bar charts, after the network's.
        column: First heading of its table.
        paper_tables: The paper's tables with its numbers, the first one that has a number counts; none for a study that
            is not in the paper.
        compares: Key of the study whose variants, table and chart it shares; by default its own.
        networks: Networks that it compares beside the one that is asked for.
        marks: Whether its table has one row per network and variant, with a mark for skip connections and for XAttnRes.
        cells: Networks and their variants, where it compares a list of them and not the variants of one network.
        pictures: Networks and variants in its qualitative figure, in order; by default all.
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
    cells: tuple[tuple[str, str], ...] = ()
    pictures: tuple[tuple[str, str], ...] = ()

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
    Variant("baseline", True, False, False, "baseline", GREY,
            {"skip": Labels("baseline", "baseline"), "cost": Labels("baseline", "baseline")}),
    Variant("baseline_wide", True, False, False, "wider baseline", "#56B4E9",
            {"cost": Labels("wider baseline", "wider")}, width=1.2),
    Variant("noskip", False, False, False, "no skip", "#D55E00",
            {"skip": Labels("no skip", "no skip"), "position": Labels("None", "none")}),
    Variant("encoder", False, True, False, "encoder only", "#CC79A7", {"position": Labels("Encoder only", "encoder")}),
    Variant("decoder", False, False, True, "decoder only", "#E69F00", {"position": Labels("Decoder only", "decoder")}),
    Variant("replace", False, True, True, "replace", "#009E73",
            {"skip": Labels("replace", "replace"), "position": Labels("Full (enc. + dec.)", "full")}),
    Variant("both", True, True, True, "both", "#2f86d1",
            {"skip": Labels("both", "both"), "init": Labels("Zero", "zero"), "start": Labels("Average", "average"),
             "cost": Labels("both", "both")}),
    Variant("init_random", True, True, True, "both, random init", "#D55E00",
            {"init": Labels("Random", "random")}, "random"),
    Variant("init_kaiming", True, True, True, "both, Kaiming init", "#CC79A7",
            {"init": Labels("Kaiming uniform", "Kaiming")}, "kaiming_uniform"),
    Variant("init_xavier", True, True, True, "both, Xavier init", "#E69F00",
            {"init": Labels("Xavier uniform", "Xavier")}, "xavier_uniform"),
    Variant("stock_start", True, True, True, "both, stock start", "#56B4E9",
            {"start": Labels("Stock network", "stock")}, stock_start=True),
)

_OURS = "nnunetv2_xattnres.architectures"
_COMPARED = f"{_OURS}.comparators"
_STOCK = "dynamic_network_architectures.architectures.unet"
_BOTH = ("encoder", "decoder")
NETWORKS: dict[str, Network] = _by_key(
    Network(
        "unet", "U-Net", f"{_OURS}.XAttnResUNet", f"{_STOCK}.PlainConvUNet", "ExperimentPlanner", (2, 3),
        places=_BOTH, paper="U-Net",
    ),
    Network(
        "resenc", "ResEnc U-Net", f"{_OURS}.XAttnResResidualEncoderUNet", f"{_STOCK}.ResidualEncoderUNet",
        "nnUNetPlannerResEncM", (2, 3), places=_BOTH, paper="U-Net",
    ),
    Network(
        "emcad", "EMCAD", f"{_OURS}.EMCADNet", outputs=4, targets=4, loss="subsets", encoder="pvt_v2_b2", encoders=PVT,
        places=("decoder",),
        trainers={TRAINER: "nnUNetTrainer_EMCAD", f"{TRAINER}_Paper": "nnUNetTrainer_EMCAD_Paper"},
        paper="EMCAD", paper_cost={"baseline": (26.76, 5.60), "both": (28.09, 5.76)},
    ),
    Network(
        "paper-unet", "paper's U-Net", f"{_OURS}.PaperUNet", places=_BOTH,
        paper="U-Net", paper_cost={"baseline": (1.06, 2.50), "both": (1.28, 2.87)},
    ),
    Network(
        "unet-plus-plus", "UNet++", f"{_COMPARED}.UNetPlusPlus", outputs=4,
        paper="UNet++", paper_cost={"baseline": (9.16, 34.65)},
    ),
    Network(
        "attention-unet", "Attention U-Net", f"{_COMPARED}.AttentionUNet",
        paper="Attention U-Net", paper_cost={"baseline": (34.88, 66.64)},
    ),
    Network(
        "deeplabv3-plus", "DeepLabv3+", f"{_COMPARED}.DeepLabV3Plus", encoder=RESNET,
        paper="DeepLabv3+", paper_cost={"baseline": (39.76, 14.92)},
    ),
    Network(
        "pranet", "PraNet", f"{_COMPARED}.PraNet", outputs=4, encoder=RES2NET_50, takes_regions=True,
        paper="PraNet", paper_cost={"baseline": (32.55, 6.93)},
    ),
    Network(
        "unet-3-plus", "UNet 3+", f"{_COMPARED}.UNet3Plus", places=("decoder",), replaces=True,
        paper="UNet 3+", paper_cost={"baseline": (26.97, 199.74)},
    ),
    Network(
        "caranet", "CaraNet", f"{_COMPARED}.CaraNet", outputs=4, encoder=RES2NET_101, takes_regions=True,
        paper="CaraNet", paper_cost={"baseline": (46.64, 11.48)},
    ),
    Network(
        "transunet", "TransUNet", f"{_COMPARED}.TransUNet", encoder=R50_VIT, takes_image_size=True,
        paper="TransUNet", paper_cost={"baseline": (105.32, 38.52)},
    ),
    Network(
        "swin-unet", "Swin-UNet", f"{_COMPARED}.SwinUNet", encoder=SWIN,
        paper="Swin-UNet", paper_cost={"baseline": (27.17, 6.20)},
    ),
    Network(
        "uctransnet", "UCTransNet", f"{_COMPARED}.UCTransNet", takes_image_size=True,
        paper="UCTransNet", paper_cost={"baseline": (66.49, 43.06)},
    ),
    Network(
        "ssformer", "SSFormer", f"{_COMPARED}.SSFormer", encoder="pvt_v2_b2", encoders=PVT, places=("decoder",),
        replaces=True, paper="SSFormer",
    ),
    Network("polyp-pvt", "Polyp-PVT", f"{_COMPARED}.PolypPVT", outputs=2, encoder="pvt_v2_b2", encoders=PVT,
            paper="Polyp-PVT"),
    Network("mt-unet", "MT-UNet", f"{_COMPARED}.MTUNet", takes_image_size=True, paper="MT-UNet"),
    Network("missformer", "MISSFormer", f"{_COMPARED}.MISSFormer", paper="MISSFormer"),
    Network(
        "pvt-cascade", "PVT-CASCADE", f"{_COMPARED}.PVTCascade", outputs=4, encoder="pvt_v2_b2", encoders=PVT,
        paper="PVT-CASCADE", paper_cost={"baseline": (34.12, 7.62)},
    ),
    Network("trans-cascade", "TransCASCADE", f"{_COMPARED}.TransCascade", outputs=4, encoder=R50_VIT,
            takes_image_size=True, paper="TransCASCADE"),
)

STUDIES: dict[str, Study] = _by_key(
    Study("skip", "baseline", "Skip connections and XAttnRes (the paper's Table 3)", "skip connections", "Model",
          (3, 1, 2), marks=True),
    Study("position", "noskip", "Application position (the paper's Table 4)", "position, no skip connections",
          "Position", (4,)),
    Study("init", "both", "Pseudo-query initialisation (the paper's Table 5)", "query initialisation",
          "Initialisation", (5,)),
    Study("cost", "baseline_wide", "XAttnRes and a wider baseline of similar cost (not in the paper)", "similar cost",
          "Model", ()),
    Study("start", "both", "Start: average or stock network (not in the paper)", "start", "Start", ()),
    Study(
        "backbone", "baseline", "Skip connections and XAttnRes (the paper's Table 3)", "skip connections", "Model",
        (3, 1, 2), compares="skip", networks=("emcad", "paper-unet", "unet-3-plus", "ssformer"), marks=True,
    ),
    Study(
        "table2", "baseline", "All networks (the paper's Tables 1 and 2)", "All networks", "Method", (1, 2),
        cells=(
            ("paper-unet", "baseline"),
            *((key, "baseline") for key, network in NETWORKS.items() if network.class_name.startswith(_COMPARED)),
            ("emcad", "baseline"), ("paper-unet", "both"), ("emcad", "both"),
        ),
        pictures=(("unet-3-plus", "baseline"), ("uctransnet", "baseline"), ("paper-unet", "baseline"),
                  ("paper-unet", "both"), ("emcad", "baseline"), ("emcad", "both")),
    ),
)
# fmt: on


def routings() -> dict[str, dict[str, Any]]:
    """Name to ``routing`` of the variants that differ in more than the initialisation or the width: Tables 3 and 4."""
    return {key: each.routing for key, each in VARIANTS.items() if not each.has_own_init and each.width == 1}


def network_of_class(path: str) -> Network | None:
    """The network of a class, by its import path or nnU-Net's path of what it extends; ``None`` for any other."""
    return next((network for network in NETWORKS.values() if path in (network.class_name, network.stock)), None)


def network_title(key: str) -> str:
    """The name of a network in reports; the key itself where a study names a network of another version."""
    return NETWORKS[key].title if key in NETWORKS else key


def variant_title(key: str) -> str:
    """The name of a variant in reports; the key itself where a study names a variant of another version."""
    return VARIANTS[key].title if key in VARIANTS else key


def method_title(network: str, variant: str) -> str:
    """The name of a network and a variant in a list of methods, such as ``EMCAD + XAttnRes``."""
    routed = variant in VARIANTS and reads(VARIANTS[variant])
    return network_title(network) + " + XAttnRes" * routed
