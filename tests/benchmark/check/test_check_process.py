import os
import time

import pytest

from nnunetv2_xattnres.benchmark.check.process import run_apart


@pytest.fixture
def run(functions, tmp_path):
    def run(name, limit=60, **arguments):
        return run_apart(f"check_functions:{name}", arguments, limit, tmp_path / name, os.environ)

    return run


def test_figures_come_back_and_are_json(run):
    outcome = run("good", value=3)
    assert (outcome.state, outcome.message, outcome.log) == ("done", "", [])
    assert outcome.figures["value"] == 3 and outcome.figures["nan"] == "nan" and outcome.seconds > 0


@pytest.mark.parametrize(
    ("name", "state", "message"),
    [
        ("fails", "failed", "ValueError: the first line"),
        ("no_memory", "out of memory", "does not fit"),
        ("wrapped_no_memory", "out of memory", "does not fit"),
        ("quits", "failed", "with exit code 3"),
        ("wrong", "wrong", "a loss is not a finite number"),
        ("missing", "failed", "AttributeError"),
    ],
)
def test_what_goes_wrong_is_said(run, name, state, message):
    outcome = run(name)
    assert outcome.state == state and message in outcome.message and "\n" not in outcome.message
    if name in ("fails", "quits"):
        assert outcome.figures == {"before": 1}
    if name == "fails":
        assert outcome.log[-1] == "the second line"


def test_what_hangs_is_ended_with_what_it_started(run):
    outcome = run("hangs", limit=3)
    assert outcome.state == "too long" and outcome.message == "no end within 3 s: stopped"
    assert outcome.figures["before"] == 1
    for name in ("pid", "sleeper"):
        assert _ends(outcome.figures[name])


def _ends(pid):
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if _is_zombie(pid):  # an orphan that nobody has waited for yet
            return True
        time.sleep(0.05)
    return False


def _is_zombie(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return False
