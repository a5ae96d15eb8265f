"""The fast forms of XAttnRes: what each device computes with. The plain form in ``xattnres.py`` is their reference."""

from nnunetv2_xattnres.architectures.kernels import cuda
from nnunetv2_xattnres.architectures.kernels.operators import define_max_pool, define_mix
from nnunetv2_xattnres.architectures.kernels.pooling import max_pool, max_pool_backward
from nnunetv2_xattnres.architectures.xattnres import Kernel, register_kernel

register_kernel(
    "cuda",
    Kernel(define_mix("cuda", cuda.forward, cuda.backward), define_max_pool("cuda", max_pool, max_pool_backward)),
    devices=["cuda"],
)
