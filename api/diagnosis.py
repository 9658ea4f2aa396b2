"""What `symadj doctor` looks at: this installation, this machine, the service's folders, and a server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

import httpx
import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from pydantic import BaseModel, ByteSize, Field

from symadj import __version__
from symadj.api.client import ApiProblemError, Client
from symadj.extras import how_to_install
from symadj.service.settings import Settings, SettingsError, read_settings

__all__ = ["Check", "Diagnosis", "Status", "diagnose"]

_GIB = 2**30
# What is left, below which a run is in danger, and below which the store may fail at any moment.
_FEW_DISK_BYTES, _LEAST_DISK_BYTES = 5 * _GIB, _GIB // 2
# Ray keeps objects there; `symadj serve` asks for 100 MB.
_SHARED_MEMORY_BYTES = 128 * 2**20
# A worker with torch holds half a GiB, and Ray as much.
_MEMORY_BYTES = 2 * _GIB
# Of the clocks, beyond the second to which a server tells its time.
_CLOCK_SECONDS = 5.0
_ANSWER_SECONDS = 10.0
_TORCH_SECONDS = 120.0
_TORCH = (
    "import json, torch; gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0; "
    "print(json.dumps([torch.__version__, torch.version.cuda, [torch.cuda.get_device_name(i) for i in range(gpus)]]))"
)
# The driver of NVIDIA says here which it is.
_DRIVER = Path("/proc/driver/nvidia/version")
# The limits of the container that this process is in.
_CONTROL_GROUP = Path("/sys/fs/cgroup")


class Status(StrEnum):
    """What was found."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Check(BaseModel):
    """One thing that was looked at."""

    name: str
    status: Status
    found: str
    advice: str | None = Field(None, description="What to do; null where nothing must be done.")


class Diagnosis(BaseModel):
    """All that was looked at."""

    checks: list[Check]

    @property
    def failed(self) -> bool:
        """Whether something does not work."""
        return any(check.status is Status.FAIL for check in self.checks)


def diagnose(client: Client) -> Diagnosis:
    """Look at everything; what can't be looked at is a check that fails, and stops no other."""
    checks = [*_installation(), _torch(), _memory(), _shared_memory()]
    try:
        settings = read_settings()
    except SettingsError as error:
        checks.append(_fail("settings", str(error), "correct the variable that is named"))
    else:
        checks += [*_folders(settings), _store(settings), *_ray(settings)]
    return Diagnosis(checks=[*checks, *_server(client)])


def _ok(name: str, found: str) -> Check:
    return Check(name=name, status=Status.OK, found=found)


def _warn(name: str, found: str, advice: str) -> Check:
    return Check(name=name, status=Status.WARN, found=found, advice=advice)


def _fail(name: str, found: str, advice: str) -> Check:
    return Check(name=name, status=Status.FAIL, found=found, advice=advice)


def _size(count: int) -> str:
    return ByteSize(count).human_readable()


def _installation() -> Iterator[Check]:
    """Compare Python and the installed packages with what symadj's own metadata ask for."""
    found, wanted = ".".join(map(str, sys.version_info[:3])), metadata("symadj")["Requires-Python"]
    fits = wanted is None or SpecifierSet(wanted).contains(found)
    yield _ok("python", found) if fits else _fail("python", f"{found}: symadj needs {wanted}", "install another Python")
    yield from (_packages(extra) for extra in ("", "service", "train"))


def _packages(extra: str) -> Check:
    name = f"packages ({extra})" if extra else "packages"
    absent, wrong, fitting = [], [], 0
    for line in requires("symadj") or []:
        requirement = Requirement(line)
        of_extra = requirement.marker is not None and "extra" in str(requirement.marker)
        if of_extra is not bool(extra) or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            absent.append(requirement.name)
            continue
        if requirement.specifier.contains(found, prereleases=True):
            fitting += 1
        else:
            wrong.append(f"{requirement.name} {found}, which must be {requirement.specifier}")
    install = how_to_install(extra)
    if wrong or (absent and extra != "train"):
        return _fail(name, "; ".join(wrong + [f"{item} is not installed" for item in absent]), install)
    if absent:
        return _warn(name, f"{', '.join(absent)} not installed", f"{install}, on machines that train")
    return _ok(name, f"{fitting} fit")


