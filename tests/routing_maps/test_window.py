import numpy as np
import pytest
import torch
from model_phantom import write_model, write_volume
from routed_networks import NETWORKS, trained, unet
from torch import nn

from nnunetv2_xattnres.architectures import PaperUNet
from nnunetv2_xattnres.architectures.readers import find_readers, read_routing
from nnunetv2_xattnres.routing_maps.model import Case, preprocess
from nnunetv2_xattnres.routing_maps.restore import known, restore
from nnunetv2_xattnres.routing_maps.window import average_weights, to_input_size
from nnunetv2_xattnres.trained_model import load_predictor


class Predictor:
    """What of nnU-Net's predictor the sliding window uses."""

    def __init__(self, network, patch, *, step=0.5, gaussian=True, mirror=None, folds=None):
        self.network, self.device = network, torch.device("cpu")
        self.tile_step_size, self.use_gaussian = step, gaussian
        self.use_mirroring, self.allowed_mirroring_axes = mirror is not None, mirror
        self.configuration_manager = type("Configuration", (), {"patch_size": list(patch)})()
        self.list_of_parameters = folds or [{key: value.clone() for key, value in network.state_dict().items()}]


def untiled(network, x):
    """Oracle: the readers' own weights of one pass, brought to the input's size: [K+1, *S]."""
    kept = {}
    handles = [
        module.register_forward_pre_hook(lambda m, inputs, path=path: kept.update({path: m.routing_weights(*inputs)}))
        for path, module in network.named_modules()
        if hasattr(module, "routing_weights")
    ]
    with torch.no_grad():
        network(x)
    for handle in handles:
        handle.remove()
    mode = "bilinear" if x.ndim == 4 else "trilinear"
    size = x.shape[2:]
    return {path: nn.functional.interpolate(weights, size, mode=mode)[0] for path, weights in kept.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_an_untiled_input_gives_the_readers_own_weights(name):
    make, shape, _ = NETWORKS[name]
    network, x = trained(make()), torch.rand(shape)
    data = x[0] if x.ndim == 5 else x[0][:, None]  # nnU-Net gives a 2D image one slice
    readers = find_readers(network, x)
    found = average_weights(Predictor(network, shape[2:]), data, readers)
    expected = untiled(network, x)
    for reader in readers:
        maps = torch.stack(found[reader.module])
        assert (maps - expected[reader.module].reshape(maps.shape)).abs().max() < 1e-5, reader
        assert torch.allclose(maps.sum(0), torch.ones(maps.shape[1:]), atol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_tiles_that_do_not_overlap_are_their_own_passes(dims):
    network = trained(unet(dims))
    data = torch.rand(1, *([4] if dims == 2 else []), *[16, 8, 8][3 - dims :])
    patch = (8,) * dims
    readers = find_readers(network, torch.rand(1, 1, *patch))
    found = average_weights(Predictor(network, patch, step=1.0), data, readers)
    axis = data.ndim - dims
    for reader in readers:
        maps = torch.stack(found[reader.module])
        for corner in range(0, data.shape[axis], 8):
            part = data.narrow(axis, corner, 8)
            tiles = part[0][:, None, None] if dims == 2 else part[None]
            for index, tile in enumerate(tiles):
                x = tile[None] if tile.ndim == dims + 1 else tile
                place = maps.narrow(axis, corner, 8)
                place = place[:, index] if dims == 2 else place
                assert (place - untiled(network, x)[reader.module]).abs().max() < 1e-5


def test_overlapping_tiles_mirrors_and_folds_are_an_average_that_sums_to_1():
    network = trained(unet(2))
    folds = [{key: value.clone() for key, value in trained(unet(2), seed).state_dict().items()} for seed in (1, 2)]
    data = torch.rand(1, 3, 27, 22)
    readers = find_readers(network, torch.rand(1, 1, 16, 16))
    found = average_weights(Predictor(network, (16, 16), mirror=(0, 1), folds=folds), data, readers)
    for reader in readers:
        maps = torch.stack(found[reader.module])
        assert maps.shape == (len(reader.entries), 3, 27, 22)
        assert (maps.sum(0) - 1).abs().max() < 1e-5
        assert maps.min() >= 0
    # each fold's weights count alike
    single = [
        average_weights(Predictor(network, (16, 16), mirror=(0, 1), folds=[fold]), data, readers) for fold in folds
    ]
    last = readers[-1].module
    for whole, first, second in zip(found[last], single[0][last], single[1][last], strict=True):
        assert (whole - (first + second) / 2).abs().max() < 1e-5


def test_mirroring_turns_the_weights_back():
    network, x = trained(unet(2)), torch.rand(1, 1, 16, 16)
    readers = find_readers(network, x)
    found = average_weights(Predictor(network, (16, 16), mirror=(1,)), x[0][:, None], readers)
    plain, mirrored = untiled(network, x), untiled(network, x.flip(3))
    for reader in readers:
        expected = (plain[reader.module] + mirrored[reader.module].flip(2)) / 2
        assert (torch.stack(found[reader.module])[:, 0] - expected).abs().max() < 1e-5


def test_an_untrained_network_is_uniform_everywhere():
    network = unet(3).eval()
    readers = find_readers(network, torch.rand(1, 1, 8, 8, 8))
    found = average_weights(Predictor(network, (8, 8, 8)), torch.rand(1, 11, 13, 8), readers)
    for reader in readers:
        for entry in found[reader.module]:
            assert (entry - 1 / len(reader.entries)).abs().max() < 1e-6


def test_padding_and_resizing_of_a_network_for_any_size_are_undone():
    for network in (PaperUNet(1, 1), PaperUNet(1, 1, input_size=(32, 48))):
        weights = torch.zeros(1, 2, 48, 64) if network.input_size is None else torch.zeros(1, 2, 32, 48)
        rows = 40 if network.input_size is None else 32  # of the map, that the input's rows lie on
        weights[:, 0, : rows // 2] = 1
        weights[:, 1] = 1 - weights[:, 0]
        at_input = to_input_size(network.eval(), weights, (40, 50))
        assert at_input.shape == (1, 2, 40, 50)
        assert at_input[0, 0, :19].min() > 1 - 1e-6
        assert at_input[0, 0, 21:].max() < 1e-6


def test_restored_weights_sum_to_1_with_crop_resampling_and_turned_axes(tmp_path):
    # 2.5 mm slices resampled to 1 mm: nnU-Net goes slice by slice there
    model = write_model(tmp_path / "model", 3, [16, 16, 16], spacing=[4.0, 1.0, 1.0], transpose=(2, 0, 1), folds=2)
    images = write_volume(tmp_path / "images", (20, 24, 18), (3.5, 1.2, 0.9), margin=3)
    predictor = load_predictor(model, ["0", "1"], device="cpu")
    case = Case("volume", (str(images / "volume_0000.nii.gz"),))
    data, properties = preprocess(predictor, case)
    readers = find_readers(predictor.network.eval(), torch.rand(1, 1, 16, 16, 16))
    (maps,) = average_weights(predictor, data, readers[-1:]).values()
    count = len(readers[-1].entries)
    restored = np.stack([restore(entry, predictor, properties, 1 / count) for entry in maps])
    assert restored.shape == (count, 18, 24, 20)  # z, y, x of the file
    assert np.abs(restored.sum(0) - 1).max() < 1e-5
    inside = known(predictor, properties)
    assert inside.shape == (18, 24, 20)
    assert inside[3:-3, 3:-3, 3:-3].all() and inside.sum() == 12 * 18 * 14
    assert np.abs(restored[:, ~inside] - 1 / count).max() < 1e-6
    assert np.abs(restored[:, inside] - 1 / count).max() > 1e-2


def test_read_routing_of_one_tile_is_the_window_of_it():
    network, x = trained(unet(2)), torch.rand(1, 1, 16, 16)
    stage = read_routing(network, x, ["decoder 2"])[0]
    found = average_weights(Predictor(network, (16, 16)), x[0][:, None], [stage])
    assert (torch.stack(found[stage.module])[:, 0] - stage.weights[0]).abs().max() < 1e-5
