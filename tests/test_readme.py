"""What the README says is so: its snippet runs, its names exist, its two commands say what is missing."""

import os
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
from model_phantom import write_frames, write_model

from nnunetv2_xattnres.cli import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{page.name}" for page in ROOT.glob("docs/*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BASH = "\n".join(re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL))
pytestmark = pytest.mark.skipif(not (ROOT / "scripts").is_dir(), reason="not in a clone: scripts/ is not here")


def snippet_of(title):
    (snippet,) = re.findall(r"```python\n(.*?)```", README.split(f"## {title}\n")[1].split("\n## ")[0], re.DOTALL)
    return snippet


def test_one_image_in_python(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_model(Path("MODEL_FOLDER"), 2, [16, 16])
    images, _ = write_frames(tmp_path, 1, (16, 24))
    (images / "frame_0_0000.png").rename("frame.png")
    names: dict = {}
    exec(snippet_of("One image in Python"), names)
    assert names["labels"].shape == (16, 24)


def test_the_snippet_runs_and_every_parameter_learns():
    snippet = snippet_of("In a network of your own")
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 12
    names: dict = {}
    exec(snippet, names)
    assert [tuple(feature.shape) for feature in names["history"]] == [
        (2, 16, 64, 64), (2, 32, 32, 32), (2, 64, 16, 16), (2, 32, 32, 32), (2, 16, 64, 64)
    ]  # fmt: skip
    names["x"].sum().backward()
    parameters = [parameter for module in names["mix"][1:] for parameter in module.parameters()]
    assert len(parameters) > 8
    assert all(parameter.grad is not None for parameter in parameters)


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_imports_exists(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for line in re.findall(r"^from nnunetv2_xattnres[\w.]* import .*$", text, re.MULTILINE):
        exec(line, {})


def test_every_command_of_ours_is_in_the_table_and_no_other():
    table = set(re.findall(r"^\| `([a-z-]+)` \|", README.split("## All commands")[1], flags=re.MULTILINE))
    assert table == set(COMMANDS)
    assert set(re.findall(r"nnunetv2_xattnres ([a-z][a-z-]+)", BASH)) <= set(COMMANDS)


def test_every_nnunet_command_exists():
    installed = {entry.name for entry in metadata.distribution("nnunetv2").entry_points}
    named = set(re.findall(r"\bnnUNetv2_\w+", README))
    assert len(named) > 5
    assert named - installed == set()


def test_every_trainer_exists():
    from nnunetv2_xattnres import trainers

    named = set(re.findall(r"\bnnUNetTrainer_\w+", README))
    # a results folder is TRAINER__PLANS__CONFIGURATION
    named = {name.split("__")[0] for name in named}
    assert len(named) > 5
    assert named - set(trainers.__all__) == set()


def test_the_table_of_variants_is_the_code():
    from nnunetv2_xattnres import trainers
    from nnunetv2_xattnres.catalogue import routings

    rows = re.findall(r"^\| `(\w+)`[^|]*\| (yes|no) \| (yes|no) \| (yes|no) \| .*`(\w+)` \|", README, re.MULTILINE)
    said = {name: [answer == "yes" for answer in answers] for name, *answers, _ in rows}
    assert said == {name: list(routing.values()) for name, routing in routings().items()}
    for name, *_, trainer in rows:
        if trainer != "nnUNetTrainer":
            assert getattr(trainers, trainer).variant == name


@pytest.mark.parametrize(
    "said",
    [
        "version 1 of the paper; the repository published under the paper's name holds another, block-level method",
        "There are no other folds: give `-f 0` to `nnUNetv2_find_best_configuration`",
        "Predicted PNGs hold the labels, 0 and 1, so an image viewer shows them black",
        # of nnunetv2.utilities.get_network_from_plans
        'nnU-Net stops with "Network class could not be found, please check/correct your plans file": install this',
    ],
    ids=["version", "folds", "black", "package"],
)
def test_what_surprises_users_is_said(said):
    assert said in README


def test_what_nnunet_says_without_the_package_is_quoted_as_it_is():
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    (quoted,) = re.findall(r'nnU-Net stops with "([^"]+)"', README)
    with pytest.raises(ImportError, match=re.escape(quoted)), pytest.warns(UserWarning):
        get_network_from_plans("a_missing_package.Network", {}, [], 1, 2)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    broken = [link for link in links if link and not (ROOT / page).parent.joinpath(link).exists()]
    assert broken == []


def test_the_citation_is_of_this_version():
    (version,) = re.findall(r'^version: "(.+)"$', (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert version == metadata.version("nnunetv2-xattnres")


# --- the two commands ------------------------------------------------------------------------------------------------


@pytest.fixture
def clone(tmp_path):
    """The files that the scripts need, and a search path with nothing on it but what a test adds."""
    folder = tmp_path / "clone"
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    shutil.copy(ROOT / "pyproject.toml", folder)
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "dirname", "cksum", "cat", "tee", "grep", "tail"):
        (tools / tool).symlink_to(shutil.which(tool))
    return folder


def put(clone: Path, path: str, script: str) -> None:
    """An executable for the clone, at a path relative to it."""
    file = clone / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!{shutil.which('bash')}\n{script}\n")
    file.chmod(0o755)


def run(clone: Path, *command: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(clone.parent / "bin"), "HOME": os.environ.get("HOME", ""), **variables}
    bash = str(shutil.which("bash"))
    return subprocess.run(
        [bash, *command], cwd=cwd or clone, env=environment, capture_output=True, text=True, timeout=600
    )


# a Python that makes environments of itself, and whose pip does what $PIP says
PYTHON = """
case "$*" in
    *sys.version_info*) exit {old} ;;
    *ensurepip*) exit {no_venv} ;;
    *--version) echo "Python 3.12.0" ;;
    "-m venv"*) shift 3; {mkdir} -p "$1/bin"; {cp} "$0" "$1/bin/python"; echo here="$1" >"$1/bin/activate";
        echo >"$1/pyvenv.cfg" ;;
    "-m pip install"*) echo "$*" >>installed.txt; {pip} ;;
    "-m pytest"*) echo "tested with $*, $OMP_NUM_THREADS thread" ;;
esac
"""


def fake_python(clone: Path, *, old: int = 0, no_venv: int = 0, pip: str = "true") -> None:
    tools = {tool: shutil.which(tool) for tool in ("mkdir", "cp")}
    put(clone, "../bin/python3", PYTHON.format(old=old, no_venv=no_venv, pip=pip, **tools))


@pytest.mark.parametrize("script", ["demo", "test"])
@pytest.mark.parametrize(
    ("python", "said"),
    [
        ({"old": 1}, "Python 3.10 or newer is needed"),
        ({"no_venv": 1}, "sudo apt install python3-venv"),
        ({"pip": "echo NameResolutionError: no such host >&2; exit 1"}, "no network, or a proxy is needed"),
        ({"pip": "echo No space left on device >&2; exit 1"}, "the disk is full"),
        ({"pip": "echo ERROR: odd >&2; exit 1"}, "pip could not install the package"),
    ],
)
def test_what_is_missing_is_one_message(clone, script, python, said):
    fake_python(clone, **python)
    done = run(clone, f"scripts/{script}")
    assert done.returncode != 0
    assert said in done.stderr
    assert sum(line.startswith("error:") for line in done.stderr.splitlines()) == 1


def test_no_python_at_all(clone):
    done = run(clone, "scripts/demo")
    assert done.returncode != 0
    assert "Python 3.10 or newer is needed" in done.stderr


def test_a_second_time_installs_nothing(clone):
    fake_python(clone)
    for _ in range(2):
        done = run(clone, "scripts/test", "-k", "one")
        assert done.returncode == 0, done.stderr
        assert "tested with -m pytest -n 3 --dist loadfile --no-loadscope-reorder -k one, 1 thread" in done.stdout
    assert len((clone / "installed.txt").read_text().splitlines()) == 1
    with (clone / "pyproject.toml").open("a") as file:
        file.write("\n# another dependency\n")
    run(clone, "scripts/test")
    assert len((clone / "installed.txt").read_text().splitlines()) == 2


def test_after_a_failure_the_next_time_installs(clone):
    fake_python(clone, pip="exit 1")
    assert run(clone, "scripts/test").returncode != 0
    fake_python(clone)
    shutil.copy(clone / "../bin/python3", clone / ".venv/bin/python")
    assert run(clone, "scripts/test").returncode == 0
    assert len((clone / "installed.txt").read_text().splitlines()) == 2


def test_a_clone_that_was_moved_is_installed_again(clone):
    fake_python(clone)
    run(clone, "scripts/test")
    moved = clone.rename(clone.parent / "moved clone")
    assert run(moved, "scripts/test").returncode == 0
    assert len((moved / "installed.txt").read_text().splitlines()) == 2
    assert str(moved) in (moved / ".venv/bin/activate").read_text()


def test_a_folder_of_something_else_is_no_place_for_an_environment(clone):
    fake_python(clone)
    thesis = clone.parent / "mine" / ".thesis.tex"
    thesis.parent.mkdir()
    thesis.touch()
    for script in ("scripts/demo", "scripts/test"):
        done = run(clone, script, XATTNRES_VENV=str(thesis.parent))
        assert done.returncode != 0
        assert "holds something else than an environment" in done.stderr
    assert list(thesis.parent.iterdir()) == [thesis]


def test_an_environment_with_a_relative_name_is_in_the_clone(clone, tmp_path):
    fake_python(clone)
    put(clone, "envs/mine/bin/nnunetv2_xattnres", 'echo "called with $*"')
    (clone / "envs/mine/pyvenv.cfg").touch()
    done = run(clone, f"{clone}/scripts/demo", cwd=tmp_path, XATTNRES_VENV="envs/mine")
    assert "called with demo" in done.stdout, done.stderr


def test_the_demo_gets_the_arguments(clone):
    fake_python(clone, pip="true")
    put(clone, ".venv/bin/nnunetv2_xattnres", 'echo "called with $*"')
    (clone / ".venv/pyvenv.cfg").touch()
    done = run(clone, "scripts/demo", "--output", "elsewhere")
    assert "called with demo --output elsewhere" in done.stdout, done.stderr
