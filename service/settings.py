"""Settings of the API and the dispatcher: environment variables ``SYMADJ_*``, or the files that they name."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal

from pydantic import ByteSize, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from symadj.service.contract.order import DATA_TIMEOUT_S, FLUSH_TIMEOUT_S, STORAGE_PATIENCE_S
from symadj.service.contract.storage import (
    Storage,
    StorageUnreachableError,
    StorageUnusableError,
    is_url,
    open_storage,
    split_places,
)
from symadj.service.hosts import AllowedHosts

__all__ = ["Settings", "SettingsError", "read_settings"]


# Where Debian's packages of data sets (dataset-fashion-mnist) put them.
SYSTEM_DATASETS = "/usr/share/datasets"
# For which a start waits for a bucket to answer.
BUCKET_SECONDS = 30.0


class _NamedFiles(PydanticBaseSettingsSource):
    """Reads the setting ``x`` from the file that ``SYMADJ_X_FILE`` names."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return what the file of a setting holds without the spaces around it, None if no file is named."""
        variable = f"SYMADJ_{field_name.upper()}_FILE"
        path = os.environ.get(variable)
        if not path:
            return None, field_name, False
        try:
            return Path(path).read_text().strip(), field_name, False
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{variable} names {path}, which can't be read: {error}") from error

    def __call__(self) -> dict[str, Any]:
        """Return the settings that have files."""
        values = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in values.items() if value is not None}


