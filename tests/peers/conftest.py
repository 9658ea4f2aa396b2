"""Tests with other libraries need an environment of their own: `make test-peers`. Elsewhere there are none."""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("SYMADJ_TEST_PEERS") else ["test_*.py"]
