"""Content-addressed blobs on disk: ingest, follow, commit, quarantine.

Rule 1: only this room touches the store's names; others hold `StoredBlob`s and `Following`s.
"""

from iarproxy.store.blobs import StoredBlob
from iarproxy.store.disk import Disk, OsDisk
from iarproxy.store.following import Following
from iarproxy.store.layout import ServingLock
from iarproxy.store.means import Patience
from iarproxy.store.pieces import KeptPiece
from iarproxy.store.progress import TAIL
from iarproxy.store.store import Store, StoreStats
from iarproxy.store.transfer import Fetch, Transfer

__all__ = [
    "TAIL",
    "Disk",
    "Fetch",
    "Following",
    "KeptPiece",
    "OsDisk",
    "Patience",
    "ServingLock",
    "Store",
    "StoreStats",
    "StoredBlob",
    "Transfer",
]
