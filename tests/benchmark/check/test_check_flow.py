import os
import signal
import subprocess
import sys
import time

import pytest

from nnunetv2_xattnres.benchmark.check import flow
from nnunetv2_xattnres.benchmark.check.flow import verdict
from nnunetv2_xattnres.benchmark.check.items import CORRECTNESS, NETWORKS, Item, items_for


def run_items(items, budget):
    return list(flow.run_items(items, budget))


def item(name, function="good", **values):
    return Item(name, f"check_functions:{function}", **{"after": (), **values})


def states(rows):
    return {row.item.name: row.outcome.state for row in rows}


def test_the_rest_goes_on_after_an_item_that_fails_or_hangs(functions, capsys):
    rows = run_items(
        [item("a", "fails"), item("b", "hangs", limit=2), item("c", "no_memory"), item("d", folders=True)], 60
    )
    assert states(rows) == {"a": "failed", "b": "too long", "c": "out of memory", "d": "done"}
    assert verdict(rows) == ("FAILED: a (failed), b (too long)", 1)
    assert rows[3].outcome.figures["folder"].endswith("nnUNet_raw")
    assert not os.path.exists(rows[3].outcome.figures["folder"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("] ")[1].split(" … ")[0] for line in lines] == ["a", "b", "c", "d"]
    assert "failed: ValueError: the first line, " in lines[0] and "done, " in lines[3]


def test_what_does_not_fit_is_no_fault(functions):
    rows = run_items([item("a"), item("b", "no_memory")], 60)
    assert verdict(rows) == ("1 of 2 items are done, and none is wrong. The others say why they are not.", 0)
    rows = run_items([item(CORRECTNESS, "no_memory")], 60)
    assert verdict(rows)[1] == 1  # nothing is known then


def test_nothing_is_timed_that_is_wrong(functions):
    rows = run_items([item(CORRECTNESS, "broken_kernel"), Item("a", "check_functions:good"), item("b")], 60)
    assert states(rows) == {CORRECTNESS: "wrong", "a": "not measured", "b": "done"}
    assert "the first: float32, contiguous, 2D, pixels of zero: output is off by 1.0e-03" in rows[0].outcome.message
    assert "correctness is: wrong; only what is known to be right is timed" in rows[1].outcome.message
    assert verdict(rows)[1] == 1


def test_the_time_is_kept(functions):
    rows = run_items([item("a"), item("late", needs=100), item("short"), item("cut", "hangs")], 8)
    assert states(rows) == {"a": "done", "late": "not measured", "short": "done", "cut": "not measured"}
    assert "time is up (" in rows[1].outcome.message and "100 s needed" in rows[1].outcome.message
    assert "time is up: stopped after" in rows[3].outcome.message
    assert verdict(rows)[1] == 0


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="signals of POSIX")
def test_a_stop_ends_the_running_item(functions, tmp_path):
    code = (
        "from nnunetv2_xattnres.benchmark.check.flow import run_items\n"
        "from nnunetv2_xattnres.benchmark.check.items import Item\n"
        "list(run_items([Item('a', 'check_functions:hangs', after=())], 60))"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    figures = None
    for _ in range(600):
        figures = next(tmp_path.glob("*/0/figures.json"), None)
        if figures:
            break
        time.sleep(0.05)
    assert figures
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) != 0
    assert not list(tmp_path.iterdir())  # the running process was ended first: it would still write there


def test_the_items_on_a_gpu_fit_the_time():
    items = items_for("cuda", None)
    assert items[0].name == CORRECTNESS and len({item.name for item in items}) == len(items)
    names = [item.name for item in items]
    assert names.index("clinicdb-2d compiled") < names.index("nnUNetTrainer") < names.index("volume-3d eager")
    for network in NETWORKS:
        assert {f"{network} compiled", f"{network} eager", f"{network} compiled inference"} <= set(names)
    assert all(CORRECTNESS in item.after for item in items[1:])
    assert [item.name for item in items_for("cpu", "cuda")] == names
