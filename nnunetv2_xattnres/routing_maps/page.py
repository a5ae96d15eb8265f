"""Everything that a run says, before it is written as a page or as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from nnunetv2_xattnres import __version__
from nnunetv2_xattnres.routing_maps.colours import class_colours
from nnunetv2_xattnres.routing_maps.figures import Chart
from nnunetv2_xattnres.routing_maps.partitions import BY_CLASS, BY_DISTANCE, BY_OUTCOME
from nnunetv2_xattnres.routing_maps.pictures import Tile
from nnunetv2_xattnres.routing_maps.tables import Results, Table, claim_sentence, tables
from nnunetv2_xattnres.visualization.overlay import data_uri

READING = [
    "A weight says how much of the mixture at a pixel comes from an entry. It does not say that the entry is needed: "
    "--knock-out measures that.",
    "Stages and entries are counted from 1 in the order of computation: decoder 1 is the deepest one. "
    '"current" is the feature that a stage had before it read from the history.',
    "Every case counts the same in a mean. Intervals are 95 % bootstrap intervals over cases; they say nothing about "
    "another training of the same network.",
]
PICTURE_RULE = (
    "A map shows at each pixel the entry with the largest weight, however small its lead. The white line is the "
    "boundary of {objects}. {limit}"
)
SECTIONS = {
    "matrix": ("Mean weights", "What each stage listens to, over all pixels and cases."),
    "claim": (
        "Boundaries",
        "The paper expects boundaries to attend to high-resolution features, and homogeneous tissue to deeper ones. "
        "The number is the mean log2 stride of what pixels listen to: boundary minus away from it.",
    ),
    "entropy": ("Entropy", "Does a stage choose, or does it weigh all entries alike?"),
    "knock_out": (
        "Knock-out",
        "nnU-Net's own prediction with one entry of one stage left out: its weight is 0, the others are scaled up.",
    ),
    BY_DISTANCE: ("By distance to the boundary", "From deep inside an object, over its boundary, to far outside."),
    BY_CLASS: ("By class", "Classes are those of {objects}."),
    BY_OUTCOME: (
        "By right and wrong pixels",
        "A difference here is no cause: wrong pixels lie at boundaries more often than right ones.",
    ),
}


class PageTile(NamedTuple):
    """A picture as the page needs it."""

    title: str
    image: str
    width: int
    height: int


class PageCase(NamedTuple):
    """One case's pictures."""

    title: str
    tiles: list[PageTile]


@dataclass(frozen=True)
class Page:
    """The content, in the order of the page."""

    title: str
    subtitle: str
    claim: str
    legend: list[tuple[str, str]]
    classes: list[tuple[str, str]]
    case_rule: str
    cases: list[PageCase]
    figures: list[tuple[str, str, str, list[Chart]]]
    tables: list[Table]
    facts: list[tuple[str, str]]

    version = __version__
    reading = READING

    @property
    def sections(self) -> list[tuple[str, str]]:
        """Anchor and name of each part."""
        figures = [(anchor, title) for anchor, title, _, _ in self.figures]
        return [("short", "In short"), ("cases", "Cases"), *figures, ("tables", "Tables"), ("run", "What was run")]


def page_case(title: str, pictures: Sequence[Tile]) -> PageCase:
    """A case's tiles as JPEG in the page."""
    tiles = [PageTile(tile.title, data_uri(tile.image), tile.image.shape[1], tile.image.shape[0]) for tile in pictures]
    return PageCase(title, tiles)


def describe(
    results: Results,
    figures: Sequence[Chart],
    cases: list[PageCase],
    colours: Mapping[str, str],
    facts: list[tuple[str, str]],
    referenced: bool,
) -> Page:
    """The page of a run."""
    analysis = results.analysis
    objects = "the reference" if referenced else "the prediction, for there is no reference"
    more = len(analysis.names) - len(cases)
    limit = f"{more} more cases are in the folder figures." if more else ""
    sections = [
        (key.replace(" ", "-"), title, text.format(objects=objects), [item for item in figures if item.section == key])
        for key, (title, text) in SECTIONS.items()
    ]
    return Page(
        title="What each stage listens to",
        subtitle=f"{analysis.names[0] if len(analysis.names) == 1 else f'{len(analysis.names)} cases'}, "
        f"{len(analysis.readers)} stages with XAttnRes. Weights of the routing, per pixel.",
        claim=claim_sentence(results),
        legend=list(colours.items()),
        classes=list(class_colours(analysis.labels).items()),
        case_rule=PICTURE_RULE.format(objects=objects.split(",")[0], limit=limit).strip(),
        cases=cases,
        figures=[section for section in sections if section[3]],
        tables=tables(results),
        facts=facts,
    )


def markdown(page: Page) -> str:
    """The same as Markdown; figures are linked as ``figures/NAME.svg``."""
    lines = [f"# {page.title}", "", page.subtitle, "", f"**{page.claim}**", "", *(f"- {text}" for text in page.reading)]
    for _, title, text, figures in page.figures:
        lines += ["", f"## {title}", "", text, ""]
        for figure in figures:
            lines += [f"![{figure.name}](figures/{figure.name}.svg)", "", figure.caption, ""]
    lines += ["", "## Tables"]
    for table in page.tables:
        marks = [":--" if index < table.names else "--:" for index in range(len(table.header))]
        lines += ["", f"### {table.title}", "", *map(_row, [table.header, marks, *table.rows])]
        lines += ["", table.note] if table.note else []
    lines += ["", "## What was run", "", *(f"- {name}: {value}" for name, value in page.facts), ""]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
