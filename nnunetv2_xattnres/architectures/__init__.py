"""The networks and the mechanism: what a plans file can name."""

from nnunetv2_xattnres.architectures import numba_kernel, numba_pool
from nnunetv2_xattnres.architectures.emcad import EMCADNet
from nnunetv2_xattnres.architectures.paper_unet import PaperUNet
from nnunetv2_xattnres.architectures.unet import XAttnResResidualEncoderUNet, XAttnResUNet
from nnunetv2_xattnres.architectures.xattnres import History, XAttnRes, register_kernel, use_kernel

register_kernel("numba", numba_kernel.aggregate, numba_pool.max_pool, devices=["cpu"])
# By name only, not for CUDA by default: it is tested under Triton's interpreter, but was never measured on a GPU
try:
    from nnunetv2_xattnres.architectures import triton_kernel
except ImportError:  # torch brings triton on Linux with CUDA only, and nothing else needs it
    pass
else:
    register_kernel("triton", triton_kernel.aggregate)

__all__ = [
    "EMCADNet",
    "History",
    "PaperUNet",
    "XAttnRes",
    "XAttnResResidualEncoderUNet",
    "XAttnResUNet",
    "use_kernel",
]
