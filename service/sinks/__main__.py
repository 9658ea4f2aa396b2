"""Feeds the sinks of ``SYMADJ_SINKS`` until a signal stops it."""

from __future__ import annotations

import logging
import signal
import sys
import threading

from symadj.service.settings import SettingsError, read_settings
from symadj.service.sinks import open_sinks
from symadj.service.sinks.following import Follower
from symadj.service.store import Database

__all__ = ["main"]


def main() -> None:
    """Feed all sinks, each by a thread of its own, until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    signal.signal(signal.SIGINT, lambda *_: stopping.set())
    try:
        settings = read_settings()
        opened = open_sinks(settings.sinks or "")
        if not opened:
            raise SettingsError("no sink is named: set SYMADJ_SINKS=tensorboard:/folder, for one")
    except SettingsError as error:
        sys.exit(str(error))
    database = Database(settings.resolved_store_url(), connections=len(opened))
    database.migrate()
    followers = [Follower(database, name, sink, api_url=settings.api_url) for name, sink in opened.items()]
    threads = [threading.Thread(target=follower.run, args=(stopping,)) for follower in followers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    database.close()


if __name__ == "__main__":
    main()
