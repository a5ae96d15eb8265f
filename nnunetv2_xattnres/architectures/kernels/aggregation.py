"""The mixture of XAttnRes (eq. 5 to 8) and its gradients in plain torch, without autograd.

With V the aligned entries, r = 1/rms, l = r <q, V>, a = softmax(l) and G the gradient of the output:
dl_n = a_n (<G, V_n> - sum_m a_m <G, V_m>), dV_n = a_n G + dl_n r_n q - (dl_n l_n r_n^2 / C) V_n.
The gradient of q is the sum of dl_n r_n V_n over pixels and entries.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mix(entries: Sequence[Tensor], query: Tensor, eps: float) -> Tensor:
    """The mixture ``[B, P, C]`` of n entries of that shape, in the dtype of ``query``, ``[C]``."""
    logits, _ = _attend(entries, query, eps)
    mixed = query.new_zeros(())
    for weight, entry in zip(logits.softmax(0), entries, strict=True):
        mixed = torch.addcmul(mixed, weight.unsqueeze(-1), entry.to(query.dtype))
    return mixed


def differentiate(entries: Sequence[Tensor], query: Tensor, eps: float, grad: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The gradients of ``query`` and of each entry, in the dtypes of these."""
    grad = grad.to(query.dtype)
    logits, rstds = _attend(entries, query, eps)
    weights = logits.softmax(0)
    agreements = torch.stack([(entry.to(query.dtype) * grad).sum(-1) for entry in entries])
    along_query = weights * (agreements - (weights * agreements).sum(0)) * rstds
    along_value = along_query * logits * rstds / -query.numel()
    query_gradient, gradients = torch.zeros_like(query), []
    for index, entry in enumerate(entries):
        value = entry.to(query.dtype)
        query_gradient += (value * along_query[index].unsqueeze(-1)).sum((0, 1))
        gradient = grad * weights[index].unsqueeze(-1)
        gradient.addcmul_(along_query[index].unsqueeze(-1), query)
        gradient.addcmul_(along_value[index].unsqueeze(-1), value)
        gradients.append(gradient.to(entry.dtype))
    return query_gradient, gradients


def _attend(entries: Sequence[Tensor], query: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Logits and 1/rms per entry and pixel, each ``[n, B, P]`` (eq. 6)."""
    logits, rstds = [], []
    for entry in entries:
        value = entry.to(query.dtype)
        rstds.append((value.square().mean(-1) + eps).rsqrt())
        logits.append((value * query).sum(-1) * rstds[-1])
    return torch.stack(logits), torch.stack(rstds)
