"""Systems without the signals, system calls and modules of POSIX (Windows): every module, and help."""

import pytest
from without_posix import WITHOUT, run


def test_every_module_is_imported():
    code = "import pkgutil, importlib\n" + WITHOUT + "take_away()\n"
    code += (
        "import nnunetv2_xattnres as package\n"
        "names = [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + '.')]\n"
        "failed = []\n"
        "for name in names:\n"
        "    if not name.endswith('__main__'):\n"
        "        try:\n"
        "            importlib.import_module(name)\n"
        "        except (AttributeError, ImportError) as error:\n"
        "            failed.append(f'{name}: {error!r}')\n"
        "print(failed, len(names) > 80)"
    )
    done = run(code)
    assert done.stdout.splitlines()[-1:] == ["[] True"], done.stderr


@pytest.mark.parametrize("command", ["ablate", "convert", "evaluate", "doctor"])
def test_help_is_printed(command):
    done = run(WITHOUT + f"take_away()\nfrom nnunetv2_xattnres.cli import main\nmain([{command!r}, '-h'])")
    assert done.returncode == 0 and done.stdout.startswith("usage:"), done.stderr
