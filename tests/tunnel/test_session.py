"""A session in memory: each step's failure, deadline and cancellation, its life, and its end."""

from __future__ import annotations

import gc
import struct
from typing import Any

from twisted.conch.ssh.common import NS
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.tunnel import session as session_module
from pipeops_agent.tunnel.errors import RemotesRefused, SessionError
from pipeops_agent.tunnel.session import CLOSE_TIMEOUT, ChiselSession
from pipeops_agent.tunnel.ssh.common import fingerprint
from pipeops_agent.tunnel.ssh.messages import (
    MSG_DISCONNECT,
    MSG_KEXINIT,
    MSG_REQUEST_FAILURE,
    MSG_REQUEST_SUCCESS,
)
from tests.tunnel.rig import HASTY, REMOTES, RIGHT, STEPS, Rig
from tests.tunnel.ssh.pair import HOST_KEY, Handler
from tests.tunnel.ssh.sealing import plain_packet
from tests.tunnel.test_traffic import Open

MSG_KEX_ECDH_REPLY = 31


class SessionCase(SynchronousTestCase):
    """Has rigs, and sees to it that nothing is left of them."""

    def rig(self, **changes: Any) -> Rig:
        rig = Rig(**changes)

        def check() -> None:
            if rig.link is not None:
                rig.link.lose(ConnectionDone())
            self.assertEqual(rig.left_behind(), [])

        self.addCleanup(check)
        return rig

    def opened(self, rig: Rig) -> ChiselSession:
        """A session that is up."""
        opening = rig.begin()
        rig.accept()
        rig.go()
        return self.successResultOf(opening)

    def failed(self, opening: Deferred[ChiselSession], step: str, words: str) -> SessionError:
        """The attempt has failed at C{step}, and says C{words}."""
        error: SessionError = self.failureResultOf(opening, SessionError).value
        self.assertEqual(error.step, step)
        self.assertIn(words, error.sentence)
        return error


