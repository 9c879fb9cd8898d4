"""What is left of an upstream and who spends it, told by a process that asked nothing itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from test_commands import REFERENCE, Machine, a_machine


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with a_machine(tmp_path) as made:
        yield made


def test_explain_tells_the_budget(machine: Machine) -> None:
    """Before anything was asked nothing; then what upstream said was left, and for what it was asked."""
    machine.publish(1)
    assert "budget" not in machine.run("explain", REFERENCE).out
    headers = {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "76;w=21600"}
    machine.registry.act("add_fault", pattern="*/manifests/*", fault={"headers": headers})
    assert 0 == machine.run("pull", REFERENCE).code
    asked = machine.run("explain", REFERENCE)
    assert "76 of 100 requests left at http://127.0.0.1" in asked.out
    assert "requests in 6 hours, most for team/app" in asked.out
    told = machine.run("explain", REFERENCE, "--json").json
    assert 76 == told["budget"]["endpoints"][0]["quota"]["remaining"]
    assert ("team/app", 1) == (told["spent"]["repository"], told["spent"]["kinds"]["manifest"])
    assert told["spent"]["kinds"]["blob"] >= 1
