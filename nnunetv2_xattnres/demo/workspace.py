"""The demo's folder: nnU-Net's three folders in it, the stock commands that run there, and their log."""

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.ext_trainer import HOOK_FOLDER
from nnunetv2_xattnres.nnunet_layout import (
    AUGMENTATION_PROCESSES,
    DEFAULT_PROCESSES,
    FOLDERS,
    HOOK,
    PREPROCESSED,
    RAW,
    RESULTS,
)

LOG = "log.txt"
TITLE = "The log of `nnunetv2_xattnres demo`"  # by which its folder is known again
NAMES = {*FOLDERS, LOG, "predictions", "predictions_untrained", "demo.png"}
LINES_SHOWN = 15  # of the log, where a command fails


@dataclass(frozen=True)
class Workspace:
    """One folder that holds everything of a demo.

    Attributes:
        root: Absolute path of the folder.
        device: What nnU-Net computes on: ``cpu``, ``cuda`` or ``mps``.
    """

    root: Path
    device: str = "cpu"

    @classmethod
    def create(cls, root: Path, *, device: str = "cpu", overwrite: bool = False) -> "Workspace":
        """Make the folder.

        Raises:
            InputError: if it exists and ``overwrite`` is false, or if it does not look like an earlier demo's.
        """
        root = root.expanduser().resolve()
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            if not overwrite:
                raise InputError(f"{root} exists: add --overwrite to replace it, or name another one with --output")
            if not _is_demos(root):
                raise InputError(
                    f"{root} was not written by the demo alone, so --overwrite leaves it as it is: name another one"
                )
        workspace = cls(root, device)
        try:
            if root.exists():
                shutil.rmtree(root)
            for folder in (workspace.raw, workspace.preprocessed, workspace.results):
                folder.mkdir(parents=True)
            (root / LOG).write_text(f"{TITLE}\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot write to {root}: name another folder with --output", [str(error)]) from error
        return workspace

    @property
    def raw(self) -> Path:
        """``nnUNet_raw``."""
        return self.root / RAW

    @property
    def preprocessed(self) -> Path:
        """``nnUNet_preprocessed``."""
        return self.root / PREPROCESSED

    @property
    def results(self) -> Path:
        """``nnUNet_results``."""
        return self.root / RESULTS

    @property
    def folders(self) -> dict[str, str]:
        """The three variables of nnU-Net that point into this folder."""
        return {path.name: str(path) for path in (self.raw, self.preprocessed, self.results)}

    def run(self, *command: object, hook: bool = False, show: bool = False) -> None:
        """Run one nnU-Net command, printed as it would be typed.

        Args:
            command: The command and its arguments.
            hook: Set ``nnUNet_extTrainer`` (needed for training, and for nothing else).
            show: Let its output through to the terminal; otherwise it goes to the log.

        Raises:
            InputError: if the command fails, with the end of what it printed.
        """
        words = [str(word) for word in command]
        # paths below the demo's folder are shown relative to it: the lines stay short
        print(f"    {shlex.join(words).replace(str(self.root) + os.sep, '')}", flush=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet_")}
        environment |= self.folders
        # a handful of small images: extra processes take longer to start than to work; planning cannot do with none
        environment |= {DEFAULT_PROCESSES: "1", AUGMENTATION_PROCESSES: "0" if hook else "1"}
        # nnU-Net starts one thread per core; on a busy machine they would spin while they wait, ten times the work
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        if hook:
            environment[HOOK] = str(HOOK_FOLDER)
        words[0] = find_command(words[0])
        with (self.root / LOG).open("a", encoding="utf-8") as log:
            print(f"$ {shlex.join(words)}", file=log, flush=True)
            streams: dict[str, Any] = {} if show else {"stdout": log, "stderr": subprocess.STDOUT}
            code = subprocess.run(words, env=environment, check=False, **streams).returncode
        if code != 0:
            # the command writes in the encoding of the system
            text = "" if show else (self.root / LOG).read_text(encoding="utf-8", errors="replace")
            where = "above" if show else f"in {self.root / LOG}"
            raise InputError(
                f"{command[0]} failed (exit code {code}): what it printed is {where}", text.splitlines()[-LINES_SHOWN:]
            )


def _is_demos(root: Path) -> bool:
    """Whether the folder holds what a demo writes, and nothing else."""
    log = root / LOG
    if not log.is_file() or {path.name for path in root.iterdir()} - NAMES:
        return False
    with log.open(encoding="utf-8", errors="replace") as file:
        return file.readline().rstrip() == TITLE


def find_command(name: str) -> str:
    """The path of an installed command, first beside this Python (a virtual environment need not be activated).

    Raises:
        InputError: if there is none.
    """
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise InputError(f"the command {name} is not installed here: type `nnunetv2_xattnres doctor`")
    return found
