"""Converts matplotlib figures to inline SVG: text in the page's colour and font, ids unique on the page."""

import io
import re
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# figures are drawn in this colour, which is then replaced by the page's text colour
INK = "#010203"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "nnunetv2_xattnres",  # so that the same figure gives the same file
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def figure_to_svg(figure: "Figure", name: str, alternative: str) -> str:
    """An ``<svg>`` element for a page.

    Args:
        figure: A figure drawn with :data:`STYLE`.
        name: Prefix of every id in the figure; it must be unique on the page.
        alternative: Text that describes the figure for readers who cannot see it.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):  # these settings decide here how text is written
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(alternative)}" ', 1)


def standalone(svg: str) -> str:
    """The SVG as a separate file, black on white."""
    head, body = svg.split(">", 1)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{head} style="background: white; color: black">{body}'
