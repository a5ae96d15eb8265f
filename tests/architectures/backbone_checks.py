"""What both backbones of the paper must do, whatever their inside: a test class to inherit from."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_xattnres import catalogue
from nnunetv2_xattnres.architectures import XAttnRes


class BackboneChecks:
    """Subclasses set these."""

    network: type[nn.Module]
    kwargs: dict = {}  # noqa: RUF012
    outputs: int
    routings: tuple[str, ...]

    def pytest_generate_tests(self, metafunc):
        if "routing" in metafunc.fixturenames:
            metafunc.parametrize("routing", self.routings)

    def build(self, channels=3, classes=2, routing="both", **kwargs):
        torch.manual_seed(0)
        return self.network(channels, classes, routing=catalogue.routings()[routing], **self.kwargs, **kwargs)

    def test_every_parameter_is_trained_with_a_batch_of_one(self, routing):
        network = self.build(routing=routing, deep_supervision=True).train()
        outputs = network(torch.rand(1, 3, 64, 32))
        assert [tuple(output.shape) for output in outputs] == [(1, 2, 64, 32)] * self.outputs
        sum(output.square().mean() for output in outputs).backward()
        assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []

    @pytest.mark.parametrize("size", [(97, 131), (33, 500)])
    def test_odd_sizes(self, routing, size):
        channels = {"baseline": 1, "noskip": 2, "both": 3, "replace": 5, "encoder": 1, "decoder": 2}[routing]
        network = self.build(channels, routing=routing).train()
        output = network(torch.rand(1, channels, *size))
        assert output.shape == (1, 2, *size)
        output.mean().backward()
        assert torch.isfinite(output).all()

    @pytest.mark.parametrize("channels", [1, 2, 3, 5])
    def test_input_channels(self, channels):
        network = self.build(channels)
        assert network(torch.rand(2, channels, 32, 64)).shape == (2, 2, 32, 64)

    @pytest.mark.parametrize("size", [(1, 1), (16, 16), (32, 32), (5, 40)])
    def test_smallest_images_train(self, size):
        # one image with a single pixel on the deepest map is what batch normalisation refuses
        output = self.build().train()(torch.rand(1, 3, *size))
        assert output.shape[2:] == size
        output.sum().backward()

    def test_float16_autocast(self, routing):
        network = self.build(routing=routing, deep_supervision=True).train()
        with torch.autocast("cpu", dtype=torch.float16):
            outputs = network(torch.rand(1, 3, 64, 64))
        sum(output.float().square().mean() for output in outputs).backward()
        assert all(torch.isfinite(output).all() for output in outputs)
        assert [n for n, p in network.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()] == []

    @pytest.mark.slow
    def test_a_training_step_compiles(self):
        """In the default form; what is traced is the same in each, and test_compile.py has every routing."""
        network = self.build(deep_supervision=True).train()
        x = torch.rand(1, 3, 64, 64)
        gradients = []
        for forward in (network, torch.compile(network, fullgraph=True, backend="aot_eager")):
            network.zero_grad()
            sum(output.square().mean() for output in forward(x)).backward()
            gradients.append([parameter.grad.clone() for parameter in network.parameters()])
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)

    @pytest.mark.slow
    def test_two_ddp_processes_reach_every_parameter(self, tmp_path):
        mp.spawn(_ddp, args=(self.network, self.kwargs, self.routings, str(tmp_path / "rendezvous")), nprocs=2)

    def test_deep_supervision_is_switched_by_nnunets_attribute(self):
        network = self.build().eval()
        x = torch.rand(1, 3, 64, 64)
        single = network(x)
        network.decoder.deep_supervision = True
        several = network(x)
        assert isinstance(several, list) and len(several) == self.outputs
        torch.testing.assert_close(several[0], single)
        self.build(deep_supervision=True).load_state_dict(network.state_dict())  # the heads exist either way

    def test_input_size_of_the_image_itself_changes_nothing(self):
        plain, fixed = self.build().eval(), self.build(input_size=[64, 96]).eval()
        x = torch.rand(2, 3, 64, 96)
        assert torch.equal(plain(x), fixed(x))

    def test_input_size_gives_back_each_images_own_size(self):
        network = self.build(input_size=[64, 96], deep_supervision=True).eval()
        seen = []
        network.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape[2:])))
        for size in [(50, 61), (97, 131), (192, 64)]:
            assert all(output.shape == (1, 2, *size) for output in network(torch.rand(1, 3, *size)))
        assert seen == [(64, 96)] * 3

    def test_input_size_is_resize_network_resize(self):
        fixed, plain = self.build(input_size=[64, 96]).eval(), self.build().eval()
        x = torch.rand(1, 3, 80, 100)
        small = nn.functional.interpolate(x, (64, 96), mode="bilinear", antialias=True)
        expected = nn.functional.interpolate(plain(small), (80, 100), mode="bilinear")
        torch.testing.assert_close(fixed(x), expected)

    def test_padding_is_cropped_off_again(self):
        network = self.build().eval()
        x = torch.rand(1, 3, 50, 70)
        padded = nn.functional.pad(x, (0, -70 % network.stride, 0, -50 % network.stride))
        torch.testing.assert_close(network(x), network(padded)[..., :50, :70])

    def test_initialize_leaves_the_queries_alone(self, routing):
        from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

        kwargs = {**self.kwargs, "routing": {**catalogue.routings()[routing], "query_init": "random"}}
        name = f"nnunetv2_xattnres.architectures.{self.network.__name__}"
        network = get_network_from_plans(name, kwargs, [], 3, 2, deep_supervision=True)
        instances = [module for module in network.modules() if isinstance(module, XAttnRes)]
        assert all(0.005 < instance.query.std() < 0.05 for instance in instances)
        assert bool(instances) == (routing not in ("baseline", "noskip"))

    def test_feature_map_size_counts_xattnres(self):
        size = {name: self.build(routing=name).compute_conv_feature_map_size((64, 64)) for name in ("baseline", "both")}
        assert size["baseline"] < size["both"] < 3 * size["baseline"]
        quadruple = self.build().compute_conv_feature_map_size((128, 128))
        assert 3.5 < quadruple / size["both"] <= 4

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"routing": {"skip": True}}, "skip_connections, encoder, decoder, query_init"),
            ({"routing": {"query_init": "ones"}}, "zero, random"),
            ({"input_size": [352]}, "a height and a width"),
        ],
    )
    def test_errors_name_what_is_valid(self, kwargs, message):
        with pytest.raises(ValueError, match=message):
            self.network(3, 2, **{**self.kwargs, **kwargs})


def _ddp(rank, network, kwargs, routings, rendezvous):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    for routing in routings:
        torch.manual_seed(0)
        model = DistributedDataParallel(
            network(3, 2, routing=catalogue.routings()[routing], deep_supervision=True, **kwargs)
        )
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for step in range(2):  # a parameter without a gradient makes the second forward pass fail
            torch.manual_seed(10 * step + rank)
            optimizer.zero_grad()
            sum(output.square().mean() for output in model(torch.rand(1, 3, 32, 64))).backward()
            optimizer.step()
        checksum = torch.stack([parameter.detach().double().sum() for parameter in model.parameters()])
        other = [torch.empty_like(checksum) for _ in range(2)]
        dist.all_gather(other, checksum)
        assert torch.equal(other[0], other[1]), routing
    dist.destroy_process_group()
