"""``nnunetv2_xattnres export``: writes a trained model as ONNX and as a program of ``torch.export``."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.json_files import write_json
from nnunetv2_xattnres.outputs import check_output_folder, replaced_folder
from nnunetv2_xattnres.system import interrupt, told_of
from nnunetv2_xattnres.trained_model import add_model_arguments, check_model_arguments, load_predictor, model_folder

ONNX, PROGRAM, SURROUNDINGS, SCRIPT = "network.onnx", "network.pt2", "export.json", "predict_onnx.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``export``: the model, and where to write it."""
    parser.add_argument(
        "-o", dest="output", type=Path, required=True, metavar="FOLDER", help="folder of the files, empty or new"
    )
    add_model_arguments(parser, folds=("0",))
    parser.add_argument("--overwrite", action="store_true", help="replace the files of an earlier export")


def run(args: argparse.Namespace) -> None:
    """Write the files, and print what they are."""
    check_model_arguments(args)
    if len(args.folds) > 1:
        raise InputError(
            f"-f names {len(args.folds)} folds, and a file holds one network: export each to a folder of its own, and "
            "average their logits as nnUNetv2_predict does"
        )
    from nnunetv2_xattnres.export import onnx_file

    onnx_file.check_installed()
    names = {ONNX, ONNX + onnx_file.WEIGHTS_SUFFIX, PROGRAM, SURROUNDINGS, SCRIPT}
    check_output_folder(args.output, names, overwrite=args.overwrite)
    model = model_folder(args)
    with told_of(("SIGTERM", "SIGHUP"), interrupt):  # what is half written goes then as well
        lines = export(model, args.folds[0], args.checkpoint, args.output)
    print("\n".join([*lines, f"wrote {args.output}"]))


def export(model: Path, fold: str, checkpoint: str, output: Path) -> list[str]:
    """Write one fold of the model in the folder ``model`` to ``output``, completely or not at all.

    Returns:
        What a user has to know, one line each.

    Raises:
        InputError: something is missing or cannot be used, or the network cannot be exported.
    """
    from nnunetv2_xattnres.export.onnx_file import compare, opset, save_model, trace_and_convert
    from nnunetv2_xattnres.export.program import save_program
    from nnunetv2_xattnres.export.surroundings import describe

    predictor = load_predictor(model, [fold], checkpoint=checkpoint, device="cpu")
    patch = predictor.configuration_manager.patch_size
    channels = len(predictor.configuration_manager.normalization_schemes)
    program, onnx_model, any_batch = trace_and_convert(predictor.network, channels, patch)
    about = describe(predictor, fold=fold, checkpoint=checkpoint, opset=opset(onnx_model), any_batch=any_batch)
    with replaced_folder(output) as folder:
        save_model(onnx_model, folder / ONNX)
        difference = compare(folder / ONNX, predictor.network, (1, channels, *patch))
        save_program(program, folder / PROGRAM)
        write_json(folder / SURROUNDINGS, about)
        shutil.copyfile(Path(__file__).with_name(SCRIPT), folder / SCRIPT)
    lines = [f"{SCRIPT} cannot predict with this model: it lacks {each}" for each in about["script_lacks"]]
    if not any_batch:
        lines.append("the networks take a batch of one: this version of PyTorch cannot export a batch of any length")
    if difference is None:
        return [*lines, f"{ONNX} was not run: onnxruntime is not installed"]
    return [*lines, f"onnxruntime computes PyTorch's logits within {difference:.1g} of the largest"]
