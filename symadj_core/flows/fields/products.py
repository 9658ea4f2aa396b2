"""Products of matrices for closed forms in training, by the library that is fastest for their shapes on a CPU.

torch hands products of float32 matrices on a CPU, and the tanh of their results, to MKL. Where no gradient is wanted,
oneDNN, which torch holds too and torch.compile calls likewise, is faster at both; `python -m benchmarks.products`
measures it. The results differ by rounding: tanh is within 0.6 units in the last place, and sums of 256 terms or more
have up to twice the rounding error (`findings/onednn-rounding.sh`).

For every new shape oneDNN compiles a kernel, for 10 ms, and keeps up to 0.7 MiB (`findings/onednn-memory-by-shape.sh`).
So only uses of a field in a training step, which repeat their shapes, go there, and of those the first shapes alone;
and nothing that is compiled, since inductor refuses a frame with that operation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C._functorch import maybe_current_level
from torch.autograd import forward_ad
from torch.utils.flop_counter import flop_registry

# Sizes from which on oneDNN makes up for its call, which is 10 us longer: multiplications, and numbers with a tanh.
_LARGE = 2**23
_LARGE_WITH_TANH = 2**13
# Shapes that it is given at most in a process, which keep some 30 MiB: of eight batch sizes, for two wide layers.
_MOST_SHAPES = 24


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b [..., outputs] for x [..., inputs], W [outputs, inputs], b [outputs]."""
    if _ONEDNN is None or torch.compiler.is_compiling() or x.numel() * weight.shape[0] < _LARGE or not _fit(x, weight):
        return F.linear(x, weight, bias)
    return _ONEDNN(x, weight, bias, "none", [], "")


def linear_tanh(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """tanh(x W^T + b), likewise; nothing of it is kept for a gradient."""
    if _ONEDNN is None or torch.compiler.is_compiling():
        return F.linear(x, weight, bias).tanh_()
    if x.numel() * weight.shape[0] < _LARGE_WITH_TANH * x.shape[-1] or not _fit(x, weight):
        return F.linear(x, weight, bias).tanh_()
    return _ONEDNN(x, weight, bias, "tanh", [], "")


def outer_sum(*pairs: tuple[Tensor, Tensor]) -> Tensor:
    """The sum of B^T A [outputs, inputs] over pairs of B [rows, outputs] and A [rows, inputs]."""
    back, x = pairs[0]
    # MKL takes up to four times as long for a result of few columns as for its transpose.
    turned = x.shape[1] < back.shape[1] and x.device.type == "cpu"
    total = None
    for back, x in pairs:
        left, right = (x, back) if turned else (back, x)
        total = left.T @ right if total is None else total.addmm_(left.T, right)
    assert total is not None
    return total.T.contiguous() if turned else total


def _fit(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN can multiply them: float32 on a CPU, and neither a gradient nor a transform looks on.

    It does not look at their shapes itself: F.linear says what is wrong with them.
    """
    return (
        not torch.is_grad_enabled()
        and type(x) is Tensor
        and x.dtype is weight.dtype is torch.float32
        and x.device.type == weight.device.type == "cpu"
        and weight.shape[1] == x.shape[-1]
        and bool(torch.backends.mkldnn.enabled)
        and maybe_current_level() is None
        and forward_ad._current_level < 0
        and _is_among_the_first((x.numel() // max(x.shape[-1], 1), *weight.shape))
    )


def _is_among_the_first(shape: tuple[int, ...]) -> bool:
    if shape not in _SHAPES and len(_SHAPES) < _MOST_SHAPES:
        _SHAPES.add(shape)
    return shape in _SHAPES


def _onednn() -> Callable[..., Tensor] | None:
    """oneDNN's product of matrices; None in a build of torch without it."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    found: Callable[..., Tensor] | None = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if found is not None:
        flop_registry.setdefault(found, _flops)
    return found


def _flops(x: Tensor, weight: Tensor, *_: object, out_val: object = None, **__: object) -> int:
    """Its floating-point operations, which torch's counter does not know."""
    return 2 * x.numel() * weight.shape[0]


_ONEDNN = _onednn()
_SHAPES: set[tuple[int, ...]] = set()
