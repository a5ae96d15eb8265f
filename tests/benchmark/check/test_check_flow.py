import os
import signal
import subprocess
import sys
import time
from itertools import pairwise

import pytest

from nnunetv2_xattnres.benchmark.check import flow
from nnunetv2_xattnres.benchmark.check.flow import verdict
from nnunetv2_xattnres.benchmark.check.items import CORRECTNESS, NETWORKS, Item, items_for
from nnunetv2_xattnres.benchmark.check.room import Room

ONE, MANY = Room(1, 8), Room(4, 8)
RIGHT = CORRECTNESS[0]


def run_items(items, budget=60, room=MANY):
    """The rows by their names, in the order in which they came."""
    return {row.item.name: row for row in flow.run_items(items, budget, room)}


def item(name, function="good", **values):
    return Item(name, f"check_functions:{function}", **{"after": (), **values})


def measured(name, **values):
    after = values.pop("after", ())
    return item(name, "measured", arguments=values, after=after)


def states(rows):
    return {name: row.outcome.state for name, row in rows.items()}


@pytest.mark.parametrize("room", [ONE, MANY])
def test_the_rest_goes_on_after_an_item_that_fails_or_hangs(functions, capsys, room):
    items = [item("a", "fails"), item("b", "hangs", limit=2), item("c", "no_memory"), item("d", folders=True)]
    rows = run_items(items, room=room)
    assert states(rows) == {"a": "failed", "b": "too long", "c": "out of memory", "d": "done"}
    assert sorted(verdict(list(rows.values()))[0].removeprefix("FAILED: ").split(", ")) == [
        "a (failed)", "b (too long)"
    ]  # fmt: skip
    folder = rows["d"].outcome.figures["folder"]
    assert folder.endswith("nnUNet_raw") and not os.path.exists(folder)
    lines = [line.split("] ")[1] for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if line.endswith(": begins")][:4] == [f"{name}: begins" for name in "abcd"]
    assert any(line.startswith("a: failed: ValueError: the first line, ") for line in lines)
    assert any(line.startswith("d: done, ") for line in lines)


def test_each_is_measured_alone_in_the_order_of_importance(functions, tmp_path):
    """``b`` is prepared for longer than all others together, and is paused while they are measured."""
    files = {name: str(tmp_path / name) for name in "abcd"}
    items = [item(RIGHT, "until", arguments={"files": list(files.values())})]
    items += [measured(name, after=(RIGHT,), prepare=5 * (name == "b"), touch=file) for name, file in files.items()]
    rows = run_items(items, room=Room(9, 9))
    assert set(states(rows).values()) == {"done"} and list(rows) == [RIGHT, "a", "c", "d", "b"]
    turns = [row.outcome.figures["turn"] for name, row in rows.items() if name != RIGHT]
    assert all(end <= begin for (_, end), (begin, _) in pairwise(turns))
    assert all(rows[name].outcome.figures["prepared"][0] < turns[0][0] for name in files)  # side by side
    if flow.CAN_PAUSE:
        assert rows["b"].outcome.figures["paused"] >= 3 * 0.2


def test_nothing_computes_during_a_turn(functions, tmp_path):
    steps = item("steps", "steps", arguments={"folder": str(tmp_path), "name": "steps", "prepare": 2.0})
    begun = item(RIGHT, "until", arguments={"files": [str(tmp_path / "steps")]})
    rows = run_items([begun, measured("a", after=(RIGHT,), seconds=1.0), steps, item("late")], room=Room(3, 9))
    assert set(states(rows).values()) == {"done"}
    begin, end = rows["a"].outcome.figures["turn"]
    times = [float(line) for line in (tmp_path / "steps").read_text().split()]
    assert not [time for time in times if begin < time < end]
    if flow.CAN_PAUSE:
        assert min(times) < begin and max(times) > end


def test_where_nothing_can_be_paused_turns_wait_until_all_are_prepared(functions, monkeypatch):
    monkeypatch.setattr(flow, "CAN_PAUSE", False)
    rows = run_items([measured("a"), measured("b", prepare=2)])
    assert rows["a"].outcome.figures["turn"][0] >= rows["b"].outcome.figures["prepared"][1]


