"""Settings of the API and the dispatcher: environment variables ``SYMADJ_*``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["Settings"]


class Settings(BaseSettings):
    """What the processes of a deployment are told; ``symadj serve`` sets it all for a laptop."""

    model_config = SettingsConfigDict(env_prefix="SYMADJ_", extra="ignore")

    data: Path = Field(Path("symadj-data"), description="Folder of the embedded store and of the job storage.")
    store_url: str | None = Field(None, description="SQLAlchemy URL; default: SQLite in the data folder.")
    storage: Path | None = Field(
        None, description="Folder of artifacts that all nodes share; default: `jobs` in the data folder."
    )
    data_roots: str | None = Field(
        None,
        description=(
            "Folders on the nodes of Ray that the files of specs are read from, and nothing outside of them; separated "
            "as in PATH. Default: `datasets` in the data folder, and /usr/share/datasets."
        ),
    )
    api_url: str = Field("http://127.0.0.1:8000", description="Where workers, and the dispatcher, reach the API.")
    ray_address: str = Field("http://127.0.0.1:8265", description="URL of Ray's Jobs API.")
    ray_token: SecretStr | None = Field(None, description="Ray's auth token, where Ray asks for one.")
    spool: Path | None = Field(
        None,
        description="Folder of the workers' spools, on each node; default: in the system's temporary folder.",
    )
    worker_python: str = Field(sys.executable, description="The interpreter that has symadj, on the nodes of Ray.")
    cluster_may_grow: bool = Field(
        False,
        description="Whether a job that is too large for the cluster waits for it to grow, or is refused.",
    )
    poll_seconds: float = Field(0.5, gt=0, le=60, description="Pause between two rounds of the dispatcher.")
    cancel_grace_seconds: float = Field(
        15.0, ge=0, description="How long a run may take to stop by itself before Ray is told to stop it."
    )
    run_lease_seconds: float = Field(
        60.0,
        gt=0,
        description="How long a part of a run may be silent, while the API and the store answer, before it is lost. "
        "Every part speaks at least every 2 s.",
    )
    retry_seconds: float = Field(
        5.0, ge=0, description="Pause before the attempt after a lost one; twice as long after each, 5 minutes at most."
    )
    max_active_per_owner: int | None = Field(
        None, ge=1, description="Jobs of one owner that may be on the cluster at once; default: no limit."
    )
    max_queued_per_owner: int | None = Field(
        None, ge=1, description="Jobs of one owner that may wait in the queue; default: no limit."
    )

    def resolved_store_url(self) -> str:
        """Return the store's URL; the embedded SQLite file unless one is set."""
        return self.store_url or f"sqlite:///{(self.data / 'symadj.sqlite').resolve()}"

    def resolved_storage(self) -> Path:
        """Return the folder under which every job has one of its own."""
        return (self.storage or self.data / "jobs").resolve()

    def resolved_data_roots(self) -> str:
        """Return the folders that files of specs are read from, separated as in PATH."""
        if self.data_roots is not None:
            # The runs have another working folder.
            return os.pathsep.join(str(Path(root).resolve()) for root in self.data_roots.split(os.pathsep) if root)
        return os.pathsep.join([str((self.data / "datasets").resolve()), "/usr/share/datasets"])