class Opening(SessionCase):
    """What can come of an attempt."""

    def test_up(self) -> None:
        """Each step is passed and kept; the configuration holds the remotes; a ping has been answered."""
        rig = self.rig()
        session = self.opened(rig)
        names = [step.name for step in rig.trace.steps]
        self.assertEqual(names, ["dns", "tcp", *STEPS])
        self.assertEqual([step.error for step in rig.trace.steps], [None] * 7)
        self.assertEqual([name for name, _ in rig.server.requests], ["config", "ping"])
        self.assertIn(b'"1.2.3"', rig.server.requests[0][1])
        self.assertEqual(rig.server.logins, [("me", "right")])
        self.assertEqual(session.remotes, REMOTES)
        self.assertEqual(session.rtt, 0.0)

    def test_silence(self) -> None:
        """A server that goes silent at a step is given up in time, and the step is named."""
        for step in STEPS:
            rig = self.rig(connect_timeout=10.0)
            rig.server.go_silent_at(step)
            opening = rig.begin()
            link = rig.accept()
            link.holds_answers = step == "upgrade"
            rig.go()
            rig.reactor.advance(9.9)
            self.assertNoResult(opening)
            rig.reactor.advance(0.2)
            error = self.failed(opening, step, "took longer than 10 s")
            self.assertTrue(error.retryable)
            self.assertTrue(link.client_pipe.aborted, step)
            rig.go()
            self.assertEqual(rig.left_behind(), [], step)
            self.assertEqual(rig.trace.steps[-1].name, step)
            self.assertIn("took longer", rig.trace.steps[-1].error or "")

    def test_hurried(self) -> None:
        """An attempt that is hurried waits less for a connection, and like any when somebody answers."""
        rig = self.rig(connect_timeout=10.0)
        opening = rig.begin(hurried=True)
        rig.reactor.advance(HASTY - 0.1)
        self.assertNoResult(opening)
        rig.reactor.advance(0.2)
        self.failed(opening, "tcp", "no answer from chisel.example:80 within 2 s")
        rig.server.go_silent_at("ssh")
        opening = rig.begin(hurried=True)
        rig.accept()
        rig.go()
        rig.reactor.advance(9.9)
        self.assertNoResult(opening)
        rig.reactor.advance(0.2)
        self.failed(opening, "ssh", "took longer than 10 s")

    def test_no_tcp(self) -> None:
        """A server that takes no connection is given up in time, with the connector's sentence."""
        rig = self.rig(connect_timeout=10.0)
        opening = rig.begin()
        rig.reactor.advance(10.1)
        self.failed(opening, "tcp", "no answer from chisel.example:80 within 10 s")

    def test_lost(self) -> None:
        """A connection that breaks at a step fails it at once."""
        for step in STEPS:
            rig = self.rig()
            rig.server.go_silent_at(step)
            opening = rig.begin()
            link = rig.accept()
            link.holds_answers = step == "upgrade"
            rig.go()
            link.lose(ConnectionLost())
            self.failed(opening, step, "")
            self.assertEqual(rig.left_behind(), [], step)

    def test_cancelled(self) -> None:
        """An attempt can be given up at each step, at once; nothing is left."""
        for step in ("dns", "tcp", *STEPS):
            rig = self.rig()
            rig.names.prompt = step != "dns"
            rig.server.go_silent_at(step)
            opening = rig.begin()
            if step in STEPS:
                link = rig.accept()
                link.holds_answers = step == "upgrade"
                rig.go()
                self.assertNotIn(step, [done.name for done in rig.trace.steps])
            opening.cancel()
            self.failureResultOf(opening, CancelledError)
            self.assertEqual(rig.trace.steps[-1].error, "cancelled")
            if rig.link is not None:
                self.assertTrue(rig.link.client_pipe.aborted, step)
                rig.go()
            self.assertEqual(rig.left_behind(), [], step)
            self.assertEqual(rig.traffic.connects, 0)
            if step == "tcp":
                self.assertTrue(rig.reactor.connectors[-1].stoppedConnecting)

    def test_cancelled_lookup_answered_late(self) -> None:
        """An address that is found after the attempt was given up leads nowhere."""
        rig = self.rig()
        rig.names.prompt = False
        opening = rig.begin()
        opening.cancel()
        self.failureResultOf(opening, CancelledError)
        rig.names.waiting[0].callback([])
        self.assertEqual(rig.reactor.tcpClients, [])

    def test_wrong_fingerprint(self) -> None:
        """A server with another key is told no credentials, and is not tried again soon."""
        rig = self.rig()
        opening = rig.begin(rig.order(expected=fingerprint(b"another")))
        rig.accept()
        rig.advance(1)
        error = self.failed(opening, "ssh", f"got {RIGHT}")
        self.assertFalse(error.retryable)
        self.assertEqual(rig.server.logins, [])

    def test_malformed_reply_is_no_wrong_key(self) -> None:
        """A key exchange that goes wrong otherwise may go well the next time."""
        blob = HOST_KEY.public().blob()
        for reply in (
            NS(blob) + NS(bytes(32)) + NS(b"signature"),  # a point of no order
            NS(blob) + NS(b"short") + NS(b"signature"),
            NS(blob) + NS(b"\x09" + bytes(31)) + NS(b"no signature"),
            NS(blob),
        ):
            rig = self.rig()
            send = rig.server.transport.sendPacket

            def garble(message: int, payload: bytes, reply: bytes = reply, send: Any = send) -> None:
                send(message, reply if message == MSG_KEX_ECDH_REPLY else payload)

            rig.server.transport.sendPacket = garble  # type: ignore[method-assign, assignment]  # it misbehaves
            opening = rig.begin()
            rig.accept()
            rig.advance(1.5)
            error = self.failureResultOf(opening, SessionError).value
            self.assertEqual((error.step, error.retryable), ("ssh", True))
            self.assertNotIn("host key", error.sentence)
            self.assertNotIn("Traceback", error.sentence)

    def test_a_peer_that_talks_of_host_keys(self) -> None:
        """What a server says does not make it a server with a wrong key."""
        rig = self.rig()
        rig.server.go_silent_at("ssh")
        opening = rig.begin()
        rig.accept()
        rig.go()
        goodbye = bytes((MSG_DISCONNECT,)) + struct.pack(">L", 2) + NS(b"host key") + NS(b"")
        rig.server.transport.transport.write(b"SSH-chisel-v3-server\r\n" + plain_packet(goodbye))
        rig.advance(2)
        error = self.failed(opening, "ssh", "the peer disconnected: host key")
        self.assertTrue(error.retryable)

    def test_wrong_password(self) -> None:
        """Refused credentials are said, without the password, and not tried again soon."""
        rig = self.rig()
        opening = rig.begin(rig.order(password="swordfish"))
        rig.accept()
        rig.go()
        error = self.failed(opening, "login", "refused the credentials")
        self.assertFalse(error.retryable)
        self.assertNotIn("swordfish", str(error))

    def test_disconnected_before_the_login(self) -> None:
        """A server that leaves right after the key exchange fails the login at once, with its reason."""
        for stays in (False, True):
            rig = self.rig()
            server = rig.server.transport

            def leave(*_: object, server: Any = server) -> None:
                server.fail("come back tomorrow")

            server.ssh_SERVICE_REQUEST = leave  # type: ignore[method-assign, assignment]  # it misbehaves
            if stays:  # the TCP connection, that is
                rig.server.carrier.close = lambda: None  # type: ignore[method-assign]  # it misbehaves
            opening = rig.begin()
            rig.accept()
            rig.advance(1.5)
            self.failed(opening, "login", "the peer disconnected: come back tomorrow")
            self.assertEqual(rig.left_behind(), [])

    def test_reason_of_an_end_reaches_the_step(self) -> None:
        """A session that ends while a step waits ends it with the reason, not with "it ended"."""
        for step in ("login", "configuration", "ping"):
            rig = self.rig()
            rig.server.go_silent_at(step)
            opening = rig.begin()
            rig.accept()
            rig.go()
            rig.server.transport.fail("out of memory")
            rig.advance(1.5)
            self.failed(opening, step, "the peer disconnected: out of memory")

    def test_refused_configuration(self) -> None:
        """A refusal shows the server's reason and the ports it names, whatever its form."""
        taken = b"server: cannot listen on R:8001=>10.0.0.1:80"
        for answer, ports in (
            ((MSG_REQUEST_FAILURE, taken), frozenset({8001})),
            ((MSG_REQUEST_FAILURE, b"reverse tunnels are off"), frozenset[int]()),
            ((MSG_REQUEST_FAILURE, b""), frozenset[int]()),
            ((MSG_REQUEST_SUCCESS, taken), frozenset({8001})),
        ):
            rig = self.rig()
            rig.server.config_answer = answer
            opening = rig.begin()
            link = rig.accept()
            rig.go()
            error = self.failureResultOf(opening, RemotesRefused).value
            self.assertEqual((error.step, error.ports), ("configuration", ports))
            self.assertIn(answer[1].decode() or "no reason given", error.sentence)
            self.assertTrue(link.client_pipe.aborted)

    def test_ping_refused(self) -> None:
        """A server that knows no pings is up all the same."""
        rig = self.rig()
        rig.server.ping_answer = (MSG_REQUEST_FAILURE, b"unknown request")
        session = self.opened(rig)
        rig.advance(60)
        self.assertNoResult(session.when_lost())

    def test_nobody_vouches(self) -> None:
        """Without TLS and without a fingerprint nothing is tried."""
        rig = self.rig()
        self.failed(rig.begin(rig.order(expected=None)), "tls", "neither TLS nor a fingerprint")
        self.assertEqual(rig.reactor.tcpClients, [])


