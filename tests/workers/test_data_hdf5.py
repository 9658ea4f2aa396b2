"""HDF5 of other programs: pandas and PyTables, netCDF-4, AnnData, MATLAB; and filters that are not installed.

The files are written by h5py as those programs write them, attributes included.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from symadj.service.contract.spec.data import FileData
from symadj.workers.data import DataError
from symadj.workers.data.formats.hdf5 import read_hdf5
from symadj.workers.data.formats.raw import InputFile, Raw
from tests.workers.loading import load_data, load_table

ROWS = np.random.default_rng(0).normal(size=(60, 3))
PIXELS = np.random.default_rng(0).integers(-300, 300, (60, 2)).astype(np.int16)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYMADJ_DATA_ROOTS", str(tmp_path))
    return tmp_path


def spec(**more: Any) -> FileData:
    return FileData.model_validate({"kind": "file", "path": "rows.h5", "batch_size": 20, "transforms": [], **more})


def read(root: Path, key: str | None = None, **more: Any) -> Raw:
    return read_hdf5(InputFile(root / "rows.h5", "rows.h5"), key, **more)


def pickled(value: Any) -> np.bytes_:
    return np.bytes_(pickle.dumps(value, 0))


def write_pandas_table(root: Path, table: np.ndarray, names: dict[str, list[Any]], **more: Any) -> None:
    """Write what ``to_hdf(format="table")`` does.

    Args:
        names: those of the columns in each field but the index.
        more: attributes of the group, instead of the usual ones.
    """
    with h5py.File(root / "rows.h5", "w") as file:
        group = file.create_group("deep/frame")
        order = [name for of_field in names.values() for name in of_field]
        usual = {
            "pandas_type": np.bytes_("frame_table"),
            "table_type": np.bytes_("appendable_frame"),
            "levels": np.int64(1),
            "non_index_axes": pickled([(1, order)]),
        }
        group.attrs.update(usual | more)
        group["table"] = table
        group["table"].attrs.update({"CLASS": np.bytes_("TABLE"), "index_kind": np.bytes_("integer")})
        for field, of_field in names.items():
            kind = table.dtype[field].base.name.replace("uint8", "bool")
            group["table"].attrs[f"{field}_kind"] = pickled(of_field)
            group["table"].attrs[f"{field}_dtype"] = np.bytes_(kind)
            group["table"].attrs[f"{field}_meta"] = pickled(None)
        # What PyTables keeps of an index on a column.
        group["_i_table/index/sorted"] = np.arange(5)
        file.create_group("other/_i_table/index")["bounds"] = np.arange(5)


def pandas_table() -> np.ndarray:
    table = np.zeros(60, [("index", "i8"), ("values_block_0", "f8", (2,)), ("values_block_1", "u1", (1,)), ("n", "i8")])
    table["index"], table["n"] = np.arange(60) + 100, np.arange(60) * 2
    table["values_block_0"], table["values_block_1"] = ROWS[:, :2], ROWS[:, 2:] > 0
    return table


NAMES: dict[str, list[Any]] = {"values_block_0": ["b", "a"], "values_block_1": ["flag"], "n": ["n"]}


@pytest.mark.parametrize("key", [None, "deep/frame", "deep/frame/table", "/deep/frame"])
def test_a_table_of_pandas_is_read_in_its_order_without_its_index(root: Path, key: str | None) -> None:
    write_pandas_table(root, pandas_table(), NAMES, non_index_axes=pickled([(1, ["a", "b", "n", "flag"])]))
    raw = read(root, key)
    assert raw.columns == ("a", "b", "n", "flag")
    np.testing.assert_array_equal(raw.values, np.c_[ROWS[:, [1, 0]], np.arange(60) * 2, ROWS[:, 2] > 0])
    assert raw.notes == ("column 'index', pandas' stored index, was left out",)
    table = load_table(spec(key=key, columns=["b"], context_columns=["index"]))
    np.testing.assert_array_equal(np.c_[table.rows, table.context], np.c_[ROWS[:, 0], np.arange(60) + 100])


def test_the_levels_of_pandas_index_are_left_out_too(root: Path) -> None:
    more = {"table_type": np.bytes_("appendable_multiframe"), "levels": pickled(["n", "flag"])}
    write_pandas_table(root, pandas_table(), NAMES, **more)
    raw = read(root)
    assert raw.columns == ("b", "a")
    np.testing.assert_array_equal(raw.values, ROWS[:, :2])
    assert len(raw.notes) == 3
    assert read(root, columns=["n"]).columns == ("n",)


def test_columns_with_numbers_for_names_keep_them(root: Path) -> None:
    write_pandas_table(root, pandas_table(), {"values_block_0": [0, 1], "values_block_1": [(2, "x")], "n": [3]})
    assert read(root).columns == ("0", "1", "(2, 'x')", "3")


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        ("n_dtype", np.bytes_("datetime64[ns]"), "holds datetime64"),
        ("n_dtype", np.bytes_("timedelta64[ns]"), "holds timedelta64"),
        ("n_meta", np.bytes_("category"), "holds categories"),
    ],
)
def test_what_pandas_keeps_as_whole_numbers_is_refused(root: Path, attribute: str, value: Any, words: str) -> None:
    write_pandas_table(root, pandas_table(), NAMES)
    with h5py.File(root / "rows.h5", "a") as file:
        file["deep/frame/table"].attrs[attribute] = value
    with pytest.raises(DataError, match=f"{words}.*, not numbers: leave it out of data.columns") as caught:
        read(root)
    assert caught.value.place == {"file": "rows.h5", "column": "n"}
    assert read(root, columns=["a", "b"]).columns == ("a", "b")


class Harmful:
    def __reduce__(self) -> Any:
        return os.mkdir, ("harmed",)


def test_names_that_would_run_code_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    write_pandas_table(root, pandas_table(), NAMES, non_index_axes=pickled(Harmful()))
    with pytest.raises(DataError, match=r"rows\.h5 can't be read as HDF5: .*is not a literal"):
        read(root)
    assert not (root / "harmed").exists()


def test_whole_numbers_in_a_table_that_floating_point_rounds_are_refused(root: Path) -> None:
    table = pandas_table()
    table["n"][4] = 2**53 + 1
    write_pandas_table(root, table, NAMES)
    with pytest.raises(DataError, match=r"is 9007199254740993, and whole numbers above 2\^53") as caught:
        read(root)
    assert caught.value.place == {"file": "rows.h5", "column": "n", "row": 4}


def test_pandas_fixed_layout_is_explained_and_read_by_its_arrays(root: Path) -> None:
    with h5py.File(root / "rows.h5", "w") as file:
        group = file.create_group("frame")
        group.attrs["pandas_type"] = np.bytes_("frame")
        group["axis0"], group["axis1"] = np.array([b"a", b"b", b"c"]), np.arange(60)
        group["block0_values"], group["block1_values"] = ROWS, np.arange(60)[:, None]
        group["block1_values"].attrs["value_type"] = np.bytes_("datetime64[ns]")
    for key in (None, "frame"):
        with pytest.raises(DataError, match=r"a frame in pandas' fixed layout.*to_hdf\(format='table'\)"):
            read(root, key)
    np.testing.assert_array_equal(read(root, "frame/block0_values").values, ROWS)
    with pytest.raises(DataError, match=r"holds datetime64\[ns\], not numbers"):
        read(root, "frame/block1_values")


# netCDF-4


def write_netcdf(root: Path, values: np.ndarray, netcdf: bool = True, **attributes: Any) -> None:
    with h5py.File(root / "rows.h5", "w") as file:
        file["x"] = values
        file["x"].attrs.update(attributes)
        if netcdf:
            file.attrs["_NCProperties"] = np.bytes_("version=2")
            for place, name in enumerate(("time", "c")):
                file[name] = np.zeros(values.shape[place], ">f4")
                words = f"This is a netCDF dimension but not a netCDF variable.{values.shape[place]:10}"
                file[name].attrs.update({"CLASS": np.bytes_("DIMENSION_SCALE"), "NAME": np.bytes_(words)})


@pytest.mark.parametrize("netcdf", [True, False])
@pytest.mark.parametrize(
    ("attributes", "notes"),
    [
        ({"scale_factor": 0.01}, ("scale_factor 0.01 was applied",)),
        ({"add_offset": np.array([20.0])}, ("add_offset 20 was applied",)),
        (
            {
                "scale_factor": np.float32(0.5),
                "add_offset": -3,
                "_FillValue": np.int16(-9999),
                "valid_max": np.int16(400),
            },
            ("scale_factor 0.5 was applied", "add_offset -3 was applied"),
        ),
        ({}, ()),
    ],
)
def test_packed_values_are_unpacked(root: Path, netcdf: bool, attributes: dict[str, Any], notes: tuple[str]) -> None:
    write_netcdf(root, PIXELS, netcdf, **attributes)
    raw = read(root)
    scale, offset = attributes.get("scale_factor", 1), attributes.get("add_offset", 0)
    np.testing.assert_allclose(raw.values, PIXELS * np.float64(scale) + offset, rtol=1e-12)
    assert raw.notes == notes


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(["i1", "u1", "<i2", ">i2", "u2", "i4", "f4"]),
    scale=st.none() | st.floats(1e-3, 1e3) | st.floats(-1e3, -1e-3),
    offset=st.none() | st.floats(-1e6, 1e6),
    seed=st.integers(0, 2**16),
)
def test_any_packing_is_undone(
    tmp_path_factory: pytest.TempPathFactory, kind: str, scale: float | None, offset: float | None, seed: int
) -> None:
    root = tmp_path_factory.mktemp("packed")
    packed = np.random.default_rng(seed).integers(0, 100, (20, 2)).astype(kind)
    given = {name: value for name, value in (("scale_factor", scale), ("add_offset", offset)) if value is not None}
    write_netcdf(root, packed, **given)
    expected = packed * np.float64(1 if scale is None else scale) + (offset or 0)
    np.testing.assert_allclose(read(root).values, expected, rtol=1e-12)


MISSING: list[tuple[str, dict[str, Any], Any, str]] = [
    ("i2", {"_FillValue": np.int16(-9999), "scale_factor": 0.1}, -9999, "_FillValue is -9999"),
    ("i2", {"missing_value": np.array([-1, -2], "i2")}, -2, "missing_value is -2"),
    ("f4", {"_FillValue": np.float64(0.1)}, np.float32(0.1), r"_FillValue is 0\.1"),
    ("i2", {}, -32767, "netCDF's value where nothing was written is -32767"),
    ("f8", {}, 9.969209968386869e36, "netCDF's value where nothing was written is 9.969"),
    ("i8", {"scale_factor": 2.0}, -9223372036854775806, "netCDF's value where nothing was written"),
    ("f4", {"valid_range": np.array([-400, 400], "f4")}, 401, "its valid range ends at 400"),
    ("i2", {"valid_min": np.int16(-400)}, -401, "its valid range ends at -400"),
    ("i2", {"valid_max": 40.0, "scale_factor": 0.1}, 402, r"its valid range ends at 40\.0"),
]


@pytest.mark.parametrize(("kind", "attributes", "value", "why"), MISSING)
def test_a_missing_value_is_refused_by_its_attribute_and_place(
    root: Path, kind: str, attributes: dict[str, Any], value: Any, why: str
) -> None:
    values = PIXELS.astype(kind)
    write_netcdf(root, values, **attributes)
    read(root)
    values[7, 1] = value
    write_netcdf(root, values, **attributes)
    with pytest.raises(DataError, match=rf"the value is missing \({why}") as caught:
        read(root)
    assert caught.value.place == {"file": "rows.h5", "column": "x1", "row": 7}
    assert load_table(spec(columns=["x0"])).columns == ("x0",)


def test_a_packed_value_at_the_end_of_its_valid_range_is_valid_however_it_is_rounded(root: Path) -> None:
    write_netcdf(root, np.full((5, 2), 3, np.int16), scale_factor=0.1, valid_range=[-0.3, 0.3])
    np.testing.assert_allclose(read(root).values, 0.3)


def test_values_never_written_are_known_of_netcdf_alone(root: Path) -> None:
    write_netcdf(root, np.full((5, 2), -32767, np.int16), netcdf=False)
    assert read(root).values.min() == -32767


def test_whole_numbers_that_are_unsigned_by_attribute_are_read_so(root: Path) -> None:
    write_netcdf(root, np.arange(-60, 60, dtype=np.int8).reshape(60, 2), _Unsigned=np.bytes_("true"))
    raw = read(root)
    np.testing.assert_array_equal(raw.values.ravel(), np.arange(-60, 60) % 256)
    assert raw.notes == ("_Unsigned was applied",)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"scale_factor": "0.1"}, "attribute scale_factor '0.1', which is not a number"),
        ({"scale_factor": [0.1, 0.2]}, "attribute scale_factor .* is not one number"),
        ({"add_offset": np.nan}, "attribute add_offset .* is not one number"),
        ({"_FillValue": b"x"}, "attribute _FillValue .* is not a number"),
    ],
)
def test_an_attribute_that_is_not_a_number_is_refused_by_name(
    root: Path, attributes: dict[str, Any], words: str
) -> None:
    write_netcdf(root, PIXELS, **attributes)
    with pytest.raises(DataError, match=words):
        read(root)


def test_an_offset_of_hdf_eos_is_refused(root: Path) -> None:
    write_netcdf(root, PIXELS, netcdf=False, add_offset=5.0, scale_factor=0.1)
    with h5py.File(root / "rows.h5", "a") as file:
        file.create_group("HDFEOS INFORMATION")
    with pytest.raises(DataError, match="attribute add_offset 5 in a file of HDF-EOS"):
        read(root)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"CDF\x01" + b"\0" * 60, "netCDF of before version 4: convert it, nccopy -k nc4"),
        (b"MATLAB 5.0 MAT-file" + b"\0" * 200, "MAT-file of before version 7.3: save it again"),
    ],
)
def test_what_is_taken_for_hdf5_is_told_apart(root: Path, content: bytes, words: str) -> None:
    (root / "rows.h5").write_bytes(content)
    with pytest.raises(DataError, match=words):
        read(root)


# MATLAB


def write_matlab(root: Path, name: str, array: np.ndarray, kind: str = "double", **attributes: Any) -> None:
    """Write what ``save(NAME, '-v7.3')`` does of an array, which HDF5 has with its axes the other way round."""
    with h5py.File(root / "rows.h5", "a") as file:
        file[name] = array.T
        file[name].attrs.update({"MATLAB_class": np.bytes_(kind), **attributes})
        file.create_group("#refs#")["a"] = np.arange(3)


def test_an_array_of_matlab_is_read_by_the_axis_that_the_message_names(root: Path) -> None:
    write_matlab(root, "x", ROWS)
    words = "'/x' is 60 x 3 in MATLAB and 3 x 60 in HDF5.* set data.row_axis to last for 60 rows, or to first for 3"
    with pytest.raises(DataError, match=words):
        load_table(spec())
    np.testing.assert_array_equal(load_table(spec(row_axis="last")).rows, ROWS)
    np.testing.assert_array_equal(load_table(spec(row_axis="first")).rows, ROWS.T)
    assert read(root, row_axis="last").notes == ("the last axis was taken for the rows",)


def test_an_array_that_others_wrote_transposed_is_read_by_its_last_axis(root: Path) -> None:
    with h5py.File(root / "rows.h5", "w") as file:
        file["x"], file["table"] = ROWS.T, pandas_table()
    np.testing.assert_array_equal(read(root, "x", row_axis="last").values, ROWS)
    with pytest.raises(DataError, match="is a table, whose rows come first"):
        read(root, "table", row_axis="last")


@pytest.mark.parametrize(
    ("array", "kind", "attributes", "words"),
    [
        (np.arange(120, dtype=np.uint16).reshape(60, 2), "char", {}, "holds text of MATLAB"),
        (np.array([0, 0], np.uint64), "double", {"MATLAB_empty": np.uint8(1)}, "is empty"),
    ],
)
def test_what_matlab_keeps_as_numbers_is_refused(
    root: Path, array: np.ndarray, kind: str, attributes: dict[str, Any], words: str
) -> None:
    write_matlab(root, "x", array, kind, **attributes)
    with pytest.raises(DataError, match=words):
        read(root, row_axis="last")


# AnnData and other sparse matrices


def write_anndata(root: Path, counts: Any) -> None:
    with h5py.File(root / "rows.h5", "w") as file:
        file.attrs["encoding-type"] = "anndata"
        if isinstance(counts, np.ndarray):
            file["X"] = counts
        else:
            group = file.create_group("X")
            group.attrs.update({"encoding-type": f"{counts.format}_matrix", "shape": counts.shape})
            group["data"], group["indices"], group["indptr"] = counts.data, counts.indices, counts.indptr
        obs = file.create_group("obs")
        obs.attrs.update(
            {"encoding-type": "dataframe", "_index": "_index", "column-order": ["n", "type", "score", "age"]}
        )
        obs["_index"], obs["n"], obs["score"] = [f"c{n}" for n in range(60)], np.arange(60), ROWS[:, 0]
        kind, age = obs.create_group("type"), obs.create_group("age")
        kind.attrs["encoding-type"], age.attrs["encoding-type"] = "categorical", "nullable-integer"
        kind["codes"], kind["categories"] = np.arange(60) % 2, ["B", "T"]
        age["values"], age["mask"] = np.arange(60), np.arange(60) == 9
        file["obsm/X_pca"] = ROWS


COUNTS = np.random.default_rng(0).poisson(0.7, (60, 4)).astype(np.float32)


@pytest.mark.parametrize(
    "counts", [COUNTS, sparse.csr_matrix(COUNTS), sparse.csc_matrix(COUNTS)], ids=["dense", "csr", "csc"]
)
def test_the_matrix_of_anndata_is_read_dense_or_sparse(root: Path, counts: Any) -> None:
    write_anndata(root, counts)
    with pytest.raises(DataError, match=r"holds 3 arrays: name one by data\.key: X, obs, obsm/X_pca"):
        read(root)
    np.testing.assert_array_equal(read(root, "X").values, COUNTS)
    np.testing.assert_array_equal(read(root, "obsm/X_pca").values, ROWS)


def test_a_table_of_anndata_is_read_by_its_columns(root: Path) -> None:
    write_anndata(root, COUNTS)
    with pytest.raises(DataError, match="column 'type': holds categories, not numbers"):
        read(root, "obs")
    raw = read(root, "obs", columns=["score", "n"])
    np.testing.assert_array_equal(raw.values, np.c_[ROWS[:, 0], np.arange(60)])
    with pytest.raises(DataError, match=r"column 'age' of .* is nan") as caught:
        load_data(spec(key="obs", columns=["score", "age"]))
    assert caught.value.place == {"file": "rows.h5", "column": "age", "row": 9}


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("X/data", "is a part of a sparse matrix: name '/X' by data.key"),
        ("obs/type/codes", "is a part of a categorical column: name '/obs' by data.key"),
        ("obs/age/values", "is a part of a nullable-integer column: name '/obs' by data.key"),
    ],
)
def test_an_array_that_means_nothing_alone_is_refused(root: Path, key: str, words: str) -> None:
    write_anndata(root, sparse.csr_matrix(COUNTS))
    with pytest.raises(DataError, match=words):
        read(root, key)


def test_a_sparse_matrix_with_places_outside_of_it_is_refused(root: Path) -> None:
    write_anndata(root, sparse.csr_matrix(COUNTS))
    with h5py.File(root / "rows.h5", "a") as file:
        file["X/indices"][3] = 10**6
    with pytest.raises(DataError, match=r"rows\.h5 can't be read as HDF5"):
        read(root, "X")


@pytest.mark.parametrize("names", [("data", "indices", "indptr"), ("data", "ir", "jc")], ids=["10x Genomics", "MATLAB"])
def test_a_sparse_matrix_of_another_layout_is_refused(root: Path, names: tuple[str, ...]) -> None:
    with h5py.File(root / "rows.h5", "w") as file:
        for name in names:
            file[f"matrix/{name}"] = np.arange(60)
    for key in (None, "matrix", "matrix/data"):
        with pytest.raises(DataError, match="sparse matrix"):
            read(root, key)


# Filters and types


def write_filtered(root: Path, code: int) -> None:
    """Write a chunk that says that it went through a filter."""
    with h5py.File(root / "rows.h5", "w") as file:
        created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        created.set_chunk((60, 3))
        created.set_filter(code, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple((60, 3))
        rows = h5py.Dataset(h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F64LE, space, created))
        rows.id.write_direct_chunk((0, 0), ROWS.tobytes(), 0)


@pytest.mark.parametrize(
    ("code", "name", "package"),
    [
        (32001, "Blosc", True),
        (32015, "Zstandard", True),
        (32026, "Blosc2", True),
        (305, "LZO", False),
        (399, "without a name", False),
    ],
)
def test_a_filter_that_is_not_installed_is_named_with_the_package_that_has_it(
    root: Path, monkeypatch: pytest.MonkeyPatch, code: int, name: str, package: bool
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "hdf5plugin", None)
    write_filtered(root, code)
    with pytest.raises(DataError, match=rf"a filter that is not installed, {name} \({code}\): .*h5repack") as caught:
        read(root)
    assert ("pip install hdf5plugin" in str(caught.value)) == package


def test_filters_that_come_with_h5py_are_read(root: Path) -> None:
    for more in ({"compression": "lzf"}, {"compression": "gzip", "shuffle": True, "fletcher32": True}):
        with h5py.File(root / "rows.h5", "w") as file:
            file.create_dataset("x", data=ROWS, **more)
        np.testing.assert_array_equal(read(root).values, ROWS)


@pytest.mark.parametrize(
    ("values", "kind", "words"),
    [
        (np.arange(60) % 2, h5py.enum_dtype({"red": 0, "green": 1}, "u1"), "holds names by number"),
        (["x"] * 60, h5py.string_dtype(), "holds text, or rows of several lengths"),
        ([[1, 2], [3]], h5py.vlen_dtype(np.int32), "holds text, or rows of several lengths"),
        (np.ones(60, complex), complex, "holds complex128"),
    ],
)
def test_types_that_are_no_numbers_are_refused(root: Path, values: Any, kind: Any, words: str) -> None:
    with h5py.File(root / "rows.h5", "w") as file:
        rows = file.create_dataset("x", shape=(len(values),), dtype=kind)
        for place, value in enumerate(values):
            rows[place] = value
    with pytest.raises(DataError, match=words):
        read(root)


def test_a_part_of_a_table_that_lies_in_another_file_is_refused(root: Path, tmp_path_factory: Any) -> None:
    outside = tmp_path_factory.mktemp("outside") / "outside.h5"
    with h5py.File(outside, "w") as file:
        file["n"] = np.arange(60)
    write_anndata(root, COUNTS)
    with h5py.File(root / "rows.h5", "a") as file:
        del file["obs/n"]
        file["obs/n"] = h5py.ExternalLink(str(outside), "n")
    with pytest.raises(DataError, match="lies in another file"):
        read(root, "obs", columns=["n"])
