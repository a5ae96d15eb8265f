"""Searches the files for a trainer's class: a typo would fail every cell, and asking nnU-Net would import torch."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.nnunet_layout import HOOK

_CLASS = re.compile(r"^class (\w+)\(", re.MULTILINE)


def check_trainer(name: str) -> None:
    """Stop if nnU-Net would not find a trainer of that name.

    Raises:
        InputError: no such class exists; the message names the most similar ones.
    """
    known = {found for file in _files() for found in _CLASS.findall(file.read_text(encoding="utf-8", errors="replace"))}
    if name not in known:
        trainers = sorted(each for each in known if each.startswith("nnUNetTrainer"))
        like = difflib.get_close_matches(name, trainers, 4, 0.5)
        hint = f": is it {' or '.join(like)}?" if like else ", nor in the folders of nnUNet_extTrainer"
        raise InputError(f"there is no trainer {name} in nnU-Net or in this package{hint}")


def _files() -> Iterator[Path]:
    yield from (Path(__file__).parents[1] / "trainers").glob("*.py")
    nnunet = find_spec("nnunetv2")
    if nnunet is not None and nnunet.origin:
        yield from (Path(nnunet.origin).parent / "training" / "nnUNetTrainer").rglob("*.py")
    for folder in os.environ.get(HOOK, "").split(os.pathsep):
        if folder.strip():
            yield from Path(folder).rglob("*.py")
