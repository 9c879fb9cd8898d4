"""Which clients would ask the real upstream when we say no.

Rule: a refusal manifest goes to runtimes that have us as a mirror, which discard it. A program that keeps or hands on
      manifests as content (a copier, another registry, another iarproxy) gets the error.
"""

from __future__ import annotations

import re

# What container runtimes and builders call themselves (clients.md section 2.4).
_RUNTIMES = re.compile(
    r"(?:containerd|nerdctl|docker|buildkit|containers|libpod|podman|buildah|cri-o|skopeo)/", re.ASCII | re.IGNORECASE
)
# Programs that would take a refusal manifest for content, also where they send `ns` to a mirror.
_KEEPERS = re.compile(
    r"iarproxy/|regclient/|spegel|dragonfly|dfdaemon|go-containerregistry|crane/|cosign/|oras/|helm/|notation/",
    re.ASCII | re.IGNORECASE,
)


def falls_through(user_agent: str, namespace: str | None) -> bool:
    """Whether the client is in mirror mode: one that goes on to another host on any error.

    Args:
        user_agent: the request's header; empty where it has none.
        namespace: its `ns` parameter, which only clients with a mirror send.
    """
    if _RUNTIMES.match(user_agent):
        return True
    return namespace is not None and _KEEPERS.match(user_agent) is None
