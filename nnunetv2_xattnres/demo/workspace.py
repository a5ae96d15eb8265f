"""The demo's folder: it contains nnU-Net's three folders, and a log of the stock commands that run there."""

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
from nnunetv2_xattnres.system import expanded

LOG = "log.txt"
TITLE = "The log of `nnunetv2_xattnres demo`"  # identifies the folder of a demo
NAMES = {*FOLDERS, LOG, "predictions", "predictions_untrained", "demo.png"}
LINES_SHOWN = 15  # of the log, if a command fails


@dataclass(frozen=True)
class Workspace:
    """The folder with all files of a demo; ``root`` is its absolute path."""

    root: Path

    @classmethod
    def create(cls, root: Path, *, overwrite: bool = False) -> "Workspace":
        """Create the folder.

        Raises:
            InputError: it exists and ``overwrite`` is false, or it is not the folder of an earlier demo.
        """
        root = expanded(root).resolve()
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            if not overwrite:
                raise InputError(f"{root} exists: add --overwrite to replace it, or name another one with --output")
            if not _is_demos(root):
                raise InputError(
                    f"{root} was not written by the demo alone, so --overwrite leaves it as it is: name another one"
                )
        workspace = cls(root)
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
        """nnU-Net's three variables, which name folders in this one."""
        return {path.name: str(path) for path in (self.raw, self.preprocessed, self.results)}

    def run(self, *command: object, hook: bool = False, show: bool = False) -> None:
        """Run one nnU-Net command, and print it as a user would type it.

        Args:
            command: The command and its arguments.
            hook: Set ``nnUNet_extTrainer``, which only training needs.
            show: Show its output on the terminal; otherwise it goes to the log.

        Raises:
            InputError: the command fails; the message has the end of its output.
        """
        words = [str(word) for word in command]
        # paths in the demo's folder are printed relative to it, so that the lines stay short
        print(f"    {shlex.join(words).replace(str(self.root) + os.sep, '')}", flush=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet_")}
        environment |= self.folders
        # for a few small images, starting processes takes longer than their work; planning needs one
        environment |= {DEFAULT_PROCESSES: "1", AUGMENTATION_PROCESSES: "0" if hook else "1"}
        # nnU-Net starts one thread per core; on a busy machine, they would spin while they wait, ten times the work
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
    """Whether the folder has only files of a demo."""
    log = root / LOG
    if not log.is_file() or {path.name for path in root.iterdir()} - NAMES:
        return False
    with log.open(encoding="utf-8", errors="replace") as file:
        return file.readline().rstrip() == TITLE


def find_command(name: str) -> str:
    """The path of an installed command, first beside this Python (a virtual environment need not be activated).

    Raises:
        InputError: the command is not installed.
    """
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise InputError(f"the command {name} is not installed here: type `nnunetv2_xattnres doctor`")
    return found
