"""A trained model: the options that name it, which commands share, and nnU-Net's predictor that opens it."""

from __future__ import annotations

import argparse
import contextlib
import io
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.json_files import require_object
from nnunetv2_xattnres.nnunet_layout import DATASET_JSON, FINAL, PLANS_JSON, RESULTS, variable_folder
from nnunetv2_xattnres.plans.files import DATASET_ENTRIES, check_configuration
from nnunetv2_xattnres.system import check_device, environment_variable
from nnunetv2_xattnres.untrusted import check_model_files

ALL_FOLDS = ("0", "1", "2", "3", "4")


def add_model_arguments(parser: argparse.ArgumentParser, folds: Sequence[str] = ALL_FOLDS) -> argparse._ArgumentGroup:
    """Options that name a trained model as ``nnUNetv2_predict`` does; ``folds`` is the default of ``-f``."""
    model = parser.add_argument_group("the model, as for nnUNetv2_predict")
    model.add_argument(
        "-m", dest="model", type=Path, metavar="FOLDER", help="folder of the model, instead of -d, -c, -tr and -p"
    )
    model.add_argument("-d", dest="dataset", metavar="DATASET", help="number or name of the data set, such as 11")
    model.add_argument("-c", dest="configuration", metavar="NAME", help="configuration")
    model.add_argument(
        "-tr", dest="trainer", default="nnUNetTrainer", metavar="NAME", help="trainer (default: nnUNetTrainer)"
    )
    model.add_argument("-p", dest="plans", default="nnUNetPlans", metavar="NAME", help="plans (default: nnUNetPlans)")
    what = f"{'folds' if len(folds) > 1 else 'one fold'} (default: {' '.join(folds)})"
    model.add_argument("-f", dest="folds", nargs="+", default=[*folds], metavar="FOLD", help=what)
    model.add_argument("-chk", dest="checkpoint", default=FINAL, metavar="FILE", help=f"checkpoint (default: {FINAL})")
    return model


def check_model_arguments(args: argparse.Namespace) -> None:
    """Check that the options name one model.

    Raises:
        InputError: they name none, or two.
    """
    if (args.model is None) == (args.dataset is None) or (args.dataset and not args.configuration):
        raise InputError("Name the model once: -d with -c (and -tr, -p), as for nnUNetv2_predict, or -m FOLDER.")


def model_folder(args: argparse.Namespace) -> Path:
    """The folder of the model that the options name, which may not exist.

    Raises:
        InputError: nnU-Net does not know the data set.
    """
    if args.model:
        return args.model
    variable_folder(RESULTS)
    from nnunetv2.utilities.file_path_utilities import get_output_folder

    try:
        with silent():
            return Path(get_output_folder(args.dataset, args.trainer, args.plans, args.configuration))
    except Exception as error:  # nnU-Net raises RuntimeError, ValueError or AssertionError
        raise InputError(f"nnU-Net does not know the data set {args.dataset}: {error}") from error


def load_predictor(
    model: Path,
    folds: Sequence[str],
    *,
    checkpoint: str = FINAL,
    step_size: float = 0.5,
    mirroring: bool = True,
    device: str = "cuda",
) -> Any:
    """nnU-Net's predictor for a trained model, without torch.compile, which hides the modules.

    Raises:
        InputError: something is missing, also the device; nnU-Net cannot load the model; or the model is the second one
            of a cascade.
    """
    needed = [model / DATASET_JSON, model / PLANS_JSON, *(model / f"fold_{fold}" / checkpoint for fold in folds)]
    if missing := [f"{path} does not exist" for path in needed if not path.is_file()]:
        raise InputError("There is no such model: set -tr, -p, -c, -f and -chk, or -m, as for nnU-Net.", missing)
    if not 0 < step_size <= 1:
        raise InputError(f"-step_size is {step_size:g}: give a part of the patch, more than 0 and at most 1.")
    check_device(device)
    again = "get the model again"
    require_object(model / DATASET_JSON, again, again, entries=DATASET_ENTRIES)
    check_model_files(model / PLANS_JSON, needed[2:])
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    with silent(), environment_variable("nnUNet_compile", "f"):
        predictor = nnUNetPredictor(
            tile_step_size=step_size, use_mirroring=mirroring, device=torch.device(device), allow_tqdm=False
        )
        try:
            predictor.initialize_from_trained_model_folder(str(model), [*folds], checkpoint_name=checkpoint)
        except Exception as error:  # a damaged checkpoint, a network or a trainer that is not installed
            raise InputError(f"nnU-Net cannot load the model in {model}: {error}") from error
    configuration = predictor.configuration_manager
    check_configuration(configuration.configuration, f"the configuration of the model in {model / PLANS_JSON}")
    if (before := configuration.previous_stage_name) is not None:
        raise InputError(
            f"This model is the second one of a cascade and needs the predictions of {before}, which this command "
            "cannot give it: name that model."
        )
    return predictor


_one_thread = threading.RLock()


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Run nnU-Net's functions without their notes on the terminal, in one thread at a time.

    The terminal, environment variables and the number of torch's threads, which these functions and ours change for a
    while, belong to the whole process; and a predictor loads the weights of one fold after another into one network.
    """
    with _one_thread, contextlib.redirect_stdout(io.StringIO()):
        yield
