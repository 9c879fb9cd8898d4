"""Several processes at one ledger, and processes that are killed (threats T22, R02, R08).

`IARPROXY_SEEDS=200` lets them race on 100,000 first pins instead of 2,400.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ledger_world import content, dump, opened, tag

HERE = Path(__file__).parent
FULL = os.environ.get("IARPROXY_SEEDS") == "200"
PROCESSES, TAGS = 8, 12_500 if FULL else 300
WAITING = 20  # tags
BOUND = 900.0 if FULL else 60.0  # seconds for everything, on two shared cores: a hang is the fault, not slowness


def _start(what: str, path: Path, number: int, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(HERE / "ledger_worker.py"), what, str(path), str(number), str(count)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])])}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)


@pytest.fixture
async def made(path: Path) -> Path:
    """An empty ledger, closed."""
    async with opened(path):
        pass
    return path


def _race(path: Path, what: str = "race", count: int = TAGS) -> list[Any]:
    workers = [_start(what, path, number, count) for number in range(PROCESSES)]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    begun = time.monotonic()
    answers = []
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        answers.append(json.loads(worker.communicate(timeout=BOUND)[0]))
        assert worker.returncode == 0
    assert time.monotonic() - begun < BOUND
    return answers


@pytest.mark.timeout(2 * BOUND)
async def test_eight_processes_agree_on_first_pins(made: Path) -> None:
    """Eight processes race on each first pin with different digests: one winner, told to all, and to the table."""
    answers = await asyncio.to_thread(_race, made)
    assert [len(answer) for answer in answers] == [TAGS] * PROCESSES
    disagreements = [name for name in answers[0] if len({answer[name] for answer in answers}) != 1]
    assert disagreements == []
    async with opened(made, empty=False) as ledger:
        pins = [pin async for pin in ledger.every_pin()]
        assert {pin.reference.tag.value: str(pin.descriptor.digest) for pin in pins} == answers[0]
        assert (await ledger.verify()).problems == ()


async def test_eight_processes_agree_that_nothing_is_pinned(made: Path) -> None:
    """Under a rule that asks for approval nobody wins, whoever asks how often; each digest is journaled once."""
    answers = await asyncio.to_thread(_race, made, "wait", WAITING)
    names = [tag(f"t{number}") for number in range(WAITING)]
    offered = [[f"Withheld {content(f'{each} {name}').digest}" for name in names] for each in range(PROCESSES)]
    assert [each * 2 for each in offered] == answers
    async with opened(made, empty=False) as ledger:
        assert await ledger.pins() == []
        assert len(await ledger.waiting()) == WAITING == await ledger.waiting_count()
        told = [event.body["descriptor"]["digest"] for event in await ledger.history(tag("t0"))]
        assert len(told) == len(set(told)) == PROCESSES
        assert (await ledger.verify()).problems == ()


@pytest.mark.parametrize("acks", [1, 45, 170])
async def test_a_killed_process_loses_nothing_it_acknowledged(made: Path, acks: int) -> None:
    """After kill -9 every pin that was answered is there, and the journal file agrees after the next open."""
    worker = _start("ack", made, acks, 100_000)
    assert worker.stdout is not None
    lines = [worker.stdout.readline() for _ in range(acks)]
    worker.send_signal(signal.SIGKILL)
    lines += worker.communicate(timeout=BOUND)[0].splitlines()
    async with opened(made, empty=False) as ledger:
        for line in lines:
            name, digest = line.split()
            pin = await ledger.pin_of(tag(name))
            assert pin is not None
            assert str(pin.descriptor.digest) == digest
        assert (await ledger.verify()).problems == ()


async def _gap(path: Path) -> None:
    worker = _start("gap", path, 0, 0)
    await asyncio.to_thread(worker.communicate, timeout=BOUND)
    assert worker.returncode == -signal.SIGKILL


async def test_a_kill_between_commit_and_line(made: Path) -> None:
    """The database has the pin, the file lacks the line: the next open writes it, and the pin stands."""
    await _gap(made)
    lines = made.parent / "journal.jsonl"
    assert (len(dump(made, "journal")), len(lines.read_bytes().splitlines())) == (2, 1)
    async with opened(made, empty=False) as ledger:
        pin = await ledger.add(tag("gap"), content("other"), "s")
        assert pin.descriptor == content("gap")
        assert (await ledger.verify()).problems == ()
    assert len(lines.read_bytes().splitlines()) == 2


async def test_the_next_writer_fills_the_gap_of_a_killed_one(made: Path) -> None:
    """A process that was open all the while writes the dead one's line before its own."""
    async with opened(made, empty=False) as ledger:
        await ledger.add(tag("before"), content("x"), "s")
        await _gap(made)
        await ledger.add(tag("after"), content("y"), "s")
        assert (await ledger.verify()).problems == ()
    names = [json.loads(line)["tag"] for line in (made.parent / "journal.jsonl").read_bytes().splitlines()]
    assert names == [None, "before", "gap", "after"]
