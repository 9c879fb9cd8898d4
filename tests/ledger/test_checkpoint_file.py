"""The file of checkpoints: appended, torn, read back, and refused."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from iarproxy.errors import Malformed, Refused, StoreUnavailable
from iarproxy.ledger.proof.checkpoint_file import append, read, thinned
from iarproxy.ledger.proof.checkpoint_rows import SignedCheckpoint
from iarproxy.trust.note import Checkpoint, Note, SigningKey

KEY = SigningKey("iarproxy/site", Ed25519PrivateKey.from_private_bytes(b"k" * 32))
AT = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def checkpoint(size: int) -> SignedCheckpoint:
    made = Checkpoint("iarproxy/site", size, bytes([size]) * 32)
    return SignedCheckpoint(Note.signed(made.text(), [KEY]), made, AT)


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    """Line by line, in order, with the time."""
    path = tmp_path / "checkpoints"
    for size in (1, 2, 3):
        append(path, checkpoint(size))
    assert [checkpoint(size) for size in (1, 2, 3)] == list(read(path))
    assert str(checkpoint(2).note) == json.loads(path.read_text().splitlines()[1])["checkpoint"]


def test_a_torn_line_swallows_nothing(tmp_path: Path) -> None:
    """After a crash in the middle of a line the next one begins anew, and the others are still read."""
    path = tmp_path / "checkpoints"
    append(path, checkpoint(1))
    append(path, checkpoint(2))
    path.write_bytes(path.read_bytes()[:-30])
    assert [checkpoint(1)] == list(read(path))
    append(path, checkpoint(3))
    assert [checkpoint(1), checkpoint(3)] == list(read(path))


def test_a_bare_note_is_read(tmp_path: Path) -> None:
    """As `journal checkpoint` prints it."""
    path = tmp_path / "note"
    path.write_text(str(checkpoint(4).note))
    assert [checkpoint(4).checkpoint] == [each.checkpoint for each in read(path)]


@pytest.mark.parametrize("bare", [True, False])
def test_a_pipe_is_read(tmp_path: Path, *, bare: bool) -> None:
    """Nothing in it is read twice: a shell's `<(ssh witness cat checkpoints)` can be compared with."""
    note = str(checkpoint(4).note)
    text = note if bare else "no JSON\n".join(["{}\n", json.dumps({"checkpoint": note}) + "\n"])
    reading, writing = os.pipe()
    os.write(writing, text.encode())
    os.close(writing)
    try:
        assert [4] == [each.size for each in read(Path(f"/dev/fd/{reading}"))]
    finally:
        os.close(reading)


def test_whole_logs_and_events_are_read(tmp_path: Path) -> None:
    """What the log and a webhook told of a checkpoint will do, among whatever else is there."""
    path = tmp_path / "log"
    note = str(checkpoint(5).note)
    lines = [{"event": "started"}, {"event": "checkpoint", "checkpoint": note}, {"data": {"checkpoint": note}}, [1], 2]
    path.write_text("".join(json.dumps(each) + "\n" for each in lines) + "no JSON\n")
    assert [5, 5] == [each.size for each in read(path)]


def test_very_many_are_thinned_out() -> None:
    """What is kept is bounded, spread evenly, in order, and has the first and the last."""
    for count in (0, 1, 10, 11, 12, 200):
        found, number = thinned((checkpoint(size) for size in range(count)), most=10)
        kept = [each.size for each in found]
        assert count == number
        assert sorted(kept) == kept
        assert min(count, 5) <= len(kept) <= 12
        assert ([0, count - 1] if count else []) == ([kept[0], kept[-1]] if kept else [])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}\n",
        '{"checkpoint": 3}\n',
        '{"checkpoint": "origin\\n1\\n"}\n',
        "hello\n",
        "\ufffd" * 40_000,
        "{" * 200_000,
    ],
)
def test_what_holds_no_checkpoint(tmp_path: Path, text: str) -> None:
    """It is refused with one error."""
    path = tmp_path / "file"
    path.write_text(text)
    with pytest.raises(Malformed, match=str(path)):
        list(read(path))


def test_what_cannot_be_read_or_written(tmp_path: Path) -> None:
    """One clear error, each of its kind."""
    with pytest.raises(Refused, match="cannot be read: No such file"):
        list(read(tmp_path / "nothing"))
    with pytest.raises(StoreUnavailable, match=r"the checkpoint file .* cannot be written: No such file"):
        append(tmp_path / "nowhere" / "checkpoints", checkpoint(1))
    with pytest.raises(StoreUnavailable, match="cannot be written: Is a directory"):
        append(tmp_path, checkpoint(1))
