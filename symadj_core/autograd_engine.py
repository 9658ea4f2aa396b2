"""Vector-Jacobian products by autograd's engine, called past the checks of `torch.autograd.backward` and `grad`.

Given a cotangent, both compare its shape with the output's through torch's symbolic shapes, and import SymPy for it:
some 490 modules and 35 MiB in every process that trains. Shapes that are plain numbers need none of that.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch._vmap_internals import _vmap
from torch.autograd.graph import GradientEdge, _engine_run_backward

__all__ = ["accumulate", "pulled_back"]

Output = Tensor | GradientEdge


def accumulate(outputs: Sequence[Output], cotangents: Sequence[Tensor], leaves: Sequence[Tensor]) -> None:
    """Add sum_i (d outputs_i / d leaf)^T cotangents_i to the `.grad` of each leaf, and free the graph.

    Args:
        outputs: at least one, each with a graph.
        cotangents: as many, each of its output's shape, dtype and device.
        leaves: at least one, each requiring grad; one that no output depends on is left as it is.

    Raises:
        RuntimeError: a cotangent has another shape than its output.
    """
    _check(outputs, cotangents)
    _engine_run_backward(
        tuple(outputs), tuple(cotangents), False, False, tuple(leaves), allow_unreachable=True, accumulate_grad=True
    )


def pulled_back(
    outputs: Sequence[Output],
    cotangents: Sequence[Tensor],
    inputs: Sequence[Tensor],
    *,
    retain_graph: bool = False,
    create_graph: bool = False,
    batched: bool = False,
) -> tuple[Tensor | None, ...]:
    """Return sum_i (d outputs_i / d input)^T cotangents_i for each input, None where no output depends on it.

    Args:
        outputs, cotangents: as in `accumulate`.
        inputs: at least one, each requiring grad.
        retain_graph: keep the graph of the outputs.
        create_graph: the products have a graph themselves, and that of the outputs is kept.
        batched: the cotangents are [K, *shape of the output] and the products [K, *shape of the input], of one pass.

    Raises:
        RuntimeError: a cotangent has another shape than its output.
    """
    _check(outputs, [cotangent[0] for cotangent in cotangents] if batched else cotangents)

    def run(*weights: Tensor) -> tuple[Tensor | None, ...]:
        result: tuple[Tensor | None, ...] = _engine_run_backward(
            tuple(outputs),
            weights,
            retain_graph or create_graph,
            create_graph,
            tuple(inputs),
            allow_unreachable=True,
            accumulate_grad=False,
        )
        return result

    if not batched:
        return run(*cotangents)
    rows: tuple[Tensor | None, ...] = _vmap(run, 0, 0, allow_none_pass_through=True)(*cotangents)
    return rows


def _check(outputs: Sequence[Output], cotangents: Sequence[Tensor]) -> None:
    """Check the shapes: the engine itself would sum a cotangent that an output could be broadcast to."""
    for output, cotangent in zip(outputs, cotangents, strict=True):
        if isinstance(output, Tensor) and output.shape != cotangent.shape:
            raise RuntimeError(
                f"a cotangent has the shape {tuple(cotangent.shape)} and its output {tuple(output.shape)}: "
                "they must be the same"
            )
