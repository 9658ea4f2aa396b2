"""A summary of data, for people: each column's type, range, mean and zeros, and what is unusual about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from symadj.service.contract.data_summary import ColumnSummary, DataSummary, SourceSummary

__all__ = ["data_parts"]

# Columns of a source that are shown: the first ones, and so many others that are remarked on.
_FIRST, _REMARKED = 20, 20
_WIDEST_NAME = 40


def data_parts(summary: DataSummary, all_columns: str) -> list[RenderableType]:
    """Return a summary as tables and sentences; ``all_columns`` says where those are that it leaves out."""
    parts: list[RenderableType] = []
    for source in summary.sources:
        parts += _source_parts(source, summary.image, all_columns)
    steps = [_transform(given) for given in summary.transforms]
    words = f"Transforms before the flow: {', then '.join(steps) or 'none'}"
    context = any(column.context for source in summary.sources for column in source.columns)
    parts.append(Text(f"{words}{'; the context is standardised' if context else ''}.\n"))
    return parts


def _source_parts(source: SourceSummary, image: tuple[int, int, int] | None, all_columns: str) -> list[RenderableType]:
    what = f"rows of {source.dim:,} columns"
    if image is not None:
        what = f"images of {' x '.join(map(str, image))} (channels x height x width)"
    form = f" ({source.format})" if source.format else ""
    parts: list[RenderableType] = [Text(f"Data as read from {source.name}{form}: {source.rows:,} {what}")]
    shown = _shown(source.columns)
    parts.append(_table(shown))
    lines = []
    left_out = (len(source.columns) if image else source.dim) - len(shown)
    if left_out:
        lines.append(f"- {left_out:,} more columns are not shown: {all_columns}")
    lines += [f"- look at {remark}" for remark in source.remarks]
    lines += [f"- {note}" for note in source.notes]  # as they are: many begin with a keyword of the file
    if lines:
        parts.append(Text("\n".join(lines)))
    return parts


def _shown(columns: Sequence[ColumnSummary]) -> list[ColumnSummary]:
    """Return the first columns, and further ones that are remarked on."""
    return [*columns[:_FIRST], *[column for column in columns[_FIRST:] if column.remarks][:_REMARKED]]


def _table(columns: Sequence[ColumnSummary]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("column", no_wrap=True, max_width=_WIDEST_NAME, overflow="ellipsis")
    table.add_column("type")
    for heading in ("min", "mean", "max", "zeros"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    for column in columns:
        remarks = [f"[bold yellow]{escape(remark)}[/bold yellow]" for remark in column.remarks]
        table.add_row(
            escape(column.name),
            escape(column.dtype),
            *(_figure(value) for value in (column.min, column.mean, column.max)),
            _share(column.zeros),
            ", ".join([*(["context"] if column.context else []), *remarks]),
        )
    return table


def _figure(value: float | None) -> str:
    """Return five significant digits; what has up to nine before the point, in full before it."""
    if value is None:
        return "-"
    large_or_whole = abs(value) < 1e9 and (abs(value) >= 1e4 or value == round(value))
    return f"{value:.0f}" if large_or_whole else f"{value:.5g}"


def _share(share: float) -> str:
    """Return a share in percent; none and all are what they say."""
    if share in (0.0, 1.0):
        return f"{share:.0%}".replace("%", " %")
    if not 0.001 <= share <= 0.999:
        return "<0.1 %" if share < 0.5 else ">99.9 %"
    return f"{100 * share:.1f} %"


def _transform(given: dict[str, Any]) -> str:
    """Return a transform in words: its kind, its parameters, its columns."""
    fields = [f"{name} {value}" for name, value in given.items() if name not in {"kind", "columns"}]
    columns = given.get("columns")
    of = f" of {_listed(columns)}" if columns else ""
    return f"{given['kind']}{' (' + ', '.join(fields) + ')' if fields else ''}{of}"


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(columns[:5]) + (f" and {len(columns) - 5:,} more" if len(columns) > 5 else "")
