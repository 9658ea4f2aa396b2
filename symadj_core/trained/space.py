"""The data's own units and columns, and the way from there to the space that a flow models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from symadj_core.noise import row_number, uniform
from symadj_core.transforms import Dequantise, FittedTransform, OfColumns, invert

__all__ = ["DataSpace"]

_SHOWN = 30  # names in a message


@dataclass(frozen=True, eq=False)
class DataSpace:
    """Columns, units and shape of the rows that a trained flow takes and gives.

    Attributes:
        columns: names of the D columns.
        transforms: from the data's units to the flow's space, in this order; none where rows are in that space.
        context_columns: names of the C columns of the context.
        context_transform: what standardised the context, or None.
        shape: (channels, height, width) of the image in a row, or None.
        levels: number of values of a dequantised entry, or None.
        noise_seed: of dequantisation's noise, as in training.
    """

    columns: tuple[str, ...]
    transforms: tuple[FittedTransform, ...] = ()
    context_columns: tuple[str, ...] = ()
    context_transform: FittedTransform | None = None
    shape: tuple[int, int, int] | None = None
    levels: int | None = None
    noise_seed: int = 0

    @property
    def event_shape(self) -> torch.Size:
        """[D], or [channels, height, width] of images."""
        return torch.Size((len(self.columns),) if self.shape is None else self.shape)

    def transformed(self) -> DataSpace:
        """The flow's own space: rows are taken and given as the flow sees them; contexts stay in their units."""
        return replace(self, transforms=(), levels=None)

    def rows(self, given: Any, device: torch.device) -> tuple[Tensor, torch.Size, torch.dtype]:
        """What a user gave, as rows.

        Args:
            given: a tensor, array or nested list [..., *event_shape]; or anything with named columns (a pandas or
                polars frame, a pyarrow table, a structured array, a dict of arrays), of which those of the flow are
                taken by their names, in any order.
            device: of the flow.

        Returns:
            rows [n, D], the batch shape [...] whose product is n, and the dtype in which to answer: that of a floating
            tensor, else float64.

        Raises:
            ValueError: columns are missing, there is another number of them, or a value is not finite.
            TypeError: a tensor is on another device.
        """
        values, dtype = _values(given, self.columns, "columns", device)
        event = self.event_shape
        if values.shape[max(0, values.dim() - len(event)) :] != event:
            raise ValueError(self._expected(values))
        batch = values.shape[: values.dim() - len(event)]
        rows = values.reshape(-1, len(self.columns))
        _refuse_not_finite(rows, self.columns)
        return rows, batch, dtype

    def contexts(self, given: Any, device: torch.device) -> Tensor:
        """Contexts [..., C] in the data's units, standardised as the flow takes them.

        Raises:
            ValueError, TypeError: as `rows`.
        """
        values, _ = _values(given, self.context_columns, "context", device)
        width = len(self.context_columns)
        if values.shape[-1:] != (width,):
            names = _named(self.context_columns)
            raise ValueError(f"expected a context [..., {width}] ({names}), got {list(values.shape)}")
        rows = values.reshape(-1, width)
        _refuse_not_finite(rows, self.context_columns)
        if self.context_transform is not None:
            rows, _ = self.context_transform(rows)
        return rows.view(values.shape)

    def has_context(self, given: Any) -> bool:
        """Whether what a user gave has the context's columns by name, beside those of the rows."""
        names = _column_names(given)
        return names is not None and bool(self.context_columns) and set(self.context_columns) <= set(names)

    def to_flow(self, rows: Tensor, index: Tensor | None) -> tuple[Tensor, Tensor]:
        """Rows [n, D] in the flow's space, and log |det| of the transforms [n].

        Args:
            rows: in the data's units. Of dequantised data a row of whole numbers gets the noise that training gives
                it; another one is taken as it is, noise included.
            index: [n] the rows' numbers in the data set, by which they get the noise that they had there; None takes
                a number that follows from the values.

        Raises:
            ValueError: a value that the transforms can't take.
        """
        if self.levels is not None:
            rows = self._noisy(rows, index)
        log_abs_det = rows.new_zeros(len(rows))
        for transform in self.transforms:
            self._refuse_misfits(transform, rows)
            rows, change = transform(rows)
            log_abs_det = log_abs_det + change
        return rows, log_abs_det

    def from_flow(self, rows: Tensor, *, rounded: bool) -> Tensor:
        """Rows [n, D] of the flow's space in the data's units; `rounded` to whole numbers if they were dequantised."""
        if rounded:
            return invert(self.transforms, rows)
        for transform in reversed(self.transforms):
            rows = transform.unrounded(rows)
        return rows

    def ends(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The lowest and the highest values [D] that the columns can have, perhaps infinite."""
        far = np.full((1, len(self.columns)), np.inf)
        with np.errstate(all="ignore"):
            low, high = self._unrounded(-far)[0], self._unrounded(far)[0]
        if self.levels is not None:
            low, high = np.maximum(low, 0.0), np.minimum(high, float(self.levels))
        return low, high

    def _unrounded(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        for transform in reversed(self.transforms):
            rows = transform.unrounded(rows)
        return rows

    def _noisy(self, rows: Tensor, index: Tensor | None) -> Tensor:
        raw = rows.detach().cpu().numpy().astype(np.float64)
        whole = (raw == np.floor(raw)).all(1)
        bad = (raw < 0) | (raw >= self.levels if self.levels is not None else False)
        if bad.any():
            row, column = (int(place) for place in np.argwhere(bad)[0])
            raise ValueError(
                f"row {row}, {self.columns[column]!r} is {raw[row, column]:g}: this flow takes whole numbers from 0 to "
                f"{(self.levels or 0) - 1}, or these with noise from 0 to 1"
            )
        numbers = row_number(raw) if index is None else index.detach().cpu().numpy().astype(np.int64)
        noise = uniform(self.noise_seed, 0, numbers, raw.shape[1]) * whole[:, None]
        return rows + torch.from_numpy(noise).to(rows)

    def _refuse_misfits(self, transform: FittedTransform, rows: Tensor) -> None:
        if isinstance(transform, Dequantise):
            return  # by now the numbers have noise
        misfits = transform.misfits(rows.detach())
        if misfits is None or not bool(misfits[0].any()):
            return
        row, column = (int(place) for place in misfits[0].nonzero()[0])
        kind = (transform.inner if isinstance(transform, OfColumns) else transform).parameters()["kind"]
        raise ValueError(
            f"row {row}, column {self.columns[column]!r} comes to {kind} as {float(rows[row, column]):g}; {misfits[1]}"
        )

    def _expected(self, values: Tensor) -> str:
        event = list(self.event_shape)
        said = f"expected rows [..., {', '.join(map(str, event))}], got {list(values.shape)}"
        if self.shape is not None:
            return (
                f"{said}: images are [..., channels, height, width], here x.reshape(-1, {', '.join(map(str, event))})"
            )
        return f"{said}: the columns are {_named(self.columns)}"


def _values(given: Any, names: Sequence[str], what: str, device: torch.device) -> tuple[Tensor, torch.dtype]:
    """What was given as a floating tensor on `device`, and the dtype in which to answer."""
    if isinstance(given, Tensor):
        if given.device != device:
            raise TypeError(f"the flow is on {device}, what it was given on {given.device}: use x.to({str(device)!r})")
        dtype = given.dtype if given.is_floating_point() else torch.float64
        return given.to(_widest(device)), dtype
    known = _column_names(given)
    if known is not None:
        missing = [name for name in names if name not in known]
        if missing:
            raise ValueError(
                f"the {what} {_named(missing)} {'is' if len(missing) == 1 else 'are'} missing; "
                f"the flow takes {_named(names)}, and there are {_named(known)}"
            )
        array = np.stack([_as_floats(given[name], name) for name in names], -1)
    else:
        array = _as_floats(given, what)
    return torch.from_numpy(array).to(device, _widest(device)), torch.float64


def _widest(device: torch.device) -> torch.dtype:
    """The dtype of the way between units: float64 where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def _column_names(given: Any) -> list[str] | None:
    """The names of the columns of a frame, table, structured array or dict; None for what has none."""
    if isinstance(given, np.ndarray):
        return None if given.dtype.names is None else list(given.dtype.names)
    if isinstance(given, dict):
        return list(given)
    for attribute in ("column_names", "columns"):
        names = getattr(given, attribute, None)
        if names is not None and not callable(names):
            return list(names)
    return None


def _as_floats(given: Any, what: str) -> NDArray[np.float64]:
    try:
        return np.ascontiguousarray(np.asarray(given, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what!r} can't be read as numbers: {error}") from error


def _refuse_not_finite(rows: Tensor, columns: Sequence[str]) -> None:
    finite = torch.isfinite(rows.detach())
    if not bool(finite.all()):
        row, column = (int(place) for place in (~finite).nonzero()[0])
        raise ValueError(
            f"row {row} (from 0), column {columns[column]!r} is {float(rows[row, column])}: every value must be finite"
        )


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_SHOWN]))
    return shown + (f", ... ({len(names)} in all)" if len(names) > _SHOWN else "")
