"""One colour per entry, the same on every figure and map.

Each part of the network has its own hue: the encoder blue, the decoder orange. Within it, dark is fine and light is
coarse. The current feature is grey. Blue and orange stay apart for all common kinds of colour blindness, and the order
within a hue goes by lightness alone, which also survives a grey print.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib

from nnunetv2_xattnres.architectures.readers import CURRENT, Reader
from nnunetv2_xattnres.evaluation.labels import Labels
from nnunetv2_xattnres.visualization.overlay import CLASS_COLOURS

HUES = {"encoder": "Blues", "decoder": "Oranges", "entry": "Greys"}
OTHERS = ("Blues", "Oranges", "Purples", "Greens")
CURRENT_COLOUR = "#9a9a9a"
DARKEST, LIGHTEST = 0.98, 0.32


def entry_strides(readers: Sequence[Reader]) -> dict[str, float]:
    """Every entry but the current feature, in the order of computation, with its stride."""
    found: dict[str, float] = {}
    for reader in readers:
        found |= dict(zip(reader.entries[:-1], reader.strides, strict=False))
    return found


def entry_colours(readers: Sequence[Reader]) -> Mapping[str, str]:
    """Entry to colour, ``#rrggbb``."""
    strides = entry_strides(readers)
    parts = list(dict.fromkeys(_part(entry) for entry in strides))
    unused = iter([hue for hue in OTHERS if hue not in {HUES.get(part) for part in parts}] * (len(parts) + 1))
    colours = {}
    for part in parts:
        scale = matplotlib.colormaps[HUES.get(part) or next(unused)]
        own = sorted((entry for entry in strides if _part(entry) == part), key=strides.__getitem__)
        for index, entry in enumerate(own):
            lightness = index / max(1, len(own) - 1)
            colours[entry] = matplotlib.colors.to_hex(scale(DARKEST - lightness * (DARKEST - LIGHTEST)))
    return {entry: colours[entry] for entry in strides} | {CURRENT: CURRENT_COLOUR}


def class_colours(labels: Labels) -> Mapping[str, str]:
    """Name of each label value, as on reference and prediction, to colour; a value of regions alone has a number."""
    names = {values[0]: name for name, values in labels.foreground.items() if len(values) == 1}
    colours = CLASS_COLOURS / 255
    return {
        names.get(value, f"label {value}"): matplotlib.colors.to_hex(colours[(value - 1) % len(colours)])
        for value in sorted(labels.known - {0, labels.ignore})
    }


def rgb(colour: str) -> tuple[int, int, int]:
    """``#rrggbb`` as three numbers from 0 to 255."""
    return tuple(bytes.fromhex(colour[1:]))  # type: ignore[return-value]


def _part(entry: str) -> str:
    return entry.rsplit(" ", 1)[0]
