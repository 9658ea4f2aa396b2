"""Backup, restore and upgrade of a cluster that works."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.cluster import Cluster
from tests.cluster.test_deaths import assert_whole, resumed_from, spec

MIGRATION = """
import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = {head!r}
branch_labels = depends_on = None


def upgrade() -> None:
    op.create_table("of_a_later_version", sa.Column("id", sa.Integer, primary_key=True))
"""


def sql(cluster: Cluster, query: str) -> str:
    return cluster.run("exec", "-T", "postgres", "psql", "-U", "symadj", "-tAc", query).strip()


def test_a_backup_of_a_running_cluster_restores_jobs_keys_and_files(cluster: Cluster, tmp_path: Path) -> None:
    ended = cluster.submit(spec(stop={"kind": "steps", "max_steps": 20}))
    cluster.wait_for_state(ended, "succeeded")
    running = cluster.submit(spec())
    cluster.wait_for_step(running, 120)
    cluster.script("backup", str(tmp_path))
    cluster.say("backed up")
    cluster.run("down", "--volumes", "--timeout", "5")
    cluster.script("restore", str(tmp_path))
    cluster.say("restored")
    key = cluster.key
    cluster.up(workers=2)
    assert cluster.key == key
    assert_whole(cluster, ended)
    cluster.wait_for_state(running, "succeeded")
    assert (resumed_from(cluster, running, cluster.job(running)["attempt"]) or 0) >= 100
    assert_whole(cluster, running)


def test_up_with_a_newer_image_migrates_the_store_and_jobs_go_on(cluster: Cluster, tmp_path: Path) -> None:
    head = sql(cluster, "SELECT version_num FROM alembic_version")
    (tmp_path / "9999_later.py").write_text(MIGRATION.format(head=head))
    versions = "/opt/symadj/lib/python3.11/site-packages/symadj/service/store/migrations/versions/"
    (tmp_path / "Dockerfile").write_text(f"FROM symadj:local\nCOPY 9999_later.py {versions}\n")
    cluster.docker("build", "--tag", "symadj:later", str(tmp_path))
    job_id = cluster.submit(spec())
    cluster.wait_for_step(job_id, 120)
    cluster.up(workers=2, SYMADJ_IMAGE_TAG="later")
    cluster.say("up with the newer image")
    assert sql(cluster, "SELECT version_num FROM alembic_version") == "9999"
    cluster.wait_for_state(job_id, "succeeded")
    assert_whole(cluster, job_id)


def test_an_image_older_than_the_store_says_so_and_changes_nothing(cluster: Cluster) -> None:
    older = cluster.run("run", "--rm", "-T", "migrate", check=False)
    assert sql(cluster, "SELECT version_num FROM alembic_version") == "9999"
    assert "9999" in older
    # The store is newer than the image of the tests after this one.
    cluster.run("down", "--volumes", "--timeout", "5")
    cluster.up(workers=2)
