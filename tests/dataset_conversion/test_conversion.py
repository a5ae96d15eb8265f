"""What holds for every data set: whole or nothing, the same bytes, splits without overlap, the command line."""

import errno
import json
import os
import runpy
import signal
import subprocess
import sys
import time

import dataset_phantoms as phantoms
import numpy as np
import pytest
from dataset_phantoms import save, snapshot
from PIL import Image

from nnunetv2_xattnres.cli import main
from nnunetv2_xattnres.dataset_conversion import images, pictures, synapse
from nnunetv2_xattnres.dataset_conversion.clinicdb import ClinicDB
from nnunetv2_xattnres.dataset_conversion.colondb import ColonDB
from nnunetv2_xattnres.dataset_conversion.isic2017 import ISIC2017
from nnunetv2_xattnres.dataset_conversion.synapse import Synapse
from nnunetv2_xattnres.errors import InputError

SETS = {
    "clinicdb": (ClinicDB, phantoms.clinicdb, 20),
    "colondb": (ColonDB, phantoms.colondb_png, 20),
    "colondb_original": (ColonDB, phantoms.colondb_original, 20),
    "isic2017": (ISIC2017, phantoms.isic2017, 17),
    "synapse": (Synapse, phantoms.synapse, 30),
}
each_set = pytest.mark.parametrize(("dataset", "build", "cases"), SETS.values(), ids=SETS)


def load(path):
    return json.loads(path.read_text(encoding="utf-8"))


@each_set
def test_hidden_files_of_macos_change_nothing(tmp_path, dataset, build, cases):
    source = build(tmp_path / "source")
    first = dataset().convert(source, raw=tmp_path / "a").folder
    for path in list(source.rglob("*")):
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07")
    assert snapshot(dataset().convert(source, raw=tmp_path / "b").folder) == snapshot(first)


@each_set
def test_layout_is_nnunets(tmp_path, dataset, build, cases):
    folder = dataset().convert(build(tmp_path / "source"), raw=tmp_path / "raw").folder
    description = load(folder / "dataset.json")
    ending = description["file_ending"]
    labels = {part: {path.name for path in (folder / f"labels{part}").iterdir()} for part in ("Tr", "Ts")}
    for part, names in labels.items():
        assert {path.name for path in (folder / f"images{part}").iterdir()} == {
            name.replace(ending, f"_0000{ending}") for name in names
        }
    assert description["numTraining"] == len(labels["Tr"])
    assert len(labels["Tr"]) + len(labels["Ts"]) == cases
    assert sorted(description["labels"].values()) == list(range(len(description["labels"])))
    assert description["licence"] == dataset.licence
    assert description["citation"] == dataset.citation
    assert set(load(folder / "cases.json")) == {
        name.removesuffix(ending) for names in labels.values() for name in names
    }


@each_set
def test_folds_and_test_set_do_not_overlap(tmp_path, dataset, build, cases):
    split = dataset().convert(build(tmp_path / "source"), raw=tmp_path / "raw").split
    assert not set(split.training) & set(split.test)
    for fold in split.folds:
        assert not set(fold["train"]) & set(fold["val"])
        assert sorted(fold["train"] + fold["val"]) == split.training


@each_set
def test_the_same_bytes_again(tmp_path, dataset, build, cases):
    source = build(tmp_path / "source")
    first = snapshot(dataset().convert(source, raw=tmp_path / "first", workers=3).folder)
    time.sleep(1.1)  # gzip stores whole seconds
    assert snapshot(dataset().convert(source, raw=tmp_path / "second", workers=1).folder) == first


@pytest.mark.parametrize("dataset", [ClinicDB, ColonDB, Synapse])
def test_another_seed_another_split(tmp_path, dataset):
    build = {ClinicDB: phantoms.clinicdb, ColonDB: phantoms.colondb_png, Synapse: phantoms.synapse}[dataset]
    source = build(tmp_path / "source")
    folds = [dataset(seed=seed).convert(source, raw=tmp_path / str(seed)).split.folds for seed in (0, 1)]
    assert folds[0] != folds[1]


