"""Reversible residual layers, whose activations are computed again in the backward pass.

Source: Gomez et al. 2017, "The reversible residual network"; Reformer (Kitaev et al. 2020),
section 3. A layer's inputs follow from its outputs, so that the memory for activations does not
grow with the number of layers:

    x1 ---------(+)-------+---> y1       y1 = x1 + attend(x2)       x2 = y2 - feed(y1)
                 |        |
            attend(x2)  feed(y1)
                 |        |
    x2 -----+----+-------(+)--> y2       y2 = x2 + feed(y1)         x1 = y1 - attend(x2)

Differs: in Keras all layers are one function, whose parts are graphs that run one after another.
Here each is, but for the last, which keeps its activations: its backward pass is the first and
would compute them again at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Tape:
    """What the backward pass hands from layer to layer, from the last to the first.

    Args:
        size: number of the layers' weights.
    """

    def __init__(self, size: int = 0) -> None:
        self.size = size
        self.streams: tuple[Tensor, Tensor] | None = None
        self.behind = -1  # the number of the layer whose outputs they are
        self.space: Tensor | None = None

    def put(self, behind: int, *streams: Tensor) -> None:
        self.behind, self.streams = behind, streams

    def take(self, behind: int) -> tuple[Tensor, Tensor]:
        if self.streams is None or self.behind != behind:
            raise RuntimeError(
                "a reversible layer's backward pass came without that of the layer behind it; "
                "output_hidden_states=True keeps what gradients of single layers need"
            )
        streams, self.streams = self.streams, None
        return streams

    def lasting(self, gradient: Tensor | None) -> Tensor | None:
        """The gradient of a weight in memory for those of all layers.

        Each would stay where it was made, between the large pieces of memory that a layer has
        given back, which on a CPU could then not be joined for the next layer.
        """
        if gradient is None or gradient.device.type != "cpu":
            return gradient
        if self.space is None or len(self.space) < gradient.numel():
            self.space = gradient.new_empty(max(self.size, gradient.numel()))
        elif self.space.dtype != gradient.dtype:
            return gradient
        own, self.space = self.space.split([gradient.numel(), len(self.space) - gradient.numel()])
        return own.view_as(gradient).copy_(gradient)


def run_reversible(
    layer: nn.Module, number: int, x1: Tensor, x2: Tensor, call: Any, tape: Tape, keep: bool
) -> tuple[Tensor, Tensor, Any]:
    """Runs a layer, without keeping its activations where gradients are wanted.

    Args:
        layer: has `attend(x2, call, memo)`, which returns what is added to x1 and a memo, for a
            second run to take from it what need not be computed again, and `feed(y1, call)`.
            What is random in there comes from seeds in `call`, so that a second run draws it again.
        number: of the layer.
        x1, x2: `(batch, sequence, hidden)`.
        keep: whether to keep the outputs: they are returned, or a layer of another kind follows.
    Returns:
        y1, y2 and the memo.
    """
    parameters = [p for p in layer.parameters() if p.requires_grad]
    wanted = x1.requires_grad or x2.requires_grad or bool(parameters)
    if not (torch.is_grad_enabled() and wanted):
        return run_plainly(layer, x1, x2, call)
    memo: list[Any] = []
    y1, y2 = _Reversible.apply((layer, number, call, tape, keep, memo), x1, x2, *parameters)
    return y1, y2, memo[0]


def run_plainly(layer: Any, x1: Tensor, x2: Tensor, call: Any) -> tuple[Tensor, Tensor, Any]:
    """The same, with activations kept."""
    attended, memo = layer.attend(x2, call, None)
    y1 = x1 + attended
    del attended
    return y1, x2 + layer.feed(y1, call), memo


class _Reversible(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, given: tuple[Any, ...], x1: Tensor, x2: Tensor, *parameters: nn.Parameter
    ) -> tuple[Tensor, Tensor]:
        ctx.layer, ctx.number, ctx.call, ctx.tape, ctx.keep, memo = given
        ctx.parameters, ctx.device = parameters, x1.device.type
        ctx.autocast = _autocast_state(ctx.device)
        with _autocast(ctx.device, ctx.autocast):
            y1, y2, ctx.memo = run_plainly(ctx.layer, x1, x2, ctx.call)
        memo.append(ctx.memo)
        if ctx.keep:
            ctx.save_for_backward(y1, y2)
        return y1, y2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy1: Tensor, dy2: Tensor) -> tuple[Any, ...]:
        layer, call = ctx.layer, ctx.call
        y1, y2 = ctx.saved_tensors if ctx.keep else ctx.tape.take(ctx.number)
        x2 = torch.empty_like(y2) if ctx.keep else y2
        dx1, gradients = torch.empty_like(y1), [None] * len(ctx.parameters)
        with _autocast(ctx.device, ctx.autocast):
            for part, feed in layer.pieces(y1, call):
                fed, dx, found = _gradients(feed, y1[:, part], dy2[:, part], ctx.parameters)
                torch.sub(y2[:, part], fed, out=x2[:, part])
                torch.add(dy1[:, part], dx, out=dx1[:, part])
                gradients = list(map(_sum, gradients, found))
            del y2, fed, dx, found
            attended, dx, found = _gradients(
                lambda x: layer.attend(x, call, ctx.memo)[0], x2, dx1, ctx.parameters
            )
        if ctx.number:
            x1 = y1 - attended if ctx.keep else y1.sub_(attended)
            ctx.tape.put(ctx.number - 1, x1, x2)
        del attended
        return None, dx1, dy2 + dx, *map(ctx.tape.lasting, map(_sum, gradients, found))


def _sum(total: Tensor | None, more: Tensor | None) -> Tensor | None:
    """Of what there is, in the place of the first."""
    return more if total is None else total if more is None else total.add_(more)


def _gradients(
    function: Any, x: Tensor, upstream: Tensor, parameters: tuple[nn.Parameter, ...]
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """The function's value at x, and the gradients of x and of the parameters that it uses."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        y = function(x)
    found = torch.autograd.grad(
        y, (x, *parameters), upstream.to(y.dtype), allow_unused=True, materialize_grads=False
    )
    return y.detach(), found[0], list(found[1:])


def _autocast_state(device: str) -> tuple[bool, torch.dtype]:
    return torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)


@contextlib.contextmanager
def _autocast(device: str, state: tuple[bool, torch.dtype]) -> Iterator[None]:
    """Autocast as it was in the forward pass.

    Without its cache of weights: those that are cast while no gradients are recorded have none.
    """
    enabled, dtype = state
    with torch.autocast(device, dtype, enabled, cache_enabled=False):
        yield
