"""Runs a dispatcher until a signal stops it."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from types import FrameType

from symadj.service.contract.storage import StorageUnreachableError
from symadj.service.dispatcher import Dispatcher
from symadj.service.ray_jobs import RayJobs, RayRefusedError, RayUnreachableError
from symadj.service.settings import SettingsError, read_settings
from symadj.service.store import Database

__all__ = ["main"]

log = logging.getLogger("symadj.dispatcher")


def main() -> None:
    """Run a dispatcher until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stopping = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
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
    unreachable = False
    while not stopping.is_set():
        try:
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
        stopping.wait(settings.poll_seconds)
    dispatcher.close()
    ray.close()
    database.close()


if __name__ == "__main__":
    main()