class Life(SessionCase):
    """A session that is up."""

    def test_pings_on_both_levels(self) -> None:
        """Every interval there is an SSH ping and a WebSocket ping; both are answered."""
        rig = self.rig(ping_interval=10.0)
        session = self.opened(rig)
        frames: list[bytes] = []
        answer = rig.server.carrier._answer

        def note(payload: bytes) -> None:
            frames.append(payload)
            answer(payload)

        rig.server.carrier._answer = note  # type: ignore[method-assign]  # overheard
        rig.advance(30)
        self.assertEqual([name for name, _ in rig.server.requests].count("ping"), 1 + 3)
        self.assertEqual(len(frames), 3)
        self.assertEqual(rig.pings, 3)
        self.assertNoResult(session.when_lost())

    def test_pings_tell_the_windows(self) -> None:
        """What a ping took is what windows are made for."""
        rig = self.rig(ping_interval=10.0)
        session = self.opened(rig)
        noted: list[float] = []
        session._windows.note_round_trip = noted.append  # type: ignore[assignment, method-assign]  # overheard
        rig.reactor.advance(10.0)
        rig.reactor.advance(0.25)
        rig.go()
        self.assertEqual(noted, [0.25])

    def test_answers_pings(self) -> None:
        """The server's pings are answered, on both levels; an unknown request is refused."""
        rig = self.rig()
        self.opened(rig)
        replies = [rig.server.connection.request(name) for name in (b"ping", b"shutdown")]
        rig.server.carrier.ping()
        rig.go()
        self.assertEqual(self.successResultOf(replies[0]), b"pong")
        self.failureResultOf(replies[1])
        self.assertEqual(rig.server.pongs, 1)

    def test_silent_server_is_noticed(self) -> None:
        """Without answers the session is over within interval and timeout."""
        rig = self.rig(ping_interval=10.0, ping_timeout=5.0)
        session = self.opened(rig)
        assert rig.link is not None
        rig.link.holds_answers = True
        lost = session.when_lost()
        rig.advance(14.5)
        self.assertNoResult(lost)
        rig.advance(0.5)
        self.assertIn("no answer to a", self.successResultOf(lost))
        self.assertEqual(rig.left_behind(), [])

    def test_rekey_that_never_ends(self) -> None:
        """A server that begins a key exchange and leaves it there is noticed like a silent one."""
        rig = self.rig(ping_interval=10.0, ping_timeout=5.0)
        session = self.opened(rig)
        server = rig.server.transport
        server.dispatchMessage = lambda *_: None  # type: ignore[method-assign]  # it misbehaves
        server.sendPacket(MSG_KEXINIT, bytes(server.ourKexInitPayload[1:]))
        lost = session.when_lost()
        rig.advance(20)
        self.assertIn("no answer to a SSH ping", self.successResultOf(lost))
        self.assertEqual(rig.left_behind(), [])

    def test_a_clock_that_is_set(self) -> None:
        """A wall clock that is set ten minutes on, with a ping under way, is no dead server."""
        rig = self.rig(ping_interval=10.0, ping_timeout=5.0)
        session = self.opened(rig)
        rig.reactor.advance(10)  # both pings are written
        rig.reactor.advance(600)
        rig.go()
        rig.advance(30)
        self.assertNoResult(session.when_lost())

    def test_service_accepted_again(self) -> None:
        """A server can't put the login in the place of the connection."""
        rig = self.rig()
        session = self.opened(rig)
        rig.server.transport.sendPacket(6, NS(b"ssh-userauth"))
        rig.advance(2)
        self.assertIn("not asked for", self.successResultOf(session.when_lost()))
        self.assertEqual(len(rig.server.logins), 1)

    def test_end_is_no_answer(self) -> None:
        """A ping that could not be asked counts as no answer."""
        rig = self.rig()
        session = self.opened(rig)
        session._connection.serviceStopped()
        rig.advance(10)
        self.assertEqual(rig.pings, 0)

    def test_everybody_hears_of_the_end_once(self) -> None:
        """Each waiter hears of it; one that has lost interest does not disturb the others; latecomers too."""
        rig = self.rig()
        session = self.opened(rig)
        first, tired, last = (session.when_lost() for _ in range(3))
        tired.cancel()
        self.failureResultOf(tired, CancelledError)
        assert rig.link is not None
        rig.link.lose(ConnectionLost())
        for waiting in (first, last, session.when_lost()):
            self.assertTrue(self.successResultOf(waiting))
        self.successResultOf(session.close("too late"))

    def test_closed_websocket_with_the_connection_kept(self) -> None:
        """A server that says goodbye and keeps the connection is left after a second."""
        rig = self.rig()
        session = self.opened(rig)
        rig.server.carrier.dropConnection = lambda **_: None  # type: ignore[method-assign]  # it misbehaves
        rig.server.carrier.sendClose(3001, "going away")
        rig.advance(1.5)
        self.assertIn("going away", self.successResultOf(session.when_lost()))
        self.assertEqual(rig.left_behind(), [])

    def test_activity(self) -> None:
        """Activity is the opening, then the last byte on a channel; pings are none."""
        rig = self.rig()
        session = self.opened(rig)
        began = rig.reactor.seconds()
        rig.advance(60)
        self.assertEqual(session.last_activity(), began)
        channel, canary = Open(), Open(canary=True)
        for each, last in ((channel, 45.0), (canary, 55.0)):
            rig.traffic.forward("web").enter(each, 40.0, 0.0)
            each.tally.last_in = last
        self.assertEqual(session.last_activity(), 45.0)

    def test_confirmed(self) -> None:
        """The server confirms its listeners with the first ping, and with each that it answers after that."""
        rig = self.rig(ping_interval=8.0)
        session = self.opened(rig)
        self.assertEqual(session.confirmed, rig.reactor.seconds())
        rig.advance(9)
        confirmed = rig.reactor.seconds() - 1
        self.assertEqual(session.confirmed, confirmed)
        self.assertEqual(rig.traffic.forward("api").confirmed, confirmed)
        self.assertEqual(rig.traffic.forward("web").confirmed, confirmed)

    def test_channels(self) -> None:
        """Connections count from the request until they have ended, be it in failure."""
        rig = self.rig()
        session = self.opened(rig)
        self.assertEqual(session.channels, 0)
        dialled = rig.server.connection.open_channel(b"chisel", b"10.0.0.1:6443", Handler())
        rig.go()
        self.assertEqual(session.channels, 1)
        factory: Any = rig.reactor.tcpClients[-1][2]
        factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))
        rig.go()
        self.failureResultOf(dialled)
        self.assertEqual(session.channels, 0)

    def test_counters(self) -> None:
        """The carrier's bytes are counted, each once."""
        rig = self.rig()
        session = self.opened(rig)
        carrier = session._carrier
        rig.advance(20)
        total = rig.traffic.carrier_bytes_in + carrier.bytes_in
        assert rig.link is not None
        rig.link.lose(ConnectionDone())
        self.assertEqual(rig.traffic.carrier_bytes_in, total)
        self.assertGreater(rig.traffic.carrier_bytes_out, 0)
        self.assertEqual(carrier.bytes_in, 0)


