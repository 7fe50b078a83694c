"""Layers that cost nothing on the meta device, and dense layers laid out for generation.

Differs: the Keras twin needs layers of its own in more places, and leaves kernels to XLA.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Fewer rows than that are no work for `Linear`.
ROWS = 64


class Embedding(nn.Embedding):
    """A table of vectors; the row `padding_idx` starts as zeros and gets no gradient."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:  # random numbers there take torch a second of imports
            super().reset_parameters()


class Linear(nn.Linear):
    """A dense layer that trains on a CPU with oneDNN's matrix products, which beat the usual ones.

    They are a sixth faster on the machines that were tried, where there are many rows.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`(..., inputs)` -> `(..., outputs)`."""
        suits = (
            x.numel() >= ROWS * self.in_features
            and x.dtype == self.weight.dtype == torch.float32
            and x.device.type == "cpu"
            and torch.backends.mkldnn.is_available()
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
        )
        if not suits:
            return super().forward(x)
        return _OneDnnLinear.apply(x, self.weight, self.bias)


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            operator = torch.ops.mkldnn._linear_pointwise
            dx = operator(upstream.contiguous(), weight.t(), None, "none", [], "")
        upstream = upstream.flatten(0, -2)
        if ctx.needs_input_grad[1]:
            dw = upstream.t() @ x.flatten(0, -2)
        if ctx.needs_input_grad[2]:
            db = upstream.sum(0)
        return dx, dw, db


class PackedLinear(nn.Module):
    """A dense layer that computes what another does, from a copy of its weights.

    A step of generation multiplies every weight with a few rows only, which the plain layout serves
    badly on a CPU: oneDNN's own layout takes half the time for 4 or 8 rows, and for a single row a
    wide layer is quicker transposed.

    Args:
        linear: float32, on a CPU.
        rows: how many there will be.
    """

    def __init__(self, linear: nn.Linear, rows: int) -> None:
        super().__init__()
        self.transposed = rows == 1
        weight = linear.weight.detach()
        if self.transposed:
            self.packed = weight.t().contiguous()
        else:
            self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        self.offset = None if linear.bias is None else linear.bias.detach()

    @staticmethod
    def suits(linear: nn.Module, rows: int) -> bool:
        """Whether the layer may be replaced, and that pays."""
        if (
            type(linear) not in (nn.Linear, Linear)
            or linear._forward_hooks
            or linear._forward_pre_hooks
        ):
            return False
        weight = linear.weight
        plain = type(weight) is nn.Parameter and weight.device.type == "cpu"
        wide = linear.out_features >= 2 * linear.in_features
        return plain and weight.dtype == torch.float32 and (rows > 1 or wide)

    def forward(self, x: Tensor) -> Tensor:
        if not self.transposed:
            operator = torch.ops.mkldnn._linear_pointwise
            return operator(x, self.packed, self.offset, "none", [], "")
        if self.offset is None:
            return x @ self.packed
        return torch.addmm(self.offset, x.flatten(0, -2), self.packed).view(*x.shape[:-1], -1)


def packed(model: nn.Module, part: nn.Module, rows: int, most_bytes: int) -> nn.Module:
    """The model with `PackedLinear` in the place of dense layers, while it itself stays as it is.

    Args:
        part: the part of the model whose layers are to be packed.
        rows: how many rows a dense layer will be given.
        most_bytes: memory to spend; the layers that come first are packed.
    Returns:
        Another model, which shares all else; the same one where packing cannot be or does not pay:
        on an accelerator, under autocast, where forward passes are compiled or replaced.
    """
    modules = list(model.modules())
    if (
        not torch.backends.mkldnn.is_available()
        or torch.is_autocast_enabled("cpu")
        or any("forward" in x.__dict__ or x._compiled_call_impl is not None for x in modules)
    ):
        return model
    replaced: dict[nn.Module, nn.Module] = {}
    for module in part.modules():
        if PackedLinear.suits(module, rows):
            most_bytes -= module.weight.numel() * 4
            if most_bytes < 0:
                break
            replaced[module] = PackedLinear(module, rows)
    return _replaced(model, replaced)


def _replaced(module: nn.Module, replaced: dict[nn.Module, nn.Module]) -> nn.Module:
    if module in replaced:
        return replaced[module]
    twin = copy.copy(module)  # shares parameters and everything else
    twin.__dict__["_modules"] = {
        name: None if child is None else _replaced(child, replaced)
        for name, child in module._modules.items()
    }
    return twin