@pytest.mark.parametrize("room", [ONE, Room(4, 1), Room(4, 8, memory=11)])
def test_with_little_room_one_is_prepared_after_the_other(functions, room):
    items = [item(name, "measured", memory=6) for name in "abc"]
    rows = run_items(items, room=room)
    assert list(rows) == ["a", "b", "c"]
    times = [(row.outcome.figures["prepared"][0], row.outcome.figures["turn"][1]) for row in rows.values()]
    assert all(end <= begin for (_, end), (begin, _) in pairwise(times))


def test_a_death_while_others_are_prepared_is_its_own(functions):
    rows = run_items([item("quits", "quits"), measured("a", prepare=1), item("b", "fails"), measured("c")])
    assert states(rows) == {"quits": "failed", "a": "done", "b": "failed", "c": "done"}


def test_a_turn_that_does_not_end_is_ended(functions):
    rows = run_items([item("hangs", "hangs_in_its_turn", turn_limit=1), measured("a")])
    assert states(rows) == {"hangs": "too long", "a": "done"}
    assert rows["hangs"].outcome.message == "no end within 1 s of its turn: stopped"


@pytest.mark.parametrize(("fault", "state"), [("no_memory", "out of memory"), ("busy", "GPU is busy")])
def test_what_finds_no_room_beside_others_is_tried_alone(functions, tmp_path, capsys, fault, state):
    arguments = {"folder": str(tmp_path), "fault": fault}
    rows = run_items([item("big", "works_alone", arguments=arguments), measured("a"), measured("b")])
    assert states(rows) == {"big": "done", "a": "done", "b": "done"} and list(rows)[-1] == "big"
    assert rows["big"].outcome.figures["attempts"] == 2
    others = max(rows[name].outcome.figures["turn"][1] for name in "ab")
    assert rows["big"].outcome.figures["prepared"][0] > others
    assert f"big: {state} beside others; once more alone, at the end" in capsys.readouterr().out


def test_what_finds_no_room_alone_is_not_tried_again(functions, tmp_path):
    arguments = {"folder": str(tmp_path), "fault": "no_memory"}
    rows = run_items([item("big", "works_alone", arguments=arguments), measured("a")], room=ONE)
    assert states(rows) == {"big": "out of memory", "a": "done"}
    rows = run_items([item("too big", "no_memory"), measured("a")])
    assert states(rows) == {"a": "done", "too big": "out of memory"}


def test_those_that_wait_for_a_second_attempt_make_room_for_it(functions, tmp_path, capsys):
    first = item(RIGHT, "works_alone", arguments={"folder": str(tmp_path), "fault": "no_memory"})
    rows = run_items([first, measured("a", after=(RIGHT,)), measured("b", after=(RIGHT,))])
    assert states(rows) == {RIGHT: "done", "a": "done", "b": "done"} and next(iter(rows)) == RIGHT
    out = capsys.readouterr().out
    assert all(out.count(f"{name}: begins") == 2 for name in rows)


def test_what_does_not_fit_is_no_fault(functions):
    rows = run_items([item("a"), item("b", "no_memory")])
    assert verdict(list(rows.values())) == (
        "1 of 2 items are done, and none is wrong. The others say why they are not.", 0
    )  # fmt: skip
    rows = run_items([item(RIGHT, "no_memory")])
    assert verdict(list(rows.values()))[1] == 1  # nothing is known then


@pytest.mark.parametrize(("function", "message", "room"), [
    ("broken_kernel", "the first: float32, contiguous, 2D, pixels of zero: output is off by 1.0e-03", MANY),
    ("wrong", "a loss is not a finite number", ONE),
])  # fmt: skip
def test_nothing_is_timed_that_is_wrong(functions, function, message, room):
    items = [item(RIGHT, function), measured("a", after=(RIGHT,)), measured("slow", after=(RIGHT,), prepare=60)]
    rows = run_items([*items, item("b")], room=room)
    assert states(rows) == {RIGHT: "wrong", "a": "not measured", "slow": "not measured", "b": "done"}
    assert message in rows[RIGHT].outcome.message
    for name in ("a", "slow"):
        message = f"{RIGHT} is: wrong; only what is known to be right is timed"
        assert rows[name].outcome.message == message and not rows[name].outcome.figures
    assert verdict(list(rows.values()))[1] == 1


