"""A client of the HTTP API: typed answers, errors that say what the server said.

:class:`Client` returns answers, :class:`AsyncClient` is awaited; they have the same methods (:mod:`.requests`), and so
have the jobs that they return, without the job's id. Neither needs the libraries of the server, nor torch.
"""

from symadj.extras import how_to_install

try:
    from symadj.api.client.awaited import AsyncClient, AsyncJob, AsyncJobs, AsyncListedJob
    from symadj.api.client.blocking import Client, Job, Jobs, ListedJob
    from symadj.api.client.errors import ApiProblemError, ApiUnreachableError, BadRequestError, DownloadError
    from symadj.api.client.metrics import Curve, Metrics
except ModuleNotFoundError as error:
    if error.name is None or error.name.split(".")[0] == "symadj":
        raise
    message = f"the client needs the package {error.name}, which is not installed: {how_to_install('client')}"
    raise ModuleNotFoundError(message, name=error.name) from None

__all__ = [
    "ApiProblemError",
    "ApiUnreachableError",
    "AsyncClient",
    "AsyncJob",
    "AsyncJobs",
    "AsyncListedJob",
    "BadRequestError",
    "Client",
    "Curve",
    "DownloadError",
    "Job",
    "Jobs",
    "ListedJob",
    "Metrics",
]
