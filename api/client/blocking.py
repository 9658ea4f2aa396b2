"""The client whose methods return when the server has answered."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Self, TypeVar

import httpx
import tenacity

from symadj.api.client import display
from symadj.api.client.attempts import Attempts, pause_seconds
from symadj.api.client.connection import PIECE_BYTES, Connection, arguments_of, pieces_of
from symadj.api.client.downloading import Advance, Download, untold
from symadj.api.client.errors import ApiProblemError, ApiUnreachableError, is_answer, problem_of, read_by, told_in_words
from symadj.api.client.following import Following
from symadj.api.client.handles import Handle, of_job
from symadj.api.client.loading import load_flow
from symadj.api.client.request import Request
from symadj.api.client.requests import Requests, artifact_file, artifact_named
from symadj.api.schemas.jobs import EventRead, JobPage, JobSubmitted
from symadj.api.schemas.telemetry import ArtifactRead, MetricList
from symadj.service.contract.layout import CONFIG, WEIGHTS

if TYPE_CHECKING:
    from symadj.api.client.loading import TrainedFlow

__all__ = ["Client", "Job", "Jobs", "ListedJob"]

T = TypeVar("T")


class Client(Requests["Job", "Jobs"], Connection):
    """One server. Use as a context manager, or call :meth:`close`.

    ``api_key`` is for a server that asks for one; default: the environment's ``SYMADJ_API_KEY``. A request that the
    server is too busy for is repeated after the seconds that it says (Retry-After), for a minute at most.
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout: float = 60.0) -> None:
        Connection.__init__(self, url, api_key)
        self._job, self._jobs = Job, Jobs
        # Two tries of the connection alone: what a server may have seen is repeated only where that is safe.
        with self._checking_address():
            self._http = httpx.Client(
                base_url=self.url,
                headers=self._key_header,
                timeout=timeout,
                transport=httpx.HTTPTransport(retries=2),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def send(self, request: Request[T]) -> T:
        """Send a request, and again where that is safe and may help; return what its answer is read as.

        Raises:
            ApiProblemError: the server answered with an error, or is not symadj's.
            ApiUnreachableError: there is no answer.
        """
        attempts = Attempts(request, self._on_silence)
        try:
            content = tenacity.Retrying(**attempts.policy)(self._send_once, request)
        except ApiUnreachableError as error:
            raise attempts.explained(error) from error
        attempts.answered()
        return read_by(request.read, content)

    def send_all(self, requests: Generator[Request[T], T]) -> Iterator[T]:
        """Send one request after another, each made from the answer to the one before; yield the answers."""
        try:
            request = next(requests)
            while True:
                answer = self.send(request)
                yield answer
                request = requests.send(answer)
        except StopIteration:
            return

    def _send_once(self, request: Request[Any]) -> bytes:
        arguments = arguments_of(request)
        if isinstance(request.content, Path):
            arguments["content"] = pieces_of(request.content)
        with told_in_words(self.url):
            response = self._http.request(request.method, request.path, **arguments)
        if not is_answer(response):
            raise problem_of(response)
        return response.content

    @contextmanager
    def _stream(self, request: Request[Any]) -> Iterator[httpx.Response]:
        """Send a request once, and give its answer to be read while it comes."""
        with (
            told_in_words(self.url),
            self._http.stream(request.method, request.path, **arguments_of(request)) as response,
        ):
            if not is_answer(response):
                response.read()
                raise problem_of(response)
            yield response

    def follow(
        self, job_id: str, *, wait: float = 600.0, timeout: float | None = None
    ) -> Iterator[EventRead | MetricList]:
        """Yield what happens to a job as it happens: its events, and the metrics with new values, until it has ended.

        A stream that breaks off, or has lasted for ``wait`` seconds, is begun again where it was.

        Raises:
            ApiProblemError: there is no such job.
            ApiUnreachableError: no server is there, or none answered for a minute, unless within `patience`.
            TimeoutError: the job has not ended within ``timeout`` seconds.
        """
        following = Following(job_id, wait=wait, timeout=timeout, tell=self._on_silence)
        while not following.ended:
            try:
                with self._stream(following.request()) as response:
                    following.opened(response.status_code)
                    for line in response.iter_lines():
                        if (item := following.read(line)) is not None:
                            yield item
            except (ApiUnreachableError, ApiProblemError) as error:
                if not following.goes_on_after(error):
                    raise
            if following.must_pause and not following.ended:
                time.sleep(pause_seconds())

    def wait(self, job_id: str, *, timeout: float | None = None) -> Job:
        """Wait until a job has ended, and return it as it is then; whether it succeeded is in its ``state``.

        A paused job has not ended.

        Raises:
            ApiProblemError, ApiUnreachableError, TimeoutError: as for `follow`.
        """
        for _ in self.follow(job_id, timeout=timeout):
            pass
        return self.job(job_id)

    def write_series(self, job_id: str, target: BinaryIO, names: Sequence[str] | None = None) -> None:
        """Write every value of several metrics (None: all) as csv: a line a step, a column a metric."""
        self._write(self._series_table(job_id, names), target)

    def write_memory(self, job_id: str, target: BinaryIO) -> None:
        """Write every memory record of a job as csv: a line for each step, rank and phase; sizes in bytes."""
        self._write(self._memory_table(job_id), target)

    def _write(self, request: Request[bytes], target: BinaryIO) -> None:
        with self._stream(request) as response:
            for piece in response.iter_bytes(PIECE_BYTES):
                target.write(piece)

    def download(
        self,
        job_id: str,
        artifact: ArtifactRead | str,
        target: Path | str,
        *,
        advance: Advance = untold,
    ) -> None:
        """Write one of a job's files to ``target``; where it is there already, nothing is done.

        It is received into a file beside it, ``NAME.SUM.part``, and a download that broke off goes on from where it
        was, now or at the next call. When its SHA-256 is the one that the run stored, the file gets its name.

        Args:
            job_id: of the job.
            artifact: one of `artifacts`, or its name.
            target: the file to write.
            advance: gets the number of bytes that have come, again and again.

        Raises:
            ApiProblemError: there is no such file.
            ApiUnreachableError: nothing has come for a minute, however often it was asked for.
            DownloadError: what came is not what the run stored.
        """
        if isinstance(artifact, str):
            name, found = artifact, artifact_named(self.artifacts(job_id), artifact)
            if found is None:
                # A name that is not there is told by the server.
                self.send(artifact_file(job_id, name, {}))
                found = artifact_named(self.artifacts(job_id), name)
            assert found is not None, "it was there just now"
            artifact = found
        download = Download(job_id, artifact, Path(target), advance)
        if download.is_needed():
            tenacity.Retrying(**download.patience.policy)(self._receive, download)
            download.finish()

    def _receive(self, download: Download) -> None:
        """Add to a file what it lacks."""
        if (request := download.request()) is None:
            return
        with self._stream(request) as response, download.receiving(response.status_code) as take:
            for piece in response.iter_raw(PIECE_BYTES):
                take(piece)

    def download_all(self, job_id: str, folder: Path | str, *, names: Sequence[str] | None = None) -> list[Path]:
        """Write a job's files (None: all) into a folder, which is made if it is not there; return their paths.

        Raises:
            ApiProblemError, ApiUnreachableError, DownloadError: as for `download`.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        wanted = [item.name for item in self.artifacts(job_id).items] if names is None else names
        for name in wanted:
            self.download(job_id, name, folder / name)
        return [folder / name for name in wanted]

    def load(
        self,
        job_id: str,
        *,
        settings: Literal["tested", "trained"] = "tested",
        units: Literal["original", "transformed"] = "original",
        weights: str = WEIGHTS,
        device: str = "cpu",
    ) -> TrainedFlow:
        """Return the flow that a job trained, with the arguments of `symadj_core.load`.

        Raises:
            ApiProblemError, ApiUnreachableError, DownloadError: as for `download`; a job that has not ended has no
                such files.
            ModuleNotFoundError: torch is not installed.
            LoadError: as for `symadj_core.load`.
        """
        with TemporaryDirectory(prefix="symadj-") as folder:
            self.download_all(job_id, folder, names=(CONFIG, weights))
            return load_flow(folder, settings=settings, units=units, weights=weights, device=device)


class _JobMethods:
    """The methods of a client that are about one job; where the answer is the job itself, they bring it up to date."""

    refresh = of_job(Client.job)
    wait = of_job(Client.wait)
    follow = of_job(Client.follow)
    cancel = of_job(Client.cancel)
    pause = of_job(Client.pause)
    resume = of_job(Client.resume)
    ask_checkpoint = of_job(Client.ask_checkpoint)
    change = of_job(Client.change)
    clone = of_job(Client.clone)
    retry = of_job(Client.retry)
    delete = of_job(Client.delete)
    attempts = of_job(Client.attempts)
    checkpoints = of_job(Client.checkpoints)
    data = of_job(Client.data)
    events = of_job(Client.events)
    logs = of_job(Client.logs)
    log_pages = of_job(Client.log_pages)
    metrics = of_job(Client.metrics)
    metric_list = of_job(Client.metric_list)
    metric = of_job(Client.metric)
    metric_pages = of_job(Client.metric_pages)
    series = of_job(Client.series)
    memory = of_job(Client.memory)
    write_series = of_job(Client.write_series)
    write_memory = of_job(Client.write_memory)
    artifacts = of_job(Client.artifacts)
    download = of_job(Client.download)
    download_all = of_job(Client.download_all)
    load = of_job(Client.load)
    flow = of_job(Client.flow)
    score = of_job(Client.score)


class Job(_JobMethods, Handle, JobSubmitted):
    """A job, whole. ``findings`` are those of its submission, and empty of a job that was read."""


class ListedJob(_JobMethods, Handle):
    """A job in a list: `refresh` reads the whole."""


class Jobs(JobPage[ListedJob]):
    """A page of jobs, newest first."""

    def __repr__(self) -> str:
        return display.jobs_text(self.items, has_more=self.has_more)

    def _repr_html_(self) -> str:
        return display.jobs_html(self.items, has_more=self.has_more)
