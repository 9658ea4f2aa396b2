"""Times that are floats of the host, or floats that move with an entry of t.

No comparison of times ever waits for the device, because every time has its value on the host. Where autograd is to
differentiate with respect to t, a time also carries a shift: a 0-dim tensor that is zero in value and has the graph to
t. Values are then the same to the bit with and without that gradient, so that the accepted steps are the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Moving:
    """A number whose value is `value` and whose derivatives are those of `shift`, a 0-dim tensor equal to zero."""

    value: float
    shift: Tensor

    def __add__(self, other: Time) -> Moving:
        if isinstance(other, Moving):
            return Moving(self.value + other.value, self.shift + other.shift)
        return Moving(self.value + other, self.shift)

    __radd__ = __add__

    def __sub__(self, other: Time) -> Moving:
        return self + -1.0 * other

    def __rsub__(self, other: float) -> Moving:
        return other + -1.0 * self

    def __rmul__(self, factor: float) -> Moving:
        return Moving(factor * self.value, factor * self.shift)


Time = float | Moving


def moving(value: float, expression: Tensor) -> Moving:
    """The value with the derivatives of a 0-dim tensor that equals it up to rounding."""
    return Moving(value, expression - expression.detach())


def value_of(x: Time) -> float:
    return x.value if isinstance(x, Moving) else x
