"""The cluster: its nodes, and who holds what of them."""

from __future__ import annotations

from fastapi import APIRouter

from symadj.api.dependencies import Asker, Cluster, SettingsOf, Store
from symadj.api.schemas.service import ClusterRead
from symadj.service.cluster import cluster

router = APIRouter(prefix="/cluster", tags=["cluster"])


@router.get("")
def read_cluster(store: Store, asker: Asker, view: Cluster, settings: SettingsOf) -> ClusterRead:
    """Read what Ray's nodes have, what active jobs hold of them, and who waits for what; a submitter's own by name."""
    nodes = view.nodes()
    with store.read_session() as session:
        found = cluster(session, nodes, owner=asker.confined_to, most_active=settings.max_active_per_owner)
    return ClusterRead.model_validate(found)
