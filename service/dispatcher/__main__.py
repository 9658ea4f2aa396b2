"""Runs a dispatcher until a signal stops it."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
import time
from types import FrameType

from sqlalchemy.exc import SQLAlchemyError

from symadj.service.contract.storage import StorageUnreachableError
from symadj.service.dispatcher import Dispatcher
from symadj.service.dispatcher.alerting import Alerter
from symadj.service.dispatcher.notifying import Notifier
from symadj.service.ray_jobs import RayJobs, RayRefusedError, RayUnreachableError
from symadj.service.settings import Settings, SettingsError, read_settings
from symadj.service.store import Database

__all__ = ["main"]

log = logging.getLogger("symadj.dispatcher")

# Between two looks, while it pauses, for whether another job was submitted.
LOOK_SECONDS = 0.1


def main() -> None:
    """Run a dispatcher until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--drain",
        action="store_true",
        help="the whole service ends with it: let every run write a checkpoint and stop first "
        "(SYMADJ_STOP_GRACE_SECONDS); a second signal ends it at once",
    )
    drains = parser.parse_args().drain
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stopping, at_once = threading.Event(), threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        if stopping.is_set():
            at_once.set()
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        settings = read_settings()
        settings.check_buckets()
    except SettingsError as error:
        sys.exit(str(error))
    except StorageUnreachableError as error:
        log.warning("a bucket does not answer: %s", error)
    database = Database(settings.resolved_store_url())
    database.migrate()
    ray = RayJobs(settings.ray_address, settings.ray_token.get_secret_value() if settings.ray_token else None)
    dispatcher = Dispatcher(database, ray, settings)
    notifier = Notifier(database, settings)
    notifier.start()
    alerter = Alerter(database)
    alerter.start()
    unreachable = False
    while not stopping.is_set():
        newest = None
        try:
            newest = dispatcher.newest_job()
            dispatcher.round()
        except (RayUnreachableError, RayRefusedError) as error:
            if not unreachable:
                log.warning("waiting for Ray: %s", error)
            unreachable = True
            stopping.wait(5 * settings.poll_seconds)
        except Exception:
            log.exception("a round failed; the next one starts anew")
        else:
            if unreachable:
                log.info("Ray answers again")
            unreachable = False
        _pause(dispatcher, newest, stopping, settings.poll_seconds)
    if drains:
        _drain(dispatcher, settings, at_once)
    alerter.stop()
    notifier.stop()
    dispatcher.close()
    ray.close()
    database.close()


def _pause(dispatcher: Dispatcher, newest: str | None, stopping: threading.Event, seconds: float) -> None:
    """Wait for the next round: for so long, or until a job was submitted since ``newest``, or all is to stop."""
    end = time.monotonic() + seconds
    while not stopping.wait(max(0.0, min(LOOK_SECONDS, end - time.monotonic()))) and time.monotonic() < end:
        try:
            if dispatcher.newest_job() != newest:
                return
        except SQLAlchemyError:  # which the next round meets, and tells
            stopping.wait(max(0.0, end - time.monotonic()))


def _drain(dispatcher: Dispatcher, settings: Settings, at_once: threading.Event) -> None:
    """Wait until no run is left, as long as runs may take for it."""
    deadline = time.monotonic() + settings.stop_grace_seconds
    log.info("the service stops: every run is to write a checkpoint, within %g s", settings.stop_grace_seconds)
    while not at_once.is_set() and time.monotonic() < deadline:
        try:
            if not dispatcher.drain():
                log.info("no run is left")
                return
        except (RayUnreachableError, RayRefusedError) as error:
            log.warning("Ray does not answer: %s", error)
        except Exception:
            log.exception("a round failed; the next one starts anew")
        at_once.wait(settings.poll_seconds)
    log.warning("the runs that are left are not waited for: they go on from their last checkpoints")


if __name__ == "__main__":
    main()
