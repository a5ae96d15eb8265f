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
        stock_start: Not in the paper. Each XAttnRes has a learned gate, at first closed, so that the network starts as
            the one without XAttnRes. It needs skip connections, as that network has them.
    """

    skip_connections: bool = True
    encoder: bool = True
    decoder: bool = True
    query_init: str = "zero"
    stock_start: bool = False

    @classmethod
    def parse(cls, routing: dict[str, Any] | None) -> Routing:
        """Read the ``routing`` of a plans file; ``None`` and missing keys mean ``both``.

        Raises:
            ValueError: a key or value is unknown; the message has the valid ones. Or ``stock_start`` is asked for a
                routing that has no such start.
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
        parsed = cls(**routing)
        if parsed.stock_start and not (parsed.skip_connections and (parsed.encoder or parsed.decoder)):
            raise ValueError(
                f"routing {routing!r} cannot have stock_start: the stock network has skip connections, so that only a "
                "routing with them, and with XAttnRes in the encoder or the decoder, can start as that network"
            )
        return parsed

    @classmethod
    def parse_fusion(cls, routing: dict[str, Any] | None) -> Routing:
        """The same for a network in which XAttnRes can only take the place of a fusion; ``None`` is the fusion.

        Raises:
            ValueError: also for a routing that asks for both, for neither, or for ``stock_start``.
        """
        parsed = cls(encoder=False, decoder=False) if routing is None else cls.parse(routing)
        if parsed.skip_connections == parsed.decoder or parsed.stock_start:
            raise ValueError(
                f"routing {routing!r}: this network has its own fusion (skip_connections true, decoder false) or "
                "XAttnRes in its place (skip_connections false, decoder true), and no stock_start"
            )
        return parsed
