"""The rows that a flow is trained on."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import AfterValidator, Field, model_validator

from symadj.service.contract.spec.section import Section, misfit
from symadj.service.contract.spec.transforms import (
    ColumnName,
    DequantiseTransform,
    LogitTransform,
    StandardiseTransform,
    Transform,
    Transforms,
    refuse_twice,
)

BatchSize = Annotated[int, Field(ge=1, le=1_000_000, description="Rows of one step, over all workers.")]
HeldOutRows = Annotated[int, Field(ge=2, le=10_000_000)]
SplitSeed = Annotated[
    int, Field(ge=0, lt=2**32, description="Seed of the permutation before the split, and of dequantisation's noise.")
]
Fraction = Annotated[float, Field(gt=0, lt=0.5)]


def _path_below_a_root(path: str) -> str:
    parts = {*PurePosixPath(path).parts, *PureWindowsPath(path).parts}
    if ".." in parts:
        raise misfit("", "a path leads down from a data root and has no `..`")
    if "://" in path:
        raise misfit(
            "",
            "a path is relative to the service's data roots and can't be a URL: give the path from a root; "
            "the service's SYMADJ_DATA_ROOTS may name a location in a bucket (s3://bucket/prefix)",
        )
    return path


DataPath = Annotated[
    str,
    Field(min_length=1, max_length=1000, description="Relative to one of the service's data roots, or inside one."),
    AfterValidator(_path_below_a_root),
]


class _Data(Section):
    @property
    def may_hold_images(self) -> bool:
        """Whether the rows may be images, as far as the spec shows."""
        return False

    @property
    def dim(self) -> int | None:
        """Columns that the flow models; None where only the files show it."""
        return None


def _without_default(schema: dict[str, Any]) -> None:
    """Keep a default that depends on the data out of the JSON schema."""
    schema.pop("default", None)


class _Batches(_Data):
    """Rows that a flow is trained on, some at each step."""

    usual_batch_size: ClassVar[int] = 500

    batch_size: BatchSize | None = Field(
        None,
        description="Rows of one step, over all workers. Default: 500 (of `maf`: 1000), or all training rows if those "
        "are fewer, less what has no equal shares for the workers; null in a stored spec where only the files show it.",
    )

    @property
    def training_rows(self) -> int | None:
        """How many there are; None where only the files show it."""
        return None


class _Split(_Batches):
    """Fields of a data set that comes without a split of its own."""

    validation_fraction: Fraction = Field(
        0.1, description="Share of the rows that is held out to validate on during the training."
    )
    test_fraction: Fraction = Field(0.1, description="Share of the rows that is held out for the test at the end.")
    split_seed: SplitSeed = 0

    @property
    @abstractmethod
    def total_rows(self) -> int:
        """Those of all parts."""

    @property
    def training_rows(self) -> int:
        """Those that are neither for validation nor for the test."""
        return int(round(self.total_rows * (1 - self.validation_fraction - self.test_fraction), 6))

    @model_validator(mode="after")
    def _batch_fits(self) -> Self:
        if self.batch_size is not None and self.batch_size > self.training_rows:
            raise misfit(
                "/data/batch_size",
                f"data.batch_size {self.batch_size} is larger than the {self.training_rows} training rows of "
                f"{self.total_rows} rows: take a smaller batch, or more rows",
            )
        return self


BuiltinName = Literal["flow_cytometry", "iris", "wine", "breast_cancer", "diabetes", "digits"]
BUILTIN_ROWS: dict[BuiltinName, int] = {
    "flow_cytometry": 110_000,
    "iris": 150,
    "wine": 178,
    "breast_cancer": 569,
    "diabetes": 442,
    "digits": 1797,
}
BUILTIN_COLUMNS: dict[BuiltinName, int] = {
    "flow_cytometry": 10,
    "iris": 4,
    "wine": 13,
    "breast_cancer": 30,
    "diabetes": 9,
    "digits": 64,
}
ToyName = Literal["eight_gaussians", "pinwheel", "checkerboard", "moons", "rings", "swiss_roll", "spirals"]
TOY_COLUMNS = 2
_IMAGES: frozenset[BuiltinName] = frozenset({"digits"})
_USUAL_TRANSFORMS: dict[str, list[dict[str, Any]]] = {
    "flow_cytometry": [{"kind": "arcsinh"}, {"kind": "standardise"}],
    "digits": [{"kind": "dequantise", "levels": 17}, {"kind": "logit"}, {"kind": "standardise"}],
}


class BuiltinRows(_Data):
    """The rows of a data set that ships with symadj or scikit-learn, in its order."""

    kind: Literal["builtin"]
    name: BuiltinName = Field(description="Which of the sets that come with the service.")

    @property
    def may_hold_images(self) -> bool:
        """Whether the set is one of images."""
        return self.name in _IMAGES

    @property
    def dim(self) -> int:
        """Columns of the set."""
        return BUILTIN_COLUMNS[self.name]


class BuiltinData(BuiltinRows, _Split):
    """A data set that ships with symadj or scikit-learn; ``GET /api/v1/datasets`` describes them."""

    transforms: Transforms = Field(
        (),
        description="Default: what suits the set (`standardise`; `flow_cytometry` and `digits` have their own).",
        json_schema_extra=_without_default,
    )

    @model_validator(mode="before")
    @classmethod
    def _usual_transforms(cls, values: Any) -> Any:
        if isinstance(values, dict) and "transforms" not in values and isinstance(values.get("name"), str):
            return values | {"transforms": _USUAL_TRANSFORMS.get(values["name"], [{"kind": "standardise"}])}
        return values

    @property
    def total_rows(self) -> int:
        """Those of the set."""
        return BUILTIN_ROWS[self.name]


class ToyRows(_Data):
    """Two-dimensional points, in the order in which they are drawn from a known density by ``split_seed``."""

    kind: Literal["toy"]
    name: ToyName = Field(description="Which of the shapes in the plane.")
    rows: int = Field(10_000, ge=100, le=10_000_000, description="How many points are drawn, held-out ones among them.")
    split_seed: SplitSeed = 0

    @property
    def dim(self) -> int:
        """Columns of every toy."""
        return TOY_COLUMNS


class ToyData(ToyRows, _Split):
    """Two-dimensional points drawn from a known density, for smoke tests and pictures."""

    transforms: Transforms = Field(
        (StandardiseTransform(kind="standardise"),),
        description="Applied to the rows in this order, fitted on the training rows.",
    )

    @property
    def total_rows(self) -> int:
        """As many as are drawn."""
        return self.rows


FormatName = Literal["npy", "npz", "parquet", "csv", "hdf5", "fcs", "idx"]


Delimiter = Literal[",", ";", "\t", "|", " "]
DecimalSign = Literal[".", ","]
CsvEncoding = Literal["utf-8", "utf-16", "cp1252", "latin-1", "cp1250", "cp1251", "cp932", "gb18030", "mac-roman"]


class CsvOptions(Section):
    """How a csv file is written; by default as most programs do: commas, decimal points, UTF-8."""

    delimiter: Delimiter = Field(",", description="What stands between two values.")
    decimal: DecimalSign = Field(".", description="The decimal sign; a comma beside commas needs quotes.")
    encoding: CsvEncoding = Field(
        "utf-8", description="Of the columns' names: `cp1252` for Excel on a Windows of Western Europe."
    )
    row_names: bool = Field(
        False, description="Whether each row begins with a name, which is left out: R's row names, pandas' index."
    )


HasHeader = Annotated[bool, Field(description="Whether the first line of a csv file names its columns.")]

# What suits images of bytes, and what suits all else.
IMAGE_TRANSFORMS: tuple[Transform, ...] = (DequantiseTransform(kind="dequantise"), LogitTransform(kind="logit"))
USUAL_TRANSFORMS: tuple[Transform, ...] = (StandardiseTransform(kind="standardise"),)


class FileFormat(NamedTuple):
    """What a spec may say about files of a format; ``workers/data/formats`` reads them.

    Attributes:
        endings: of the files' names, in lower case.
        options: fields of :class:`FileData` that only this format has, and others that name them too.
        images: whether a file may hold images.
        transforms: what suits such files; None where it depends on what a file holds, images of bytes or not.
    """

    endings: tuple[str, ...]
    options: tuple[str, ...] = ()
    images: bool = False
    transforms: tuple[Transform, ...] | None = USUAL_TRANSFORMS


FORMATS: dict[FormatName, FileFormat] = {
    "npy": FileFormat((".npy",), images=True, transforms=None),
    "npz": FileFormat((".npz",), ("key",), images=True, transforms=None),
    "parquet": FileFormat((".parquet", ".pq")),
    "csv": FileFormat((".csv", ".csv.gz"), ("header", "csv")),
    "hdf5": FileFormat((".h5", ".hdf5", ".h5ad", ".nc", ".mat"), ("key", "row_axis"), images=True, transforms=None),
    "fcs": FileFormat((".fcs",), ("compensate", "data_set")),
    "idx": FileFormat(("-ubyte", "-ubyte.gz", ".idx", ".idx.gz"), images=True, transforms=IMAGE_TRANSFORMS),
}
ENDINGS: dict[str, FormatName] = {ending: name for name, format in FORMATS.items() for ending in format.endings}
FORMATS_OF_IMAGES = tuple(name for name, format in FORMATS.items() if format.images)
# The error for an option that the file's format does not have.
OPTIONS_OF_FORMATS = {
    "key": "data.key names an array of an npz or HDF5 file; a {format} file has none",
    "compensate": "data.compensate is about FCS files; a {format} file has no spillover",
    "data_set": "data.data_set is about FCS files; a {format} file has no data sets with a number",
    "header": "data.header is about csv files; a {format} file has no such line",
    "csv": "data.csv is about csv files; a {format} file has neither delimiters nor decimal signs",
    "row_axis": "data.row_axis is about HDF5 files; the rows of a {format} file come first",
}


def format_of(name: str) -> FormatName | None:
    """Return the format of a file according to its name's ending, None where that is not known."""
    # The longest ending first: .csv.gz, not .gz.
    for ending in sorted(ENDINGS, key=len, reverse=True):
        if name.lower().endswith(ending):
            return ENDINGS[ending]
    return None