def _torch() -> Check:
    """Ask a process of its own, since torch takes seconds and much memory."""
    command = [sys.executable, "-P", "-c", _TORCH]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=_TORCH_SECONDS, check=True)
        release, cuda, devices = json.loads(asked.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        words = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
        last = (words.splitlines() or ["no answer"])[-1]
        return _warn("torch", last, f"{how_to_install('')}, on machines that train or load flows")
    found = f"{release}, {f'CUDA {cuda}' if cuda else 'without CUDA'}, {', '.join(devices) or 'no GPU'}"
    if _DRIVER.exists() and not devices:
        return _warn("torch", f"{found}, though NVIDIA's driver is here", "install torch for the driver's CUDA version")
    return _ok("torch", found)


def _memory() -> Check:
    memory = psutil.virtual_memory()
    found, left = f"{_size(memory.available)} of {_size(memory.total)} available", memory.available
    limit = _control_group("memory.max", "memory/memory.limit_in_bytes")
    used = _control_group("memory.current", "memory/memory.usage_in_bytes")
    if limit is not None and used is not None and limit < memory.total:
        left = min(left, limit - used)
        found += f"; the control group allows {_size(limit)}, of which {_size(used)} are taken"
    if left < _MEMORY_BYTES:
        return _warn("memory", found, f"a run needs some {_size(_MEMORY_BYTES)}: free some, or raise the limit")
    return _ok("memory", found)


def _control_group(*names: str) -> int | None:
    """Return a figure of the container's memory; None where there is no limit."""
    for name in names:
        try:
            return int((_CONTROL_GROUP / name).read_text())
        except (OSError, ValueError):
            continue
    return None


def _shared_memory() -> Check:
    place = Path("/dev/shm")
    if not place.is_dir():
        return _ok("shared memory", "there is no /dev/shm here, and Ray uses files")
    free = shutil.disk_usage(place).free
    if free < _SHARED_MEMORY_BYTES:
        advice = "give a container more (docker run --shm-size=1g), or remove what is left in /dev/shm"
        return _warn("shared memory", f"{_size(free)} free in /dev/shm", advice)
    return _ok("shared memory", f"{_size(free)} free in /dev/shm")


def _folders(settings: Settings) -> Iterator[Check]:
    yield _disk("data folder", settings.data)
    if settings.spool is not None:
        yield _disk("spool folder", settings.spool)


def _disk(name: str, folder: Path) -> Check:
    there = folder.resolve()
    while not there.exists():
        there = there.parent
    found = f"{folder}: {_size(shutil.disk_usage(there).free)} free"
    if not os.access(there, os.W_OK):
        return _fail(name, f"{folder} can't be written", "give it to the service's user, or name another (SYMADJ_DATA)")
    free = shutil.disk_usage(there).free
    if free < _LEAST_DISK_BYTES:
        return _fail(name, found, "free some: `symadj usage` names the largest jobs, `symadj delete` removes one")
    if free < _FEW_DISK_BYTES:
        return _warn(name, found, "free some: `symadj usage` names the largest jobs, `symadj delete` removes one")
    return _ok(name, found)


def _store(settings: Settings) -> Check:
    """Compare the store's tables with this version's; of SQLite only where there is a file, which is not made."""
    if settings.store_url is None and not (settings.data / "symadj.sqlite").exists():
        return _ok("store", f"none in {settings.data} yet")
    from sqlalchemy.exc import SQLAlchemyError

    from symadj.service.store import Database

    try:
        database = Database(settings.resolved_store_url())
        try:
            shape = database.shape()
        finally:
            database.close()
    except (SQLAlchemyError, ImportError) as error:
        told = str(error).splitlines()[0]
        return _fail("store", told, "check SYMADJ_STORE_URL, and whether the database runs")
    if shape.is_current:
        return _ok("store", f"its tables are those of this version ({shape.found})")
    if shape.is_known:
        advice = "the service changes them when it starts; make a backup first"
        return _warn("store", f"its tables ({shape.found}) are older than this version's ({shape.newest})", advice)
    return _fail("store", f"its tables ({shape.found}) are of a later version", "install that version of symadj")


def _ray(settings: Settings) -> Iterator[Check]:
    """Compare the version of a Ray that the settings name with the one that is installed."""
    if not settings.names_ray:
        return
    token = settings.ray_token.get_secret_value() if settings.ray_token else None
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with httpx.Client(timeout=_ANSWER_SECONDS, trust_env=False) as http:
            answer = http.get(f"{settings.ray_address}/api/version", headers=headers).raise_for_status()
        there = str(answer.json()["ray_version"])
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError) as error:
        advice = "check SYMADJ_RAY_ADDRESS and SYMADJ_RAY_TOKEN, and whether the cluster runs"
        yield _fail(
            "ray", f"no answer as it should be at {settings.ray_address} ({error or type(error).__name__})", advice
        )
        return
    try:
        here = version("ray")
    except PackageNotFoundError:
        yield _ok("ray", f"{there} at {settings.ray_address}")
        return
    if here == there:
        yield _ok("ray", f"{there} at {settings.ray_address}, as here")
    else:
        yield _fail("ray", f"{there} at {settings.ray_address}, and {here} here", "install the same version on both")


