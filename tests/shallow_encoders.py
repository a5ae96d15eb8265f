"""Encoders of timm with fewer layers of the same kinds, for tests that compute or compile."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from unittest.mock import patch

import timm

from nnunetv2_xattnres.encoders import R50_VIT, RES2NET_50, RES2NET_101

SHALLOW = {"depth": 2, "embed_dim": 48, "num_heads": 3}


def shallow_vit() -> AbstractContextManager[None]:
    """TransUNet's, with a narrow transformer of two layers. The ResNet is the real one: timm has no smaller."""
    return _changed({R50_VIT: SHALLOW})


def shallow_res2net() -> AbstractContextManager[None]:
    """Res2Nets with two blocks per stage: the first is of one kind, all that follow are of the other."""
    return _changed({name: {"layers": [2, 2, 2, 2]} for name in (RES2NET_50, RES2NET_101)})


@contextmanager
def _changed(options_of: Mapping[str, dict]) -> Iterator[None]:
    create = timm.create_model

    def changed(name, **options):
        return create(name, **{**options_of.get(name, {}), **options})

    with patch.object(timm, "create_model", changed):
        yield
