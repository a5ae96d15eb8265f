"""The fast forms of XAttnRes: what each device computes with. The plain form in ``xattnres.py`` is their reference."""

from collections.abc import Callable
from typing import Any

from nnunetv2_xattnres.architectures.kernels import cpu, cuda, pooling
from nnunetv2_xattnres.architectures.kernels.operators import define_max_pool, define_mix
from nnunetv2_xattnres.architectures.xattnres import Kernel, register_kernel


def _compiled(function: Callable[..., Any], otherwise: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` where Numba can compile it: a prediction must not depend on a compiler."""
    return lambda *arguments: (function if cpu.is_available() else otherwise)(*arguments)


register_kernel(
    "numba",
    Kernel(
        define_mix("numba", _compiled(cpu.forward, cuda.forward), _compiled(cpu.backward, cuda.backward), device="cpu"),
        define_max_pool(
            "numba",
            _compiled(cpu.max_pool, pooling.max_pool),
            _compiled(cpu.max_pool_backward, pooling.max_pool_backward),
            device="cpu",
        ),
    ),
    devices=["cpu"],
)
register_kernel(
    "cuda",
    Kernel(
        define_mix("cuda", cuda.forward, cuda.backward),
        define_max_pool("cuda", pooling.max_pool, pooling.max_pool_backward),
    ),
    devices=["cuda"],
)
