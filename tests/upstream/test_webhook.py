"""Signed events: what a receiver can verify, and what a secret file must hold."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime
from pathlib import Path

import pytest

from iarproxy.errors import ConfigError, Denied
from iarproxy.upstream.credentials import Secret
from iarproxy.upstream.posting import Destination, Poster
from iarproxy.upstream.webhook import Webhook, read_secrets, signatures
from receiver import Receiver

KEY = bytes(range(32))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def verify(headers: dict[str, str], body: bytes, key: bytes) -> bool:
    """What a receiver does, as Standard Webhooks say."""
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return any(each == f"v1,{expected}" for each in headers["webhook-signature"].split(" "))


def test_a_known_signature() -> None:
    """The example of the Standard Webhooks libraries comes out as they have it."""
    secret = Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    found = signatures([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" == found


async def test_what_arrives_can_be_verified(tmp_path: Path) -> None:
    """Identity, time and body are under the signature; while secrets are changed, under both of them."""
    file = tmp_path / "secret"
    async with Receiver() as receiver:
        hook = Webhook("ops", Poster(Destination("webhooks.ops", receiver.url), timeout=2), file, lambda: NOW)
        file.write_text(f"{SECRET}\n")
        await hook.send("store/1", b'{"a":1}', media_type="application/json")
        file.write_text(f"another-secret-of-some-length\n{SECRET}\n")
        await hook.send("store/2", b'{"a":2}', media_type="application/json")
        receiver.status = 410
        with pytest.raises(Denied) as gone:
            await hook.send("store/3", b"{}", media_type="application/json")
        await hook.close()
    first, second, _ = receiver.seen
    assert verify(first.headers, first.body, KEY)
    assert not verify(first.headers, first.body + b" ", KEY)
    assert verify(second.headers, second.body, KEY)
    assert verify(second.headers, second.body, b"another-secret-of-some-length")
    assert (str(int(NOW.timestamp())), "store/1") == (first.headers["webhook-timestamp"], first.headers["webhook-id"])
    assert 410 == gone.value.detail["status"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "cannot be read: No such file"),
        (b"", "at least 16 bytes"),
        (b"canary\n", "at least 16 bytes"),
        (b"whsec_canary!canary!canary!\n", "must be base64"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_secret_that_is_none(tmp_path: Path, content: bytes | None, expected: str) -> None:
    """What cannot be used is one line with section, file and remedy, and without what is in it."""
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=expected) as caught:
        read_secrets("ops", file)
    assert str(caught.value).startswith(f"webhooks.ops.secret_file {file}")
    assert "canary" not in str(caught.value).replace(str(file), "")
