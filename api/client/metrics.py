"""Every value of a job's metrics, for programs, tables and pictures."""

from __future__ import annotations

import csv
import io
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symadj.api.client import display

if TYPE_CHECKING:
    import pandas

__all__ = ["Curve", "Metrics"]


@dataclass(frozen=True)
class Curve:
    """The values of one metric, and the steps at which it has them, in order."""

    steps: Sequence[int]
    values: Sequence[float]


class Metrics(Mapping[str, Curve]):
    """Metrics by name: ``metrics["loss"].values``. A notebook shows a curve of each.

    Args:
        curves: by name.
    """

    def __init__(self, curves: Mapping[str, Curve]) -> None:
        self._curves = dict(curves)

    @classmethod
    def of_csv(cls, content: bytes) -> Metrics:
        """Read what the API answers as csv: a line a step, a column a metric, nothing where there is no value."""
        lines = csv.reader(io.StringIO(content.decode()))
        _step, *names = next(lines)
        steps = [array("q") for _ in names]
        values = [array("d") for _ in names]
        for step, *cells in lines:
            for place, cell in enumerate(cells):
                if cell:
                    steps[place].append(int(step))
                    values[place].append(float(cell))
        return cls({name: Curve(steps[place], values[place]) for place, name in enumerate(names)})

    def __getitem__(self, name: str) -> Curve:
        return self._curves[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._curves)

    def __len__(self) -> int:
        return len(self._curves)

    def to_pandas(self) -> pandas.DataFrame:
        """Return a row a step, which is the index, and a column a metric; NaN where it has no value.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("to_pandas needs pandas: pip install pandas", name="pandas") from error
        columns = {
            name: pandas.Series(curve.values, index=pandas.Index(curve.steps, dtype="int64"), dtype="float64")
            for name, curve in self.items()
        }
        return pandas.DataFrame(columns).sort_index().rename_axis("step")

    def __repr__(self) -> str:
        told = (
            f"{name}: {len(curve.values)} values, newest {display.number(curve.values[-1])} (step {curve.steps[-1]})"
            for name, curve in self.items()
            if curve.values
        )
        return "\n".join(told) or "no metrics yet"

    def _repr_html_(self) -> str:
        return display.metrics_html({name: (curve.steps, curve.values) for name, curve in self.items()})
