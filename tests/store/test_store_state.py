"""The lock file: its record survives the trip, a torn one reads as none, and the lock dies with its holder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iarproxy.errors import (
    Conflict,
    Denied,
    IarproxyError,
    RangeUnsatisfiable,
    Refused,
    StoreFull,
    Unavailable,
    UpstreamBusy,
    UpstreamWrong,
)
from iarproxy.store.state import RECORD_SIZE, Failure, LockFile, Record, State

texts = st.text(st.characters(exclude_categories=()), max_size=3000)
failures = st.builds(
    Failure.of,
    st.builds(UpstreamWrong, texts, digest=texts) | st.builds(UpstreamBusy, texts, retry_after=st.floats(0, 1e6)),
)
records = st.builds(
    Record, st.sampled_from(State), st.integers(0, 2**63), st.none() | st.integers(0, 2**53), st.integers(0, 2**53)
)


@given(records)
def test_a_record_survives_the_trip(record: Record) -> None:
    """Unpack undoes pack, and every record has the same length."""
    assert len(record.pack()) == RECORD_SIZE
    assert Record.unpack(record.pack()) == record


@given(failures)
def test_a_failure_survives_the_trip_cut_to_fit(failure: Failure) -> None:
    """Type and the message's start reach other processes, however long or odd the message."""
    record = Record(State.FAILED, 1, failure=failure)
    assert len(record.pack()) == RECORD_SIZE
    found = Record.unpack(record.pack())
    assert found is not None
    assert found.failure is not None
    assert found.failure.kind == failure.kind
    assert failure.message.startswith(found.failure.message)
    assert found.failure.retry_after == failure.retry_after


@given(records, st.integers(0, RECORD_SIZE - 1), st.binary(min_size=1, max_size=64))
def test_a_torn_record_reads_as_none_or_whole(record: Record, at: int, noise: bytes) -> None:
    """Whatever was torn, a record is read as it was written or not at all."""
    raw = record.pack()
    torn = (raw[:at] + noise + raw[at + len(noise) :])[:RECORD_SIZE]
    assert Record.unpack(torn) in (record, None)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Denied("no"), Denied),
        (StoreFull("full"), StoreFull),
        (UpstreamBusy("later", retry_after=3.0), UpstreamBusy),
        (RangeUnsatisfiable(7), Refused),
        (Conflict("lost"), Refused),
    ],
)
def test_a_failure_is_raised_as_its_nearest_type(error: IarproxyError, kind: type[IarproxyError]) -> None:
    """A follower elsewhere sees the same type, or the nearest one that crosses processes, and the same message."""
    again = Failure.of(error).error()
    assert type(again) is kind
    assert str(again) == str(error)
    if isinstance(error, Unavailable):
        assert isinstance(again, Unavailable)
        assert again.retry_after == error.retry_after


def test_an_empty_lock_file_has_no_record(tmp_path: Path) -> None:
    """A lock that nobody has written to tells nothing."""
    lock = LockFile.open(str(tmp_path / "a.lock"))
    assert lock.read() is None
    lock.close()
    lock.close()


def test_one_holder_and_an_inode_to_compare(tmp_path: Path) -> None:
    """A second opener waits for the first; after the unlink a lock is no longer current."""
    path = tmp_path / "a.lock"
    first, second = LockFile.open(str(path)), LockFile.open(str(path))
    assert first.acquire()
    assert not second.acquire()
    first.close()
    assert second.acquire()
    assert second.is_current()
    path.unlink()
    assert not second.is_current()
    path.touch()
    assert not second.is_current()
    second.close()


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    """The lock dies with its holder although a child of it lives on."""
    path = str(tmp_path / "a.lock")
    lock = LockFile.open(path)
    assert lock.acquire()
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    lock.close()
    other = LockFile.open(path)
    taken = other.acquire()
    os.write(go[1], b"x")
    os.waitpid(child, 0)
    other.close()
    for fd in (*ready, *go):
        os.close(fd)
    assert taken
