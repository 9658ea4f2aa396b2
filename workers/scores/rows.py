"""The rows of an order for scores, opened and checked. Needs numpy, not torch."""

from __future__ import annotations

from collections.abc import Callable

from symadj.service.contract.data_summary import DataSummary
from symadj.service.contract.flow_question import StoredFile
from symadj.service.contract.layout import CONFIG, WEIGHTS, artifact_folder, flow_folder
from symadj.service.contract.order import RunOrder
from symadj.service.contract.spec import ScoresSpec
from symadj.service.contract.spec.scores import UploadedRows
from symadj.service.contract.storage import open_storage
from symadj.workers.data import DataError, data_roots
from symadj.workers.data.scored import FlowInput, RowsInOrder, check_rows, open_rows
from symadj.workers.files.stored import read_stored
from symadj_core.errors import LoadError

__all__ = ["check_rows_of", "flow_files", "rows_of", "spec_of"]


def spec_of(order: RunOrder) -> ScoresSpec:
    """Return the spec of a job that scores rows, which the order is for."""
    assert isinstance(order.spec, ScoresSpec)
    return order.spec


def flow_files(order: RunOrder) -> tuple[StoredFile, StoredFile]:
    """Return where the config and the weights of the trained flow lie."""
    folder, trained = flow_folder(order.job_id), spec_of(order).trained
    return (
        StoredFile(path=f"{folder}/{CONFIG}", sha256=trained.config_sha256),
        StoredFile(path=f"{folder}/{WEIGHTS}", sha256=trained.weights_sha256),
    )


def rows_of(order: RunOrder) -> tuple[RowsInOrder, FlowInput]:
    """Return the rows to score, and what the flow takes of them.

    Raises:
        DataError: the rows can't be read or lack a column, or the flow's config is not what was stored.
        StorageUnreachableError: a bucket does not answer.
    """
    spec, storage = spec_of(order), open_storage(order.storage)
    config, _ = flow_files(order)
    try:
        flow = FlowInput.of_config(read_stored(storage, config), transformed=spec.units == "transformed")
    except (FileNotFoundError, LoadError) as error:
        raise DataError(f"the files of the flow of job {spec.trained.job} can't be used: {error}") from error
    # What was sent is found as all else is: below a place, which is the job's own folder.
    own = (storage.name(artifact_folder(order.job_id, 0)),) if isinstance(spec.data, UploadedRows) else None
    return open_rows(spec.data, data_roots(order, own), flow), flow


def check_rows_of(order: RunOrder, on_read: Callable[[DataSummary], None]) -> None:
    """Read all rows to score once, and raise what ``rows_of`` does, or ``DataError`` for a value."""
    check_rows(*rows_of(order), on_read)
