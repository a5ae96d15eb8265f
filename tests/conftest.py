"""What the tests share: real images where they are present, and nnU-Net's stock commands in folders of their own."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from nnunet_commands import code_of, run_command

from nnunetv2_xattnres.cli import main
from nnunetv2_xattnres.ext_trainer import HOOK_FOLDER


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that processes that share the files end at about the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _no_compilations_of_other_tests() -> None:
    """Without it, a size that another test compiled differently would be a variable one, and counts towards a limit."""
    if "torch._dynamo" in sys.modules:
        sys.modules["torch"].compiler.reset()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images (``XATTNRES_TEST_DATA``, or ``../shared/data`` from the project's root)."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("XATTNRES_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real images: {folder} is not there (set XATTNRES_TEST_DATA)")
    return folder


@dataclass
class NNUNet:
    """Runs commands with three nnU-Net folders below ``root``, one process and one thread each."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def raw(self) -> Path:
        return self.root / "raw"

    @property
    def preprocessed(self) -> Path:
        return self.root / "preprocessed"

    @property
    def results(self) -> Path:
        return self.root / "results"

    def run(self, *command: object, hook: bool = True, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one installed command, such as ``nnUNetv2_train``; ``hook`` sets ``nnUNet_extTrainer``."""
        done = run_command([str(word) for word in command], self._variables(command, hook), timeout=1200)
        if check and done.returncode != 0:
            pytest.fail(f"{' '.join(map(str, command))} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def run_here(self, *command: object) -> None:
        """Run one of our commands in this process, which has imported torch and nnU-Net already."""
        with pytest.MonkeyPatch.context() as patch:
            for folder in (self.raw, self.preprocessed, self.results):
                patch.setenv(f"nnUNet_{folder.name}", str(folder))
            code = main([str(word) for word in command])
        assert code == 0, f"{' '.join(map(str, command))} ended with {code}"

    def start(self, *command: object) -> subprocess.Popen[bytes]:
        """Start one installed command with the hook, and return at once."""
        words = [sys.executable, "-c", code_of(str(command[0])), *map(str, command[1:])]
        return subprocess.Popen(
            words, env=self._variables(command, True), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def _variables(self, command: tuple[object, ...], hook: bool) -> dict[str, str]:
        environment = {
            **os.environ,
            "nnUNet_raw": str(self.raw),
            "nnUNet_preprocessed": str(self.preprocessed),
            "nnUNet_results": str(self.results),
            "nnUNet_def_n_proc": "1",
            # planning needs at least one process, training is quickest with none
            "nnUNet_n_proc_DA": "0" if "train" in str(command[0]) else "1",
            "OMP_NUM_THREADS": "1",
            **self.environment,
        }
        folder = self.environment.get("nnUNet_extTrainer", str(HOOK_FOLDER))
        environment.pop("nnUNet_extTrainer", None)
        if hook:
            environment["nnUNet_extTrainer"] = folder
        return environment


@pytest.fixture(scope="module")
def module_nnunet(tmp_path_factory: pytest.TempPathFactory) -> NNUNet:
    """nnU-Net's commands, for the tests of one module that build on each other's results."""
    nnunet = NNUNet(tmp_path_factory.mktemp("nnunet"))
    for folder in (nnunet.raw, nnunet.preprocessed, nnunet.results):
        folder.mkdir()
    return nnunet
