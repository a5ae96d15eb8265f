import pytest
import torch
from comparator_checks import ComparatorChecks, FormChecks
from torch.nn import functional as F

from nnunetv2_xattnres.architectures import XAttnRes
from nnunetv2_xattnres.architectures.comparators import UNet3Plus
from nnunetv2_xattnres.catalogue import NETWORKS, VARIANTS

REPLACE = VARIANTS["replace"].routing


class TestUNet3Plus(ComparatorChecks):
    network = UNet3Plus
    parameters = 26_971_777


class TestFullScaleSupervision(FormChecks):
    network = UNet3Plus
    parameters = 26_989_637
    counted = small = {"full_scale_supervision": True}  # noqa: RUF012
    outputs = 5


class TestReplace(FormChecks):
    network = UNet3Plus
    # the 20 convolutions of the sources (4,427,520) become 1x1 projections, queries and norms (1,845,760)
    parameters = 24_390_017
    counted = small = {"routing": REPLACE}  # noqa: RUF012


def brought_to(size, x):
    """A source at a level's size."""
    if x.shape[-1] > size:
        return F.max_pool2d(x, x.shape[-1] // size)
    return x if x.shape[-1] == size else F.interpolate(x, (size, size), mode="bilinear")


@pytest.mark.parametrize("level", range(4))
def test_a_level_reads_five_scales(level):
    network = UNet3Plus(3, 1).eval()
    encoded = network.encoder(torch.rand(1, 3, 32, 32))
    decoder, size = network.decoder, 32 // 2**level
    decoded = {4: encoded[4]}
    for each, fuse in zip((3, 2, 1, 0), decoder.levels, strict=True):
        sources = [decoded.get(scale, encoded[scale]) if scale > each else encoded[scale] for scale in range(5)]
        if each == level:
            parts = [conv(brought_to(size, source)) for conv, source in zip(fuse.sources, sources, strict=True)]
            assert [part.shape[1] for part in parts] == [64] * 5
            torch.testing.assert_close(fuse(sources), fuse.fuse(torch.cat(parts, 1)))
        decoded[each] = fuse(sources)
    torch.testing.assert_close(decoder(encoded)[0], decoder.seg_layers[0](decoded[0]))


def test_replace_begins_with_the_mean_of_the_five_sources():
    network = UNet3Plus(3, 1, routing=REPLACE).eval()
    fuse = network.decoder.levels[1]  # level 2
    sources = [torch.rand(1, width, 32 // 2**i, 32 // 2**i) for i, width in enumerate((64, 128, 256, 320, 1024))]
    aligned = []
    projections = iter(fuse.xattnres.projections)
    for index, source in enumerate(sources):
        project = fuse.own if index == 2 else next(projections)
        aligned.append(project(brought_to(8, source)))
    mean = torch.stack(aligned).mean(0)
    torch.testing.assert_close(fuse(sources), fuse.fuse(mean), rtol=1e-4, atol=1e-5)


def test_routing():
    assert NETWORKS["unet-3-plus"].variants == ["baseline", "replace"]
    with torch.device("meta"):
        baseline = UNet3Plus(3, 1, routing=VARIANTS["baseline"].routing)
        assert baseline.state_dict().keys() == UNet3Plus(3, 1).state_dict().keys()
        assert not any(isinstance(module, XAttnRes) for module in baseline.modules())
        for variant in ("both", "noskip"):
            with pytest.raises(ValueError, match="skip_connections true, decoder false"):
                UNet3Plus(3, 1, routing=VARIANTS[variant].routing)