def _with_format(values: dict[str, Any]) -> dict[str, Any]:
    """Return what was written about a file, with its format, which its ending says where it is not given."""
    filled = dict(values)
    if "format" not in filled and isinstance(filled.get("path"), str):
        filled["format"] = format_of(filled["path"])
        if filled["format"] is None:
            raise misfit(
                "",
                f"the format of {filled['path'][:200]!r} can't be recognised by its ending (known: "
                f"{', '.join(ENDINGS)}): set data.format",
            )
    return filled


class FileRows(_Data):
    """The rows of a file, in its order.

    Arrays without names of columns (npy, npz, HDF5, IDX) have the names ``x0``, ``x1`` and so on. Arrays of more than
    two axes are images, [rows, height, width] or [rows, channels, height, width], and become one row each.
    """

    kind: Literal["file"]
    path: DataPath
    format: FormatName = Field(
        "csv", description="Default: according to the file's ending.", json_schema_extra=_without_default
    )
    key: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="The array of an npz file, or the array or table of an HDF5 file; default: its only one.",
    )
    row_axis: Literal["first", "last"] | None = Field(
        None,
        description="The axis of an HDF5 array that counts the rows: `first` unless given, `last` in what MATLAB has "
        "written as rows x columns. Must be given for MATLAB's arrays.",
    )
    header: HasHeader = True
    csv: CsvOptions = Field(CsvOptions(), description="How a csv file is written, where it is not as usual.")
    compensate: bool = Field(False, description="Whether an FCS file's own spillover matrix is applied.")
    data_set: int | None = Field(
        None, ge=1, le=100_000, description="The data set to read of an FCS file, from 1; default: its only one."
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        return _with_format(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _options_fit_the_format(self) -> Self:
        for option, message in OPTIONS_OF_FORMATS.items():
            given = getattr(self, option) != type(self).model_fields[option].default
            if given and option not in FORMATS[self.format].options:
                raise misfit(f"/data/{option}", message.format(format=self.format))
        return self


class FileData(FileRows, _Batches):
    """Rows of a file. Without ``test_path``, its rows are permuted and split; with it, only validation is split off."""

    test_path: DataPath | None = Field(None, description="A file of the same layout that holds the test rows.")
    columns: tuple[ColumnName, ...] | None = Field(
        None, min_length=1, max_length=10_000, description="Columns that the flow models, in this order; default: all."
    )
    context_columns: tuple[ColumnName, ...] = Field(
        (), max_length=1000, description="Columns that the flow is conditioned on; standardised on the training rows."
    )
    validation_fraction: Fraction = Field(
        0.1, description="Share of the rows that is held out to validate on during the training."
    )
    test_fraction: Fraction | None = Field(
        0.1, description="null with `test_path`, and only with it.", json_schema_extra=_without_default
    )
    split_seed: SplitSeed = 0
    transforms: Transforms | None = Field(
        None,
        description="Default: `dequantise` (256 levels) and `logit` for images of bytes (IDX; uint8 of more than two "
        "axes in npy, npz and HDF5, which null stands for), `standardise` for everything else.",
        json_schema_extra=_without_default,
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        filled = _with_format(values)
        if filled.get("test_path") is not None:
            filled.setdefault("test_fraction", None)
        if filled.get("transforms") is None:
            # A format that is none is refused later.
            usual = next((format.transforms for name, format in FORMATS.items() if name == filled.get("format")), None)
            filled["transforms"] = usual and [transform.model_dump(mode="json") for transform in usual]
        return filled

    @model_validator(mode="after")
    def _fields_fit_together(self) -> FileData:
        if (self.test_path is None) == (self.test_fraction is None):
            raise misfit(
                "/data/test_fraction",
                "data.test_fraction splits off test rows if there is no data.test_path: give exactly one of the two",
            )
        if self.test_path == self.path:
            raise misfit(
                "/data/test_path",
                "data.test_path is the same as data.path: the flow would be tested on rows it has seen",
            )
        refuse_twice([*(self.columns or ()), *self.context_columns], "/data/columns")
        return self

    @property
    def may_hold_images(self) -> bool:
        """Whether the file may hold images, as far as the spec shows."""
        return self.columns is None and not self.context_columns and FORMATS[self.format].images


class MafRows(_Data):
    """The rows of one of the five tabular sets of Papamakarios et al. 2017, preprocessed, those of the test last."""

    kind: Literal["maf"]
    name: Literal["power", "gas", "hepmass", "miniboone", "bsds300"] = Field(description="Which of the five sets.")
    path: DataPath


class MafData(MafRows, _Batches):
    """One of the five tabular sets of Papamakarios et al. 2017, with their preprocessing and split, from your copy.

    ``path`` is the folder that holds the set's files as published: ``data.npy`` (POWER, MINIBOONE),
    ``ethylene_CO.parquet`` or ``.csv`` (GAS, converted from its pickle), ``1000_train.csv`` and ``1000_test.csv``
    (HEPMASS), ``BSDS300.hdf5``. The preprocessing standardises (except BSDS300), so that the NLL in the flow's
    space is that of the literature.
    """

    usual_batch_size: ClassVar[int] = 1000

    split_seed: SplitSeed = Field(0, description="Seed of dequantisation's noise; the split is that of the literature.")
    transforms: Transforms = Field(
        (), description="Applied after the preprocessing; any transform makes NLLs incomparable."
    )


class ParquetStreamRows(_Data):
    """The rows of a parquet file, or of all ``.parquet`` files in a folder, that need not fit into memory.

    Files come in the order of their names.
    """

    kind: Literal["parquet_stream"]
    path: DataPath


class ParquetStreamData(ParquetStreamRows, _Batches):
    """Rows of a parquet file, or of all ``.parquet`` files in a folder, that need not fit into memory.

    Row groups are read in a new order in every epoch, and rows are shuffled among those held in memory.
    Before training, everything is read once to check it, and once more for each ``standardise``.
    """

    columns: tuple[ColumnName, ...] | None = Field(
        None, min_length=1, max_length=10_000, description="Columns that the flow models, in this order; default: all."
    )
    context_columns: tuple[ColumnName, ...] = Field(
        (), max_length=1000, description="Columns that the flow is conditioned on; standardised on the training rows."
    )
    validation_rows: HeldOutRows | None = Field(
        None,
        description="Drawn from all rows and held in memory. Default: 10,000, or a tenth of all rows if that is less; "
        "null in a stored spec, as only the files show it.",
    )
    test_rows: HeldOutRows | None = Field(None, description="Likewise.")
    split_seed: SplitSeed = 0
    buffer_rows: int = Field(
        1_000_000, ge=1, le=10**9, description="Rows shuffled at a time on each worker; at least one row group."
    )
    transforms: Transforms = Field(
        (StandardiseTransform(kind="standardise"),),
        description="Applied to the rows in this order, fitted on the training rows.",
    )

    def held_out_rows(self, total: int) -> tuple[int, int]:
        """Return how many of ``total`` rows are for validation and for the test."""
        usual = min(10_000, max(2, total // 10))
        return (
            usual if self.validation_rows is None else self.validation_rows,
            usual if self.test_rows is None else self.test_rows,
        )

    @model_validator(mode="after")
    def _columns_are_named_once(self) -> ParquetStreamData:
        refuse_twice([*(self.columns or ()), *self.context_columns], "/data/columns")
        return self


Data = Annotated[BuiltinData | ToyData | FileData | MafData | ParquetStreamData, Field(discriminator="kind")]


def paths_of(data: Section) -> dict[str, str]:
    """Return the paths that a section ``data`` names, of a training or of rows to score, by their fields."""
    named = {field: getattr(data, field, None) for field in ("path", "test_path")}
    return {field: path for field, path in named.items() if path is not None}