class Settings(BaseSettings):
    """Settings of the processes of a deployment; ``symadj serve`` sets them all for a laptop.

    ``SYMADJ_X_FILE`` names a file that holds ``SYMADJ_X``, for secrets that must not be in an environment. A variable
    that is set goes before a file.

    Raises:
        SettingsError: a file can't be read.
    """

    model_config = SettingsConfigDict(
        env_prefix="SYMADJ_",
        env_ignore_empty=True,  # what Docker Compose passes where nothing is set
        extra="ignore",
        hide_input_in_errors=True,  # it may be a secret
    )

    data: Path = Field(Path("symadj-data"), description="Folder of the embedded store and of the job storage.")
    store_url: str | None = Field(None, description="SQLAlchemy URL; default: SQLite in the data folder.")
    storage: str | None = Field(
        None,
        description=(
            "Folder of artifacts and checkpoints that all nodes share, or the URL of a place in a bucket "
            "(s3://bucket/prefix); default: `jobs` in the data folder."
        ),
    )
    data_roots: str | None = Field(
        None,
        description=(
            "Folders on the nodes of Ray, and URLs of places in buckets, that the files of specs are read from, and "
            "nothing outside of them; separated as in PATH. Default: `datasets` in the data folder, and "
            "/usr/share/datasets."
        ),
    )
    data_cache: Path | None = Field(
        None,
        description="Folder on each node for copies of files from buckets; default: in the system's temporary folder.",
    )
    api_url: str = Field("http://127.0.0.1:8000", description="Where workers, and the dispatcher, reach the API.")
    ray_address: str = Field("http://127.0.0.1:8265", description="URL of Ray's Jobs API.")
    ray_token: SecretStr | None = Field(None, description="Ray's auth token, where Ray asks for one.")
    spool: Path | None = Field(
        None,
        description="Folder of the workers' spools, on each node; default: in the system's temporary folder.",
    )
    storage_patience_s: float = Field(
        STORAGE_PATIENCE_S,
        ge=0,
        description="Seconds for which a run waits for a storage that is full or does not answer. Ranks wait for each "
        "other no longer than 30 minutes, so it must be shorter than that.",
    )
    flush_timeout_s: float = Field(
        FLUSH_TIMEOUT_S,
        ge=0,
        description="Seconds for which a run waits, at its end, for the API to take its last records.",
    )
    data_timeout_s: float = Field(
        DATA_TIMEOUT_S,
        gt=0,
        description="Seconds within which the data of a run must be read and checked, buckets' files fetched.",
    )
    worker_python: str = Field(sys.executable, description="The interpreter that has symadj, on the nodes of Ray.")
    warm_runs: bool = Field(
        True,
        description="Whether the processes of runs are copies of one that has imported what they need, which "
        "`symadj serve` and the containers of Ray's nodes keep: they start sooner, and it holds some 400 MB.",
    )
    warm_socket: Path | None = Field(
        None,
        description="Where that process (`python -m symadj.workers.warm.template SOCKET`) listens on each node of Ray; "
        "where none does, runs start cold. Default: none does; `symadj serve` and compose.yaml set it.",
    )
    cluster_may_grow: bool = Field(
        False,
        description="Whether a job that is too large for the cluster waits for it to grow, or is refused.",
    )
    poll_seconds: float = Field(
        0.5, gt=0, le=60, description="Pause between two rounds of the dispatcher; a new job ends it."
    )
    cancel_grace_seconds: float = Field(
        15.0, ge=0, description="How long a run may take to stop by itself before Ray stops it."
    )
    stop_grace_seconds: float = Field(
        60.0,
        ge=0,
        description="How long the runs together may take to write a checkpoint and stop when the whole service is "
        "stopped; 0: they are ended at once.",
    )
    run_lease_seconds: float = Field(
        60.0,
        gt=0,
        description="How long a part of a run may be silent, while the API takes records, before it is lost. "
        "Every part speaks at least every 2 s.",
    )
    retry_seconds: float = Field(
        5.0, ge=0, description="Pause before the attempt after a lost one; twice as long after each, 5 minutes at most."
    )
    request_seconds: float = Field(
        60.0, gt=0, description="How long a client may take to send a request to the API before it is cut off."
    )
    flow_rows: int = Field(
        10_000, ge=1, description="Rows that one request may have computed of a trained flow (density, samples, paths)."
    )
    flow_values: int = Field(100_000, ge=1, description="Values that these rows may have together, contexts included.")
    flow_seconds: float = Field(
        30.0, gt=0, description="How long that may take, with loading the flow, before it is ended."
    )
    flow_memory: ByteSize = Field(
        ByteSize(512 * 2**20),
        gt=0,
        description="Memory that it may take, beyond what its process has with the libraries loaded (512MiB).",
    )
    flow_threads: int = Field(1, ge=1, description="Threads of that process that compute.")
    check_on: Literal["api", "ray"] | None = Field(
        None,
        description="Where the data are read of a spec that is only checked: beside the API, or on a node of Ray. "
        "Default: beside the API where Ray is on its machine, else on a node.",
    )
    check_seconds: float = Field(
        30.0, gt=0, description="How long a check on a node of Ray may take, from being asked for, before it is ended."
    )
    plan_submitted: bool = Field(
        True, description="Whether the memory of the newest jobs in the queue is planned before they start."
    )
    upload_bytes: ByteSize = Field(
        ByteSize(2**30),
        gt=0,
        description="Bytes that a file may have that is sent, to be trained on or to be scored (1GiB).",
    )
    max_active_per_owner: int | None = Field(
        None, ge=1, description="Jobs of one owner that may be on the cluster at once; default: no limit."
    )
    max_queued_per_owner: int | None = Field(
        None, ge=1, description="Jobs of one owner that may wait in the queue; default: no limit."
    )

    owner_disk_bytes: ByteSize | None = Field(
        None,
        gt=0,
        description="Bytes that the uploads of one owner, and the checkpoints and artifacts of their jobs, may have "
        "before no more of them are taken (500GiB); default: no limit.",
    )

    telemetry_keep_days: float | None = Field(
        None,
        gt=0,
        le=36_500,
        description="Days after the end of a job for which its telemetry (every step's metrics and memory) is kept. "
        "Its newest values, result, events and files stay. Default: as long as the job.",
    )
    telemetry_thin_days: float | None = Field(
        None,
        gt=0,
        le=36_500,
        description="Days after the end of a job after which its telemetry is thinned, spikes kept. Default: never.",
    )
    telemetry_thin_records: int = Field(
        1000, ge=100, description="Records that a longer series has left when it is thinned, at most."
    )
    telemetry_keep_last: int = Field(
        0, ge=0, description="Jobs of each owner, those that ended last, whose telemetry stays whole, however old."
    )

    audit_days: float = Field(
        90.0, gt=0, le=36_500, description="Days after which an entry of the audit log is removed."
    )

    webhook_hosts: str | None = Field(
        None,
        description="Hosts that webhooks may send to: names (hooks.example.org, *.example.org), addresses and "
        "networks; separated by commas. One whose address is not of the public internet needs that address here too. "
        "Default: none.",
    )
    sinks: str | None = Field(
        None,
        description="Trackers that `python -m symadj.service.sinks` feeds: tensorboard:/folder, "
        "mlflow:http://host:5000#experiment; separated by spaces. `symadj serve` starts it.",
    )
    webhook_retry_seconds: float = Field(
        5.0, gt=0, description="Pause before a webhook's delivery is tried again; twice as long each time, 1 h at most."
    )
    webhook_tries: int = Field(12, ge=1, description="Tries of a delivery before it is given up.")
    webhook_failures: int = Field(
        5, ge=1, description="Deliveries given up, one after the other, after which a webhook is disabled."
    )

    auth: Literal["none", "keys"] = Field(
        "none", description="Whether the API asks for keys; with none, anyone who reaches it may do everything."
    )
    allowed_hosts: str | None = Field(
        None,
        description="Names by which an API without keys may be called, beside localhost, loopback addresses and the "
        "name in api_url; separated by commas. Any other is refused. With keys every name is taken.",
    )
    pass_environment: str | None = Field(
        None,
        description="Further variables of its environment that `symadj serve` passes on to its processes and so to the "
        "runs; separated by commas. It passes those that symadj, Ray, torch and the libraries of buckets read.",
    )
    key_secret: SecretStr | None = Field(
        None, min_length=32, description="Under which API keys are hashed; changing it makes them all invalid."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take files last."""
        return init_settings, env_settings, _NamedFiles(settings_cls)

    def resolved_store_url(self) -> str:
        """Return the store's URL; the embedded SQLite file unless one is set."""
        return self.store_url or f"sqlite:///{(self.data / 'symadj.sqlite').resolve()}"

    def resolved_storage(self) -> Storage:
        """Return the storage in which every job has a folder of its own.

        Raises:
            StorageUnusableError: its URL's protocol is not known, its library is missing, or it has a password in it.
        """
        return open_storage(self.storage or str(self.data / "jobs"))

    def resolved_data_roots(self) -> tuple[str, ...]:
        """Return the folders and URLs that files of specs are read from."""
        if self.data_roots is not None:
            # The runs have another working folder.
            roots = split_places(self.data_roots)
            return tuple(root if is_url(root) else str(Path(root).resolve()) for root in roots)
        return (str((self.data / "datasets").resolve()), SYSTEM_DATASETS)

    def allowed_webhook_hosts(self) -> AllowedHosts:
        """Return the hosts that webhooks may send to."""
        return AllowedHosts.parse(self.webhook_hosts or "")

    @field_validator("webhook_hosts")
    @classmethod
    def _are_hosts(cls, text: str | None) -> str | None:
        AllowedHosts.parse(text or "")
        return text

    @field_validator("telemetry_thin_days")
    @classmethod
    def _comes_before_removal(cls, days: float | None, info: ValidationInfo) -> float | None:
        kept = info.data.get("telemetry_keep_days")
        if days is not None and kept is not None and days >= kept:
            raise ValueError(f"{days:g} is not below SYMADJ_TELEMETRY_KEEP_DAYS, {kept:g}: nothing would be thinned")
        return days

    @field_validator("telemetry_keep_last")
    @classmethod
    def _keeps_from_something(cls, jobs: int, info: ValidationInfo) -> int:
        if jobs and not any(info.data.get(name) for name in ("telemetry_keep_days", "telemetry_thin_days")):
            raise ValueError(
                "says which jobs are kept from SYMADJ_TELEMETRY_KEEP_DAYS and SYMADJ_TELEMETRY_THIN_DAYS: set one of "
                "them, or all telemetry is kept"
            )
        return jobs

    @property
    def names_ray(self) -> bool:
        """Whether a Ray was named, and is not the default of a machine."""
        return "ray_address" in self.model_fields_set

    def environment_to_pass(self) -> frozenset[str]:
        """Return the names in ``pass_environment``."""
        return frozenset(name.strip() for name in (self.pass_environment or "").split(",") if name.strip())

    def check_buckets(self, seconds: float = BUCKET_SECONDS) -> None:
        """Find out whether the buckets that are named can be used. Folders are not looked at.

        Args:
            seconds: for which each is waited for: the protocols' libraries wait, and ask again, for minutes.

        Raises:
            SettingsError: a protocol is not known or its library missing, there is no such bucket, or no permission.
            StorageUnreachableError: a bucket does not answer.
        """
        places = {"SYMADJ_STORAGE": [self.storage or ""], "SYMADJ_DATA_ROOTS": list(self.resolved_data_roots())}
        for variable, urls in places.items():
            for url in filter(is_url, urls):
                try:
                    _check_bucket(url, write=variable == "SYMADJ_STORAGE", seconds=seconds)
                except StorageUnusableError as error:
                    raise SettingsError(f"{variable}: {error}") from error

    def required_key_secret(self) -> bytes:
        """Return the secret under which API keys are hashed.

        Raises:
            SettingsError: none is set.
        """
        if self.key_secret is None:
            raise SettingsError(
                "API keys need a secret of the server's: set SYMADJ_KEY_SECRET to at least 32 random characters "
                "(`openssl rand -hex 32`), or SYMADJ_KEY_SECRET_FILE to a file that holds them, and keep them: without "
                "them all keys are void"
            )
        return self.key_secret.get_secret_value().encode()


def _check_bucket(url: str, *, write: bool, seconds: float) -> None:
    found: Future[None] = Future()

    def check() -> None:
        try:
            found.set_result(open_storage(url).check(write=write))
        except BaseException as error:
            found.set_exception(error)

    # No process waits at its end for such a thread; for those of a pool it does.
    thread = threading.Thread(target=check, name="bucket", daemon=True)
    thread.start()
    thread.join(seconds)
    if not found.done():
        raise StorageUnreachableError(f"{url}: no answer within {seconds:g} s from its endpoint")
    found.result()


def read_settings() -> Settings:
    """Return the settings.

    Raises:
        SettingsError: one is not valid, or a file can't be read; the message names the variable.
    """
    try:
        return Settings()
    except ValidationError as error:
        wrong = [f"SYMADJ_{'.'.join(map(str, item['loc'])).upper()}: {item['msg']}" for item in error.errors()]
        raise SettingsError("; ".join(wrong)) from error
