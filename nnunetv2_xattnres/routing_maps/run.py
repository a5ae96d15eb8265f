"""``nnunetv2_xattnres routing``, from the model to the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.evaluation.files import write_text
from nnunetv2_xattnres.json_files import write_json
from nnunetv2_xattnres.outputs import check_output_folder, replaced_folder
from nnunetv2_xattnres.routing_maps.analysis import Analysis, analyse_case, begin
from nnunetv2_xattnres.routing_maps.colours import class_colours, entry_colours
from nnunetv2_xattnres.routing_maps.model import Case, find_cases
from nnunetv2_xattnres.routing_maps.summary import decoders
from nnunetv2_xattnres.trained_model import load_predictor

PAGE = "routing.html"
MAPS, FIGURES, PREDICTIONS = "maps", "figures", "predictions"
NAMES = {
    PAGE, "routing.md", "routing.json", "weights.csv", "stages.csv", "knock_out.csv", MAPS, FIGURES, PREDICTIONS,
}  # fmt: skip
FORMAT = 1
ON_PAGE = 30  # cases with pictures on the page: it has to open on a phone


@dataclass(frozen=True)
class Request:
    """What a user asks for; the names are those of the options of ``nnUNetv2_predict`` and of ours."""

    model: Path
    images: Path
    output: Path
    folds: Sequence[str]
    checkpoint: str = "checkpoint_final.pth"
    step_size: float = 0.5
    mirroring: bool = True
    device: str = "cuda"
    labels: Path | None = None
    cases: Sequence[str] | None = None
    stages: Sequence[str] | None = None
    slice: int | None = None
    heat_maps: bool = False
    knock_out: bool = False
    overwrite: bool = False


def show_routing(request: Request) -> Path:
    """Write maps, figures, tables and the page of a trained model's routing, and return the page.

    Raises:
        InputError: something that is needed is missing or cannot be used, or the output has other files.
    """
    if request.knock_out and request.labels is None:
        raise InputError("--knock-out compares Dice, which needs references: add --labels FOLDER.")
    check_output_folder(request.output, NAMES, overwrite=request.overwrite)
    predictor = load_predictor(
        request.model, request.folds, checkpoint=request.checkpoint, step_size=request.step_size,
        mirroring=request.mirroring, device=request.device,
    )  # fmt: skip
    cases = find_cases(predictor, request.images, request.labels, request.cases)
    analysis = begin(predictor, cases[0], request.stages)
    with replaced_folder(request.output) as folder:
        for name in (MAPS, FIGURES, PREDICTIONS):
            (folder / name).mkdir()
        sentence = _write(request, predictor, cases, analysis, folder)
    print(sentence)
    return request.output / PAGE


def _write(request: Request, predictor: Any, cases: Sequence[Case], analysis: Analysis, output: Path) -> str:
    """Write everything; returns the sentence about the paper's claim."""
    from nnunetv2_xattnres.routing_maps.figures import charts
    from nnunetv2_xattnres.routing_maps.page import describe, markdown, page_case
    from nnunetv2_xattnres.routing_maps.pictures import slice_title, tiles, write_case, write_heat_maps
    from nnunetv2_xattnres.routing_maps.tables import Results, knock_out_csv, stages_csv, weights_csv
    from nnunetv2_xattnres.visualization.pages import render_page
    from nnunetv2_xattnres.visualization.svg import standalone

    figures = output / FIGURES
    colours = entry_colours(analysis.readers)
    classes = class_colours(analysis.labels)
    drawn = decoders(analysis.readers)
    channels = predictor.dataset_json.get("channel_names", predictor.dataset_json.get("modality", {}))
    ct = str(next(iter(channels.values()), "")).upper() == "CT"
    on_page: list[Any] = []
    with tqdm(total=len(cases) * len(analysis.readers), desc="maps", disable=None) as bar:
        for case in cases:
            shown = analyse_case(
                analysis, predictor, case, output / PREDICTIONS, output / MAPS,
                place=request.slice, knock_out=request.knock_out, progress=bar.update,
            )  # fmt: skip
            pictures = tiles(shown, drawn, colours, ct)
            write_case(figures / f"{case.name}.png", shown, pictures, drawn, colours, classes)
            if request.heat_maps:
                for reader in analysis.readers:
                    write_heat_maps(figures / f"{case.name}_{reader.stage.replace(' ', '_')}.png", shown, reader)
            if len(on_page) < ON_PAGE:
                on_page.append(page_case(slice_title(shown), pictures))
    results = Results.of(analysis)
    drawings = charts(results)
    page = describe(results, drawings, on_page, colours, _facts(request), request.labels is not None)
    for drawing in drawings:
        write_text(figures / f"{drawing.name.replace(' ', '_')}.svg", standalone(drawing.svg))
    write_json(output / "routing.json", _content(request, analysis))
    write_text(output / "weights.csv", weights_csv(results))
    write_text(output / "stages.csv", stages_csv(results))
    if results.knock_out:
        write_text(output / "knock_out.csv", knock_out_csv(results))
    write_text(output / "routing.md", markdown(page))
    write_text(output / PAGE, render_page("routing_maps/page.html.j2", page=page))
    return page.claim


def _content(request: Request, analysis: Analysis) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "model": str(request.model),
        "stages": [
            {
                "stage": reader.stage,
                "module": reader.module,
                "entries": list(reader.entries),
                "size_for_one_patch": list(reader.size),
                "strides": [round(stride, 4) for stride in reader.strides],
            }
            for reader in analysis.readers
        ],
        "distance_edges": list(analysis.edges),
        "distance_unit": analysis.unit,
        "cases": analysis.files,
    }


def _facts(request: Request) -> list[tuple[str, str]]:
    return [
        ("model", str(request.model)),
        ("folds", ", ".join(map(str, request.folds))),
        ("checkpoint", request.checkpoint),
        ("images", str(request.images)),
        ("references", str(request.labels) if request.labels else "none"),
        (
            "sliding window",
            f"step {request.step_size:g} of the patch, {'with' if request.mirroring else 'no'} mirroring",
        ),
    ]
