"""What the doctor finds, and what it says to type."""

import argparse
import os
from importlib import metadata
from pathlib import Path

import pytest

from nnunetv2_xattnres import doctor
from nnunetv2_xattnres.cli import main
from nnunetv2_xattnres.doctor import NOTE, OK, PROBLEM, Finding
from nnunetv2_xattnres.ext_trainer import HOOK_FOLDER


@pytest.fixture
def healthy(tmp_path, monkeypatch):
    """Folders that exist, and the hook."""
    for name in doctor.FOLDERS:
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv(doctor.HOOK, str(HOOK_FOLDER))
    monkeypatch.delenv("nnUNet_n_proc_DA", raising=False)
    return tmp_path


def commands(findings) -> str:
    return "\n".join(command for finding in findings for command in finding.commands)


def problems(check) -> list[Finding]:
    return [finding for finding in check() if finding.status == PROBLEM]


def test_nothing_to_say_about_a_healthy_installation(healthy, capfd):
    assert main(["doctor"]) == 0
    printed = capfd.readouterr().out
    assert PROBLEM not in printed
    assert "nnU-Net finds nnUNetTrainer_XAttnRes" in printed
    assert "Everything is in place" in printed
    assert "Searching in" not in printed  # nnU-Net's own chatter


def test_a_single_problem_makes_the_exit_code_1(healthy, monkeypatch, capfd):
    monkeypatch.delenv("nnUNet_raw")
    assert doctor.run(argparse.Namespace()) == 1
    printed = capfd.readouterr().out
    assert "problem  nnUNet_raw is not set" in printed
    assert 'type: export nnUNet_raw="$HOME/nnUNet_raw"' in printed
    assert "1 problem found" in printed


@pytest.mark.parametrize(
    ("value", "said", "typed"),
    [
        ("", "not set", 'export nnUNet_results="$HOME/nnUNet_results"'),
        ("absent", "does not exist", 'mkdir -p "$nnUNet_results"'),
        ("file", "not a folder", "export nnUNet_results="),
        ("~/nnUNet_results", "stays a ~", "export nnUNet_results="),
    ],
)
def test_unusable_folders(healthy, monkeypatch, value, said, typed):
    (healthy / "file").touch()
    monkeypatch.chdir(healthy)
    monkeypatch.setenv("nnUNet_results", value)
    (finding,) = problems(doctor.check_folders)
    assert "nnUNet_results" in finding.text
    assert said in finding.text
    assert typed in commands([finding])


def test_a_folder_without_permission(healthy, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: "raw" not in str(path))  # root may write anywhere
    (finding,) = problems(doctor.check_folders)
    assert "may not write" in finding.text
    assert 'chmod u+rwx "$nnUNet_raw"' in commands([finding])


def test_no_augmentation_processes_is_worth_a_note(healthy, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    (note,) = [finding for finding in doctor.check_folders() if finding.status == NOTE]
    assert "unset nnUNet_n_proc_DA" in commands([note])


def test_hook_missing(healthy, monkeypatch):
    monkeypatch.delenv(doctor.HOOK)
    (finding,) = doctor.check_trainers()
    assert finding.status == PROBLEM
    assert 'export nnUNet_extTrainer="$(nnunetv2_xattnres trainer-path)"' in commands([finding])


def test_hook_of_somebody_else_can_be_kept(healthy, monkeypatch):
    monkeypatch.setenv(doctor.HOOK, str(healthy))
    (finding,) = doctor.check_trainers()
    assert finding.status == PROBLEM
    assert str(HOOK_FOLDER) in finding.text
    assert f'"$nnUNet_extTrainer{os.pathsep}$(nnunetv2_xattnres trainer-path)"' in commands([finding])


def test_hook_beside_somebody_elses(healthy, monkeypatch):
    monkeypatch.setenv(doctor.HOOK, os.pathsep.join([str(healthy), str(HOOK_FOLDER)]))
    assert [finding.status for finding in doctor.check_trainers()] == [OK, OK]


def test_a_broken_file_in_somebody_elses_hook_is_not_blamed_on_nnunet(healthy, monkeypatch, tmp_path):
    (tmp_path / "theirs.py").write_text("import nothing_of_this_name")
    monkeypatch.setenv("nnUNet_extTrainer", f"{tmp_path}{os.pathsep}{HOOK_FOLDER}")
    *_, finding = doctor.check_trainers()
    assert finding.status == doctor.PROBLEM
    assert f"a file in {tmp_path} may be what fails" in finding.text
    assert finding.commands == ('export nnUNet_extTrainer="$(nnunetv2_xattnres trainer-path)"',)


def test_trainer_that_nnunet_does_not_find(healthy, monkeypatch):
    monkeypatch.setattr(doctor, "TRAINER", "nnUNetTrainer_Nobodys")
    (finding,) = problems(doctor.check_trainers)
    assert "nnUNetTrainer_Nobodys" in finding.text
    assert "pip install" in commands([finding])


def test_a_version_out_of_range_names_who_needs_what(monkeypatch):
    installed = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "2.9.0" if name == "nnunetv2" else installed(name))
    findings = problems(doctor.check_packages)
    assert any("nnunetv2 2.9.0 does not fit: nnunetv2-xattnres" in finding.text for finding in findings)
    assert "pip install" in commands(findings)
    assert "<2.9" in commands(findings)


def test_timm_too_new_for_the_networks_library(monkeypatch):
    installed = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "1.0.30" if name == "timm" else installed(name))
    (finding,) = problems(doctor.check_packages)
    assert "timm 1.0.30 does not fit: dynamic-network-architectures" in finding.text
    assert '"timm<1.0.23"' in commands([finding])


def test_a_missing_package(monkeypatch):
    installed = metadata.version

    def version(name: str) -> str:
        if name == "torchvision":
            raise metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(metadata, "version", version)
    (finding,) = problems(doctor.check_packages)
    assert "torchvision is missing: timm needs it" in finding.text


@pytest.mark.parametrize(
    ("broken", "says", "remedy"),
    [
        ("torchvision", "operator torchvision::nms does not exist", "--force-reinstall torch torchvision"),
        ("numba", "Numba needs NumPy 2.4 or less", "--force-reinstall numba"),
    ],
)
def test_a_package_that_does_not_import(broken, says, remedy, monkeypatch):
    imported = doctor.import_module

    def import_module(name: str):
        if name == broken:
            raise RuntimeError(says)
        return imported(name)

    monkeypatch.setattr(doctor, "import_module", import_module)
    (finding,) = problems(doctor.check_packages)
    assert says in finding.text
    assert remedy in commands([finding])


def test_a_gpu_too_small_for_the_default_plans(monkeypatch):
    torch = pytest.importorskip("torch")
    card = argparse.Namespace(name="Card", total_memory=6 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    (finding,) = doctor.check_device()
    assert finding.status == NOTE
    assert "6 GiB" in finding.text
    assert "-gpu_memory_target" in commands([finding])


def test_a_cpu_is_no_problem(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    first, *_ = doctor.check_device()
    assert first.status == NOTE
    assert "-device cpu" in first.text


def test_text_is_wrapped_and_commands_are_not():
    command = f"export nnUNet_raw={Path('x' * 100)}"
    lines = doctor.render(Finding(PROBLEM, "word " * 60, (command,)), width=80).splitlines()
    assert max(map(len, lines[:-1])) <= 80
    assert len(lines) > 3
    assert lines[-1].endswith(command)
