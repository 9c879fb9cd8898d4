"""What a kubelet asks of a container runtime about images: four calls of CRI v1 over gRPC, by hand.

There is no crictl in Debian, and gRPC's own library brings threads of its own. A message is encoded by field number
(https://protobuf.dev/programming-guides/encoding): only strings and messages are used of CRI's api.proto.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, ResponseReceived, StreamEnded, StreamReset, TrailersReceived

_DEADLINE = 100.0


class Failed(Exception):
    """The runtime's own words."""


def field(number: int, value: bytes) -> bytes:
    """A field of type string or message."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The strings and messages in a message, by number; numbers are left out."""
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        value, at = _read_varint(message, at)
        if key & 7 == 2:
            yield key >> 3, message[at : at + value]
            at += value


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = message[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at


class _Call:
    """One call on a connection of its own."""

    def __init__(self, door: socket.socket) -> None:
        self._door = door
        self._http = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._data = b""
        self._trailers: dict[str, str] = {}
        self._ended = False

    def __call__(self, method: str, message: bytes) -> bytes:
        """The answer.

        Raises:
            Failed: gRPC's status is not 0.
        """
        self._http.initiate_connection()
        headers = {":method": "POST", ":scheme": "http", ":path": method, ":authority": "localhost"}
        headers |= {"content-type": "application/grpc", "te": "trailers"}
        self._http.send_headers(1, list(headers.items()))
        self._http.send_data(1, b"\0" + len(message).to_bytes(4, "big") + message, end_stream=True)
        while not self._ended:
            self._door.sendall(self._http.data_to_send())
            if not (received := self._door.recv(65536)):
                raise Failed("the runtime hung up")
            for event in self._http.receive_data(received):
                self._take(event)
        if self._trailers.get("grpc-status") != "0":
            raise Failed(unquote(self._trailers.get("grpc-message", "(no words)")))
        return self._data[5:]  # one message: a flag and its length come first

    def _take(self, event: Event) -> None:
        match event:
            case DataReceived(data=data, flow_controlled_length=length):
                self._data += data or b""
                self._http.acknowledge_received_data(length or 0, 1)
            case ResponseReceived(headers=headers) | TrailersReceived(headers=headers):
                self._trailers |= {str(name): str(value) for name, value in headers or ()}
            case StreamEnded() | StreamReset():
                self._ended = True
            case _:
                pass


class Images:
    """CRI's image service behind a unix socket."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _call(self, method: str, message: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as door:
            door.settimeout(_DEADLINE)
            door.connect(str(self._path))
            return _Call(door)(method, message)

    def _ask(self, method: str, image: str) -> list[bytes]:
        answer = self._call(f"/runtime.v1.ImageService/{method}", field(1, field(1, image.encode())))
        return [value for number, value in fields(answer) if number == 1]

    def version(self) -> None:
        """Nothing, as soon as the runtime answers.

        Raises:
            Failed: it does not serve CRI.
            OSError: nobody is there.
        """
        self._call("/runtime.v1.RuntimeService/Version", b"")

    def pull(self, image: str) -> str:
        """PullImage; the id of the image.

        Raises:
            Failed: with the runtime's words.
        """
        return self._ask("PullImage", image)[0].decode()

    def digests(self, image: str) -> list[str]:
        """ImageStatus: the digests that the image is known by; none, if it is not there."""
        status = self._ask("ImageStatus", image)
        named = [value.decode() for number, value in fields(status[0]) if number == 3] if status else []
        return [each.rpartition("@")[2] for each in named]

    def remove(self, image: str) -> None:
        """RemoveImage."""
        self._ask("RemoveImage", image)
