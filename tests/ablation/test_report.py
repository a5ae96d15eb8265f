"""The report of a study: the page, the numbers in it, incomplete studies, and what it refuses."""

import csv
import errno
import json
import os
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from report_study import SKIP, make_study, write_log
from skimage import io

from nnunetv2_xattnres.ablation.observe import observe
from nnunetv2_xattnres.ablation.report import statistics, tables, write_report
from nnunetv2_xattnres.ablation.report.figures import bar_figures, read_curve
from nnunetv2_xattnres.ablation.report.panels import choose_cases, make_panels
from nnunetv2_xattnres.ablation.report.results import load_results
from nnunetv2_xattnres.ablation.report.tables import all_tables
from nnunetv2_xattnres.ablation.study import Study
from nnunetv2_xattnres.cli import main
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.evaluation.files import read_scores, write_scores
from nnunetv2_xattnres.evaluation.scores import METRICS, evaluate_folders


class Page(HTMLParser):
    """What a browser would load and show."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.identifiers, self.links, self.tags, self.words = [], [], [], [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "srcset", "data") or (tag == "link" and name == "href"):
                self.loaded.append(value)
            if name == "id":
                self.identifiers.append(value)
            if name.endswith("href") and tag != "link":
                self.links.append(value)

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("complete"))


@pytest.fixture
def changing(study, tmp_path):
    """A copy of the study to break."""
    return shutil.copytree(study, tmp_path / "study", ignore=shutil.ignore_patterns("report"))


@pytest.fixture(scope="module")
def page(study):
    path = write_report(study)
    assert path == study / "report" / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def test_page_needs_nothing_else(page, study):
    """Opened from a stick, offline: everything is inside, and every link leads somewhere."""
    assert page.loaded
    assert all(source.startswith("data:image/") for source in page.loaded)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "url(http" not in (study / "report" / "report.html").read_text(encoding="utf-8")
    assert len(set(page.identifiers)) == len(page.identifiers)
    assert all(link[0] == "#" and link[1:] in page.identifiers for link in page.links)


def test_page_says_what_was_run(page):
    for words in (
        "8 of 8 cells complete · 2 seeds · fold 0 · 6 cases",
        "nnunetv2 2.8.1",
        "nnUNetTrainer_XAttnRes",
        "0.80 hours in all",
        "the test images (imagesTs)",
        "XATTNRES_SEED=1 nnUNetv2_train Dataset011_ClinicDB 2d_both 0",
        "Two seeds give only a rough idea",
        "The axis starts at",
    ):
        assert words in page.text
    assert "not complete" not in page.text


def test_files(page, study):
    report = study / "report"
    assert {path.name for path in report.iterdir()} == {
        "report.html", "report.md", "cases.csv", "configurations.csv", "differences.csv", "figures",
    }  # fmt: skip
    text = (report / "report.md").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("!["):
            assert (report / line.split("(")[1].rstrip(")")).is_file()
    assert text.count("![") == len(list((report / "figures").iterdir()))
    for path in (report / "figures").glob("*.svg"):
        assert path.read_text(encoding="utf-8").startswith("<?xml")


def test_numbers_are_those_of_the_scores(page, study):
    found = [read_scores(study / "cells" / f"2d_both__fold0__seed{seed}" / "scores.json") for seed in (0, 1)]
    values = [scores["mean"]["dice"] for scores in found]
    rows = list(csv.DictReader((study / "report" / "configurations.csv").open()))
    row = next(row for row in rows if (row["configuration"], row["class"]) == ("2d_both", "mean"))
    assert float(row["dice_mean"]) == pytest.approx(np.mean(values))
    assert float(row["dice_sd"]) == pytest.approx(np.std(values, ddof=1))
    assert f"{100 * np.mean(values):.2f} ± {100 * np.std(values, ddof=1):.2f}" in page.text
    cases = list(csv.DictReader((study / "report" / "cases.csv").open()))
    assert len(cases) == 4 * 2 * 6  # configurations, seeds, cases
    difference = next(
        row
        for row in csv.DictReader((study / "report" / "differences.csv").open())
        if (row["configuration"], row["metric"]) == ("2d_both", "dice")
    )
    base = [read_scores(study / "cells" / f"2d_baseline__fold0__seed{seed}" / "scores.json") for seed in (0, 1)]
    expected = np.mean(values) - np.mean([scores["mean"]["dice"] for scores in base])
    assert float(difference["difference"]) == pytest.approx(expected)


def test_every_configuration_is_pictured(page, study):
    results = load_results(study)
    panels, problems = make_panels(results)
    assert problems == []
    assert len(panels) == 4
    assert [tile.title for tile in panels[0].tiles] == ["image", "reference", "baseline", "no skip", "replace", "both"]
    image, reference, prediction = (panels[0].tiles[index].image.astype(int) for index in (0, 1, 3))
    assert image.shape == reference.shape == prediction.shape == (180, 240, 3)
    assert (np.abs(image - reference).sum(axis=-1) > 0).mean() == pytest.approx(0.1, abs=0.09)
    assert (prediction != reference).any()


def test_the_dice_below_a_picture_is_that_of_the_picture(tmp_path, monkeypatch):
    """Two folds predict the same test set: pictured is one of them, and not their mean."""
    folder = make_study(tmp_path, folds=(0, 1), seeds=(0,))
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    panel = make_panels(load_results(folder))[0][0]
    rows = read_scores(folder / "cells" / "2d_baseline__fold0__seed0" / "scores.json")["cases"]
    (dice,) = (row["dice"] for row in rows if row["case"] == panel.case)
    assert panel.tiles[2].caption == f"{100 * dice:.1f}"


def test_pictured_cases_are_spread_over_the_scores(study):
    results = load_results(study)
    scores = np.mean([item.scores["dice"].mean(axis=0)[:, 0] for item in results.configurations], axis=0)
    picked = [scores[results.cases.index(case)] for case in choose_cases(results)]
    assert picked == sorted(picked)
    assert len(set(picked)) == 4


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ("Dataset011_ClinicDB", {"U-Net": ["92.13", None, None, "92.35"], "EMCAD": ["95.21", None, None, "95.32"]}),
        ("Dataset012_CVC-ColonDB", {"U-Net": ["86.01", "83.28", "86.07", "86.22"]}),
        ("Dataset013_ISIC2017", {"U-Net": ["82.13", None, None, "82.25"]}),
        ("Dataset010_Synapse", {"EMCAD": ["83.63", "75.47", "83.45", "83.75"]}),
        ("Dataset004_Hippocampus", None),
    ],
)
def test_paper_numbers_stand_beside_ours(study, dataset, expected):
    results = load_results(study)
    results.study.dataset = dataset
    networks = expected or {"U-Net": []}
    for name, numbers in networks.items():
        for item in results.configurations:
            item.network = {"U-Net": "unet", "EMCAD": "emcad"}[name]
        table = next(table for table in all_tables(results) if table.name == "skip")
        if expected is None:
            assert "paper" not in table.header
        else:
            column = table.header.index("paper")
            assert [row.cells[column] for row in table.rows] == [number or "–" for number in numbers]


def test_position_and_init_tables(tmp_path):
    variants = ("both", "noskip", "encoder", "decoder", "replace", "init_random", "init_kaiming", "init_xavier")
    results = load_results(make_study(tmp_path, variants=variants, seeds=(0,), cases=2))
    results.study.dataset = "Dataset010_Synapse"
    tables = {table.name: table for table in all_tables(results)}
    expected = {
        "position": [("None", "72.70", "31.44"), ("Encoder only", "74.09", "29.50"), ("Decoder only", "75.62", "28.02"),
                     ("Full (enc. + dec.)", "76.40", "26.71")],
        "init": [("Zero", "76.40", "26.71"), ("Random", "75.74", "27.82"), ("Kaiming uniform", "74.32", "29.20"),
                 ("Xavier uniform", "75.55", "28.07")],
    }  # fmt: skip
    for name, rows in expected.items():
        table = tables[name]
        columns = [0, *[index for index, title in enumerate(table.header) if title == "paper"]]
        assert [tuple(row.cells[index] for index in columns) for row in table.rows] == rows
        assert table.rows[0].cells[table.header.index("reading")] == ""
        assert table.rows[1].cells[table.header.index("reading")] == "single run: the seed spread is unknown"


def test_incomplete_study(changing):
    study = Study.load(changing)
    by_name = {cell.name: cell for cell in study.cells}
    (study.cell_folder(by_name["2d_both__fold0__seed1"]) / "scores.json").unlink()
    study.update_state(by_name["2d_both__fold0__seed1"], state="failed", error="nnUNetv2_train ended with 1: no memory")
    for seed in (0, 1):
        cell = by_name[f"2d_replace__fold0__seed{seed}"]
        study.scores_file(cell).unlink()
        study.state_file(cell).write_text('{"state": "pending"}')
    text = Page(write_report(changing).read_text(encoding="utf-8")).text
    assert "This study is not complete: 3 of 8 cells have no scores yet" in text
    assert "2d_both__fold0__seed1: failed (nnUNetv2_train ended with 1: no memory)" in text
    assert "2d_replace__fold0__seed0: pending" in text
    rows = {tuple(row.cells[1:3]): row.cells for row in all_tables(load_results(changing))[1].rows}
    assert rows["–", "✓"][-4:] == ["–", "–", "not complete", "0"]  # replace
    assert rows["✓", "✓"][-2:] == ["single run: the seed spread is unknown", "1 of 2"]  # both


def test_study_without_any_result(changing):
    study = Study.load(changing)
    for cell in study.cells:
        study.scores_file(cell).unlink()
        study.state_file(cell).write_text('{"state": "pending"}')
    page = Page(write_report(changing).read_text(encoding="utf-8"))
    assert "8 of 8 cells have no scores yet (8 pending)" in page.text
    assert "Skip connections" not in page.text


def test_predictions_without_the_class_are_counted(changing):
    """They have no HD95: a mean without them would look better than it is."""
    path = changing / "cells" / "2d_noskip__fold0__seed0" / "scores.json"
    scores = read_scores(path)
    scores["cases"][0].update(dice=0.0, iou=0.0, hd95=float("nan"))
    scores["cases"][1].update(dice=0.0, iou=0.0, hd95=float("nan"))
    write_scores(scores, path)
    notes = " ".join(all_tables(load_results(changing))[0].notes)
    assert "has the class: U-Net (no skip) 2 (over" in notes


def test_without_images_the_masks_are_still_shown(changing, study, monkeypatch, tmp_path):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    content = json.loads((changing / "study.json").read_text())
    moved = tmp_path / "elsewhere" / "dataset.json"
    moved.parent.mkdir()
    shutil.copy(content["dataset_json"], moved)
    (changing / "study.json").write_text(json.dumps({**content, "dataset_json": str(moved)}))
    panels, problems = make_panels(load_results(changing))
    assert problems == ["image not found: set nnUNet_raw, as for nnU-Net's own commands, and write the report again"]
    assert panels[0].tiles[0].caption == "image not found"
    assert len(panels[0].tiles) == 6


def test_folds_are_pooled_and_incomplete_seeds_left_out(tmp_path):
    folder = make_study(tmp_path, variants=("baseline", "both"), folds=(0, 1), cases=4)
    study = Study.load(folder)
    for cell in study.cells:  # as in a cross-validation: each fold has cases of its own
        scores = read_scores(study.scores_file(cell))
        scores["cases"] = [row for row in scores["cases"] if int(row["case"][-3:]) % 2 == cell.fold]
        write_scores(scores, study.scores_file(cell))
    results = load_results(folder)
    both = results.find("unet", "both")
    assert both.scores["dice"].shape == (2, 4, 1)
    assert not np.isnan(both.scores["dice"]).any()
    removed = next(cell for cell in study.cells if (cell.variant, cell.fold, cell.seed) == ("both", 1, 1))
    study.scores_file(removed).unlink()
    both = load_results(folder).find("unet", "both")
    assert (both.seeds, both.missing_seeds, both.partial) == ([0], [1], False)


def test_two_folds_on_one_test_set_are_averaged(tmp_path):
    folder = make_study(tmp_path, variants=("baseline",), seeds=(0,), folds=(0, 1), cases=2)
    tables = [read_scores(folder / "cells" / f"2d_baseline__fold{fold}__seed0" / "scores.json") for fold in (0, 1)]
    expected = np.mean([[row["dice"] for row in table["cases"]] for table in tables], axis=0)
    found = load_results(folder).find("unet", "baseline")
    np.testing.assert_allclose(found.scores["dice"][0, :, 0], expected)


def test_curve_of_a_resumed_training(changing):
    """nnU-Net starts a new log when it continues; where they overlap the new one counts."""
    study = Study.load(changing)
    cell = study.cells[0]
    write_log(study, cell, "b", range(6, 10), error=20.0)
    results = load_results(changing)
    curve = read_curve(results, next(item for item in results.observations if item.cell == cell))
    assert list(curve.epochs) == list(range(10))
    assert curve.dice[5] == pytest.approx(100 * (0.95 - 0.06 - 0.6 * 0.6**5), abs=0.01)
    assert curve.dice[6] == pytest.approx(100 * (0.95 - 0.4 - 0.6 * 0.6**6), abs=0.01)
    assert curve.loss[9] == pytest.approx(-(0.95 - 0.4 - 0.6 * 0.6**9) + 0.1, abs=1e-4)


def test_volumes_with_two_classes(tmp_path):
    """Per-class columns, and the slice with most of the reference, at its true proportions."""
    folder = make_study(tmp_path, variants=("baseline", "both"), seeds=(0,), cases=1, dataset="Dataset004_Organs")
    study = Study.load(folder)
    raw = tmp_path / "raw" / study.dataset
    for name in ("imagesTs", "labelsTs"):
        shutil.rmtree(raw / name)
        (raw / name).mkdir()
    content = {"labels": {"background": 0, "liver": 1, "left_kidney": 2}, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps({**content, "channel_names": {"0": "CT"}, "numTraining": 0}))
    labels = np.zeros((6, 20, 30), dtype=np.uint8)
    labels[1:5, 4:8, 4:8] = 1
    labels[4, 10:18, 10:26] = 2  # slice 4 has most
    write_volume(raw / "imagesTs" / "a_0000.nii.gz", labels.astype(np.int16) * 100 - 50)
    write_volume(raw / "labelsTs" / "a.nii.gz", labels)
    for cell in study.cells:
        predictions = study.cell_folder(cell) / "predictions"
        shutil.rmtree(predictions)
        predictions.mkdir()
        write_volume(predictions / "a.nii.gz", np.roll(labels, 1, axis=2))
        write_scores(evaluate_folders(raw / "labelsTs", predictions, progress=False), study.scores_file(cell))
    results = load_results(folder)
    assert all_tables(results)[0].header[4:6] == ["liver Dice %", "left_kidney Dice %"]
    panels, problems = make_panels(results)
    assert problems == []
    reference = panels[0].tiles[1].image
    assert reference.shape == (320, 240, 3)  # 20 rows of 2 mm, 30 columns of 1 mm
    colours = {tuple(colour) for colour in reference.reshape(-1, 3)}
    assert len(colours) >= 3  # background and both classes: it is slice 4
    assert "HD95 mm" in Page(write_report(folder).read_text(encoding="utf-8")).text


def write_volume(path, array):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 2.0, 3.0))
    sitk.WriteImage(image, str(path))


def score_again(folder, **options):
    """Score all cells of a study anew, as a study with other rules does."""
    study = Study.load(folder)
    reference = Path(study.dataset_json).parent / "labelsTs"
    for cell in study.cells:
        predictions = study.cell_folder(cell) / "predictions"
        scores = evaluate_folders(reference, predictions, progress=False, **options)
        write_scores(scores, study.scores_file(cell))


def test_nsd_and_the_rule_for_missing_classes(changing):
    study = Study.load(changing)
    empty = study.cell_folder(study.cells[0]) / "predictions" / "polyp_000.png"
    io.imsave(empty, np.zeros((96, 128), dtype=np.uint8), check_contrast=False)
    score_again(changing, metrics=["dice", "iou", "hd95", "nsd"], tolerance=["2px"], missing="worst")
    results = load_results(changing)
    page = Page(write_report(changing).read_text(encoding="utf-8"))
    assert "NSD at a tolerance of 2 voxel; a class that only one side has gets the worst scores" in page.text
    assert "HD95 is not defined" not in page.text
    found = {table.name: table for table in all_tables(results)}
    assert found["main"].header == ["Method", "Dice %", "HD95 voxel", "IoU %", "NSD %", "hours", "seeds"]
    assert "NSD %" in found["skip"].header
    for table in found.values():
        assert {len(row.cells) for row in table.rows} == {len(table.header)}
    both = next(item for item in results.configurations if item.variant == "both")
    expected = 100 * statistics.spread(both.scores["nsd"]).mean
    row = next(row for row in found["main"].rows if row.cells[0] == both.title)
    assert row.cells[4].startswith(f"{expected:.2f} ± ")
    rows = {name: list(csv.DictReader((changing / "report" / name).open())) for name in
            ("cases.csv", "configurations.csv", "differences.csv")}  # fmt: skip
    assert rows["cases.csv"][0]["hd95"] == "160.0"  # the diagonal of 96 x 128 pixels
    assert rows["cases.csv"][0]["nsd"] == "0.0"
    assert {"nsd_mean", "nsd_sd"} <= set(rows["configurations.csv"][0])
    differences = {(row["configuration"], row["metric"]): row for row in rows["differences.csv"]}
    worse = differences["2d_noskip", "nsd"]
    assert float(worse["difference"]) < 0 and "better" not in worse["reading"]


def test_scores_of_different_rules_are_not_compared(changing):
    study = Study.load(changing)
    first = study.scores_file(study.cells[0])
    write_scores({**read_scores(first), "missing": "worst"}, first)
    with pytest.raises(InputError, match="differ in their missing"):
        write_report(changing)
    score_again(changing, metrics=["dice"])
    with pytest.raises(InputError, match="have no iou, hd95"):
        write_report(changing)


def test_names_from_outside_are_escaped(changing):
    content = json.loads((changing / "study.json").read_text())
    (changing / "study.json").write_text(json.dumps({**content, "dataset": "Dataset011_<script>alert(1)</script>"}))
    page = Page(write_report(changing).read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text


def test_a_report_is_replaced_and_nothing_else_is(changing, tmp_path):
    output = tmp_path / "out" / "report"
    first = write_report(changing, output)
    (output / "figures" / "old.svg").touch()
    assert write_report(changing, output) == first
    assert not (output / "figures" / "old.svg").exists()
    (output / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"thesis\.tex"):
        write_report(changing, output)
    assert (output / "thesis.tex").exists()
    assert [path.name for path in output.parent.iterdir()] == ["report"]  # no temporary folder is left


def test_what_cannot_be_reported(changing, tmp_path):
    with pytest.raises(InputError, match=r"study\.json"):
        write_report(tmp_path)
    path = next(changing.glob("cells/*/scores.json"))
    write_scores({**read_scores(path), "convention": "transunet"}, path)
    with pytest.raises(InputError, match="differ in their convention"):
        write_report(changing)
    assert not (changing / "report").exists()


def test_observe_agrees_with_the_fixture(study):
    """The fixture's states are those that the engine writes."""
    assert [item.state for item in observe(Study.load(study))] == ["complete"] * (2 * len(SKIP))