def _server(client: Client) -> Iterator[Check]:
    asked = time.time()
    try:
        with httpx.Client(timeout=_ANSWER_SECONDS) as http:
            answer = http.get(f"{client.url}/healthz").raise_for_status()
        there = str(answer.json()["version"])
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError) as error:
        found = f"no symadj answers at {client.url} ({error or type(error).__name__})"
        yield _fail("server", found, "`symadj serve` starts one; --url and SYMADJ_URL name another")
        return
    if there == __version__:
        yield _ok("server", f"{client.url}, symadj {there}, as here")
    else:
        advice = "install the server's version, or upgrade the server"
        yield _warn("server", f"{client.url}, symadj {there}, and {__version__} here", advice)
    yield _clock(answer, (asked + time.time()) / 2)
    yield from (_asked("server's parts", lambda: _parts(client)), _asked("key", lambda: _key(client)))


def _clock(answer: httpx.Response, here: float) -> Check:
    told = answer.headers.get("date")
    if told is None:
        return _warn("clock", "the server does not tell its time", "a proxy may have removed the header Date")
    # It is the second that has begun.
    ahead = parsedate_to_datetime(told).timestamp() + 0.5 - here
    if abs(ahead) > _CLOCK_SECONDS:
        found = f"the server's is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this one"
        return _warn("clock", found, "set both by NTP: times in answers are the server's")
    return _ok("clock", f"the server's and this one differ by less than {_CLOCK_SECONDS:g} s")


def _asked(name: str, ask: Callable[[], Check]) -> Check:
    """Return what the server answers, or why it does not."""
    try:
        return ask()
    except ApiProblemError as problem:
        return _fail(name, str(problem), "see the log of the API (logs/api.log in the data folder)")


def _parts(client: Client) -> Check:
    ready = client.readiness()
    if ready.ray != "ok":
        return _warn("server's parts", f"store ok; Ray: {ready.ray}", "jobs wait until it answers: see its log")
    return _ok("server's parts", "store ok, Ray ok")


def _key(client: Client) -> Check:
    try:
        who = client.identity()
    except ApiProblemError as problem:
        if problem.status != 401:
            raise
        return _fail("key", problem.detail, "set SYMADJ_API_KEY, or --api-key-file, to a key that is valid")
    return _ok("key", f"{who.name}, {who.role}" if client.has_key else f"none is asked for: {who.name}, {who.role}")
