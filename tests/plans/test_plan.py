import json
import re
from pydoc import locate

import plans_phantom
import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_xattnres.architectures.routing import Routing
from nnunetv2_xattnres.catalogue import STUDIES, VARIANTS, routings
from nnunetv2_xattnres.cli import main
from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.plans.files import save_plans
from nnunetv2_xattnres.plans.studies import make_variants

NAMES_2D = [
    "2d_baseline", "2d_noskip", "2d_replace", "2d_both", "2d_encoder", "2d_decoder",
    "2d_init_random", "2d_init_kaiming", "2d_init_xavier",
    "2d_emcad_baseline", "2d_emcad_noskip", "2d_emcad_replace", "2d_emcad_both",
    "2d_paper_unet_baseline", "2d_paper_unet_noskip", "2d_paper_unet_replace", "2d_paper_unet_both",
    "2d_unet_3_plus_baseline", "2d_unet_3_plus_replace", "2d_ssformer_baseline", "2d_ssformer_replace",
]  # fmt: skip
SMALL = ["--encoder", "pvt_v2_b0"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    folder = tmp_path / "Dataset011_Polyps"
    plans_phantom.write(folder)
    return folder


def write_plans(*arguments, **options):
    variants = make_variants(*arguments, **options)
    variants.write()
    return variants.found


def load(folder, name="nnUNetXAttnResPlans"):
    return json.loads((folder / f"{name}.json").read_text())


def test_everything_by_default(folder, capsys):
    before = (folder / "nnUNetPlans.json").read_bytes()
    assert main(["plan", "11", *SMALL]) == 0
    assert (folder / "nnUNetPlans.json").read_bytes() == before
    plans = load(folder)
    assert plans["plans_name"] == "nnUNetXAttnResPlans"
    assert list(plans["configurations"]) == ["2d", *NAMES_2D]
    printed = capsys.readouterr().out
    for name in NAMES_2D:
        assert f"nnUNetv2_train 11 {name} " in printed
    assert "2d_emcad_both           0 -p nnUNetXAttnResPlans -tr nnUNetTrainer_EMCAD\n" in printed

    manager = PlansManager(plans)
    parent = manager.get_configuration("2d")
    for name in NAMES_2D:
        configuration = manager.get_configuration(name)
        for key in ("data_identifier", "patch_size", "batch_size", "normalization_schemes"):
            assert getattr(configuration, key) == getattr(parent, key)
        # nnU-Net's own way of building it, with deep supervision as in training
        network = nnUNetTrainer.build_network_architecture(manager, configuration, 3, 2, True)
        assert type(network) is locate(configuration.network_arch_class_name)
        expected = re.sub("^2d_(emcad_|paper_unet_|unet_3_plus_|ssformer_)?", "", name)
        if expected in routings():
            assert network.routing == Routing.parse(routings()[expected])
        else:
            init = {"random": "random", "kaiming": "kaiming_uniform", "xavier": "xavier_uniform"}[expected[5:]]
            assert network.routing == Routing(query_init=init)
    assert configuration.network_arch_init_kwargs["input_size"] is None


def test_emcad_normalises_rgb_only(folder):
    write_plans(
        11, networks=["emcad"], studies=["skip"], encoder="pvt_v2_b0", encoder_weights=None, input_size=[32, 64]
    )
    kwargs = load(folder)["configurations"]["2d_emcad_both"]["architecture"]["arch_kwargs"]
    assert kwargs["input_normalization"] == "imagenet"
    assert kwargs["encoder_weights"] is None and kwargs["input_size"] == [32, 64]
    assert kwargs["strides"] == [[1, 1]] * 5
    plans_phantom.write(folder, normalization="CTNormalization", channels=1, name="ct")
    write_plans(11, base_plans="ct", output_plans="ours", networks=["emcad"], studies=["skip"], encoder="pvt_v2_b0")
    kwargs = load(folder, "ours")["configurations"]["2d_emcad_both"]["architecture"]["arch_kwargs"]
    assert kwargs["input_normalization"] is None and kwargs["encoder_weights"] == "imagenet"


@pytest.fixture
def pointer(tmp_path):
    file = tmp_path / "pvt_v2_b0.pth"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 14\n")
    return file


def test_encoder_weights_are_looked_at_before_anything_is_written(folder, tmp_path, pointer, capsys):
    plan = ["plan", "11", *SMALL, "--network", "emcad", "--study", "skip", "--encoder-weights"]
    for file, said in ((tmp_path / "nowhere.pth", "is not there"), (pointer, "a Git LFS pointer")):
        assert main([*plan, str(file)]) == 2
        printed = capsys.readouterr().err
        assert said in printed and str(file) in printed
    assert not (folder / "nnUNetXAttnResPlans.json").exists()


def test_a_study_looks_at_the_encoder_weights_of_plans_that_exist(folder, tmp_path, pointer):
    import timm
    import torch

    weights = tmp_path / "weights.pth"
    torch.save(timm.create_model("pvt_v2_b0", features_only=True).state_dict(), weights)
    options = {"networks": ["emcad"], "studies": ["skip"]}
    write_plans(11, **options, encoder="pvt_v2_b0", encoder_weights=str(weights))
    assert not make_variants(11, **options, keep=True).changed
    weights.write_bytes(pointer.read_bytes())
    with pytest.raises(InputError, match="a Git LFS pointer"):
        make_variants(11, **options, keep=True)


def test_names_variant_network_and_studies(folder):
    cells = write_plans("Dataset011_Polyps", studies=["skip", "position"])
    assert cells["2d_replace"] == {"variant": "replace", "network": "unet", "studies": ["skip", "position"]}
    assert cells["2d_encoder"]["studies"] == ["position"]
    assert set(cells) == {f"2d_{name}" for name in routings()}


def test_position_study_of_emcad_leaves_out_what_it_does_not_have(folder):
    cells = write_plans(11, networks=["emcad"], studies=["position"], encoder="pvt_v2_b0")
    assert list(cells) == ["2d_emcad_noskip", "2d_emcad_replace"]


@pytest.mark.slow
def test_table_2_of_all_networks_builds(folder, capsys):
    assert main(["plan", "11", "--network", "all", "--study", "table2", *SMALL]) == 0
    configurations = load(folder)["configurations"]
    assert len(configurations) == 1 + 19
    kwargs = {name: entry["architecture"]["arch_kwargs"] for name, entry in configurations.items() if name != "2d"}
    patch = configurations["2d"]["patch_size"]
    with_grid = {name for name, each in kwargs.items() if each.get("image_size") == patch}
    assert with_grid == {f"2d_{each}_baseline" for each in ("transunet", "uctransnet", "mt_unet", "trans_cascade")}
    assert {name for name, each in kwargs.items() if "regions" in each} == {"2d_pranet_baseline", "2d_caranet_baseline"}
    assert kwargs["2d_pvt_cascade_baseline"]["encoder"] == "pvt_v2_b0"
    assert kwargs["2d_transunet_baseline"]["encoder"] == "vit_base_r50_s16_224"  # which cannot have that encoder
    assert len(kwargs["2d_polyp_pvt_baseline"]["strides"]) == 4  # two outputs, the second target and one without weight
    printed = capsys.readouterr().out
    assert "2d_pranet_baseline         0 -p nnUNetXAttnResPlans -tr nnUNetTrainer_XAttnRes\n" in printed


def test_several_networks_are_baselines_beside_one(folder):
    cells = write_plans(11, networks=["paper-unet", "attention-unet"], studies=["skip"])
    names = [f"2d_paper_unet_{variant}" for variant in STUDIES["skip"].variants]
    assert list(cells) == [*names, "2d_attention_unet_baseline"]
    assert list(write_plans(11, output_plans="all", networks=["attention-unet"])) == ["2d_attention_unet_baseline"]
    with pytest.raises(InputError, match="nothing to compare: position has no variant of attention-unet"):
        write_plans(11, output_plans="none", networks=["attention-unet"], studies=["position"])


def test_regions_are_known_to_reverse_attention(folder):
    file = folder / "dataset.json"
    description = json.loads(file.read_text())
    description["labels"] = {"background": 0, "whole": [1, 2], "core": 2}
    description["regions_class_order"] = [1, 2]
    file.write_text(json.dumps(description))
    write_plans(11, networks=["pranet"], studies=["table2"], encoder_weights=None)
    assert load(folder)["configurations"]["2d_pranet_baseline"]["architecture"]["arch_kwargs"]["regions"] is True


def test_a_wider_baseline_is_the_stock_network_with_more_channels(folder):
    cells = write_plans(11, studies=["cost"])
    assert list(cells) == ["2d_baseline", "2d_baseline_wide", "2d_both"]
    kwargs = {name: load(folder)["configurations"][name]["architecture"]["arch_kwargs"] for name in cells}
    widths = {name: each.pop("features_per_stage") for name, each in kwargs.items()}
    assert kwargs["2d_baseline"] == kwargs["2d_baseline_wide"] and widths["2d_baseline"] == widths["2d_both"]
    assert sum(widths["2d_baseline_wide"]) > sum(widths["2d_baseline"])
    assert all(width % 16 == 0 for width in widths["2d_baseline_wide"])
    assert VARIANTS["baseline_wide"].widen([32, 64, 128, 256, 512]) == [32, 80, 160, 304, 608]


def test_3d_has_the_networks_that_exist_there(folder):
    plans_phantom.write(folder, dims=3, channels=1, normalization="CTNormalization")
    cells = write_plans(11, "3d_fullres")
    assert set(cells) == {f"3d_fullres_{name}" for name in (*routings(), "init_random", "init_kaiming", "init_xavier")}
    for network in ("emcad", "paper-unet"):
        with pytest.raises(InputError, match="2D network"):
            write_plans(11, "3d_fullres", networks=[network])


def test_adds_to_its_own_plans_and_repeats_without_change(folder):
    write_plans(11, studies=["skip"])
    write_plans(11, networks=["paper-unet"], studies=["skip"])
    both = load(folder)
    assert {"2d_both", "2d_paper_unet_both"} <= set(both["configurations"])
    stamp = (folder / "nnUNetXAttnResPlans.json").stat().st_mtime_ns
    write_plans(11, studies=["skip"])
    assert (folder / "nnUNetXAttnResPlans.json").stat().st_mtime_ns == stamp


@pytest.mark.parametrize("name", ["nnUNetPlans", "nnunetplans", "NNUNETPLANS"])
def test_the_plans_that_are_read_are_kept_also_where_the_case_of_a_name_does_not_count(folder, name):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(InputError, match="give another with --variants"):
        write_plans(11, networks=["paper-unet"], output_plans=name, overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_nothing_is_overwritten_silently(folder, capsys):
    write_plans(11, networks=["paper-unet"], studies=["skip"])
    path = folder / "nnUNetXAttnResPlans.json"
    before = path.read_bytes()
    arguments = ["plan", "11", "--network", "paper-unet", "--study", "skip", "--input-size", "64", "64"]
    assert main(arguments) == 2
    assert "configuration 2d_paper_unet_both is different" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert main([*arguments, "--overwrite"]) == 0
    assert load(folder)["configurations"]["2d_paper_unet_both"]["architecture"]["arch_kwargs"]["input_size"] == [64, 64]
    with pytest.raises(InputError, match="give another with --variants"):
        write_plans(11, output_plans="nnUNetPlans")
    (folder / "mine.json").write_text(json.dumps(load(folder, "nnUNetPlans")))
    with pytest.raises(InputError, match="not written by this command"):
        write_plans(11, output_plans="mine", studies=["skip"])


@pytest.mark.parametrize("name", ["nnUNetResEncPlans", "dataset", "splits_final"])
def test_files_of_other_programs_are_never_replaced(folder, capsys, name):
    plans_phantom.write(folder, name="nnUNetResEncPlans")
    (folder / "splits_final.json").write_text("[]")
    before = (folder / f"{name}.json").read_bytes()
    assert main(["plan", "11", "--study", "skip", "--variants", name, "--overwrite"]) == 2
    assert str(folder / f"{name}.json") in capsys.readouterr().err
    assert (folder / f"{name}.json").read_bytes() == before


@pytest.mark.parametrize("name", ["../other", "a/b", ".", ".hidden", "nnUNetPlans2.json", ""])
def test_a_name_of_plans_is_a_name(folder, capsys, name):
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(InputError, match="give a name of plans, such as nnUNetXAttnResPlans"):
        make_variants(11, studies=["skip"], output_plans=name)
    assert sorted(folder.parent.rglob("*")) == before


def test_other_base_plans_need_another_name_and_other_configurations_do_not(folder, capsys):
    write_plans(11, studies=["skip"])
    plans_phantom.write(folder, name="nnUNetPlans_small")
    assert main(["plan", "11", "-p", "nnUNetPlans_small", "--study", "skip"]) == 2
    error = capsys.readouterr().err
    assert "holds variants of nnUNetPlans, and variants of nnUNetPlans_small are requested" in error
    assert "with --variants" in error
    base = load(folder, "nnUNetPlans")
    base["configurations"]["2d_other"] = {"inherits_from": "2d", "batch_size": 9}
    (folder / "nnUNetPlans.json").write_text(json.dumps(base))
    write_plans(11, studies=["position"])
    base["configurations"]["2d_other"]["batch_size"] = 11  # which the variants of 2d have nothing to do with
    (folder / "nnUNetPlans.json").write_text(json.dumps(base))
    write_plans(11, studies=["init"])
    assert {"2d_both", "2d_encoder", "2d_init_random"} <= set(load(folder)["configurations"])
    with pytest.raises(InputError, match="configuration 2d_other is different"):
        write_plans(11, "2d_other", studies=["skip"])
    base["configurations"]["2d"]["batch_size"] = 7
    (folder / "nnUNetPlans.json").write_text(json.dumps(base))
    with pytest.raises(InputError, match="configuration 2d is different"):
        write_plans(11, studies=["init"])


def test_two_processes_write_one_plans_file(folder, monkeypatch):
    """Each has a file of its own until it is whole: the later one counts."""
    plans = load(folder, "nnUNetPlans")
    whole = type(folder).replace

    def meanwhile(part, target):
        monkeypatch.undo()
        monkeypatch.setenv("nnUNet_preprocessed", str(folder.parent))
        monkeypatch.setattr("os.getpid", lambda: 1)  # the other process
        save_plans(11, {**plans, "plans_name": "both", "by": "the other"})
        return whole(part, target)

    monkeypatch.setattr(type(folder), "replace", meanwhile)
    save_plans(11, {**plans, "plans_name": "both", "by": "this one"})
    assert load(folder, "both")["by"] == "this one"
    assert sorted(path.name for path in folder.iterdir()) == ["both.json", "dataset.json", "nnUNetPlans.json"]


def test_what_is_not_preprocessed_is_named_with_its_command(folder, capsys):
    command = "Not preprocessed yet (nnUNetPlans_2d): nnUNetv2_preprocess -d 11 -plans_name nnUNetPlans -c 2d"
    assert main(["plan", "11", "--study", "skip"]) == 0
    assert command in capsys.readouterr().out.splitlines()
    (folder / "nnUNetPlans_2d").mkdir()
    assert main(["plan", "11", "--study", "skip"]) == 0
    assert "Not preprocessed" not in capsys.readouterr().out


def test_what_does_not_build_is_not_written(folder):
    plans = load(folder, "nnUNetPlans")
    plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 8]
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    with pytest.raises(InputError) as caught:
        write_plans(11, studies=["skip"])
    assert len(caught.value.problems) == 4 and caught.value.problems[0].startswith("2d_baseline: AssertionError")
    with pytest.raises(InputError, match="pvt_v2_b0, pvt_v2_b1"):
        write_plans(11, networks=["emcad"], studies=["skip"], encoder="resnet")
    assert not list(folder.glob("nnUNetXAttnRes*"))


def test_options_that_no_network_uses_are_refused(folder, capsys):
    plan = ["plan", "11", "--study", "skip", "--network", "unet"]
    assert main([*plan, "--encoder", "pvt_v2_b0", "--encoder-weights", "weights.pth", "--input-size", "-5", "0"]) == 2
    error = capsys.readouterr().err
    for option in ("--encoder pvt_v2_b0: ", "--encoder-weights /", "--input-size -5 0: "):
        assert f"  - {option}" in error
    assert not (folder / "nnUNetXAttnResPlans.json").exists()
    assert main([*plan, "--encoder-weights", "none"]) == 0  # which is true of it


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["12"], "nnUNetv2_plan_and_preprocess -d 12"),
        (["polyps"], "neither the number"),
        (["11", "-p", "nnUNetResEncUNetMPlans"], "the plans in that folder are nnUNetPlans"),
        (["11", "-c", "3d_fullres"], "it has 2d"),
        (["11", "--network", "resenc"], "nnUNetPlannerResEncM"),
    ],
)
def test_errors_say_what_to_do(folder, capsys, arguments, message):
    assert main(["plan", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_second_stage_of_a_cascade_has_no_variants(folder, capsys):
    """nnU-Net looks for the first stage's predictions under the configuration's own name."""
    plans = load(folder, "nnUNetPlans")
    plans["configurations"]["2d_cascade"] = {"inherits_from": "2d", "previous_stage": "2d"}
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    assert main(["plan", "11", "-c", "2d_cascade"]) == 2
    assert "-tr nnUNetTrainer_XAttnRes" in capsys.readouterr().err


def test_network_of_somebody_else(folder):
    plans = load(folder, "nnUNetPlans")
    plans["configurations"]["2d"]["architecture"]["network_class_name"] = "their.Network"
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    with pytest.raises(InputError, match=r"their\.Network"):
        write_plans(11)
    assert "2d_paper_unet_both" in write_plans(11, networks=["paper-unet"])  # which takes nothing from it


@pytest.mark.parametrize("inside", [False, True])
def test_plans_for_weights_that_nobody_would_load_are_refused(tmp_path, monkeypatch, capsys, inside):
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    folder = tmp_path / "Dataset011_Polyps"
    plans = plans_phantom.write(folder)
    (plans["configurations"]["2d"] if inside else plans)["pretrain_info"] = {"checkpoint_name": "mae"}
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    assert main(["plan", "11"]) == 2
    assert re.search(r"nnUNetPlans\.json has pretrain_info.*warmstart", capsys.readouterr().err)
    assert not (folder / "nnUNetXAttnResPlans.json").exists()
