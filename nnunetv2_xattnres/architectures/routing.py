"""The ``routing`` of a plans file: which stages read the history, and whether skip connections stay."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from nnunetv2_xattnres.architectures.xattnres import QUERY_INITS


@dataclass(frozen=True)
class Routing:
    """A routing: one row of Table 3 or Table 4, and one row of Table 5.

    Args:
        skip_connections: The decoder concatenates the encoder feature of the same resolution (eq. 9).
        encoder: XAttnRes in every encoder stage but the first (eq. 10).
        decoder: XAttnRes in every decoder stage (eq. 11).
        query_init: Initialisation of the pseudo-queries (Table 5).
    """

    skip_connections: bool = True
    encoder: bool = True
    decoder: bool = True
    query_init: str = "zero"

    @classmethod
    def parse(cls, routing: dict[str, Any] | None) -> Routing:
        """Read the ``routing`` of a plans file; ``None`` and missing keys mean ``both``.

        Raises:
            ValueError: a key or value is unknown; the message has the valid ones.
        """
        routing = {} if routing is None else routing
        valid = asdict(cls())
        for key, value in routing.items():
            if key not in valid:
                raise ValueError(f"unknown routing key {key!r}: the valid keys are {', '.join(valid)}")
            if key == "query_init":
                if value not in QUERY_INITS:
                    raise ValueError(f"unknown query_init {value!r}: the valid values are {', '.join(QUERY_INITS)}")
            elif not isinstance(value, bool):
                raise ValueError(f"routing key {key!r} is {value!r}: the valid values are true and false")
        return cls(**routing)

    @classmethod
    def parse_fusion(cls, routing: dict[str, Any] | None) -> Routing:
        """The same for a network in which XAttnRes can only take the place of a fusion; ``None`` is the fusion.

        Raises:
            ValueError: also for a routing that asks for both or for neither.
        """
        parsed = cls(encoder=False, decoder=False) if routing is None else cls.parse(routing)
        if parsed.skip_connections == parsed.decoder:
            raise ValueError(
                f"routing {routing!r}: this network has its own fusion (skip_connections true, decoder false) or "
                "XAttnRes in its place (skip_connections false, decoder true)"
            )
        return parsed
