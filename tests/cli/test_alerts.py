"""The shipped alert rules: they are rules, and each metric that they name is one that /metrics tells."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from receiver import Receiver
from test_commands import REFERENCE, Machine, machine
from test_events_commands import metrics_text, ran, subscribe, told, working

__all__ = ["machine"]

FILE = Path(__file__).parents[2] / "config" / "prometheus-alerts.yml"


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(FILE.read_text())["groups"] for rule in group["rules"]]


def test_each_rule_says_what_to_do() -> None:
    """A name of its own, a severity, a summary, and a runbook that names a command or an address."""
    found = rules()
    assert len({rule["alert"] for rule in found}) == len(found)
    for rule in found:
        assert (
            {"alert", "expr", "labels", "annotations"} <= set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        )
        assert rule["labels"]["severity"] in ("page", "ticket", "info")
        assert {"summary", "runbook"} == set(rule["annotations"])


def test_commands_in_runbooks_exist(machine: Machine) -> None:
    """What a runbook tells people to type is a command of this program, with options that it has."""
    typed = {each for rule in rules() for each in re.findall(r"`iarproxy ([^`]+)`", rule["annotations"]["runbook"])}
    for line in sorted(typed):
        command = re.match(r"[a-z -]+?(?= -| [A-Z{]|$)", line)
        assert command is not None, line
        ended = machine.run(*command[0].split(), "--help")
        missing = [option for option in re.findall(r"--[a-z-]+", line) if option not in ended.out]
        assert (0, []) == (ended.code, missing), (line, ended.err)


async def test_each_metric_is_told(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker with a webhook, an upstream with a quota and a signed journal tells all that the rules name."""
    machine.environment["RUNTIME_DIRECTORY"] = str(machine.folder / "run")
    machine.publish(1)
    headers = {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "76;w=21600"}
    machine.registry.act("add_fault", pattern="*/manifests/*", fault={"headers": headers})
    async with Receiver() as receiver:
        subscribe(machine, receiver)
        assert 0 == (await ran(machine, "pull", REFERENCE)).code
        assert 0 == (await ran(machine, "journal", "checkpoint")).code
        async with working(machine, monkeypatch) as faces:
            await told(machine)
            text = await metrics_text(faces)
    exposed = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)) | set(
        re.findall(r"^(iarproxy_\w+)", text, re.MULTILINE)
    )
    named = {name for rule in rules() for name in re.findall(r"iarproxy_\w+", rule["expr"])}
    assert set() == named - exposed
    assert len(named) > 15


@pytest.mark.real("promtool")
def test_prometheus_takes_them() -> None:
    """Prometheus's own check of the file."""
    ran = subprocess.run(["promtool", "check", "rules", FILE], capture_output=True, text=True, timeout=60, check=False)
    assert 0 == ran.returncode, ran.stdout + ran.stderr


def test_labels_are_known() -> None:
    """Labels that summaries quote are those that the metrics have."""
    quoted = set(re.findall(r"\$labels\.(\w+)", json.dumps(rules())))
    assert {"upstream", "webhook"} == quoted
