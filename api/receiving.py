"""Files that come with requests, stored while they come; of a request that fails nothing is left."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from anyio import CancelScope, CapacityLimiter, from_thread
from anyio.to_thread import run_sync

from symadj.api.bodies import Upload
from symadj.service.contract import layout
from symadj.service.contract.storage import Storage
from symadj.service.errors import BusyError, StorageFullError

__all__ = ["MOST_AT_ONCE", "Incoming", "ReceivedFile", "incoming"]

# Files that come in at once: each has a thread until it is there, which may take minutes.
MOST_AT_ONCE = 16
_threads = CapacityLimiter(MOST_AT_ONCE)
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class ReceivedFile:
    """What a stored file is: its bytes, and the SHA-256 of its content."""

    bytes: int
    sha256: str


class Incoming:
    """The folder of a job or an upload that is to be stored.

    Attributes:
        kept: whether it was stored, so that its files stay.
    """

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage, self._folder = storage, folder
        self.kept = False

    async def receive(self, upload: Upload, path: str, most_bytes: int) -> ReceivedFile:
        """Store the file of a request at ``path``, a part at a time.

        Raises:
            BusyError: as many files come in as may.
            ContentTooLargeError: it has more than ``most_bytes``.
            StorageFullError: the disk has no room for it.
            HTTPException: the connection ended before the file did (400).
        """
        if not _threads.available_tokens:  # a client whose file is not read would be cut off for its silence
            raise BusyError(
                f"{MOST_AT_ONCE} files come in now, and no more at once: repeat the request after the seconds that "
                "Retry-After says"
            )
        pieces = upload.pieces(most_bytes)

        async def following() -> bytes:
            return await anext(pieces, b"")

        def store() -> ReceivedFile:
            size, sha256 = 0, hashlib.sha256()
            # By which the dispatcher finds it, should this process die.
            self._storage.mark(layout.upload_mark(self._folder))
            with self._storage.writing(path) as file:
                while piece := from_thread.run(following):
                    file.write(piece)
                    sha256.update(piece)
                    size += len(piece)
            return ReceivedFile(size, sha256.hexdigest())

        try:
            return await run_sync(store, limiter=_threads)
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise StorageFullError(
                    "the storage has no room for the file, and nothing of it was kept: its operator must make room"
                ) from error
            raise

    def settle(self) -> None:
        """Remove the files unless they are kept, and say that nothing more comes."""
        if not self.kept:
            self._storage.remove(self._folder)
        self._storage.remove_file(layout.upload_mark(self._folder))


@asynccontextmanager
async def incoming(storage: Storage, folder: str) -> AsyncIterator[Incoming]:
    """Give the folder of a job or an upload that is to be stored; whatever happens, it is settled at the end."""
    files = Incoming(storage, folder)
    try:
        yield files
    finally:
        with CancelScope(shield=True), suppress(OSError):
            await run_sync(files.settle)
