"""What the stages listen to while they are trained: every 50 epochs in the log, a JSON file and a small figure."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nnunetv2_xattnres.architectures.readers import StageRouting, read_routing
from nnunetv2_xattnres.architectures.xattnres import XAttnRes
from nnunetv2_xattnres.outputs import written

KEY = "routing_log_every"  # of the configuration in the plans: epochs, or 0 for never
EVERY = 50
JSON, FIGURE = "routing.json", "routing.svg"


class RoutingLog:
    """Mean routing weights of a validation image, and the length of each query, over the epochs of a training.

    nnU-Net's own table of values has one per epoch and key, and its plot ends with the shortest of them, so these go
    into files of their own beside it. Other loggers of nnU-Net get them as well.

    Args:
        network: Without the wrappers of DDP and ``torch.compile``.
        configuration: The configuration of the plans.
        folder: The fold's folder in the results.
        log: Takes a line for the training's log.
        loggers: nnU-Net's loggers beside its own.
    """

    def __init__(
        self, network: nn.Module, configuration: dict[str, Any], folder: Path, log: Callable[[str], None], loggers: list
    ) -> None:
        self.network, self.folder, self.log, self.loggers = network, folder, log, loggers
        every = configuration.get(KEY, EVERY)
        self.every = every if isinstance(every, int) and every > 0 else 0
        if not any(isinstance(module, XAttnRes) and len(module.projections) for module in network.modules()):
            self.every = 0

    def is_due(self, epoch: int, last: int) -> bool:
        """Whether an epoch is looked at: each ``every``-th, beginning with the first, and the last one."""
        return self.every > 0 and (epoch % self.every == 0 or epoch == last)

    def note(self, x: Tensor, epoch: int) -> None:
        """Look at the routing of a batch ``[B, C, *S]``, in the network's present mode, and write it down.

        A training never ends because of it: what goes wrong is a line in the log, and nothing more is noted.
        """
        try:
            with torch.autocast(x.device.type, enabled=x.device.type == "cuda"):
                found = read_routing(self.network, x)
            entries = [*(each for each in self._before() if each["epoch"] < epoch), self._entry(found, epoch)]
            self._write(entries)
        except Exception as error:
            self.every = 0
            self.log(f"WARNING: the routing is not noted any more ({type(error).__name__}: {error})")

    def _before(self) -> list[dict[str, Any]]:
        file = self.folder / JSON
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []

    def _entry(self, found: list[StageRouting], epoch: int) -> dict[str, Any]:
        modules = dict(self.network.named_modules())
        stages: dict[str, dict[str, Any]] = {}
        for stage in found:
            means = stage.weights.mean([0, *range(2, stage.weights.ndim)]).tolist()
            entropy = -(stage.weights * stage.weights.clamp_min(1e-12).log()).sum(1).mean()
            stages[stage.stage] = {
                "weights": dict(zip(stage.entries, means, strict=True)),
                "entropy": float(entropy) / math.log(len(stage.entries)),
                "query_norm": float(modules[stage.module].query.detach().float().norm()),
            }
        uniform = sum(each["entropy"] for each in stages.values()) / len(stages)
        self.log(f"Routing: {100 * uniform:.1f} % of uniform, on average over {len(stages)} stages ({JSON}, {FIGURE})")
        for name, each in stages.items():
            for logger in self.loggers:
                for key in ("entropy", "query_norm"):
                    logger.log(f"routing/{name}/{key}", each[key], epoch)
                for entry, weight in each["weights"].items():
                    logger.log(f"routing/{name}/{entry}", weight, epoch)
        return {"epoch": epoch, "stages": stages}

    def _write(self, entries: list[dict[str, Any]]) -> None:
        from nnunetv2_xattnres.visualization.charts import routing_chart
        from nnunetv2_xattnres.visualization.svg import standalone

        with written(self.folder / JSON) as partial:
            partial.write_text(json.dumps(entries, indent=1), encoding="utf-8")
        with written(self.folder / FIGURE) as partial:
            partial.write_text(standalone(routing_chart(entries)), encoding="utf-8")
