"""Denials are counted by their reason, in whichever form and on whichever way clients meet them."""

from __future__ import annotations

from pathlib import Path

import pytest

from images import small_image
from whole import whole

TARGET = "/v2/library/app/manifests/1"
MIRRORED = f"{TARGET}?ns=docker.io"  # as a runtime in mirror mode asks


@pytest.mark.parametrize("form", ["error", "stop"])
async def test_each_reason(tmp_path: Path, form: str) -> None:
    """A recalled tag counts as recalled, one that drifted as drift, one that a rule refuses as that: the alerts ask."""
    rules = [
        {"match": "docker.io/library/no:*", "mode": "refuse"},
        {"match": "docker.io/library/app:2", "on_drift": "deny"},
    ]
    async with whole(tmp_path, tags=rules, server={"refusal": form}) as made:
        one = made.upstream.content.publish("library/app", "1", small_image(1))
        made.upstream.content.publish("library/app", "2", small_image(2))
        for tag in ("1", "2"):
            await made.ask(f"/v2/library/app/manifests/{tag}")
        made.upstream.content.publish("library/app", "2", small_image(3))
        for reference in await made.rooms.mirror.drift.watched():
            await made.rooms.mirror.drift.check(reference)
        await made.rooms.ledger.recalls.recall([one.digest], reason="malware", actor="ann")
        for target in (MIRRORED, f"/v2/library/app/manifests/{one.digest}", MIRRORED.replace("/1", "/2")):
            await made.ask(target)
        await made.ask("/v2/library/no/manifests/1?ns=docker.io")
        counted = made.metrics.render({}).decode()
    found = {line for line in counted.splitlines() if line.startswith("iarproxy_denied_total")}
    assert {
        'iarproxy_denied_total{reason="recalled"} 2.0',
        'iarproxy_denied_total{reason="tag-drift"} 1.0',
        'iarproxy_denied_total{reason="tag-rule"} 1.0',
    } == found
