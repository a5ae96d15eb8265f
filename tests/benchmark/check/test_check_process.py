import os
import time

import pytest

from nnunetv2_xattnres.benchmark.check.process import CAN_PAUSE, Apart


@pytest.fixture
def start(functions, tmp_path):
    def start(name, /, **arguments):
        process = Apart(f"check_functions:{name}", arguments, tmp_path / name, os.environ)
        started.append(process)
        return process

    started = []
    yield start
    for process in started:
        process.outcome()


@pytest.fixture
def run(start):
    def run(name, /, **arguments):
        process = start(name, **arguments)
        until(process.ended)
        return process.outcome()

    return run


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


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
        ("busy", "GPU is busy", "another process uses it"),
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


def test_what_hangs_is_ended_with_what_it_started(start, tmp_path):
    process = start("hangs")
    until((tmp_path / "hangs" / "figures.json").exists)
    outcome = process.outcome("too long", "no end: stopped")
    assert outcome.state == "too long" and outcome.message == "no end: stopped"
    assert outcome.figures["before"] == 1
    for name in ("pid", "sleeper"):
        assert _ends(outcome.figures[name])


def test_what_is_prepared_waits_for_its_turn(start):
    process = start("measured")
    until(process.waits)
    seconds = process.seconds
    time.sleep(0.5)
    assert process.waits() and not process.ended() and process.seconds == seconds
    process.give_turn()
    assert process.has_turn and not process.waits()
    until(process.ended)
    outcome = process.outcome()
    assert outcome.state == "done" and outcome.figures["turn"] and outcome.seconds >= seconds + 0.2


@pytest.mark.skipif(not CAN_PAUSE, reason="signals of POSIX")
def test_a_pause_does_not_count(start, tmp_path):
    process = start("steps", folder=str(tmp_path), name="times", prepare=0.5)
    until((tmp_path / "times").exists)
    process.pause()
    time.sleep(0.2)
    size, seconds = (tmp_path / "times").stat().st_size, process.seconds
    time.sleep(1)
    assert (tmp_path / "times").stat().st_size == size and process.seconds == seconds
    process.resume()
    until(process.waits)
    process.give_turn()
    until(process.ended)
    assert 1.2 <= process.outcome().figures["paused"] < 60


def test_a_paused_process_is_ended(start, tmp_path):
    process = start("hangs")
    until((tmp_path / "hangs" / "figures.json").exists)
    process.pause()
    assert all(_ends(process.outcome().figures[name]) for name in ("pid", "sleeper"))


def test_what_waits_ends_with_the_check(start):
    process = start("measured")
    until(process.waits)
    process._process.stdin.close()  # as the system does when the check's own process ends
    until(process.ended)
    outcome = process.outcome()
    assert outcome.state == "failed" and "turn" not in outcome.figures
    assert outcome.log[-1] == "the check has ended: there will be no turn"


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
