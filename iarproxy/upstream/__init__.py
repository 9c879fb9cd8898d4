"""Registries over HTTP: the only room that dials out.

Rule 1: upstream is an attacker. Where it may send us, what it may make us dial, read, wait for and remember is decided
        here and bounded here (design invariant 9; threats T33-T51).
Rule 2: what leaves this room is bytes, lengths, digests that upstream claims, and our own kinds of failure. No header
        of upstream reaches a client, and no header of a client reaches upstream.
Rule 3: secrets (passwords, tokens, signed URLs) stay here: not in logs, messages, or the `repr` of anything.
"""

from iarproxy.upstream.asked import Purpose
from iarproxy.upstream.budget import Standing
from iarproxy.upstream.client import Timeouts
from iarproxy.upstream.closed import Upstreams
from iarproxy.upstream.endpoint import Beyond, FetchedManifest, Told
from iarproxy.upstream.offline import Lack
from iarproxy.upstream.registry import Upstream, UpstreamStanding
from iarproxy.upstream.retry import Retry
from iarproxy.upstream.spending import WINDOW, Spender
from iarproxy.upstream.transfer import Transfer

__all__ = [
    "WINDOW",
    "Beyond",
    "FetchedManifest",
    "Lack",
    "Purpose",
    "Retry",
    "Spender",
    "Standing",
    "Timeouts",
    "Told",
    "Transfer",
    "Upstream",
    "UpstreamStanding",
    "Upstreams",
]
