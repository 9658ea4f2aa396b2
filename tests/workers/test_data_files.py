"""Rows of the user's own files: what is read of each format, and what is refused with its place."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flowio
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse

from symadj.service.contract.spec.data import FORMATS, FileData
from symadj.workers.data import DataError
from symadj.workers.data.formats.raw import Raw, reads
from tests.workers.loading import load_data, load_table

ROWS = np.random.default_rng(0).normal(size=(200, 3))
NAMES = ["a", "b", "c"]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "datasets"
    folder.mkdir()
    monkeypatch.setenv("SYMADJ_DATA_ROOTS", str(folder))
    return folder


def spec(path: str, **more: Any) -> FileData:
    return FileData.model_validate({"kind": "file", "path": path, "batch_size": 20, **more})


def write_npy(path: Path) -> None:
    np.save(path, ROWS)


def write_npz(path: Path) -> None:
    np.savez(path, rows=ROWS)


def write_csv(path: Path) -> None:
    lines = [",".join(NAMES), *(",".join(map(repr, row.tolist())) for row in ROWS)]
    content = "\n".join(lines).encode() + b"\n"
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_parquet(path: Path) -> None:
    pq.write_table(pa.table(dict(zip(NAMES, ROWS.T, strict=True))), path)


def write_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["group/rows"] = ROWS


def write_fcs(path: Path) -> None:
    with path.open("wb") as file:
        flowio.create_fcs(file, ROWS.ravel(), NAMES)


def write_idx(path: Path, values: np.ndarray) -> None:
    kinds = {"uint8": 0x08, "float64": 0x0E}
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, kinds[str(values.dtype)], values.ndim, *values.shape)
    content = head + values.astype(values.dtype.newbyteorder(">")).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


WRITERS: dict[str, Callable[[Path], None]] = {
    "rows.npy": write_npy,
    "rows.npz": write_npz,
    "rows.csv": write_csv,
    "rows.csv.gz": write_csv,
    "rows.parquet": write_parquet,
    "rows.h5": write_hdf5,
    "rows.fcs": write_fcs,
    "rows.idx": lambda path: write_idx(path, ROWS),
}


def test_every_format_of_the_spec_is_tried_here() -> None:
    assert {spec(name).format for name in WRITERS} == FORMATS.keys()


def test_a_format_that_this_worker_does_not_know_is_refused_with_those_that_it_reads(root: Path) -> None:
    write_csv(root / "rows.csv")
    # As from a service of a later version.
    later = FileData.model_construct(**(dict(spec("rows.csv")) | {"format": "zarr"}))
    with pytest.raises(DataError, match=r"rows\.csv: files of format zarr .* which reads .*parquet"):
        load_table(later)


def test_a_second_reader_of_a_format_is_refused() -> None:
    with pytest.raises(ValueError, match=r"files of format csv are read by .* already"):
        reads("csv")(lambda file, data: Raw(ROWS))


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_rows_that_were_written(root: Path, name: str) -> None:
    WRITERS[name](root / name)
    table = load_table(spec(name))
    # FCS holds single precision.
    np.testing.assert_allclose(table.rows, ROWS, rtol=1e-6 if name == "rows.fcs" else 0)
    unnamed = name in ("rows.npy", "rows.npz", "rows.h5", "rows.idx")
    assert table.columns == (("x0", "x1", "x2") if unnamed else tuple(NAMES))


@pytest.mark.parametrize("name", WRITERS)
def test_columns_and_context_are_taken_by_name(root: Path, name: str) -> None:
    WRITERS[name](root / name)
    last, first = ("c", "a") if name in ("rows.csv", "rows.csv.gz", "rows.parquet", "rows.fcs") else ("x2", "x0")
    table = load_table(spec(name, columns=[last], context_columns=[first]))
    assert (table.columns, table.context_columns) == ((last,), (first,))
    np.testing.assert_allclose(table.rows[:, 0], ROWS[:, 2], rtol=1e-6)
    assert table.context is not None
    np.testing.assert_allclose(table.context[:, 0], ROWS[:, 0], rtol=1e-6)
    assert len(load_table(spec(name, context_columns=[first])).columns) == 2


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("content", [b"", b"\x00\x01nonsense, " * 40])
def test_a_file_that_is_damaged_or_empty_is_refused_by_its_name(root: Path, name: str, content: bytes) -> None:
    (root / name).write_bytes(content)
    with pytest.raises(DataError, match=name.replace(".", r"\.")) as caught:
        load_table(spec(name))
    assert caught.value.place["file"] == name


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_cut_short_is_refused(root: Path, name: str) -> None:
    WRITERS[name](root / name)
    content = (root / name).read_bytes()
    (root / name).write_bytes(content[: len(content) // 2 + 1])
    with pytest.raises(DataError, match=r"rows\."):
        load_table(spec(name))


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet", "rows.npy", "rows.fcs"])
def test_a_missing_column_is_refused_with_those_that_are_there(root: Path, name: str) -> None:
    WRITERS[name](root / name)
    with pytest.raises(DataError, match=r"no column 'age'; it has: (a, b, c|x0, x1, x2)"):
        load_table(spec(name, columns=["age"]))


def test_an_array_is_chosen_by_its_key(root: Path) -> None:
    np.savez(root / "two.npz", rows=ROWS, other=ROWS[:5])
    with pytest.raises(DataError, match=r"holds 2 arrays: name one by data\.key: rows, other"):
        load_table(spec("two.npz"))
    with pytest.raises(DataError, match="no array 'row', it has: rows, other"):
        load_table(spec("two.npz", key="row"))
    np.testing.assert_array_equal(load_table(spec("two.npz", key="rows")).rows, ROWS)


def test_an_hdf5_dataset_that_lies_in_another_file_is_refused(root: Path, tmp_path: Path) -> None:
    write_hdf5(tmp_path / "outside.h5")
    with h5py.File(root / "link.h5", "w") as file:
        file["rows"] = h5py.ExternalLink(str(tmp_path / "outside.h5"), "group/rows")
    with pytest.raises(DataError, match="lies in another file"):
        load_table(spec("link.h5", key="rows"))


def test_pickled_objects_are_never_loaded(root: Path) -> None:
    np.save(root / "objects.npy", np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match=r"objects\.npy can't be read as npy"):
        load_table(spec("objects.npy"))


def test_a_big_endian_array_is_read_as_any_other(root: Path) -> None:
    np.save(root / "big.npy", ROWS.astype(">f8"))
    np.testing.assert_array_equal(
        load_data(spec("big.npy", transforms=[])).test.rows, ROWS[load_data(spec("big.npy")).test.index]
    )


@pytest.mark.parametrize(
    "array", [np.array(["a", "b"]), np.ones((4, 2), complex), np.ones((4, 2), "M8[s]"), np.float64(3)]
)
def test_an_array_of_something_else_than_real_numbers_is_refused(root: Path, array: np.ndarray) -> None:
    np.save(root / "odd.npy", array)
    with pytest.raises(DataError, match=r"odd\.npy"):
        load_table(spec("odd.npy"))


def test_images_become_rows_and_keep_their_shape(root: Path) -> None:
    images = np.random.default_rng(0).integers(256, size=(60, 4, 5), dtype=np.uint8)
    write_idx(root / "train-images-idx3-ubyte.gz", images)
    write_idx(root / "t10k-images-idx3-ubyte.gz", images[:10] // 2)
    data = load_data(spec("train-images-idx3-ubyte.gz", test_path="t10k-images-idx3-ubyte.gz"))
    assert (data.dim, data.shape, data.levels) == (20, (1, 4, 5), 256)
    assert (len(data.training), len(data.validation), len(data.test)) == (54, 6, 10)
    np.testing.assert_array_equal(data.test.raw, images[:10].reshape(10, 20) // 2)
    np.testing.assert_array_equal(data.original_units(data.test.rows), data.test.raw)


@pytest.mark.parametrize("name", ["images.npy", "images.npz", "images.h5"])
def test_images_of_bytes_are_dequantised_whatever_holds_them(root: Path, name: str) -> None:
    images = np.random.default_rng(0).integers(256, size=(60, 3, 4, 5), dtype=np.uint8)
    write_array(root / name, images)
    data = load_data(spec(name))
    assert (data.shape, data.levels) == ((3, 4, 5), 256)
    assert [transform.parameters()["kind"] for transform in data.transforms] == ["dequantise", "logit"]
    np.testing.assert_array_equal(data.original_units(data.test.rows), data.test.raw)
    # What the spec says itself is heeded, and so are specs that were stored when this was the default.
    assert load_data(spec(name, transforms=[{"kind": "standardise"}])).levels is None


@pytest.mark.parametrize("array", [np.zeros((60, 20), np.uint8), np.zeros((60, 4, 5), np.float32)])
def test_other_arrays_are_standardised(root: Path, array: np.ndarray) -> None:
    array += np.random.default_rng(0).integers(200, size=array.shape).astype(array.dtype)
    np.save(root / "rows.npy", array)
    data = load_data(spec("rows.npy"))
    assert data.levels is None
    assert [transform.parameters()["kind"] for transform in data.transforms] == ["standardise"]


def write_array(path: Path, array: np.ndarray) -> None:
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez(path, rows=array)
    else:
        with h5py.File(path, "w") as file:
            file["rows"] = array


ARRAYS = ["rows.npy", "rows.npz", "rows.h5"]
RECORD = np.dtype([("id", ">i8"), ("v", "<f4", (2,)), ("flag", "?"), ("m", ">f2", (1, 2)), ("name", "S3")])


@pytest.mark.parametrize("name", ARRAYS)
def test_records_are_read_by_the_names_of_their_fields(root: Path, name: str) -> None:
    records = np.zeros(50, RECORD)
    records["id"], records["flag"] = np.arange(50), np.arange(50) % 3 == 0
    records["v"], records["m"] = ROWS[:50, :2], ROWS[:50, None, :2]
    write_array(root / name, records)
    with pytest.raises(DataError, match=r"holds .S3, not numbers"):
        load_table(spec(name))
    columns = ["m[0][1]", "id", "v[0]", "v[1]", "flag"]
    table = load_table(spec(name, columns=columns, context_columns=["m[0][0]"]))
    half, single = (ROWS[:50, :2].astype(kind) for kind in (np.float16, np.float32))
    np.testing.assert_array_equal(table.rows, np.c_[half[:, 1], np.arange(50), single, np.arange(50) % 3 == 0])
    np.testing.assert_array_equal(table.context, half[:, :1])


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("kind", ["i8", ">u8"])
def test_whole_numbers_that_floating_point_rounds_are_refused(root: Path, name: str, kind: str) -> None:
    records = np.zeros(50, [("a", "f8"), ("id", kind)])
    records["a"], records["id"] = ROWS[:50, 0], np.arange(50)
    records["id"][7] = 2**53 + 1
    write_array(root / name, records)
    with pytest.raises(DataError, match=r"is 9007199254740993, and whole numbers above 2\^53 are not exact") as caught:
        load_data(spec(name))
    assert caught.value.place == {"file": name, "column": "id", "row": 7}
    write_array(root / name, np.stack([records["id"], records["id"]], 1))
    with pytest.raises(DataError, match=r"is 9007199254740993, and whole numbers above 2\^53 are not exact"):
        load_data(spec(name))


def test_whole_numbers_are_not_rounded_beside_fractions_of_the_test_file(root: Path) -> None:
    np.save(root / "train.npy", np.full((40, 2), 2**53 + 1))
    np.save(root / "test.npy", ROWS[:, :2])
    for train, test in (("train.npy", "test.npy"), ("test.npy", "train.npy")):
        with pytest.raises(DataError, match=r"of train\.npy is 9007199254740993, and whole numbers above"):
            load_data(spec(train, test_path=test))


@settings(deadline=None, max_examples=120)
@given(
    name=st.sampled_from(ARRAYS),
    array=arrays(
        st.sampled_from(["?", "i1", "u1", "<i2", ">u2", "<i4", ">u4", "<f2", ">f2", "<f4", ">f4", "<f8", ">f8"]),
        st.tuples(st.integers(1, 5), st.integers(1, 3)) | st.tuples(*[st.integers(1, 3)] * 3),
    ),
    fortran=st.booleans(),
)
def test_what_numpy_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, name: str, array: np.ndarray, fortran: bool
) -> None:
    root = tmp_path_factory.mktemp("written")
    write_array(root / name, np.asfortranarray(array) if fortran else array)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYMADJ_DATA_ROOTS", str(root))
        rows = load_table(spec(name)).rows
    np.testing.assert_array_equal(rows, array.reshape(len(array), -1).astype(float))
    assert rows.dtype.isnative


def test_a_sparse_matrix_of_scipy_is_refused(root: Path) -> None:
    sparse.save_npz(root / "sparse.npz", sparse.csr_matrix(np.eye(20)))
    for key in (None, "data"):
        with pytest.raises(DataError, match=r"holds a sparse matrix of scipy: store it as an array, x\.toarray\(\)"):
            load_table(spec("sparse.npz", key=key))


def test_images_with_their_channels_last_are_refused(root: Path) -> None:
    np.save(root / "colour.npy", np.zeros((60, 8, 8, 3)))
    with pytest.raises(DataError, match=r"8 x 8 x 3 values, .*images are \[rows, channels, height, width\]"):
        load_table(spec("colour.npy"))
    np.save(root / "colour.npy", np.zeros((60, 3, 8, 8)))
    assert load_table(spec("colour.npy")).shape == (3, 8, 8)


def test_labels_are_no_images(root: Path) -> None:
    write_idx(root / "t10k-labels-idx1-ubyte", np.zeros(10, np.uint8))
    with pytest.raises(DataError, match="labels are a file of one axis"):
        load_table(spec("t10k-labels-idx1-ubyte"))


def test_a_test_file_of_another_width_is_refused(root: Path) -> None:
    np.save(root / "train.npy", ROWS)
    np.save(root / "test.npy", ROWS[:, :2])
    with pytest.raises(DataError, match=r"test\.npy has 2 columns .x0, x1., train\.npy has 3"):
        load_table(spec("train.npy", test_path="test.npy"))


def test_a_bad_value_of_the_test_file_is_named_by_its_place_there(root: Path) -> None:
    np.save(root / "train.npy", ROWS)
    held_out = ROWS[:40].copy()
    held_out[7, 1] = np.inf
    np.save(root / "test.npy", held_out)
    with pytest.raises(DataError, match=r"row 7 .*column 'x1' of test\.npy is inf"):
        load_data(spec("train.npy", test_path="test.npy"))


@pytest.mark.parametrize(
    "path", ["missing.npy", "/etc/passwd", "link.npy", "folder/rows.npy/x.npy", "a" * 900 + ".npy"]
)
def test_nothing_outside_of_the_data_roots_is_read(root: Path, tmp_path: Path, path: str) -> None:
    np.save(tmp_path / "outside.npy", ROWS)
    (root / "link.npy").symlink_to(tmp_path / "outside.npy")
    with pytest.raises(DataError, match="was not found below a data root"):
        load_table(spec(path, format="npy"))


def test_a_path_inside_of_a_root_may_be_absolute(root: Path) -> None:
    np.save(root / "rows.npy", ROWS)
    np.testing.assert_array_equal(load_table(spec(str(root / "rows.npy"))).rows, ROWS)


def test_a_folder_is_no_file(root: Path) -> None:
    (root / "folder.npy").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        load_table(spec("folder.npy"))


def test_a_pipe_is_not_waited_for(root: Path) -> None:
    os.mkfifo(root / "pipe.npy")
    with pytest.raises(DataError, match=r"pipe\.npy is not a regular file"):
        load_table(spec("pipe.npy"))


def npy_header(shape: tuple[int, ...]) -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return content.getvalue()


def write_vast_npy(path: Path) -> None:
    path.write_bytes(npy_header((10**13, 3)))


def write_vast_npz(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("rows.npy", npy_header((10**13, 3)))


def write_vast_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("rows", shape=(10**13, 3), chunks=(1000, 3))


def write_vast_idx(path: Path) -> None:
    path.write_bytes(gzip.compress(struct.pack(">BBBB3I", 0, 0, 8, 3, 2**31, 2**31, 28)))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("rows.npy", write_vast_npy),
        ("rows.npz", write_vast_npz),
        ("rows.h5", write_vast_hdf5),
        ("rows.idx.gz", write_vast_idx),
    ],
)
def test_a_small_file_that_announces_more_than_there_is_memory_is_refused(
    root: Path, name: str, write: Callable[[Path], None]
) -> None:
    write(root / name)
    with pytest.raises(DataError, match=r"memory.*: store it as parquet and take data\.kind parquet_stream") as caught:
        load_table(spec(name))
    assert caught.value.place == {"file": name}


@pytest.mark.parametrize(("offsets", "value", "words"), [((6, 8), 1, "encrypted"), ((8, 10), 99, "not supported")])
def test_an_archive_that_cannot_be_unpacked_is_refused(
    root: Path, offsets: tuple[int, int], value: int, words: str
) -> None:
    write_npz(root / "rows.npz")
    content = bytearray((root / "rows.npz").read_bytes())
    for signature, offset in zip((b"PK\x03\x04", b"PK\x01\x02"), offsets, strict=True):
        content[content.find(signature) + offset] = value
    (root / "rows.npz").write_bytes(content)
    with pytest.raises(DataError, match=rf"rows\.npz can't be read as npz: .*{words}"):
        load_table(spec("rows.npz"))


def test_a_missing_library_is_named_with_the_way_to_get_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_hdf5(root / "rows.h5")
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(DataError, match=r"h5py is not installed, `pip install '\.\[train\]'`"):
        load_table(spec("rows.h5"))
