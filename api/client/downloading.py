"""A file that is received in parts and compared with its sum: for both clients."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from symadj.api.client.attempts import Patience
from symadj.api.client.errors import DownloadError
from symadj.api.client.request import Request
from symadj.api.client.requests import artifact_file
from symadj.api.schemas.telemetry import ArtifactRead

__all__ = ["Advance", "Download", "untold"]

Advance = Callable[[int], None]


def untold(_count: int) -> None:
    """Tell nobody how many bytes have come."""


class Download:
    """One of a job's files on its way to ``target``, in a file beside it, ``NAME.SUM.part``.

    Attributes:
        patience: while parts of it come.

    Args:
        job_id: of the job.
        artifact: the file.
        target: where to put it.
        advance: gets the number of bytes that have come, again and again.
    """

    def __init__(self, job_id: str, artifact: ArtifactRead, target: Path, advance: Advance) -> None:
        self.patience = Patience()
        self._job_id = job_id
        self._artifact = artifact
        self._target = target
        self._advance = advance
        self._part = target.with_name(f"{target.name}.{artifact.sha256[:16]}.part")
        self._held = self._most = 0

    def is_needed(self) -> bool:
        """Return whether the file must be fetched; what an earlier download has left of it counts as come."""
        artifact, target = self._artifact, self._target
        if target.is_file() and target.stat().st_size == artifact.bytes and _sha256(target) == artifact.sha256:
            self._advance(artifact.bytes)
            return False
        self._held = self._most = self._part.stat().st_size if self._part.is_file() else 0
        self._advance(self._held)
        return True

    def request(self) -> Request[bytes] | None:
        """Return the request for what is missing; None where nothing is."""
        if self._held == self._artifact.bytes and self._held:
            return None
        headers = {"Accept-Encoding": "identity"}
        if 0 < self._held < self._artifact.bytes:
            headers |= {"Range": f"bytes={self._held}-", "If-Range": f'"{self._artifact.sha256}"'}
        return artifact_file(self._job_id, self._artifact.name, headers)

    @contextmanager
    def receiving(self, status: int) -> Iterator[Callable[[bytes], None]]:
        """Give a function that takes what comes of an answer with this status."""
        more = status == 206
        if self._held and not more:
            self._note(-self._held)  # it comes from its beginning
        with self._part.open("ab" if more else "wb") as file:

            def take(piece: bytes) -> None:
                file.write(piece)
                self._note(len(piece))

            yield take

    def finish(self) -> None:
        """Give the file its name.

        Raises:
            DownloadError: it is not what the run stored.
        """
        found = _sha256(self._part)
        if found != self._artifact.sha256:
            self._part.unlink()
            raise DownloadError(
                f"{self._artifact.name} of {self._job_id} came with the SHA-256 {found}, and the run stored "
                f"{self._artifact.sha256}: it was removed. Download it again; if that does not help, the file on the "
                "server is damaged"
            )
        self._part.replace(self._target)

    def _note(self, count: int) -> None:
        self._held += count
        if self._held > self._most:  # what comes for a second time, from a server that serves no parts, is no progress
            self._most = self._held
            self.patience.progressed()
        self._advance(count)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
