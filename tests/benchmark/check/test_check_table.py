from nnunetv2_xattnres.benchmark.check.flow import Row
from nnunetv2_xattnres.benchmark.check.items import items_for
from nnunetv2_xattnres.benchmark.check.process import Outcome
from nnunetv2_xattnres.benchmark.check.table import tables

MACHINE = "NVIDIA H100 80GB HBM3 (sm_90, 80 GiB), CUDA 12.8, 16 CPU cores; torch 2.11.0, Triton 3.6.0"
HALF = {
    "machine": MACHINE,
    "no_triton": "",
    "compared": 9,
    "of": 9,
    "worst": {"dtype": "float16", "error": 1.4e-3, "bound": 2e-3, "where": "3D, contiguous: output"},
    "wrong": [],
    "forms": {"Triton": 36},
}  # fmt: skip
SINGLE = {
    **HALF,
    "compared": 6,
    "of": 7,
    "worst": {"dtype": "float32", "error": "inf", "bound": 1e-5, "where": "2D, contiguous: gradient of query"},
    "wrong": ["float32, contiguous, 2D: gradient of query is off by inf"],
    "forms": {"Triton": 20, "plain torch": 4},
}  # fmt: skip
EAGER = {
    "first": {"base": 1.2, "ours": 3.4},
    "step": {"base": 0.0519, "ours": 0.121, "ratio": 2.33},
    "inference": {"base": 0.0165, "ours": 0.0189, "ratio": 1.149},
    "memory": {"base": 4.77 * 2**30, "ours": 5.67 * 2**30},
    "forms": {"Triton": 26},
    "bandwidth": {"as it lies": {"forward": 1.75e12, "copy": 2.92e12},
                  "channels_last": {"forward": 2.05e12, "copy": 2.92e12}},
}  # fmt: skip
COMPILED = {
    "first": {"base": 29.5, "ours": 40.0},
    "step": {"base": 0.0366, "ours": 0.042, "ratio": 1.147},
    "memory": {"base": 1 * 2**30, "ours": 1.25 * 2**30},
}


def rows(device="cuda", **outcomes):
    found = {item.name: item for item in items_for(device, None)}
    names = {
        "half": "correctness float16",
        "single": "correctness float32",
        "eager": "clinicdb-2d eager",
        "compiled": "clinicdb-2d compiled",
        "volume": "volume-3d compiled",
    }
    return [Row(found[names.get(name, name)], outcome) for name, outcome in outcomes.items()]


def done(**figures):
    return Outcome("done", figures=figures)


def test_figures_stand_beside_their_bounds():
    single = Outcome("wrong", "1 tensors are beyond their bound", figures=SINGLE)
    text = tables(rows(half=done(**HALF), single=single, compiled=done(**COMPILED), eager=done(**EAGER)))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert "NVIDIA H100 80GB HBM3 (sm_90, 80 GiB), CUDA 12.8, 16 CPU cores" in lines
    assert "    float16   1.4e-03   bound 2.0e-03" in lines
    assert "    float32   inf   bound 1.0e-05   WRONG" in lines
    assert "    15 of 16 comparisons made; 1 tensors are wrong" in lines
    assert "    computed by Triton in 56 of 60 calls, plain torch in 4 of 60 calls" in lines
    assert lines.index("    wrong: 1 tensors are beyond their bound") == lines.index("    correctness float32") + 1
    compiled, eager = text.index("clinicdb-2d compiled: "), text.index("clinicdb-2d eager: ")
    assert "ABOVE THE BOUND: memory 1.25x (bound 1.20x)\n" in text[compiled:eager]
    assert "\n* with compiling and tuning, while other items may compile too; all else is measured alone" in text
    assert "40.0 s   1.36x" in text[compiled:eager]  # what compiling costs
    assert "121.0 ms   2.33x" in text[eager:] and "5.67 GiB   1.19x" in text[eager:] and "3.4 s\n" in text[eager:]
    assert text.count("ABOVE THE BOUND: step 2.33x (bound 1.30x)") == 1 and "inference 1.15x (bound" not in text
    assert "as it lies 1750 GB/s, 60% of a copy's 2920 GB/s, BELOW 70%" in text
    assert "channels_last 2050 GB/s, 70% of a copy's 2920 GB/s\n" in text


def test_what_has_no_figures_says_why():
    text = tables(rows(
        eager=Outcome("failed", "RuntimeError: no kernel image", figures={"first": {"base": 1.0}}, log=["a line"] * 9),
        compiled=Outcome("too long", "no end within 180 s: stopped"),
        volume=Outcome("not measured", "time is up (34 s left, 75 s needed): give more --minutes"),
    ))  # fmt: skip
    lines = text.splitlines()
    assert "    failed: RuntimeError: no kernel image" in lines and lines.count("      | a line") == 6
    assert "    too long: no end within 180 s: stopped" in lines
    assert "    not measured: time is up (34 s left, 75 s needed): give more --minutes" in lines
    assert any(line.split() == ["base", "-", "-", "-", "1.0", "s"] for line in lines)


def test_trainings_stand_beside_each_other():
    base = done(epochs=[31.0, 4.0], losses=[0.5, 0.25], validation=[0.4, 0.3])
    ours = done(epochs=[43.0, 4.6], losses=[0.6, 0.3], validation=[0.4, 0.3], forms={"Triton": 900})
    lines = tables(
        rows(phantom=done(shape=[12, 3, 128, 128]), nnUNetTrainer=base, nnUNetTrainer_XAttnRes=ours)
    ).splitlines()
    assert lines.pop() == "        readers computed by Triton in 900 of 900 calls"
    assert lines[-3] == "batches of 12x3x128x128; the first epoch compiles, while other items may compile too"
    assert lines[-2].split() == ["nnUNetTrainer", "31.0", "s", "4.0", "s", "0.500", "to", "0.250"]
    assert lines[-1].split() == ["nnUNetTrainer_XAttnRes", "43.0", "s", "4.6", "s", "1.15x", "0.600", "to", "0.300"]
    failed = Outcome("not measured", "phantom is: failed")
    text = tables(rows(phantom=Outcome("failed", "OSError: disk"), nnUNetTrainer=failed))
    assert "    failed: OSError: disk" in text and text.endswith("    not measured: phantom is: failed")


def test_a_processor_has_no_bounds():
    text = tables(rows("cpu", eager=done(**EAGER)))
    assert "2.33x" in text and "ABOVE" not in text and "BELOW" not in text


def test_the_form_that_ran_is_named():
    missing = {**HALF, "no_triton": "No module named 'triton'", "forms": {"plain torch": 88}}
    text = tables(rows(half=done(**missing)))
    assert "computed by plain torch in 88 of 88 calls (Triton cannot be used: No module named 'triton')" in text
    assert "computed by another form" in tables(rows(half=done(**{**HALF, "forms": {}})))
