"""What each comparison network must do, whatever its inside: test classes to inherit from."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

# sizes of images, each with channels and classes
SHAPES = [((97, 131), 1, 1), ((224, 224), 3, 2), ((256, 320), 5, 9), ((33, 64), 3, 1), ((1, 40), 3, 2)]


class FormChecks:
    """What each form of a network must do. Subclasses set these.

    Attributes:
        network: The class.
        parameters: Number of trained values at three channels and one class.
        counted: Arguments with which they were counted.
        small: Arguments of a cheap form for the tests that compute.
        shallow: Makes a context in which the network's encoder is built with fewer layers, for all but their count.
        outputs: Length of the list with deep supervision.
    """

    network: type[nn.Module]
    parameters: int
    counted: dict = {}  # noqa: RUF012
    small: dict = {}  # noqa: RUF012
    shallow = nullcontext
    outputs: int = 1
    sums_outputs = False  # whether the one output without deep supervision is the sum of those with it

    def build(self, channels=3, classes=2, **kwargs):
        torch.manual_seed(0)
        with self.shallow():
            return self.network(channels, classes, **{**self.small, **kwargs})

    def test_parameters(self):
        with torch.device("meta"):
            network = self.network(3, 1, **self.counted)
        assert sum(parameter.numel() for parameter in network.parameters()) == self.parameters

    def test_any_size_channels_and_classes(self):
        for index, (size, channels, classes) in enumerate(SHAPES):
            with torch.device("meta"), self.shallow():
                network = self.network(channels, classes, **self.small).eval()
                network.decoder.deep_supervision = supervised = index % 2 == 0
                outputs = network(torch.rand(1, channels, *size))
            shapes = [output.shape for output in outputs] if supervised else [outputs.shape]
            assert shapes == [(1, classes, *size)] * (self.outputs if supervised else 1)

    # with and without deep supervision, in full and in mixed precision
    @pytest.mark.parametrize(("deep_supervision", "mixed"), [(True, True), (False, False)])
    def test_a_distributed_step_with_a_batch_of_one_trains_everything(self, process_group, deep_supervision, mixed):
        network = self.build(classes=3, deep_supervision=deep_supervision).train()
        distributed = DistributedDataParallel(network)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            outputs = distributed(torch.rand(1, 3, 17, 30))
        outputs = outputs if deep_supervision else [outputs]
        assert all(torch.isfinite(output).all() for output in outputs)
        sum(output.float().square().mean() for output in outputs).backward()
        # not "is zero": residual blocks from random weights begin with a batch normalisation of weight zero
        assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
        distributed(torch.rand(1, 3, 17, 30))  # fails where the step before left a parameter out


class ComparatorChecks(FormChecks):
    """What each network must do beside."""

    def test_evaluation(self):
        network = self.build().eval()  # one for all of this: building takes longest
        x = torch.rand(1, 3, 20, 40)
        with torch.no_grad():
            single = network(x)
            # nnU-Net's attribute switches deep supervision
            network.decoder.deep_supervision = True
            several = network(x)
            assert isinstance(several, list) and len(several) == self.outputs
            torch.testing.assert_close(sum(several) if self.sums_outputs else several[0], single)
            network.decoder.deep_supervision = False
            # padding is cropped off again
            padded = nn.functional.pad(x, (0, -40 % network.stride, 0, -20 % network.stride))
            torch.testing.assert_close(network(padded)[..., :20, :40], single)
            # an input size is resized to, and back from
            small = nn.functional.interpolate(x, (32, 32), mode="bilinear", antialias=True)
            expected = nn.functional.interpolate(network(small), (20, 40), mode="bilinear")
            network.input_size = (32, 32)
            torch.testing.assert_close(network(x), expected)
            # a last sigmoid or softmax would keep the logits within 0 and 1
            for module in network.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    nn.init.normal_(module.weight, std=0.2)
            logits = network(torch.randn(1, 3, 32, 32))
            assert logits.min() < 0 or logits.max() > 1

    def test_one_state_with_and_without_deep_supervision(self):
        with torch.device("meta"):
            states = [self.network(3, 2, deep_supervision=on, **self.small).state_dict() for on in (False, True)]
        shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
        assert shapes[0] == shapes[1]

    def test_a_training_step_compiles_without_a_graph_break(self):
        network = self.build(deep_supervision=True).train()
        outputs = torch.compile(network, fullgraph=True, backend="eager")(torch.rand(1, 3, 32, 64))
        assert [output.shape for output in outputs] == [(1, 2, 32, 64)] * self.outputs
        sum(output.square().mean() for output in outputs).backward()
        assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
