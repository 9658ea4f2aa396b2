"""csv: values with something between them, as Excel, R, pandas and other programs write them."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from symadj.service.contract.spec.data import CsvOptions, FileData
from symadj.workers.data.errors import DataError
from symadj.workers.data.formats.columns import INEXACT, LARGEST_EXACT, names_asked_for, wanted_of
from symadj.workers.data.formats.raw import InputFile, Raw, Room, need, open_unpacked, reading, reads, refuse

__all__ = ["names_without_header", "read_csv"]

_ROWS_LOOKED_AT = 20
# The first of them lie within the first so many bytes; if two do, no more of these than enough are looked at.
_BEGINNING_BYTES, _ENOUGH_CHARACTERS = 1 << 22, 1 << 20
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars", " ": "spaces", ",": "commas"}
_EXCELS_HINT = re.compile(r"sep=(.)\s*", re.IGNORECASE)
_BOOLEANS = {"true", "True", "TRUE", "false", "False", "FALSE"}
_MISSING = {"NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "#N/A"}
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_NUMBERED = re.compile(r"x\d+")
_WHOLE = re.compile(r"\s*[+-]?\d+\s*")
_NOT_A_VALUE = re.compile(r"In CSV column #(\d+): Row #(\d+): .*invalid value '(.*)'", re.DOTALL)
_RAGGED = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+)")


@dataclass(frozen=True)
class _Beginning:
    """The first lines of a file.

    Attributes:
        hint: the separator that Excel has been told by a first line like ``sep=;``, which is in none of the others.
        lines: the lines of ``records``.
        records: the first rows that are not empty, as cells, the header among them.
        of_header: how many lines the first record ends with.
    """

    hint: str | None
    lines: list[str]
    records: list[list[str]]
    of_header: int


@dataclass(frozen=True)
class _Layout:
    """The columns of a file, and where its rows begin.

    Attributes:
        names: of all columns; None is that of the rows' names.
        skipped: lines before the first row.
        first: the first row, empty where there is none.
        notes: what is left out.
    """

    names: tuple[str | None, ...]
    skipped: int
    first: tuple[str, ...]
    notes: tuple[str, ...]


def read_csv(
    file: InputFile,
    columns: Sequence[str] | None = None,
    *,
    header: bool = True,
    names: Sequence[str] | None = None,
    options: CsvOptions | None = None,
) -> Raw:
    """Read ``columns`` (None: all) of a csv file, gzipped or not, as float64.

    Empty cells become NaN, and columns of ``True`` and ``False`` 1 and 0. Without a header the columns are ``x0``,
    ``x1`` and so on. ``names`` are taken instead of those in the header.
    """
    options = options or CsvOptions()
    _refuse_other_encoding(file, options)
    layout = _layout(file, options, header=header, names=names)
    named = [name for name in layout.names if name is not None]
    wanted = wanted_of(file, named, columns)
    if "" in wanted:
        raise _nameless(file, layout.names.index(""), options)
    place_of = {name: place for place, name in enumerate(layout.names)}
    places = [place_of[name] for name in wanted]
    with reading(file, "csv"):
        truths = [at for at in places if at < len(layout.first) and layout.first[at].strip() in _BOOLEANS]
        table = _read(file, options, layout, places, truths)
        rows = np.empty((len(table), len(wanted)))
        for at, place in enumerate(places):
            rows[:, at] = table[str(place)].to_numpy()
        _refuse_inexact(file, options, layout, rows, dict(zip(places, wanted, strict=True)))
        stored = tuple("bool" if place in truths else rows.dtype.name for place in places)
        return Raw(rows, tuple(wanted), layout.notes, stored)


def names_without_header(columns: Sequence[str]) -> Sequence[str] | None:
    """Return the names that the columns of a file without a header get in their order, None for ``x0``, ``x1``, ...

    Args:
        columns: that are asked for, by the names of a file that has them.
    """
    return None if all(_NUMBERED.fullmatch(name) for name in columns) else columns


def _read(file: InputFile, options: CsvOptions, layout: _Layout, places: Sequence[int], truths: Sequence[int]) -> Any:
    """Return the columns at ``places`` as float64; those in ``truths`` are booleans in the file."""
    pyarrow = need("pyarrow", file)
    types = {str(at): pyarrow.bool_() if at in truths else pyarrow.float64() for at in places}
    table = _parse(file, options, layout, types)
    for at in truths:
        place = table.schema.get_field_index(str(at))
        table = table.set_column(place, str(at), table[str(at)].cast(pyarrow.uint8()).cast(pyarrow.float64()))
    return table


def _parse(file: InputFile, options: CsvOptions, layout: _Layout, types: dict[str, Any]) -> Any:
    """Return the columns of ``types`` as an Arrow table; a column's name in it is its place in the file.

    Read a block at a time: how many rows there are is not known before, and there may be more than memory has room for.
    """
    pyarrow, arrow_csv = need("pyarrow", file), need("pyarrow.csv", file)
    room, batches, held = Room(file), [], 0
    try:
        with (
            open_unpacked(file) as stream,
            arrow_csv.open_csv(
                stream,
                # One thread: only then does an error know its row.
                read_options=arrow_csv.ReadOptions(
                    use_threads=False,
                    column_names=[str(place) for place in range(len(layout.names))],
                    skip_rows=layout.skipped,
                    encoding=options.encoding,
                ),
                parse_options=arrow_csv.ParseOptions(delimiter=options.delimiter),
                convert_options=arrow_csv.ConvertOptions(
                    include_columns=list(types), column_types=types, decimal_point=options.decimal
                ),
            ) as reader,
        ):
            for batch in reader:
                batches.append(batch)
                held += batch.nbytes
                room.refuse_beyond(2 * held)  # the table, and the array that is made of it
            return pyarrow.Table.from_batches(batches, reader.schema)
    except pyarrow.ArrowInvalid as error:
        _explain(file, error, options, layout)


def _layout(file: InputFile, options: CsvOptions, *, header: bool, names: Sequence[str] | None) -> _Layout:
    """Return the columns and where the rows begin.

    Raises:
        DataError: the file is empty, or is written in another way than ``options`` say.
    """
    seen = _beginning(file, options)
    _refuse_other_delimiter(file, options, seen)
    first, rows = seen.records[0], seen.records[int(header) :]
    if header:
        _refuse_no_header(file, options, first)
    row = tuple(rows[0]) if rows else ()
    columns: list[str | None] = list(first) if header else [f"x{place}" for place in range(len(first))]
    notes = () if seen.hint is None else ("the first line, which names the separator, was left out",)
    if options.row_names:
        notes = (*notes, "the first value of each row, its name, was left out")
        # R's write.table has no name above those of the rows, other programs have one.
        shorter = header and len(row) == len(first) + 1
        columns = [None, *(columns if shorter else columns[1:] if header else columns[:-1])]
    skipped = int(seen.hint is not None) + (seen.of_header if header else 0)
    return _Layout(tuple(names or columns), skipped, row, notes)


def _beginning(file: InputFile, options: CsvOptions) -> _Beginning:
    # Python's utf-8 keeps the byte order mark.
    encoding = "utf-8-sig" if options.encoding == "utf-8" else options.encoding
    with reading(file, "csv"), open_unpacked(file) as stream:
        begin = stream.read(_BEGINNING_BYTES)
        text = io.TextIOWrapper(io.BytesIO(begin), encoding=encoding, newline="")
        lines: list[str] = []
        records: list[list[str]] = []
        try:
            first = text.readline()
            hint = _EXCELS_HINT.fullmatch(first)
            reader = csv.reader(
                _kept(itertools.chain([] if hint else [first], text), lines), delimiter=options.delimiter
            )
            of_header = 0
            for cells in reader:
                if cells:
                    of_header = of_header or reader.line_num
                    records.append(cells)
                if len(records) == _ROWS_LOOKED_AT or (len(records) > 1 and sum(map(len, lines)) > _ENOUGH_CHARACTERS):
                    break
            else:
                if len(begin) == _BEGINNING_BYTES:
                    raise refuse(
                        file,
                        f"has no two rows in its first {_BEGINNING_BYTES >> 20} MiB: is it csv, and does each row end "
                        "with a line break?",
                    )
        except UnicodeDecodeError as error:
            raise refuse(
                file,
                f"is not {options.encoding} ({error.reason} at byte {error.start}): name its encoding, as in "
                f'data.csv: {{"encoding": "cp1252"}}, which Excel writes on Windows',
            ) from error
    if not records:
        raise refuse(file, "is empty")
    return _Beginning(hint[1] if hint else None, lines, records, of_header)


def _kept(lines: Iterable[str], into: list[str]) -> Iterator[str]:
    for line in lines:
        into.append(line)
        yield line


def _refuse_other_encoding(file: InputFile, options: CsvOptions) -> None:
    """Refuse a file whose first bytes say that it has another encoding."""
    with reading(file, "csv"), open_unpacked(file) as stream:
        begin = stream.read(4)
    marked = begin[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    if options.encoding != "utf-16" and (marked or re.fullmatch(rb"[\t -~]\0[\t -~]\0", begin)):
        what = 'is UTF-16, which Excel calls Unicode text: set data.csv: {"encoding": "utf-16", "delimiter": "\\t"}'
        raise refuse(file, what)
    if options.encoding != "utf-8" and begin.startswith(codecs.BOM_UTF8):
        raise refuse(file, f"begins as UTF-8, not as {options.encoding}: leave out data.csv.encoding")


def _refuse_other_delimiter(file: InputFile, options: CsvOptions, seen: _Beginning) -> None:
    """Refuse a file whose values are separated by something else."""
    if seen.hint is not None and seen.hint != options.delimiter:
        raise _of_delimiter(file, seen, seen.hint)
    widths = [len(record) for record in seen.records]
    if widths[0] > 1 and len(set(widths)) == 1:
        return
    for delimiter in _SEPARATORS:
        if delimiter == options.delimiter or (delimiter == " " and widths[0] > 1):
            continue
        others = [len(record) for record in csv.reader(seen.lines, delimiter=delimiter) if record]
        # A header may be one name shorter, as R writes it.
        if (others[0] > 1 and set(others[1:]) <= {others[0]}) or set(others[1:]) == {others[0] + 1}:
            raise _of_delimiter(file, seen, delimiter)


def _of_delimiter(file: InputFile, seen: _Beginning, delimiter: str) -> DataError:
    cells = [cell for record in csv.reader(seen.lines, delimiter=delimiter) for cell in record]
    options = {"delimiter": delimiter}
    if delimiter != "," and any(_DECIMAL_COMMA.fullmatch(cell.strip()) for cell in cells):
        options["decimal"] = ","
    name = _SEPARATORS.get(delimiter, repr(delimiter))
    return refuse(
        file,
        f"has {name} in its first line: values are to be separated by commas and written with decimal points unless "
        f"the spec says otherwise, here by data.csv: {json.dumps(options)}",
    )


def _refuse_no_header(file: InputFile, options: CsvOptions, first: Sequence[str]) -> None:
    """Refuse a first line that hardly names columns."""
    numbers = [_is_number(cell, options) for cell in first]
    if any(numbers) and all(number or cell.strip() in _MISSING for number, cell in zip(numbers, first, strict=True)):
        raise refuse(
            file,
            "has numbers in its first line, which should name the columns: if they are a row, set data.header to "
            "false; if they are names (as pandas gives them), give others",
        )


def _is_number(cell: str, options: CsvOptions) -> bool:
    try:
        float(cell.replace(",", ".") if options.decimal == "," else cell)
    except ValueError:
        return False
    return True


def _nameless(file: InputFile, place: int, options: CsvOptions) -> DataError:
    what = f"column {place} (from 0) has no name"
    if place or options.row_names:
        return refuse(file, f"{what}: choose others by data.columns")
    return refuse(
        file,
        f"{what} (pandas writes its index so, unless told index=False, and R its row names, unless told "
        'row.names=FALSE): leave it out by data.csv: {"row_names": true}, or choose others by data.columns',
    )


def _explain(file: InputFile, error: Exception, options: CsvOptions, layout: _Layout) -> NoReturn:
    """Raise what Arrow says in words of ours, where it is about a row."""
    words = str(error)
    # Arrow counts from 1, and counts lines that it is told to skip.
    before = 1 + layout.skipped
    if found := _NOT_A_VALUE.search(words):
        name = layout.names[int(found[1])]
        what = f"{found[3][:100]!r} is not a number{_instead(found[3].strip(), options)}"
        raise refuse(file, what, column=name, row=int(found[2]) - before) from error
    if found := _RAGGED.search(words):
        what = f"{found[3]} values, where {found[2]} are expected"
        if words.endswith(options.delimiter):
            what += "; the last is empty, as each row ends with a separator: remove it"
        elif int(found[3]) == int(found[2]) + 1 and not options.row_names:
            what += (
                '; if the first is the name of the row, as R writes it, set data.csv: {"row_names": true}; if a number '
                'has a decimal comma, name another delimiter, as in data.csv: {"delimiter": ";", "decimal": ","}'
            )
        raise refuse(file, what, row=int(found[1]) - before) from error
    raise error


def _instead(cell: str, options: CsvOptions) -> str:
    """Return what may be meant by a cell that is not a number."""
    other = "." if options.decimal == "," else ","
    if re.fullmatch(rf"[+-]?\d*{re.escape(other)}\d+([eE][+-]?\d+)?", cell):
        return (
            f": if {other!r} is the decimal sign, set data.csv.decimal to it; if it groups digits, write the numbers "
            "without it"
        )
    for delimiter, name in _SEPARATORS.items():
        if delimiter in cell and delimiter not in (options.delimiter, other):
            return f": if {name} separate the values, set data.csv.delimiter to {delimiter!r}"
    return ""


def _refuse_inexact(
    file: InputFile, options: CsvOptions, layout: _Layout, rows: NDArray[np.float64], names: dict[int, str]
) -> None:
    """Refuse whole numbers that float64 has rounded; their text is read once more where there are such sizes.

    Args:
        names: of the columns of ``rows``, by their places in the file.
    """
    large = [np.flatnonzero(np.isfinite(column) & (np.abs(column) >= LARGEST_EXACT)) for column in rows.T]
    suspects = [(place, at, large[at]) for at, place in enumerate(names) if len(large[at])]
    if not suspects:
        return
    pyarrow = need("pyarrow", file)
    table = _parse(file, options, layout, {str(place): pyarrow.string() for place, _, _ in suspects})
    for place, at, numbers in suspects:
        cells = table[str(place)].to_pylist()
        all_whole = all(_WHOLE.fullmatch(cell) or cell.strip() in {"", *_MISSING} for cell in cells)
        for row in numbers.tolist():
            if not _WHOLE.fullmatch(cells[row]) or abs(exact := int(cells[row])) <= LARGEST_EXACT:
                continue
            # In a column of fractions, a whole number may be one of them that is written so.
            if all_whole or exact != abs(int(rows[row, at])):
                raise refuse(file, f"is {cells[row].strip()}, {INEXACT}", column=names[place], row=row)


@reads("csv")
def _csv(file: InputFile, data: FileData) -> Raw:
    return read_csv(file, names_asked_for(data), header=data.header, options=data.csv)
