"""What the corpus begins with: for each target a few inputs that get far, by hand."""

from __future__ import annotations

import struct
from typing import Final

from pipeops_agent.tunnel.frames import BINARY, CLOSE, PING, TEXT
from pipeops_agent.tunnel.remotes import Remote, config_payload
from tests.fuzz.corpus import SEED, keep, kept
from tests.fuzz.targets import TARGETS
from tests.tunnel.test_frames import make_frame

_PAYLOADS: Final = (b"", b"Hello", bytes(range(126)), bytes(300))
_ORDER: Final = (
    b'{"status": "wanted", "tunnel_server_addr": "wss://chisel.example:8443/path", "credentials": "dTpw",'
    b' "server_fingerprint": "' + b"A" * 43 + b'=", "poll_frequency": 5,'
    b' "forwards": [{"name": "kubernetes-api", "remote_port": 8000}]}'
)
_REGISTERED: Final = b'{"cluster": {"uuid": "5e7f6fa8-914c", "token": "t"}, "contract_version": 1}'
_REFUSAL: Final = (
    b"HTTP/1.1 301 Moved\r\nLocation: https://other.example/\r\nServer: nginx\r\n\r\n<html>moved</html>"
)
_UPGRADE: Final = (
    b"GET /path HTTP/1.1\r\nHost: 192.0.2.9\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Protocol: chisel-v3\r\n\r\n"
)


def _frames() -> list[bytes]:
    inputs = []
    for masked in (False, True):
        head = bytes((10 | masked,))
        whole = b"".join(_frame(BINARY, payload, masked=masked) for payload in _PAYLOADS)
        inputs.append(head + whole)
        inputs.append(bytes((0x8A | masked, 3)) + whole)
        begin = bytearray(_frame(TEXT, b"Hel", masked=masked))
        begin[0] &= 0x7F
        end = bytearray(_frame(TEXT, b"lo", masked=masked))
        end[0] &= 0xF0
        inputs.append(head + bytes(begin) + _frame(PING, b"?", masked=masked) + bytes(end))
        inputs.append(head + _frame(CLOSE, b"\x03\xe8", masked=masked))
    inputs.append(b"\x0a\x82\x7f" + (1 << 62).to_bytes(8, "big"))
    return inputs


def _frame(opcode: int, payload: bytes, *, masked: bool) -> bytes:
    """A frame with the same key each time."""
    frame = bytes(make_frame(opcode, payload, masked=False))
    if not masked:
        return frame
    key = b"\x01\x02\x03\x04"
    head, body = frame[: len(frame) - len(payload)], frame[len(frame) - len(payload) :]
    hidden = bytes(octet ^ key[place % 4] for place, octet in enumerate(body))
    return bytes((head[0], head[1] | 0x80)) + head[2:] + key + hidden


def _plain(payload: bytes) -> bytes:
    """A packet without a cipher, with the same padding each time."""
    padding = -(5 + len(payload)) % 8
    padding += 8 if padding < 4 else 0
    return struct.pack(">LB", 1 + len(payload) + padding, padding) + payload + bytes(padding)


def _packets() -> list[bytes]:
    stream = b"".join(_plain(bytes((20 + n,)) + bytes(n * 7)) for n in range(4))
    return [b"\xff" + stream, b"\x00" + stream, b"\x06" + stream[:-5], b"\xff\xff\xff\xff\xff"]