def test_what_needs_another_begins_after_it(functions):
    rows = run_items([item("late", begins_after=("first",)), measured("first", prepare=1)])
    assert list(rows) == ["first", "late"]
    rows = run_items([item("first", "fails"), item("late", begins_after=("first",))])
    assert rows["late"].outcome.message == "first is: failed"


@pytest.mark.parametrize("room", [ONE, MANY])
def test_the_time_is_kept(functions, room):
    rows = run_items([item("a"), item("late", needs=100), item("short"), item("cut", "hangs")], 5, room)
    assert states(rows) == {"a": "done", "late": "not measured", "short": "done", "cut": "not measured"}
    assert "time is up (" in rows["late"].outcome.message and "100 s needed" in rows["late"].outcome.message
    assert "time is up: stopped after" in rows["cut"].outcome.message
    assert verdict(list(rows.values()))[1] == 0


def test_time_is_up_while_items_are_prepared_and_wait(functions, tmp_path):
    touch = str(tmp_path / "ready")
    begun = item(RIGHT, "until", arguments={"files": [touch]})
    hangs = item("hangs", "hangs_in_its_turn", after=(RIGHT,))
    items = [begun, hangs, measured("ready", after=(RIGHT,), touch=touch), measured("slow", prepare=60)]
    rows = run_items(items, 6, Room(4, 4))
    assert states(rows) == {RIGHT: "done", "hangs": "not measured", "ready": "not measured", "slow": "not measured"}
    assert "time is up: ready, but without its turn, after" in rows["ready"].outcome.message
    for name in ("hangs", "slow"):
        assert "time is up: stopped after" in rows[name].outcome.message
    for name in ("ready", "slow"):
        with pytest.raises(ProcessLookupError):
            os.kill(rows[name].outcome.figures["pid"], 0)


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="signals of POSIX")
def test_a_stop_ends_all_processes(functions, tmp_path):
    code = (
        "from nnunetv2_xattnres.benchmark.check.flow import run_items\n"
        "from nnunetv2_xattnres.benchmark.check.items import Item\n"
        "from nnunetv2_xattnres.benchmark.check.room import Room\n"
        "names = 'hangs', 'measured', 'hangs_in_its_turn'\n"
        "list(run_items([Item(name, f'check_functions:{name}', after=()) for name in names], 60, Room(3, 3)))"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    figures = None
    for _ in range(600):
        # the last one's, which has its turn: the first one may be paused before it has written any
        figures = next(tmp_path.glob("*/2/figures.json"), None)
        if figures:
            break
        time.sleep(0.05)
    assert figures
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) != 0
    assert not list(tmp_path.iterdir())  # the running process was ended first: it would still write there


def test_the_items_on_a_gpu_fit_the_time():
    items = items_for("cuda", None, places=8)
    names = [item.name for item in items]
    assert tuple(names[: len(CORRECTNESS)]) == CORRECTNESS and len(set(names)) == len(names)
    assert names.index("clinicdb-2d compiled") < names.index("nnUNetTrainer") < names.index("volume-3d eager")
    for network in NETWORKS:
        assert {f"{network} compiled", f"{network} eager", f"{network} compiled inference"} <= set(names)
    assert all(item.after == CORRECTNESS for item in items[len(CORRECTNESS) :])
    assert all(item.memory for item in items if item.name != "phantom")
    assert [item.name for item in items_for("cpu", "cuda")] == names


def test_one_after_the_other_the_comparisons_leave_time_for_the_rest():
    assert sum(item.arguments["seconds"] for item in items_for("cuda", None, places=1)[: len(CORRECTNESS)]) == 75
