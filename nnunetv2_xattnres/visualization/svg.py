"""matplotlib figures as SVG that a page can inline: text in the page's colour and font, ids unique on the page."""

import io
import re
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# drawn in this colour, and turned into the page's text colour afterwards
INK = "#010203"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "nnunetv2_xattnres",  # the same figure gives the same file
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
        figure: Drawn with :data:`STYLE`.
        name: Unique on the page: it goes in front of every id in the figure.
        alternative: What the figure shows, for readers who do not see it.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):  # how text is written is decided here, not where the figure is drawn
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(alternative)}" ', 1)


def standalone(svg: str) -> str:
    """The same as a file of its own, black on white whatever is around it."""
    head, body = svg.split(">", 1)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{head} style="background: white; color: black">{body}'
