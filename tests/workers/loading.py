"""The data of a spec as a run loads them, below the data roots that a test's environment names as a service's does."""

from __future__ import annotations

from symadj.service.contract.spec.data import Data
from symadj.service.settings import Settings
from symadj.workers import data as worker_data
from symadj.workers.data import DataRoots, PreparedData, Table
from symadj.workers.data.prepare import TableData

__all__ = ["load_data", "load_table", "roots"]


def roots() -> DataRoots:
    """What the settings of the environment name."""
    settings = Settings()
    return DataRoots(settings.resolved_data_roots(), settings.data_cache)


def load_table(data: TableData) -> Table:
    return worker_data.load_table(data, roots())


def load_data(data: Data) -> PreparedData:
    return worker_data.load_data(data, roots())
