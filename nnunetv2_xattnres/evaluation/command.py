"""``nnunetv2_xattnres evaluate REFERENCE PREDICTION``: scores on the terminal and in files."""

import argparse
from pathlib import Path

from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.outputs import check_outputs

CONVENTION_NAMES = ("nnunet", "transunet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``evaluate``."""
    parser.add_argument("reference", type=Path, metavar="REFERENCE", help="folder of reference masks, such as labelsTs")
    parser.add_argument("prediction", type=Path, metavar="PREDICTION", help="folder of predicted masks, same names")
    parser.add_argument(
        "--dataset-json", type=Path, metavar="FILE", help="default: dataset.json beside or above REFERENCE"
    )
    parser.add_argument(
        "--convention",
        choices=CONVENTION_NAMES,
        default="nnunet",
        help="nnunet: mm, empty pairs left out (default); transunet: voxels, to compare with the paper's Table 1",
    )
    parser.add_argument(
        "--predicted-only",
        action="store_true",
        help="leave references without a prediction out, as for the validation folder of one fold",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core, if it pays)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write one row per case and class")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table in Markdown")
    parser.add_argument("--overwrite", action="store_true", help="replace these files where they exist")


def run(args: argparse.Namespace) -> None:
    """Score, print the table, write the files that were asked for."""
    outputs = (args.json, args.csv, args.markdown)
    check_outputs(outputs, overwrite=args.overwrite)
    if args.workers is not None and args.workers < 1:
        raise InputError(f"--workers must be 1 or more, not {args.workers}.")

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
    )
    print(terminal_table(scores))
    if args.json:
        write_scores(scores, args.json)
    if args.csv:
        write_csv(scores, args.csv)
    if args.markdown:
        write_text(args.markdown, markdown_table(scores))
    for path in filter(None, outputs):
        print(f"wrote {path}")
