"""No import and no forward pass rests on a private name of torch, which any of its releases may move."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PRIVATE_ON_PURPOSE = {
    # imported at first use, with another way where it is missing
    "architectures/dry_run.py": {"torch._subclasses.fake_tensor"},
}
LIST_MODULES = """
import sys
import nnunetv2_xattnres.architectures, nnunetv2_xattnres.trainers
ours = [m.__file__ for n, m in sys.modules.items() if n.startswith("nnunetv2_xattnres") and m.__file__]
print(*ours, sep="\\n")
"""


def private_names(source: str) -> set[str]:
    """Dotted names of torch with a part that begins with an underscore, imported or used."""
    tree = ast.parse(source)
    names: set[str] = set()
    origin = {"torch": "torch"}  # what a name in the file stands for
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names.add(alias.name)
                if alias.asname:
                    origin[alias.asname] = alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            for alias in node.names:
                names.add(f"{node.module}.{alias.name}")
                origin[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in inner:
            first, *rest = ast.unparse(node).split(".")
            names.add(".".join([origin.get(first, first), *rest]))
    return {
        name
        for name in names
        if name.split(".")[0] == "torch"
        and any(part.startswith("_") and not part.startswith("__") for part in name.split("."))
    }


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from torch._subclasses.fake_tensor import FakeTensorMode", {"torch._subclasses.fake_tensor"}),
        ("import torch\ntorch._C.__file__", {"torch._C.__file__"}),
        ("from torch.autograd import forward_ad\nforward_ad._level", {"torch.autograd.forward_ad._level"}),
        ("import torch\ntorch.compiler.is_compiling(), torch.__version__", set()),
    ],
)
def test_the_check_sees_private_names(source, found):
    assert found <= private_names(source)
    assert bool(found) == bool(private_names(source))


def test_no_private_name_of_torch_is_used_by_networks_and_trainers():
    import nnunetv2_xattnres

    done = subprocess.run([sys.executable, "-c", LIST_MODULES], capture_output=True, text=True, check=True)
    root = Path(nnunetv2_xattnres.__file__).parent
    files = [Path(line) for line in done.stdout.splitlines() if line.endswith(".py")]
    assert len(files) > 20
    used = {}
    for file in files:
        name = file.relative_to(root).as_posix()
        names = private_names(file.read_text(encoding="utf-8"))
        allowed = PRIVATE_ON_PURPOSE.get(name, set())
        used[name] = {found for found in names if not any(found.startswith(prefix) for prefix in allowed)}
    assert {name: names for name, names in used.items() if names} == {}


def test_the_private_module_is_imported_at_first_use_only():
    """``dry_run`` is in the import path of every network."""
    from nnunetv2_xattnres.architectures import dry_run

    top = [node for node in ast.parse(Path(dry_run.__file__).read_text(encoding="utf-8")).body]
    imports = "\n".join(ast.unparse(node) for node in top if isinstance(node, ast.Import | ast.ImportFrom))
    assert private_names(imports) == set()
