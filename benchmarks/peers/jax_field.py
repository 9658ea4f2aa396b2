"""The field of the problem as jax functions, for every implementation in jax."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["augmented", "flat", "loss"]

# The order of torch's parameters().
_ORDER = ("gate", "gate_bias", "shift", "weight", "bias")


def _field(layers: Any, t: Any, y: Any) -> Any:
    for number, layer in enumerate(layers):
        gate = jax.nn.sigmoid(layer["gate"] * t + layer["gate_bias"])
        y = (y @ layer["weight"].T + layer["bias"]) * gate + layer["shift"] * t
        if number < len(layers) - 1:
            y = jnp.tanh(y)
    return y


def augmented(layers: Any, probe: Any, t: Any, y: Any) -> Any:
    """Return (f, div f) by one probe, [B, D] and [B]."""
    dy, pull = jax.vjp(lambda at: _field(layers, t, at), y)
    return dy, (pull(probe)[0] * probe).sum(-1)


def loss(y: Any, log_det: Any) -> Any:
    """Return the mean NLL."""
    return -(-0.5 * ((y**2).sum(-1) + y.shape[-1] * np.log(2 * np.pi)) + log_det).mean()


def flat(gradient: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the gradient of all blocks' layers in one vector, in the order of torch's parameters()."""
    parts = [np.asarray(layer[name]).ravel() for block in gradient for layer in block for name in _ORDER]
    return np.concatenate(parts).astype(np.float32)