# A channel that the far side asked for, with a window of 1,024 bytes, and that was accepted.
_OPEN: Final = bytes.fromhex("00030088") + b"localhos" + b"\x09"
_LIVES: Final = [
    # data, delivered, written, EOF from there, EOF from here, CLOSE
    _OPEN + bytes.fromhex("00070006 0e 0c05 000900 0d00 000a00"),
    # written beyond the window, more room, closed, aborted while data waits
    _OPEN + bytes.fromhex("0c07 00060088 0d01 0d02 000a00"),
    # asked for by this side: confirmed, written, closed there
    bytes.fromhex("1a 00040088 0c06 000a00"),
    # refused, and another one by a refusal whose string lies about its length
    bytes.fromhex("1a 000500 1a 0605 03 0001 0002 048100"),
    # the carrier is full, and free again; extended data, a channel's request
    _OPEN + bytes.fromhex("1f 0c06 0d00 0f 00080005 000b01"),
    # questions and answers both ways, one of them cancelled
    bytes.fromhex("1b 0b 000100 000200 000002") + b"help",
    # refused by the owner, and left undecided
    _OPEN[:-1] + b"\x0a" + _OPEN[:-1],
    # more than the window
    _OPEN + bytes.fromhex("00070007"),
]
_SESSION: Final = bytes.fromhex(
    "01 06 0a 0b 0a 0b 0c00 0d0041 0f07 0c01 04 1503 0a 0b 0c04 2300 0c08 0b 0a 0b 0a"
)


def inputs_by_hand() -> dict[str, list[bytes]]:
    """The seeds of each target, in order."""
    config = config_payload([Remote("kubernetes-api", 8000, "localhost", 6443)], "1.0")
    noise = [
        b"\x00SSH-chisel-v3\r\n",
        b"\x01" + _packets()[0][1:],
        bytes.fromhex("03130414151415"),
        b"\x02" * 40,
    ]
    sessions = [
        _SESSION,
        b"\x81" + _SESSION[1:],
        b"\x08" + _SESSION[1:],
        bytes.fromhex("01 0c06 0c00 0a 0c07 0b 0a"),
    ]
    carriers = [
        bytes.fromhex("01 00 08 41 18 06 0e 07 27"),
        bytes.fromhex("01 0d 24ff 18 20 05 0c ff"),
        b"\x00\xff" + _REFUSAL,
    ]
    return {
        "frames": _frames(),
        "plain-packets": _packets(),
        "sealed-packets": [bytes((suite, 200)) + bytes(range(60)) for suite in range(9)]
        + [b"\x01\x20" + b"\xf3" * 30],
        "client-noise": noise,
        "server-noise": noise,
        "man-in-the-middle": [
            b"",
            bytes((0, 0, 0, 0xC0, 2)) + bytes(8),  # something before a KEXINIT
            bytes.fromhex("5d054e1420deb7f9b8fe04869904e97e485d0ee9"),
            bytes.fromhex("664e753362c3ce76886fecca3dab9a3dcdb8e0b1"),
            bytes((0, 0, 0x90, 0xB0, 30, 0xA0, 0, 0x80)),
        ],
        "client-session": sessions,
        "server-session": [*sessions, b"\x01\x05\x20\x0a", b"\x00\x05\x22\x0a"],
        "connection": _LIVES,
        "client-carrier": carriers,
        "server-carrier": [*carriers, b"\x00\xff" + _UPGRADE, b"\x00\x07" + _UPGRADE],
        "answers": [
            b"\x00" + _ORDER,
            b"\x04" + _ORDER,
            b"\x01" + _REGISTERED,
            b"\x02Wed, 21 Oct 2015 07:28:00 GMT",
            b"\x02120",
            b'\x97{"message": "no such cluster"}',
        ],
        "words": [
            b"\x00" + config,
            b"\x01localhost:6443",
            b"\x01[::1]:6443/udp",
            b"\x01socks",
            b"\x02" + _REFUSAL,
            b"\x02Server cannot listen on R:8000=>localhost:6443",
        ],
    }


def write_seeds() -> None:
    """Write the seeds; what else is kept stays."""
    by_hand = inputs_by_hand()
    for name in TARGETS:
        found = {key: data for key, data in kept(name).items() if not key.startswith(SEED)}
        seeds = {f"{SEED}{number:02}": data for number, data in enumerate(by_hand[name])}
        keep(name, found | seeds)
