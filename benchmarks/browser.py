"""A Chromium without a window, driven by Selenium; both are Debian's `chromium` and `chromium-driver`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

__all__ = ["chromium"]


@contextmanager
def chromium() -> Iterator[Chrome]:
    """Start a browser for the block.

    Raises:
        RuntimeError: there is none here.
    """
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        raise RuntimeError(
            "there is no chromium with its chromedriver here (Debian: apt install chromium chromium-driver)"
        )
    options = ChromeOptions()
    options.binary_location = binary
    for argument in ("headless=new", "no-proxy-server", "hide-scrollbars"):
        options.add_argument(f"--{argument}")
    if os.geteuid() == 0:  # its sandbox needs another user
        options.add_argument("--no-sandbox")
    browser = Chrome(options, Service(driver))
    browser.set_script_timeout(300)
    try:
        yield browser
    finally:
        browser.quit()