@pytest.mark.parametrize("method", ["write_text", "mkdir", "rename"])
def test_a_full_disk_is_one_message_and_leaves_the_old_report(changing, monkeypatch, capsys, method):
    old = changing / "report"
    old.mkdir()
    (old / "report.md").write_text("old")
    real = getattr(Path, method)

    def full(path, *arguments, **options):
        if f".report.{os.getpid()}" in str(path) and path.suffix != ".former":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, method, full)
    assert main(["ablate", "1", "--report", "--output", str(changing)]) == 2
    monkeypatch.undo()
    error = capsys.readouterr().err
    assert error.startswith("error: the report cannot be written to ") and "No space left" in error
    assert (old / "report.md").read_text() == "old" and not list(changing.glob(".*"))


def test_every_pair_is_compared_once(tmp_path, monkeypatch):
    counts = Counter()
    bootstrap = statistics.bootstrap_interval

    def counted(differences, *arguments):
        counts[differences.tobytes()] += 1
        return bootstrap(differences, *arguments)

    monkeypatch.setattr(statistics, "bootstrap_interval", counted)
    write_report(make_study(tmp_path, variants=("baseline", "noskip", "both"), cases=4))
    assert set(counts.values()) == {1} and len(counts) == 2 * len(METRICS)


@pytest.fixture(scope="module")
def table2(tmp_path_factory):
    networks = ("emcad", "uctransnet", "pranet", "paper-unet", "unet-3-plus")
    study = make_study(
        tmp_path_factory.mktemp("table2"), ("baseline", "both"), networks, skip=(), studies=["table2"], cases=3
    )
    kept = Study.load(study)  # XAttnRes is in two of them
    kept.cells = [cell for cell in kept.cells if cell.variant == "baseline" or cell.network in ("emcad", "paper-unet")]
    kept.save()
    return study


