import pytest
import torch

from nnunetv2_xattnres.architectures import EMCADNet, PaperUNet
from nnunetv2_xattnres.architectures.dry_run import dry_run


@pytest.fixture(params=["fake", "meta"])
def tensors(request, monkeypatch):
    """Both ways to make tensors without content; the second is for a torch that has moved its private module."""
    if request.param == "meta":
        monkeypatch.delattr("torch._subclasses.fake_tensor.FakeTensorMode")
    return request.param


@pytest.mark.parametrize("build", [lambda: PaperUNet(3, 4), lambda: EMCADNet(1, 4, encoder="pvt_v2_b0")])
def test_shapes_without_computing_and_without_a_trace(tensors, build):
    network = build().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        output = dry_run(network, (2, network.input_channels, 65, 97))
    assert output.shape == (2, 4, 65, 97)
    with pytest.raises((RuntimeError, NotImplementedError)):  # there are no values; torch's classes derive from these
        output.sum().item()
    after = network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_planners_get_the_same_memory_in_both_ways(monkeypatch):
    network = PaperUNet(3, 4)
    size = network.compute_conv_feature_map_size((64, 96))
    monkeypatch.delattr("torch._subclasses.fake_tensor.FakeTensorMode")
    assert network.compute_conv_feature_map_size((64, 96)) == size > 0
