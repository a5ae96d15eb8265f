"""The encoder of TransUNet with a narrow transformer of two layers, for tests that compute."""

from contextlib import contextmanager
from types import MappingProxyType
from unittest.mock import patch

from nnunetv2_xattnres.architectures import pretrained
from nnunetv2_xattnres.encoders import OPTIONS, R50_VIT

SHALLOW = {"depth": 2, "embed_dim": 48, "num_heads": 3}


@contextmanager
def shallow_vit():
    """Networks built inside have it. The ResNet is the real one: timm has no smaller."""
    options = {**OPTIONS, R50_VIT: {**OPTIONS[R50_VIT], **SHALLOW}}
    with patch.object(pretrained, "OPTIONS", MappingProxyType(options)):
        yield
