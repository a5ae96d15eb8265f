"""The steps of ``bench --check``, the most important first, because the time may not suffice for all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nnunetv2_xattnres.benchmark.cases import CASES, Case
from nnunetv2_xattnres.ext_trainer import HOOK_FOLDER
from nnunetv2_xattnres.system import available_cores

PACKAGE = "nnunetv2_xattnres.benchmark.check"
DTYPES = ("float16", "bfloat16", "float32")
CORRECTNESS = tuple(f"correctness {dtype}" for dtype in DTYPES)  # the names of these items
PHANTOM = "phantom"
TRAINERS = ("nnUNetTrainer", "nnUNetTrainer_XAttnRes")
NETWORKS = ("clinicdb-2d", "volume-3d", "emcad-b2")
# Without a GPU, the same steps run on tiny networks.
TINY = {
    "clinicdb-2d": Case("unet", (2, 3, 32, 32), "a tiny 2D U-Net", 3, width=8),
    "volume-3d": Case("unet", (1, 1, 16, 16, 16), "a tiny 3D U-Net", 3, width=4),
    "emcad-b2": Case("emcad", (1, 3, 64, 64), "EMCAD, PVTv2-B0"),
}


@dataclass(frozen=True)
class Item:
    """One step of the check, which runs in its own process.

    Attributes:
        name: Name of its row.
        function: ``module:name``; it is called with a ``Report`` and ``arguments``. What is measured calls
            ``Report.wait_for_turn`` after it has prepared everything.
        arguments: Keyword arguments.
        needs: Seconds that it takes; it is not started if less time is left.
        limit: Seconds until its turn, or its end, after which it is considered to hang. It does not count while it is
            paused.
        turn_limit: The same for its turn.
        memory: GiB on the card that it needs at most.
        after: Names of the items that must have succeeded before its turn.
        begins_after: Names of the items that must have succeeded before it is started.
        environment: Variables for its process.
        folders: Whether it uses the nnU-Net folders that all such items share.
    """

    name: str
    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    needs: float = 0
    limit: float = 60
    turn_limit: float = 90
    memory: float = 0
    after: tuple[str, ...] = CORRECTNESS
    begins_after: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    folders: bool = False


def items_for(device: str, kernel: str | None, networks: Sequence[str] = NETWORKS, places: int = 1) -> list[Item]:
    """All items for ``cuda``, or small items of the same kind for ``cpu``.

    The seconds were measured on an H100 with 16 slow cores and have a margin. There, the two first compiled steps of
    an item, of base and of ours, took 62 and 66 s by themselves, and all of ten networks side by side 110 s.

    Args:
        device: ``cuda`` or ``cpu``.
        kernel: The form to force; ``None`` is the device's default.
        networks: Names from ``NETWORKS``.
        places: Items that are prepared at once. With few, the comparisons have less time each.
    """
    cuda = device == "cuda"
    where = {"device": device, "kernel": kernel}
    seconds = 100 if places > len(DTYPES) else 75 / len(DTYPES)
    correctness = [
        Item(
            name,
            f"{PACKAGE}.correctness:check",
            {**where, "dtype": dtype, "seconds": seconds if cuda else 20},
            limit=180,
            memory=1,
            after=(),
        )
        for name, dtype in zip(CORRECTNESS, DTYPES, strict=True)
    ]
    eager = {name: _timing(name, where, needs=20, limit=150) for name in networks}
    compiled = {name: _timing(name, where, needs=75, limit=240, compiled=True) for name in networks}
    late = {name: _timing(name, where, needs=45, limit=180, compiled=True, parts=("inference",)) for name in networks}
    first = [name for name in networks if name == NETWORKS[0]]
    others = [name for name in networks if name not in first]
    return [
        *correctness,
        *(turn[name] for name in first for turn in (compiled, eager)),
        *_trainings(where, cuda),
        *(turn[name] for name in others for turn in (eager, compiled)),
        *(late[name] for name in networks),
    ]


def _timing(
    name: str, where: Mapping[str, Any], *, needs: float, limit: float, compiled: bool = False,
    parts: Sequence[str] = (),
) -> Item:  # fmt: skip
    cuda = where["device"] == "cuda"
    parts = parts or (("step",) if compiled else ("step", "inference", "bandwidth"))
    text = "compiled" if compiled else "eager"
    return Item(
        f"{name} {text}{' inference' if parts == ('inference',) else ''}",
        f"{PACKAGE}.timings:measure",
        {
            **where,
            "case": tuple(CASES[name] if cuda else TINY[name]),
            "compiled": compiled,
            "parts": parts,
            "rounds": 10 if cuda else 2,
        },
        needs=needs if cuda else 10,
        limit=limit,
        memory=7,
    )


def _trainings(where: Mapping[str, Any], cuda: bool) -> Iterator[Item]:
    workers = min(available_cores(), 12) if cuda else 0
    size = {"frames": 40, "side": 128, "batch": 12} if cuda else {"frames": 10, "side": 64, "batch": 2}
    yield Item(
        PHANTOM,
        f"{PACKAGE}.training:prepare",
        {**size, "processes": 2 if cuda else 1},
        needs=75 if cuda else 30,  # includes the trainings that follow
        limit=120,
        folders=True,
    )
    for trainer in TRAINERS:
        yield Item(
            trainer,
            f"{PACKAGE}.training:train",
            {**where, "trainer": trainer, "iterations": 25 if cuda else 2},
            needs=30 if cuda else 10,
            limit=180,
            memory=4,
            begins_after=(PHANTOM,),
            environment={"nnUNet_n_proc_DA": str(workers), "nnUNet_extTrainer": str(HOOK_FOLDER)},
            folders=True,
        )