class Ending(SessionCase):
    """Closing a session, in whatever state."""

    def test_close(self) -> None:
        """The server is told; who waits hears the reason given; a second call changes nothing."""
        rig = self.rig()
        session = self.opened(rig)
        lost = session.when_lost()
        closing = session.close("not needed any more")
        again = session.close("another reason")
        rig.advance(0.5)
        self.successResultOf(closing)
        self.successResultOf(again)
        self.assertEqual(self.successResultOf(lost), "not needed any more")
        self.assertIn("closed", str(rig.server.transport.error))
        self.assertEqual(rig.left_behind(), [])

    def test_close_is_bounded(self) -> None:
        """A server that hangs holds it up no longer than the timeout."""
        rig = self.rig()
        session = self.opened(rig)
        assert rig.link is not None
        rig.link.holds_answers = True
        rig.server.carrier.dropConnection = lambda **_: None  # type: ignore[method-assign]  # it misbehaves
        closing = session.close("enough")
        rig.advance(CLOSE_TIMEOUT)
        self.successResultOf(closing)
        self.assertEqual(rig.left_behind(), [])

    def test_abort(self) -> None:
        """Cut at once, without a word, also while it is being closed in order; a second time is nothing."""
        for closing_first in (False, True):
            rig = self.rig()
            session = self.opened(rig)
            lost = session.when_lost()
            if closing_first:
                assert rig.link is not None
                rig.link.holds_answers = True
                session.close("in order")
            session.abort("nothing was proven")
            rig.go()
            reason = "in order" if closing_first else "nothing was proven"
            self.assertEqual(self.successResultOf(lost), reason)
            session.abort("again")
            rig.advance(CLOSE_TIMEOUT)
            self.assertEqual(rig.left_behind(), [])

    def test_close_in_a_busy_state(self) -> None:
        """Dials under way, open channels, a full carrier, a key exchange: all end with it."""
        for state in ("plain", "congested", "rekeying"):
            rig = self.rig()
            session = self.opened(rig)
            handler = Handler()
            dialled = rig.server.connection.open_channel(b"chisel", b"10.0.0.1:6443", handler)
            rig.go()
            factory: Any = rig.reactor.tcpClients[-1][2]
            relay = factory.buildProtocol(None)
            socket = _Socket()
            relay.makeConnection(socket)
            rig.go()
            handler.channel = self.successResultOf(dialled)
            waiting = rig.server.connection.open_channel(b"chisel", b"10.0.0.1:80", Handler())
            rig.go()
            if state == "congested":
                session._carrier.pauseProducing()
                relay.dataReceived(b"x" * 1000)
            elif state == "rekeying":
                session._transport.sendKexInit()
                relay.dataReceived(b"x" * 1000)
            closing = session.close("enough")
            self.assertTrue(socket.aborted, state)
            relay.connectionLost(ConnectionLost())
            rig.advance(CLOSE_TIMEOUT)
            self.successResultOf(closing)
            self.failureResultOf(waiting)
            self.assertEqual(rig.left_behind(), [], state)
            self.assertEqual(rig.traffic.forward("api").open, 0, state)

    def test_closed_by_what_a_packet_causes(self) -> None:
        """A session may be closed from within what one of its own packets calls."""
        rig = self.rig()
        session = self.opened(rig)

        def close(_: object) -> bytes:
            closings.append(session.close("from within"))
            return b"pong"

        closings: list[Deferred[None]] = []
        session.global_requested = lambda name, payload: close(name)  # type: ignore[method-assign]  # the owner closes
        for _ in range(3):  # more packets follow in the same piece
            rig.server.connection.request(b"ping").addErrback(lambda _: None)
        rig.advance(0.5)
        self.assertEqual(len(closings), 1)
        self.successResultOf(closings[0])
        self.assertEqual(rig.left_behind(), [])

    def test_nothing_is_left_in_memory(self) -> None:
        """Ten sessions that were opened and lost leave no object of theirs."""
        for _ in range(10):
            rig = self.rig()
            session = self.opened(rig)
            assert rig.link is not None
            rig.link.lose(ConnectionLost())
            del session, rig
        self.doCleanups()
        gc.collect()
        left = [each for each in gc.get_objects() if type(each) is session_module.ChiselSession]
        self.assertEqual(left, [])


class _Socket:
    """A local connection that keeps what is asked of it."""

    def __init__(self) -> None:
        self.aborted, self.written = False, b""

    def getHost(self) -> IPv4Address:  # noqa: N802  # ITransport's
        return IPv4Address("TCP", "127.0.0.1", 40_000)

    def setTcpNoDelay(self, enabled: bool) -> None:
        """There is no delay."""

    def registerProducer(self, producer: object, streaming: bool) -> None:  # noqa: N802  # ITransport's names
        """It never fills."""

    def unregisterProducer(self) -> None:  # noqa: N802  # ITransport's
        """It never fills."""

    def pauseProducing(self) -> None:
        """The test decides what comes."""

    resumeProducing = pauseProducing

    def write(self, data: bytes) -> None:
        self.written += data

    def loseConnection(self) -> None:
        """Later."""

    def abortConnection(self) -> None:
        self.aborted = True
