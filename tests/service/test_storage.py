"""Places of files: how they are written, and what both kinds of storage have in common."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from symadj.service.contract.layout import CheckpointName
from symadj.service.contract.storage import Folder, Storage, StorageUnusableError, open_storage, split_places
from symadj.service.settings import Settings


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ("", []),
        ("/a:/b/c", ["/a", "/b/c"]),
        ("s3://bucket/prefix", ["s3://bucket/prefix"]),
        ("/a:s3://bucket/prefix:b:gs://other::", ["/a", "s3://bucket/prefix", "b", "gs://other"]),
        ("a s3:/b", ["a s3", "/b"]),
    ],
)
def test_a_list_of_places_is_separated_as_path_is_and_may_hold_urls(places: str, expected: list[str]) -> None:
    assert split_places(places) == expected


def test_folders_among_the_data_roots_become_absolute_and_urls_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings(data=tmp_path, data_roots="rows:s3://bucket/prefix")
    assert settings.resolved_data_roots() == (f"{tmp_path.resolve()}/rows", "s3://bucket/prefix")


def test_a_url_of_a_file_system_is_a_folder(tmp_path: Path) -> None:
    storage = open_storage(f"file://{tmp_path}/a%20b")
    assert isinstance(storage, Folder)
    assert storage.root == tmp_path.resolve() / "a b"


def test_a_url_with_a_password_is_refused_without_saying_it() -> None:
    with pytest.raises(StorageUnusableError) as caught:
        open_storage("sftp://ada:enigma@host/folder")
    assert "enigma" not in str(caught.value)


def test_a_file_is_replaced_listed_opened_and_removed(storage: Storage) -> None:
    assert storage.children("job-1") == []
    assert storage.holding("job-1", "weights") == set()
    for content in (b"old", b"weights"):
        storage.write("job-1/a/weights", content)
    storage.mark("job-1/mark")
    storage.write("job-10/weights", b"w")
    assert storage.read("job-1/a/weights") == b"weights"
    assert storage.size("job-1/a/weights") == 7
    with storage.open("job-1/a/weights") as stream:
        assert (stream.read(3), stream.read()) == (b"wei", b"ghts")
    with storage.on_disk("job-1/a/weights") as path:
        assert path.read_bytes() == b"weights"
    assert storage.children("job-1") == ["a", "mark"]
    assert storage.holding("job-1", "weights") == {"a"}
    assert storage.sizes() == {"job-1": 7, "job-10": 1}
    storage.remove("job-1", first="none")
    storage.remove("job-1")
    storage.remove_file("job-1/mark")
    assert storage.sizes() == {"job-10": 1}
    with pytest.raises(FileNotFoundError, match="job-1/a/weights"):
        storage.read("job-1/a/weights")


def fail_to_make(storage: Storage, *, after_bringing: bool) -> None:
    with storage.make("job-1/folder", last="manifest") as making:
        (making.path / "weights").write_bytes(b"w")
        (making.path / "manifest").write_bytes(b"m")
        if after_bringing:
            making.bring()
            assert "folder" not in storage.holding("job-1", "manifest")
        raise ZeroDivisionError


@pytest.mark.parametrize("after_bringing", [False, True])
def test_what_goes_wrong_while_something_is_made_leaves_nothing(storage: Storage, after_bringing: bool) -> None:
    with pytest.raises(ZeroDivisionError):
        fail_to_make(storage, after_bringing=after_bringing)
    assert storage.children("job-1") == []


def test_a_storage_can_be_sent_to_another_process(storage: Storage) -> None:
    storage.write("a", b"content")
    sent = pickle.loads(pickle.dumps(storage))
    assert (sent.location, sent.read("a")) == (storage.location, b"content")


@pytest.mark.parametrize("name", ["step-000000400-attempt-2", "step-1234567890123-attempt-0"])
def test_the_name_of_a_checkpoint_reads_back(name: str) -> None:
    assert str(CheckpointName.parse(name)) == name


@pytest.mark.parametrize(
    "name",
    ["step-400-attempt-2", "step-000000400", ".making-x", "step-000000400-attempt-2\n", "step-٠٠٠٠٠٠٤٠٠-attempt-2"],
)
def test_other_names_are_not_those_of_a_checkpoint(name: str) -> None:
    assert CheckpointName.parse(name) is None
