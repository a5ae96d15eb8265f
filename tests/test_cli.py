"""The dispatcher: every command is there, errors are readable, light commands stay light."""

import errno
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from nnunetv2_xattnres import __version__, cli
from nnunetv2_xattnres.cli import COMMANDS, main
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.ext_trainer import HOOK_FOLDER


def replace_doctor(monkeypatch, run) -> None:
    module = SimpleNamespace(add_arguments=lambda parser: parser.add_argument("--x"), run=run)
    monkeypatch.setattr(cli, "import_module", lambda name: module)


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "-h"])
    assert ended.value.code == 0
    assert f"usage: nnunetv2_xattnres {command}" in " ".join(capsys.readouterr().out.split())


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == __version__


def test_unknown_command_names_the_known_ones(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["dcotor"])
    assert ended.value.code == 2
    assert "doctor" in capsys.readouterr().err


def test_trainer_path_is_a_folder_that_holds_one_module(capsys):
    assert main(["trainer-path"]) == 0
    assert capsys.readouterr().out == f"{HOOK_FOLDER}\n"
    assert len(list(HOOK_FOLDER.glob("*.py"))) == 1


def test_unusable_input_is_one_message_and_exit_code_2(monkeypatch, capsys):
    def run(args):
        raise InputError("the folder cannot be used", ["a.png: unreadable", "b.png: no mask"])

    replace_doctor(monkeypatch, run)
    assert main(["doctor"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "error: the folder cannot be used\n  - a.png: unreadable\n  - b.png: no mask\n"


def test_interrupted(monkeypatch, capsys):
    def run(args):
        raise KeyboardInterrupt

    replace_doctor(monkeypatch, run)
    assert main(["doctor"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1)])
def test_exit_code_is_the_commands(monkeypatch, returned, code):
    replace_doctor(monkeypatch, lambda args: returned)
    assert main(["doctor"]) == code


@pytest.mark.parametrize("command", [["trainer-path"], ["--help"]])
def test_light_commands_do_not_import_torch(command):
    script = "\n".join(
        [
            "import sys",
            "from nnunetv2_xattnres.cli import main",
            "try:",
            f"    main({command!r})",
            "except SystemExit:",
            "    pass",
            "sys.exit('torch' in sys.modules or 'nnunetv2' in sys.modules)",
        ]
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EROFS"])
def test_a_full_disk_is_one_message_and_exit_code_2(monkeypatch, capsys, name):
    def run(args):
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)), "x.csv")

    replace_doctor(monkeypatch, run)
    assert main(["doctor"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: x.csv: ") and "free space" in error and len(error.splitlines()) == 1


def test_other_errors_of_the_system_name_their_file(monkeypatch, capsys):
    def run(args):
        raise PermissionError(errno.EACCES, "Permission denied", "/images")

    replace_doctor(monkeypatch, run)
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err.startswith("error: /images: Permission denied: ")


def test_ctrl_c_while_a_command_is_imported_is_no_traceback(monkeypatch, capsys):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "import_module", interrupted)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_command_goes_on_when_nobody_reads_its_output(tmp_path, unbuffered):
    script = f"""
import sys
from types import SimpleNamespace
from nnunetv2_xattnres import cli

def run(args):
    for line in range(100_000):
        print(line)
    open({str(tmp_path / "result")!r}, "w").close()
    return 1

cli.import_module = lambda name: SimpleNamespace(add_arguments=lambda parser: None, run=run)
sys.exit(cli.main(["doctor"]))
"""
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout.readline() == f"0{os.linesep}".encode()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1 and (tmp_path / "result").exists()


def test_help_that_nobody_reads_is_no_error():
    for arguments in (["--help"], ["doctor", "-h"]):
        with subprocess.Popen(
            [sys.executable, "-m", "nnunetv2_xattnres.cli", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            process.stdout.close()
            assert process.stderr.read() == b""
        assert process.returncode == 0