def test_nothing_is_overwritten_unless_asked(tmp_path):
    source = phantoms.clinicdb(tmp_path / "source")
    folder = ClinicDB().convert(source, raw=tmp_path / "raw").folder
    (folder / "mine.txt").write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match="exists already; --overwrite"):
        ClinicDB(seed=1).convert(source, raw=tmp_path / "raw")
    assert snapshot(tmp_path) == before
    ClinicDB(seed=1).convert(source, raw=tmp_path / "raw", overwrite=True)
    assert snapshot(folder) == snapshot(ClinicDB(seed=1).convert(source, raw=tmp_path / "other").folder)
    assert [path.name for path in (tmp_path / "raw").iterdir()] == [folder.name]


def test_what_appears_during_the_conversion_stays(tmp_path):
    """Two jobs with one number, or a folder of the user's."""
    theirs = tmp_path / "raw" / "Dataset501_CVCClinicDB" / "mine.txt"

    class Overtaken(ClinicDB):
        def write(self, case, image, mask):
            super().write(case, image, mask)
            theirs.parent.mkdir(exist_ok=True)
            theirs.write_text("mine")

    with pytest.raises(InputError, match="was written by something else meanwhile"):
        Overtaken().convert(phantoms.clinicdb(tmp_path / "source"), raw=tmp_path / "raw", workers=1)
    assert [path for path in (tmp_path / "raw").rglob("*") if path.is_file()] == [theirs]


@each_set
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=str)
def test_full_disk_or_interrupt_half_way_leaves_what_was_there(tmp_path, monkeypatch, dataset, build, cases, error):
    source = build(tmp_path / "source")
    dataset().convert(source, raw=tmp_path / "raw")
    before = snapshot(tmp_path)
    calls = []

    def fails_late(*args):
        calls.append(args)
        if len(calls) > 9:
            raise error
        return real(*args)

    place, name = (synapse.shutil, "copyfile") if dataset is Synapse else (pictures, "write_png")
    real = getattr(place, name)
    monkeypatch.setattr(place, name, fails_late)
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else InputError
    for overwrite, number in ((True, None), (False, 77)):
        with pytest.raises(expected) as caught:
            dataset().convert(source, raw=tmp_path / "raw", overwrite=overwrite, dataset_id=number)
        assert snapshot(tmp_path) == before
        assert len(list((tmp_path / "raw").iterdir())) == 1
        if expected is InputError:
            assert "No space left on device" in str(caught.value)
            assert "larger disk" in str(caught.value)


