"""XAttnRes (cross-stage attention residuals, arXiv 2604.03297) as a plug-in for nnU-Net v2."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnunetv2_xattnres.predictor import Predictor

__all__ = ["Predictor", "__version__"]

__version__ = version("nnunetv2-xattnres")


def __getattr__(name: str) -> Any:
    """``Predictor``, imported at its first use: it needs torch, which takes seconds to import."""
    if name == "Predictor":
        from nnunetv2_xattnres.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