def test_table_2_has_the_papers_form(table2, monkeypatch):
    monkeypatch.setattr(tables, "_cost", lambda network, variant: (26.97, 197.65))
    _, table = all_tables(load_results(table2))
    columns = ["Method", "Params M", "paper", "MACs G", "paper", "Dice %", "paper"]
    assert table.name == "table2" and table.header[:7] == columns
    rows = {row.cells[0]: (row.kind, row.cells) for row in table.rows}
    assert list(rows) == [
        "paper's U-Net", "PraNet", "UNet 3+", "UCTransNet", "EMCAD",
        "paper's U-Net + XAttnRes", "Δ to paper's U-Net", "EMCAD + XAttnRes", "Δ to EMCAD",
    ]  # fmt: skip
    kind, row = rows["UNet 3+"]
    assert kind == "ours" and row[1:5] == ["26.97", "26.97", "197.65", "199.74"] and row[6] == "92.60"
    results = load_results(table2)
    change = results.compare(results.find("emcad", "baseline"), results.find("emcad", "both"))
    assert rows["Δ to EMCAD"] == ("delta", ["Δ to EMCAD", *[""] * 4, tables.signed(change.value, 100), *[""] * 4])


def test_its_pictures_are_the_columns_of_figure_3(table2, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(table2.parent / "raw"))
    panels, problems = make_panels(load_results(table2))
    assert problems == []
    assert [tile.title for tile in panels[0].tiles] == [
        "image", "UNet 3+", "UCTransNet", "paper's U-Net", "paper's U-Net + XAttnRes",
        "EMCAD", "EMCAD + XAttnRes", "reference",
    ]  # fmt: skip


def test_its_chart_has_a_bar_per_network(table2):
    (figure,) = bar_figures(load_results(table2))
    assert figure.name == "bars-table2"
    assert all(name in figure.svg for name in ("PraNet", "UCTransNet", "EMCAD + XAttnRes"))