def test_a_write_that_the_system_refuses(tmp_path):
    """A real error of the operating system, half-way through a real file."""
    source = phantoms.clinicdb(tmp_path / "source")
    code = (
        "import resource, sys; from nnunetv2_xattnres.cli import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "convert", "clinicdb", str(source)],
        env={**os.environ, "nnUNet_raw": str(tmp_path / "raw")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "nothing was kept" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "raw").iterdir()) == []


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_control_c_leaves_nothing_behind(tmp_path, sent, code):
    source = tmp_path / "source"
    for number in range(1, 25):
        save(source / "Original" / f"{number}.png", phantoms.picture(number, (300, 400)))
        save(source / "Ground Truth" / f"{number}.png", phantoms.mask(number, (300, 400)))
    raw = tmp_path / "raw"
    # a shell starts background jobs with SIGINT ignored, nohup with SIGHUP, and so may whatever runs the tests
    start = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "signal.signal(signal.SIGHUP, signal.SIG_DFL); "
        "from nnunetv2_xattnres.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", start, "convert", "clinicdb", str(source), "--workers", "1"],
        env={**os.environ, "nnUNet_raw": str(raw)},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(raw.glob(".*/imagesTr/*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert list(raw.iterdir()) == []


def test_earlier_preprocessing_is_mentioned(tmp_path, monkeypatch):
    source = phantoms.clinicdb(tmp_path / "source")
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    assert "earlier conversion" not in str(ClinicDB().convert(source, raw=tmp_path / "raw"))
    (tmp_path / "preprocessed" / "Dataset501_CVCClinicDB").mkdir(parents=True)
    assert "earlier conversion" in str(ClinicDB().convert(source, raw=tmp_path / "raw", overwrite=True))


@pytest.mark.parametrize("dataset", [ClinicDB, ColonDB, ISIC2017])
def test_size(tmp_path, dataset):
    build = next(build for kind, build, _ in SETS.values() if kind is dataset)
    folder = dataset(size=(16, 40)).convert(build(tmp_path / "source"), raw=tmp_path / "raw").folder
    for path in folder.glob("*/*.png"):
        pixels = np.asarray(Image.open(path))
        assert pixels.shape[:2] == (16, 40)
        if path.parent.name.startswith("labels"):
            assert set(np.unique(pixels)) == {0, 1}


def test_resizing_keeps_image_and_mask_aligned(tmp_path):
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[12:28, 18:42] = 255
    for number in (1, 2, 3):
        save(tmp_path / "source" / "Original" / f"{number}.png", pixels)
        save(tmp_path / "source" / "Ground Truth" / f"{number}.png", pixels)
    folder = ClinicDB(size=(20, 30)).convert(tmp_path / "source", raw=tmp_path / "raw").folder
    for path in (folder / "imagesTr").iterdir():
        label = np.asarray(Image.open(folder / "labelsTr" / path.name.replace("_0000", "")))
        assert np.array_equal(np.asarray(Image.open(path))[..., 0] > 127, label == 1)
        assert label.sum() == 8 * 12


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")  # the modules are imported above
@each_set
def test_command_line(tmp_path, monkeypatch, capsys, dataset, build, cases):
    source = build(tmp_path / "source")
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    assert main(["convert", dataset.key, str(source), "--dataset-id", "42"]) == 0
    output = capsys.readouterr().out
    name = f"Dataset042_{dataset.folder}"
    assert name in output
    assert f"nnUNetv2_plan_and_preprocess -d 42 -c {dataset.configuration} --verify_dataset_integrity" in output
    assert (tmp_path / "raw" / name / "dataset.json").is_file()

    monkeypatch.setattr(sys, "argv", ["", str(source), "--dataset-id", "43"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"nnunetv2_xattnres.dataset_conversion.{dataset.key}", run_name="__main__")
    assert ended.value.code == 0
    assert snapshot(tmp_path / "raw" / name) == snapshot(tmp_path / "raw" / name.replace("042", "043"))


def test_without_nnunet_raw(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    assert main(["convert", "clinicdb", str(phantoms.clinicdb(tmp_path))]) == 2
    assert "export nnUNet_raw=" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset-id", "1000"], "1 to 999"),
        (["--dataset-id", "9"], "the number 009 belongs to another data set"),
        (["--size", "0", "10"], "at least 1 pixel"),
        (["--size", "99999999999", "10"], "refuses more than 178956970 pixels: choose a smaller size"),
        (["--size", "100000", "100000"], "refuses more than 178956970 pixels: choose a smaller size"),
        (["--split", "file"], "needs --train"),
        (["--train", "x.txt"], "go with --split file"),
        (["--workers", "0"], "at least 1"),
    ],
)
def test_options_that_cannot_be(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    (tmp_path / "results" / "Dataset009_Other").mkdir(parents=True)
    assert main(["convert", "clinicdb", str(phantoms.clinicdb(tmp_path / "source")), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "raw").exists()


def test_sizes_are_bounded_by_nnunets_reader_and_by_the_memory(monkeypatch):
    assert 2 * Image.MAX_IMAGE_PIXELS == images.MOST_PIXELS  # PIL raises an error above twice its own number
    memory = 4e9
    monkeypatch.setattr("nnunetv2_xattnres.reading.memory_bytes", lambda: memory)
    ClinicDB(size=(13000, 13000))
    memory = 1e9
    with pytest.raises(InputError, match="--size 13000 13000: it unpacks to 2 GB, and this machine has 1 GB of memory"):
        ClinicDB(size=(13000, 13000))


def killed_between_the_renames(source, raw):
    """What is left of ``convert --overwrite`` after SIGKILL between its two renames; the old data set has ``mine``."""
    folder = ClinicDB().convert(source, raw=raw).folder
    (folder / "mine.txt").write_text("mine")
    code = f"""
import os, pathlib
from nnunetv2_xattnres.dataset_conversion.clinicdb import ClinicDB
real, calls = pathlib.Path.rename, []
def rename(self, target):
    calls.append(self)
    if len(calls) == 2:
        os._exit(9)
    return real(self, target)
pathlib.Path.rename = rename
ClinicDB().convert({str(source)!r}, raw={str(raw)!r}, overwrite=True)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert not folder.exists()
    return folder


def test_a_killed_replacement_is_brought_back_by_the_next_start(tmp_path, monkeypatch, capsys):
    source, raw = phantoms.clinicdb(tmp_path / "source"), tmp_path / "raw"
    monkeypatch.setenv("nnUNet_raw", str(raw))
    folder = killed_between_the_renames(source, raw)
    assert main(["inspect", "501", "--cases", "0"]) == 0
    assert "was brought back" in capsys.readouterr().err
    assert (folder / "mine.txt").read_text() == "mine"
    assert not list(raw.glob("*former*"))

    aside = raw / f".{folder.name}.former.abc"
    aside.mkdir()
    folder.rename(aside / folder.name)
    with pytest.raises(InputError, match="exists already; --overwrite"):
        ClinicDB().convert(source, raw=raw)
    assert (folder / "mine.txt").read_text() == "mine"


def test_a_former_data_set_whose_place_is_taken_is_named_and_kept(tmp_path):
    source, raw = phantoms.clinicdb(tmp_path / "source"), tmp_path / "raw"
    folder = ClinicDB().convert(source, raw=raw).folder
    aside = raw / f".{folder.name}.former.abc" / folder.name
    aside.mkdir(parents=True)
    (aside / "mine.txt").write_text("mine")
    assert f"{aside} is a former data set" in str(ClinicDB().convert(source, raw=raw, overwrite=True))
    assert (aside / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("failing", [(2,), (2, 3)], ids=["replacing", "replacing and restoring"])
def test_where_replacing_fails_the_old_data_set_is_kept(tmp_path, monkeypatch, failing):
    source, raw = phantoms.clinicdb(tmp_path / "source"), tmp_path / "raw"
    folder = ClinicDB().convert(source, raw=raw).folder
    before = snapshot(folder)
    real, calls = type(raw).rename, []

    def rename(self, target):
        calls.append(self)
        if len(calls) in failing:
            raise OSError(errno.EIO, "Input/output error", str(self))
        return real(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(type(raw), "rename", rename)
        with pytest.raises(InputError, match="Input/output error") as caught:
            ClinicDB().convert(source, raw=raw, overwrite=True)
    assert ("brings it back" in str(caught.value)) == (failing == (2, 3))
    with pytest.raises(InputError, match="exists already"):
        ClinicDB().convert(source, raw=raw)
    assert snapshot(folder) == before
    assert [path.name for path in raw.iterdir()] == [folder.name]


def test_two_data_sets_with_one_number_at_once(tmp_path):
    """The number is free when both start: whoever is second finds out before its data set appears."""
    raw = tmp_path / "raw"
    colon = phantoms.colondb_png(tmp_path / "colon")

    class Overtaken(ClinicDB):
        def _write_descriptions(self, *args):
            super()._write_descriptions(*args)
            ColonDB().convert(colon, raw=raw, dataset_id=600)

    with pytest.raises(InputError, match="belongs to another data set"):
        Overtaken().convert(phantoms.clinicdb(tmp_path / "source"), raw=raw, dataset_id=600)
    assert [path.name for path in raw.iterdir()] == ["Dataset600_CVCColonDB"]


@each_set
@pytest.mark.parametrize("place", ["", "download"])
def test_a_source_in_the_folder_to_write_is_never_replaced(tmp_path, dataset, build, cases, place):
    target = tmp_path / "raw" / f"Dataset{dataset.dataset_id:03d}_{dataset.folder}"
    source = build(target / place)
    before = snapshot(target)
    with pytest.raises(InputError, match=r"lies in .*, the folder to write: move it"):
        dataset().convert(source, raw=tmp_path / "raw", overwrite=True)
    assert snapshot(target) == before


def test_a_home_folder_of_nobody_is_one_message(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    assert main(["convert", "clinicdb", "~nobody-of-this-name/x"]) == 2
    assert "there is no user of that name" in capsys.readouterr().err
