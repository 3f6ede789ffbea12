"""The hybrid key exchange: with Conch's server side, and with a server's share that is none."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from twisted.conch.ssh.common import NS
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.tunnel.ssh.cipher import PacketError
from pipeops_agent.tunnel.ssh.common import RekeyPolicy, fingerprint
from pipeops_agent.tunnel.ssh.hybrid import CIPHERTEXT, HYBRID, POINT, HybridClient, hybrid_supported
from pipeops_agent.tunnel.ssh.negotiation import KEY_EXCHANGES
from tests.tunnel.ssh.pair import HOST_KEY, NEVER, Pair

RIGHT = fingerprint(HOST_KEY.public().blob())


# Where the OpenSSL has no ML-KEM, or the Conch no name for it, it is not offered: nothing is to be tested.
if TYPE_CHECKING or hybrid_supported():
    _Needs = SynchronousTestCase
else:
    _Needs = object


class SecretTests(_Needs):
    """The client's half by itself."""

    def test_secret(self) -> None:
        """It is the hash of ML-KEM's secret and X25519's, as a string of fixed length."""
        client = HybridClient()
        quantum, ciphertext = MLKEM768PublicKey.from_public_bytes(client.init[:-POINT]).encapsulate()
        ours = X25519PrivateKey.generate()
        classic = ours.exchange(X25519PublicKey.from_public_bytes(client.init[-POINT:]))
        secret = client.secret(ciphertext + ours.public_key().public_bytes_raw())
        self.assertEqual(secret, NS(hashlib.sha256(quantum + classic).digest()))

    def test_bad_shares(self) -> None:
        """A share that is too short or long, or whose point is of small order, is refused with a reason."""
        client = HybridClient()
        point = X25519PrivateKey.generate().public_key().public_bytes_raw()
        for share in (b"", bytes(CIPHERTEXT), bytes(CIPHERTEXT) + point + b"x", bytes(CIPHERTEXT + POINT)):
            error = self.assertRaises(PacketError, client.secret, share)
            self.assertIn("share", str(error))
            self.assertEqual(error.code, 3)


class ExchangeTests(_Needs):
    """Two whole transports; the server's side of the exchange is Conch's."""

    def test_first_choice(self) -> None:
        """It is what this side likes best, and a login works over it."""
        self.assertEqual(KEY_EXCHANGES[0], HYBRID)
        pair = Pair(expected=RIGHT)
        pair.log_in()
        self.assertEqual(pair.client._agreement.key_exchange, HYBRID)
        self.assertEqual(pair.client_owner.secure, 1)
        self.successResultOf(pair.login.done)

    def test_again(self) -> None:
        """Keys are renewed with it too."""
        pair = Pair(expected=RIGHT, client_rekey=RekeyPolicy(1, 1e9), server_rekey=NEVER)
        pair.log_in()
        self.assertGreater(pair.client.key_exchanges, 1)
        self.assertEqual(pair.client_owner.ended, [])

    def test_wrong_key(self) -> None:
        """Another host key than the expected one ends it before any key is taken into use."""
        pair = Pair(expected=fingerprint(b"another"))
        pair.connect()
        self.assertEqual(pair.client_owner.secure, 0)
        self.assertIn("not the expected one", str(pair.client_owner.ended[0]))

    def test_bad_signature(self) -> None:
        """A server that shows the right key without having it is found out."""
        pair = Pair(expected=RIGHT)
        receive = pair.server._receive_version

        def another(data: bytes) -> bytes:
            rest = receive(data)
            pair.server.otherVersionString = b"SSH-chisel-v3-somebody"  # so it signs another exchange
            return rest

        pair.server._receive_version = another  # type: ignore[method-assign]  # it misbehaves
        pair.connect()
        self.assertEqual(pair.client_owner.secure, 0)
        self.assertIn("bad signature", str(pair.client_owner.ended[0]))

    def test_malformed_init(self) -> None:
        """So is a client's part of the wrong length, which the server says as it is."""
        pair = Pair(expected=RIGHT)
        pair.client.makeConnection(pair.client_wire)
        pair.server.makeConnection(pair.server_wire)
        pair.server.dataReceived(bytes(pair.client_wire.written))
        pair.client_wire.written.clear()
        pair.client.sendPacket(30, NS(b"short"))
        pair.server.dataReceived(bytes(pair.client_wire.written))
        pair.lose()
        self.assertEqual([str(each) for each in pair.server_owner.ended], ["Invalid C_INIT length"])
        self.assertEqual(pair.server_owner.secure, 0)

    def test_malformed_reply(self) -> None:
        """A reply that ends before its fields do is the peer's mistake."""
        for reply in (b"", NS(b"key"), NS(HOST_KEY.public().blob()) + NS(bytes(5)) + NS(b"")):
            pair = Pair(expected=RIGHT)
            pair.client.makeConnection(pair.client_wire)
            pair.server.makeConnection(pair.server_wire)
            pair.client.dataReceived(bytes(pair.server_wire.written))
            pair.server_wire.written.clear()
            pair.server.sendPacket(31, reply)
            pair.client.dataReceived(bytes(pair.server_wire.written))
            pair.lose()
            self.assertEqual(len(pair.client_owner.ended), 1)
            self.assertEqual(pair.client_owner.secure, 0)
