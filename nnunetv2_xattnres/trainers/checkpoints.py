"""Which checkpoint a training continues from when the newest one cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.nnunet_layout import BEST, EPOCH_KEY, LATEST, WEIGHTS_KEY


def usable_checkpoint(file: Path, log: Callable[[str], None]) -> Path:
    """``file``, or the checkpoint before it where ``file`` is the latest one and was cut off.

    nnU-Net names the final checkpoint for a validation, too, and another one would give other scores. So a damaged
    final checkpoint is an error.

    Args:
        file: The checkpoint that nnU-Net has chosen.
        log: Takes a line for the log.

    Raises:
        InputError: no checkpoint can be read.
    """
    problem = _problem(file) if file.is_file() else None  # nnU-Net itself says that a file is missing
    if problem is None:
        return file
    before = file.with_name(BEST)
    if file.name == LATEST and before.is_file() and _problem(before) is None:
        log(f"WARNING: {file} is damaged ({problem}): the training continues from {before.name}, which is older")
        return before
    others = [name for name in (LATEST, BEST) if name != file.name and file.with_name(name).is_file()]
    hint = f"; --c then continues from {others[0]}" if others else ": the training then starts again"
    raise InputError(f"{file} is damaged ({problem}): delete it{hint}")


def _problem(file: Path) -> str | None:
    """Why a checkpoint cannot be read, in one line; None if it can. Like nnU-Net, it unpickles the file."""
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=False)
    except Exception as error:  # a damaged pickle can raise anything
        return (str(error).splitlines() or [type(error).__name__])[0]
    missing = {WEIGHTS_KEY, EPOCH_KEY} - set(content) if isinstance(content, dict) else {WEIGHTS_KEY, EPOCH_KEY}
    return f"it has no {' and no '.join(sorted(missing))}" if missing else None
