"""Readers of files, one module a family of formats; each raises ``DataError`` with a message of ours.

A module registers its readers by ``raw.reads``, and every module of this folder is found by itself: a new format is a
module here and a line of ``FORMATS`` in the spec (``service/contract/spec/data.py``).
"""

from __future__ import annotations

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
