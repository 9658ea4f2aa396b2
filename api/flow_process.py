"""The process that computes with flows: started when it is first needed, kept, and started again if it dies.

It has torch in it, which the API must not load, and reads what strangers send. So its memory and time are bounded, it
has none of the service's secrets, and its death costs one request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import tempfile

from symadj.api import environment
from symadj.api.children import MARK
from symadj.service.contract.flow_question import LENGTHS, FlowAnswer, FlowOutcome, Question, frame
from symadj.service.contract.storage import StorageError
from symadj.service.errors import (
    BusyError,
    ConflictError,
    FlowMemoryError,
    FlowProcessError,
    FlowTimeoutError,
    NotFoundError,
    SymadjError,
    TooManyRowsError,
)
from symadj.service.settings import Settings

__all__ = ["FlowProcess", "raise_unless_done"]

log = logging.getLogger("symadj.api")

# Computations are started by name: this room does not import the workers'.
_SERVER = "symadj.workers.flow_server"
# Requests that are computed or wait for their turn.
_AT_ONCE = 4
# To load torch, which takes long on a busy machine; no request's own time.
_START_SECONDS = 120.0


class FlowProcess:
    """One process for all flows and all requests, one after the other."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None
        # What a process that is killed would leave behind goes with its folder.
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._turn = asyncio.Lock()
        self._taken = 0

    async def ask(self, question: Question, content: bytes = b"") -> tuple[FlowAnswer, bytes]:
        """Return what the process answers to a question with this content.

        Raises:
            BusyError: as many requests are computed or wait as may.
            FlowTimeoutError: it took too long, and was ended.
            FlowMemoryError: it took too much memory, and was ended.
            FlowProcessError: the process died, or does not start.
        """
        if self._taken >= _AT_ONCE:
            raise BusyError(
                f"{_AT_ONCE} computations with flows are under way or wait, and no more at once: repeat the request "
                "after the seconds that Retry-After says"
            )
        self._taken += 1
        try:
            async with self._turn:
                return await self._asked(question, content)
        finally:
            self._taken -= 1

    @property
    def busy(self) -> bool:
        """Whether a request is computed or waits."""
        return self._taken > 0

    async def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.cleanup()

    async def _asked(self, question: Question, content: bytes) -> tuple[FlowAnswer, bytes]:
        seconds = self._settings.flow_seconds
        process = await self._running()
        try:
            async with asyncio.timeout(seconds):
                assert process.stdin is not None
                process.stdin.write(frame(question, content))
                await process.stdin.drain()
                answer, answered = await _receive(process)
        except TimeoutError:
            await self.close()
            raise FlowTimeoutError(
                f"the computation took longer than {seconds:g} s and was ended: "
                f"{question.ask_for_less} (SYMADJ_FLOW_SECONDS is the bound)"
            ) from None
        except (asyncio.IncompleteReadError, ConnectionError):
            await self._reap(process)
            raise FlowProcessError(f"{_ended(process)}; the next request has a new one: repeat it") from None
        except BaseException:  # what it writes next would be taken for the answer to another question
            await self.close()
            raise
        if answer.outcome is FlowOutcome.MEMORY:
            await self.close()
            raise FlowMemoryError(
                f"the computation takes more than {self._settings.flow_memory.human_readable()} of memory and was "
                f"ended: {question.ask_for_less} "
                f"(SYMADJ_FLOW_MEMORY is the bound; {answer.message})"
            )
        return answer, answered

    async def _reap(self, process: asyncio.subprocess.Process) -> None:
        """Wait for a process that has closed its pipe to end by itself, so that its status can be told."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await process.wait()
        await self.close()

    async def _running(self) -> asyncio.subprocess.Process:
        """Return the process, ready to be asked.

        Raises:
            FlowProcessError: it does not start.
        """
        if self._process is not None and self._process.returncode is None:
            return self._process
        await self.close()
        process = self._process = await self._start()
        try:
            async with asyncio.timeout(_START_SECONDS):
                await _receive(process)
        except asyncio.IncompleteReadError:
            await self._reap(process)
            raise FlowProcessError(f"{_ended(process)} before it was ready: the API's log says why") from None
        except BaseException as error:
            await self.close()
            if isinstance(error, TimeoutError):
                raise FlowProcessError(f"it did not start within {_START_SECONDS:g} s: repeat the request") from None
            raise
        return process

    async def _start(self) -> asyncio.subprocess.Process:
        settings = self._settings
        known = environment.for_ray(os.environ, settings.environment_to_pass())
        if MARK in os.environ:
            known[MARK] = os.environ[MARK]
        self._folder = tempfile.TemporaryDirectory(prefix="symadj-flow-", ignore_cleanup_errors=True)
        known["TMPDIR"] = self._folder.name
        limits = ("--memory", str(int(settings.flow_memory)), "--threads", str(settings.flow_threads))
        return await asyncio.create_subprocess_exec(
            # -P: nothing is imported from the folder that the API was started in.
            *(sys.executable, "-P", "-m", _SERVER, *limits),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=known,
            start_new_session=True,  # Ctrl-C is for the API
        )


def raise_unless_done(answer: FlowAnswer, *, refused: type[SymadjError]) -> None:
    """Raise what an answer says went wrong; ``refused`` is the error where what was sent makes no sense."""
    match answer.outcome:
        case FlowOutcome.DONE:
            return
        case FlowOutcome.REFUSED:
            raise refused(answer.message)
        case FlowOutcome.TOO_MUCH:
            raise TooManyRowsError(answer.message)
        case FlowOutcome.GONE:
            raise NotFoundError(f"a file of the flow was stored and is gone: {answer.message}")
        case FlowOutcome.DAMAGED:
            raise ConflictError(f"the files of this job are no flow that can be loaded: {answer.message}")
        case FlowOutcome.UNREACHABLE:
            raise StorageError(answer.message)
        case _:
            raise SymadjError("A fault of ours: the server's log has the details.")


async def _receive(process: asyncio.subprocess.Process) -> tuple[FlowAnswer, bytes]:
    assert process.stdout is not None
    lengths = await process.stdout.readexactly(LENGTHS.size)
    of_header, of_content = LENGTHS.unpack(lengths)
    header = await process.stdout.readexactly(of_header)
    return FlowAnswer.model_validate_json(header), await process.stdout.readexactly(of_content)


def _ended(process: asyncio.subprocess.Process) -> str:
    code = process.returncode
    how = f"by signal {-code}" if code is not None and code < 0 else f"with status {code}"
    return f"the process that computes with flows ended {how}"
