"""The encoder of TransUNet with a narrow transformer of two layers, for tests that compute."""

from contextlib import contextmanager
from unittest.mock import patch

import timm

from nnunetv2_xattnres.encoders import R50_VIT

SHALLOW = {"depth": 2, "embed_dim": 48, "num_heads": 3}


@contextmanager
def shallow_vit():
    """timm builds it inside. The ResNet is the real one: timm has no smaller."""
    create = timm.create_model

    def shallow(name, **options):
        return create(name, **{**(SHALLOW if name == R50_VIT else {}), **options})

    with patch.object(timm, "create_model", shallow):
        yield
