"""``nnunetv2_xattnres evaluate REFERENCE PREDICTION``: scores on the terminal and in files."""

import argparse
from pathlib import Path

from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.evaluation.labels import places_of_dataset_json
from nnunetv2_xattnres.evaluation.scoring import CATALOGUE, METRICS, MISSING_RULES, check_options
from nnunetv2_xattnres.outputs import check_outputs

CONVENTION_NAMES = ("nnunet", "transunet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``evaluate``."""
    parser.add_argument("reference", type=Path, metavar="REFERENCE", help="folder of reference masks, such as labelsTs")
    parser.add_argument(
        "prediction", type=Path, metavar="PREDICTION", help="folder of predicted masks with the same names"
    )
    parser.add_argument(
        "--dataset-json", type=Path, metavar="FILE", help="dataset.json to use (default: that in or above REFERENCE)"
    )
    parser.add_argument(
        "--convention",
        choices=CONVENTION_NAMES,
        default="nnunet",
        help="rules for distances and empty masks: nnunet, in mm, or transunet, in voxels, as in the paper's Table 1 "
        "(default: nnunet)",
    )
    parser.add_argument(
        "--metric", nargs="+", choices=tuple(CATALOGUE), default=list(METRICS), metavar="NAME",
        help=f"scores to compute, any of {', '.join(CATALOGUE)} (default: {' '.join(METRICS)})",
    )  # fmt: skip
    add_rules(parser)
    parser.add_argument(
        "--predicted-only",
        action="store_true",
        help="leave out references without a prediction, for the validation folder of one fold",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core for large files)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="JSON file to write, with all scores")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="CSV file to write, with one row per case and class")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="Markdown file to write, with the table")
    parser.add_argument("--overwrite", action="store_true", help="replace the files to write if they exist")


def add_rules(parser: argparse._ActionsContainer, nsd: str = "needed with nsd") -> None:
    """Declare the options that ``ablate`` has as well; ``nsd`` says how the tolerance and NSD belong together."""
    parser.add_argument(
        "--tolerance", nargs="+", default=[], metavar="SIZE",
        help=f"largest distance that NSD takes as agreement, such as 2mm, or 2px where distances are in pixels or "
        f"voxels; CLASS=3mm for one class ({nsd})",
    )  # fmt: skip
    parser.add_argument(
        "--missing",
        choices=MISSING_RULES,
        default=MISSING_RULES[0],
        help="HD95 of a class that only one side has: undefined, and left out of means, or worst, the image's "
        "diagonal (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    """Score, write the requested files, and print the table."""
    outputs = (args.json, args.csv, args.markdown)
    inputs = [args.dataset_json, *places_of_dataset_json(args.reference, args.prediction)]
    check_outputs(outputs, overwrite=args.overwrite, inputs=inputs)
    if args.workers is not None and args.workers < 1:
        raise InputError(f"--workers must be 1 or more, not {args.workers}.")
    check_options(args.metric, args.tolerance, args.missing, args.convention)

    from nnunetv2_xattnres.evaluation.files import write_csv, write_scores, write_text
    from nnunetv2_xattnres.evaluation.scores import evaluate_folders
    from nnunetv2_xattnres.evaluation.tables import markdown_table, terminal_table

    scores = evaluate_folders(
        args.reference,
        args.prediction,
        dataset_json=args.dataset_json,
        convention=args.convention,
        workers=args.workers,
        predicted_only=args.predicted_only,
        metrics=args.metric,
        tolerance=args.tolerance,
        missing=args.missing,
    )
    if args.json:
        write_scores(scores, args.json)
    if args.csv:
        write_csv(scores, args.csv)
    if args.markdown:
        write_text(args.markdown, markdown_table(scores))
    print(terminal_table(scores))
    for path in filter(None, outputs):
        print(f"wrote {path}")
