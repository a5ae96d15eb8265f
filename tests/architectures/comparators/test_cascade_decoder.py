import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nnunetv2_xattnres.architectures.comparators.cascade_decoder import CascadeDecoder


@pytest.mark.parametrize(("concatenate", "parameters"), [(False, 34_120_783), (True, 35_272_783)])
def test_parameters_of_pvt_cascade(concatenate, parameters):
    with torch.device("meta"):
        decoder = CascadeDecoder((64, 128, 320, 512), 1, concatenate, False)
    encoder = 24_849_856  # PVTv2-B2
    assert encoder + sum(parameter.numel() for parameter in decoder.parameters()) == parameters


def norm(module, x):
    """A batch normalisation that is not trained, channel by channel."""
    out = torch.empty_like(x)
    for c in range(x.shape[1]):
        scale = module.weight[c] / torch.sqrt(module.running_var[c] + module.eps)
        out[:, c] = (x[:, c] - module.running_mean[c]) * scale + module.bias[c]
    return out


def pointwise(module, x):
    out = torch.einsum("oc,bchw->bohw", module.weight[:, :, 0, 0], x)
    return out if module.bias is None else out + module.bias.view(1, -1, 1, 1)


def nearest(x):
    out = torch.empty(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3], dtype=x.dtype)
    for row in range(out.shape[2]):
        for column in range(out.shape[3]):
            out[:, :, row, column] = x[:, :, row // 2, column // 2]
    return out


@pytest.mark.parametrize("concatenate", [False, True])
def test_decoder_written_out(concatenate):
    torch.manual_seed(0)
    widths = (16, 32, 48, 64)
    decoder = CascadeDecoder(widths, 3, concatenate, True).double().eval()
    for module in decoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.running_mean, module.weight, module.bias):
                nn.init.normal_(value)
            nn.init.uniform_(module.running_var, 0.5, 2)
    features = [torch.randn(2, width, 16 // 2**i, 24 // 2**i, dtype=torch.float64) for i, width in enumerate(widths)]

    expected = []
    with torch.no_grad():
        x = pointwise(decoder.project, features[3])
        for level, (width, inner) in enumerate([(64, None), (48, 32), (32, 16), (16, 8)]):
            if level > 0:
                _, convolution, batch_norm, _ = decoder.up[level - 1]
                x = F.relu(norm(batch_norm, F.conv2d(nearest(x), convolution.weight, convolution.bias, padding=1)))
                gate, skip = decoder.gates[level - 1], features[3 - level]
                both = norm(gate.signal[1], pointwise(gate.signal[0], x))
                both = both + norm(gate.skip[1], pointwise(gate.skip[0], skip))
                assert both.shape[1] == inner
                skip = skip * torch.sigmoid(norm(gate.weigh[1], pointwise(gate.weigh[0], F.relu(both))))
                x = torch.cat([skip, x], 1) if concatenate else x + skip
            first, _, second = decoder.channel[level].weigh
            assert first.out_channels == x.shape[1] // 16 and first.bias is None and second.bias is None
            weights = 0
            for pooled in (x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)):
                weights = weights + pointwise(second, F.relu(pointwise(first, pooled)))
            x = x * torch.sigmoid(weights)
            maps = torch.stack([x.mean(1), x.amax(1)], 1)
            x = x * torch.sigmoid(F.conv2d(maps, decoder.spatial.weigh.weight, padding=3))
            for i in (0, 3):
                convolution, batch_norm = decoder.stages[level][i : i + 2]
                x = F.relu(norm(batch_norm, F.conv2d(x, convolution.weight, convolution.bias, padding=1)))
            assert x.shape[1] == width
            expected.insert(0, pointwise(decoder.seg_layers[level], x))
        outputs = decoder(features)
    for ours, reference in zip(outputs, expected, strict=True):
        torch.testing.assert_close(ours, reference)
