"""Channels and global requests: windows, half-close, refusals, and a peer that breaks the rules."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.conch.ssh.common import NS
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.tunnel.ssh.channel import Channel
from pipeops_agent.tunnel.ssh.common import SSHError
from pipeops_agent.tunnel.ssh.connection import MAX_REQUEST, MIN_PACKET, OpenRefused, RequestRefused
from pipeops_agent.tunnel.ssh.messages import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_EXTENDED_DATA,
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_CHANNEL_OPEN_FAILURE,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_WINDOW_ADJUST,
    MSG_GLOBAL_REQUEST,
    MSG_REQUEST_SUCCESS,
)
from pipeops_agent.tunnel.ssh.turns import LEAST_TURN, TOGETHER, TURN, Turns
from pipeops_agent.tunnel.ssh.windows import LEAST, Windows
from tests.tunnel.ssh.pair import Handler, Pair

WINDOW = 64 * 1024


class Opened:
    """A logged-in pair with one channel, opened by the server as chisel does."""

    def __init__(self, *, consume: bool = True, window: int = WINDOW, max_channels: int = 100) -> None:
        self.pair = Pair(window=window, max_channels=max_channels)
        self.pair.log_in()
        self.far, self.near = Handler(), Handler(consume=consume)
        self.opening = self.open(self.far)
        self.near_channel = self.pair.client_requests.opens[0].accept(self.near)
        self.near.channel = self.near_channel
        self.pair.pump()
        opened: list[Channel] = []
        self.opening.addCallback(opened.append)
        [self.far_channel] = opened
        self.far.channel = self.far_channel

    def open(self, handler: Handler) -> Deferred[Channel]:
        """Ask the client for one channel more."""
        opening = self.pair.server_layer.open_channel(b"chisel", b"localhost:6443", handler)
        self.pair.pump()
        return opening

    def raw(self, message: int, payload: bytes) -> None:
        """Let the server send any message."""
        self.pair.server.sendPacket(message, payload)
        self.pair.pump()


class Opening(SynchronousTestCase):
    """Opening channels."""

    def test_request_carries_type_and_extra(self) -> None:
        """The request shows the channel's type and its extra data."""
        opened = Opened()
        [request] = opened.pair.client_requests.opens
        self.assertEqual((request.kind, request.extra), (b"chisel", b"localhost:6443"))

    def test_refused(self) -> None:
        """A refusal arrives with its code and reason; nothing stays behind."""
        opened = Opened()
        opening = opened.open(Handler())
        opened.pair.client_requests.opens[-1].refuse(2, "nobody there")
        opened.pair.pump()
        error = self.failureResultOf(opening, OpenRefused).value
        self.assertEqual((error.code, str(error)), (2, "nobody there"))
        self.assertEqual(len(opened.pair.client_layer), 1)

    def test_too_many(self) -> None:
        """Over the limit, open ones and asked-for ones together, is refused as a shortage."""
        opened = Opened(max_channels=2)
        opened.open(Handler())
        error = self.failureResultOf(opened.open(Handler()), OpenRefused).value
        self.assertEqual(error.code, 4)
        self.assertEqual(len(opened.pair.client_requests.opens), 2)

    def test_lost_while_asked_for(self) -> None:
        """A request is abandoned, and an opening fails, when the connection ends."""
        opened = Opened()
        told: list[str] = []
        opening, ignored = opened.open(Handler()), opened.open(Handler())
        opened.pair.client_requests.opens[1].abandoned = lambda: told.append("abandoned")
        opened.pair.lose()
        self.assertEqual(told, ["abandoned"])
        self.failureResultOf(ignored, SSHError)
        self.failureResultOf(opening, SSHError)
        self.failureResultOf(opened.pair.server_layer.open_channel(b"x", b"", Handler()), SSHError)


class Flow(SynchronousTestCase):
    """Backpressure, both ways."""

    def test_window_bounds_what_is_held(self) -> None:
        """Who does not consume holds the sender at the window; consuming lets the rest come."""
        opened = Opened(consume=False)
        opened.far_channel.write(b"x" * 200_000)
        opened.pair.pump()
        self.assertEqual(len(opened.near.data), WINDOW)
        self.assertEqual(opened.far.events, ["pause"])
        while len(opened.near.data) < 200_000:
            before = len(opened.near.data)
            opened.near_channel.consumed(WINDOW // 2)
            opened.pair.pump()
            self.assertGreater(len(opened.near.data), before)
        self.assertEqual(opened.far.events, ["pause", "resume"])

    def test_window_grows(self) -> None:
        """Where the window was the limit the sender is allowed more; that is still a hard limit."""
        clock = Clock()
        windows = Windows(clock.seconds, 1 << 20)
        pair = Pair(clock=clock, windows=windows)
        pair.log_in()
        far, near = Handler(), Handler()
        opening = pair.server_layer.open_channel(b"chisel", b"localhost:6443", far)
        pair.pump()
        near.channel = pair.client_requests.opens[0].accept(near)
        pair.pump()
        channel: Channel = self.successResultOf(opening)
        first = channel.send_window
        for _ in range(20):
            clock.advance(0.005)
            channel.write(bytes(channel.send_window))
            pair.pump()
        self.assertLess(first, 2 * LEAST)
        self.assertGreater(channel.send_window, 12 * LEAST)
        near.consume = False
        channel._send_window += 1 << 20  # a sender that takes more than it was given
        channel.write(bytes(channel.send_window))
        pair.pump()
        self.assertIn("ignores the window", str(pair.client_owner.ended[0]))

    def test_data_keeps_its_order(self) -> None:
        """What is written while data waits goes behind it."""
        opened = Opened()
        pieces = [bytes([n % 256]) * 5000 for n in range(100)]
        for piece in pieces:
            opened.far_channel.write(piece)
        opened.pair.pump()
        self.assertEqual(bytes(opened.near.data), b"".join(pieces))

    def test_one_channel_does_not_hold_another(self) -> None:
        """A channel whose reader is stuck leaves the others at full speed."""
        opened = Opened(consume=False)
        far, near = Handler(), Handler()
        opening = opened.open(far)
        near.channel = opened.pair.client_requests.opens[-1].accept(near)
        opened.pair.pump()
        second = self.successResultOf(opening)
        opened.far_channel.write(b"x" * 200_000)
        second.write(b"y" * 500_000)
        opened.pair.pump()
        self.assertEqual(len(near.data), 500_000)

    def test_abort_after_close(self) -> None:
        """A channel that waits to be closed behind its data is closed at once when it is aborted."""
        opened = Opened(consume=False)
        opened.far_channel.write(b"x" * 200_000)
        opened.far_channel.close()
        opened.pair.pump()
        self.assertEqual(opened.near.events, [])
        opened.far_channel.abort()
        opened.pair.pump()
        self.assertEqual(opened.near.events, ["closed"])
        self.assertEqual((len(opened.pair.client_layer), len(opened.pair.server_layer)), (0, 0))

    def test_channels_take_turns(self) -> None:
        """Of what waits in several channels each sends a bounded part before any sends more."""
        opened = Opened()
        channels = [opened.far_channel]
        nears = [opened.near]
        for _ in range(3):
            far, near = Handler(), Handler()
            opening = opened.open(far)
            near.channel = opened.pair.client_requests.opens[-1].accept(near)
            opened.pair.pump()
            channels.append(self.successResultOf(opening))
            nears.append(near)
        opened.pair.server.pauseProducing()
        for channel in channels:
            channel.write(bytes(WINDOW))
        order: list[int] = []
        for number, near in enumerate(nears):
            receive = near.data_received

            def note(data: bytes | memoryview, number: int = number, receive: Any = receive) -> None:
                order.append(number)
                receive(data)

            near.data_received = note  # type: ignore[method-assign]  # overheard
        opened.pair.server.resumeProducing()
        opened.pair.pump()
        turns = WINDOW // TURN
        self.assertEqual(order, [0, 1, 2, 3] * turns)
        self.assertGreater(turns, 1)

    def test_shorter_turns(self) -> None:
        """The turns of very many are shorter, whether they wait or not: all of them are bounded."""
        sizes: list[int] = []

        class Waiting:
            def flush(self, size: int) -> bool:
                sizes.append(size)
                return False

        turns = Turns()
        for number in range(6000):
            turns.enter()
            if number in (0, 2047, 5999):
                turns.hold(Waiting())
                turns.serve()
        self.assertEqual(sizes, [TURN, TOGETHER // 2048, LEAST_TURN])
        for _ in range(5999):
            turns.leave(Waiting())
        turns.hold(Waiting())
        turns.serve()
        self.assertEqual(sizes[-1], TURN)

    def test_full_again_in_the_middle(self) -> None:
        """Where the way out is full again after some turns, the next one served is the next in the queue."""
        turns, served = Turns(), []

        class Busy:
            def __init__(self, name: str) -> None:
                self.name = name

            def flush(self, size: int) -> bool:
                served.append(self.name)
                turns.congested = len(served) % 2 == 0
                return len(served) < 6

        waiting = [Busy(name) for name in "abc"]
        for each in waiting:
            turns.hold(each)
        turns.serve()
        self.assertEqual("".join(served), "ab")
        turns.congested = False
        turns.leave(waiting[2])
        turns.serve()
        self.assertEqual("".join(served), "abab")
        turns.clear()
        turns.congested = False
        turns.serve()
        self.assertEqual("".join(served), "abab")

    def test_congestion_pauses_who_writes(self) -> None:
        """While the carrier is full what is written waits, and the writer pauses; then it goes, in order."""
        opened = Opened()
        opened.pair.client.pauseProducing()
        self.assertEqual(opened.near.events, [])
        opened.near_channel.write(b"one ")
        opened.near_channel.write(b"two ")
        opened.near_channel.write_eof()
        opened.pair.pump()
        self.assertEqual(bytes(opened.far.data), b"")
        self.assertEqual(opened.near.events, ["pause"])
        opened.pair.client.pauseProducing()
        opened.pair.client.resumeProducing()
        opened.pair.pump()
        self.assertEqual(bytes(opened.far.data), b"one two ")
        self.assertEqual(opened.far.events, ["eof"])
        self.assertEqual(opened.near.events, ["pause", "resume"])

    def test_congestion_costs_idle_channels_nothing(self) -> None:
        """A full carrier is no affair of a channel that has nothing to send."""
        opened = Opened()
        for _ in range(3):
            opened.pair.client.pauseProducing()
            opened.pair.client.resumeProducing()
        self.assertEqual(opened.near.events, [])

    def test_full_again_while_flushing(self) -> None:
        """A carrier that is full again after one channel's data holds the others' until it has room."""
        opened = Opened()
        far, near = Handler(), Handler()
        opening = opened.open(far)
        near.channel = opened.pair.client_requests.opens[-1].accept(near)
        opened.pair.pump()
        self.successResultOf(opening)
        client, wire = opened.pair.client, opened.pair.client_wire
        client.pauseProducing()
        opened.near_channel.write(b"first")
        near.channel.write(b"second")
        write = wire.write

        def fill(data: bytes) -> None:
            write(data)
            client.pauseProducing()

        wire.write = fill  # type: ignore[method-assign]  # a carrier that fills up
        client.resumeProducing()
        wire.write = write  # type: ignore[method-assign]  # a carrier that fills up
        opened.pair.pump()
        self.assertEqual((bytes(opened.far.data), bytes(far.data)), (b"first", b""))
        client.resumeProducing()
        opened.pair.pump()
        self.assertEqual(bytes(far.data), b"second")
        self.assertEqual(near.events, ["pause", "resume"])

    def test_closed_while_held(self) -> None:
        """What waits for the carrier on a channel that the peer closes is dropped, and not flushed later."""
        opened = Opened()
        opened.pair.client.pauseProducing()
        opened.near_channel.write(b"x" * 1000)
        opened.far_channel.close()
        opened.pair.pump()
        self.assertEqual(len(opened.pair.client_layer.turns._waiting), 0)
        opened.pair.client.resumeProducing()
        opened.pair.pump()
        self.assertEqual(bytes(opened.far.data), b"")
        self.assertEqual(opened.near.events, ["pause", "closed"])

    def test_still_paused_by_the_window(self) -> None:
        """The carrier's room does not resume a writer whose window is shut."""
        opened = Opened()
        opened.far.consume = False
        opened.near_channel.write(b"x" * (WINDOW + 1))
        opened.pair.client.pauseProducing()
        opened.pair.client.resumeProducing()
        self.assertEqual(opened.near.events, ["pause"])

    def test_packet_size_of_the_peer(self) -> None:
        """No packet carries more data than the peer takes."""
        opened = Opened()
        opened.near_channel._send_size = 100
        opened.near_channel.write(b"x" * 1000)
        opened.pair.pump()
        self.assertEqual(bytes(opened.far.data), b"x" * 1000)


class Ending(SynchronousTestCase):
    """EOF and CLOSE."""

    def test_half_close(self) -> None:
        """After EOF one way, data still flows the other way; both ways EOF closes."""
        opened = Opened()
        opened.far_channel.write(b"question")
        opened.far_channel.write_eof()
        opened.pair.pump()
        self.assertEqual((bytes(opened.near.data), opened.near.events), (b"question", ["eof"]))
        opened.near_channel.write(b"answer")
        opened.pair.pump()
        self.assertEqual(bytes(opened.far.data), b"answer")
        opened.near_channel.write_eof()
        opened.pair.pump()
        self.assertEqual(opened.far.events, ["eof", "closed"])
        self.assertEqual(opened.near.events, ["eof", "closed"])
        self.assertEqual((len(opened.pair.client_layer), len(opened.pair.server_layer)), (0, 0))

    def test_eof_waits_for_the_data_before_it(self) -> None:
        """EOF never overtakes data that waits for the window."""
        opened = Opened(consume=False)
        opened.far_channel.write(b"x" * (WINDOW + 5000))
        opened.far_channel.write_eof()
        opened.pair.pump()
        self.assertEqual(opened.near.events, [])
        opened.near_channel.consumed(WINDOW)
        opened.pair.pump()
        self.assertEqual(len(opened.near.data), WINDOW + 5000)
        self.assertEqual(opened.near.events, ["eof"])

    def test_close_waits_for_the_data_before_it(self) -> None:
        """Neither does CLOSE."""
        opened = Opened(consume=False)
        opened.far_channel.write(b"x" * (WINDOW + 5000))
        opened.far_channel.close()
        opened.pair.pump()
        opened.near_channel.consumed(WINDOW)
        opened.pair.pump()
        self.assertEqual(len(opened.near.data), WINDOW + 5000)
        self.assertEqual(opened.near.events, ["closed"])

    def test_abort_drops_what_waits(self) -> None:
        """An abort closes at once."""
        opened = Opened(consume=False)
        opened.far_channel.write(b"x" * (WINDOW + 5000))
        opened.far_channel.abort()
        opened.pair.pump()
        self.assertEqual(len(opened.near.data), WINDOW)
        self.assertEqual(opened.near.events, ["closed"])

    def test_data_to_a_closing_channel(self) -> None:
        """What was under way when this side closed is dropped without error."""
        opened = Opened()
        opened.near_channel.close()
        opened.far_channel.write(b"late")
        opened.pair.pump()
        self.assertEqual(bytes(opened.near.data), b"")
        self.assertEqual(opened.far.events, ["closed"])
        self.assertEqual(opened.pair.client_owner.ended, [])

    def test_connection_lost(self) -> None:
        """Every channel is told, once, that it was cut."""
        opened = Opened()
        opened.pair.lose()
        self.assertEqual(opened.near.events, ["lost"])
        self.assertEqual(opened.far.events, ["lost"])
        opened.near_channel.write(b"nobody hears")
        opened.near_channel.close()


class Requests(SynchronousTestCase):
    """Global requests."""

    def test_replies_in_order(self) -> None:
        """Each reply goes to its request, refusals with their payload."""
        opened = Opened()
        first = opened.pair.client_layer.request(b"ping")
        opened.pair.pump()
        opened.pair.server_requests.answer = None
        second = opened.pair.client_layer.request(b"ping")
        opened.pair.pump()
        self.assertEqual(self.successResultOf(first), b"pong")
        self.failureResultOf(second, RequestRefused)

    def test_cancelled_request_keeps_the_order(self) -> None:
        """The reply to a cancelled request is not given to the next one."""
        opened = Opened()
        first = opened.pair.client_layer.request(b"one")
        second = opened.pair.client_layer.request(b"two")
        first.addErrback(lambda _: None)
        first.cancel()
        opened.pair.server_requests.answer = b"reply"
        opened.pair.pump()
        self.assertEqual(self.successResultOf(second), b"reply")

    def test_refusal_with_a_sentence(self) -> None:
        """chisel's reason for refusing a configuration reaches the error."""
        error = RequestRefused(b"Server cannot listen on R:8000=>localhost:6443")
        self.assertEqual(str(error), "Server cannot listen on R:8000=>localhost:6443")

    def test_lost_while_waiting(self) -> None:
        """Requests fail when the connection ends, and after it."""
        opened = Opened()
        opened.pair.server.transport.write = lambda data: None
        waiting = opened.pair.client_layer.request(b"ping")
        opened.pair.lose()
        self.failureResultOf(waiting, SSHError)
        self.failureResultOf(opened.pair.client_layer.request(b"ping"), SSHError)

    def test_without_reply(self) -> None:
        """A request that wants no reply gets none."""
        opened = Opened()
        opened.raw(MSG_GLOBAL_REQUEST, NS(b"hostkeys-00@openssh.com") + b"\0")
        self.assertEqual(opened.pair.client_requests.globals, [(b"hostkeys-00@openssh.com", b"")])
        self.assertEqual(opened.pair.server_owner.ended, [])


class Violations(SynchronousTestCase):
    """A peer that breaks the rules loses the connection, with the reason said."""

    def assert_ends(self, message: int, payload: bytes, words: str) -> None:
        """The message ends the connection; the reason holds C{words}."""
        opened = Opened(consume=False)
        opened.raw(message, payload)
        opened.pair.lose()
        [error] = opened.pair.client_owner.ended
        self.assertIn(words, str(error))

    def test_beyond_the_window(self) -> None:
        """The window is a hard limit."""
        opened = Opened(consume=False)
        for _ in range(3):
            opened.raw(MSG_CHANNEL_DATA, struct.pack(">LL", 0, 30_000) + b"x" * 30_000)
        opened.pair.lose()
        [error] = opened.pair.client_owner.ended
        self.assertIn("ignores the window", str(error))
        self.assertLessEqual(len(opened.near.data), WINDOW)

    def test_extended_data_counts(self) -> None:
        """Extended data is dropped, and counts against the window."""
        opened = Opened(consume=False)
        data = struct.pack(">LLL", 0, 1, 1000) + b"x" * 1000
        for _ in range(200):
            opened.raw(MSG_CHANNEL_EXTENDED_DATA, data)
        self.assertEqual(opened.pair.client_owner.ended, [])
        self.assertEqual(bytes(opened.near.data), b"")

    def test_window_overflow(self) -> None:
        """A window beyond 2**32-1 is an error."""
        payload = struct.pack(">LL", 0, 0xFFFFFFFF)
        self.assert_ends(MSG_CHANNEL_WINDOW_ADJUST, payload, "4 GiB")

    def test_unknown_channel(self) -> None:
        """So is a message for a channel that is not open."""
        for message in (MSG_CHANNEL_DATA, MSG_CHANNEL_EOF, MSG_CHANNEL_CLOSE):
            payload = struct.pack(">L", 77) + (NS(b"") if message == MSG_CHANNEL_DATA else b"")
            self.assert_ends(message, payload, "channel 77 is not open")

    def test_data_after_eof(self) -> None:
        """Data after EOF is an error."""
        opened = Opened()
        opened.raw(MSG_CHANNEL_EOF, struct.pack(">L", 0))
        opened.raw(MSG_CHANNEL_DATA, struct.pack(">L", 0) + NS(b"more"))
        opened.pair.lose()
        self.assertIn("after EOF", str(opened.pair.client_owner.ended[0]))

    def test_reply_to_nothing(self) -> None:
        """A reply that nobody asked for is an error."""
        self.assert_ends(MSG_REQUEST_SUCCESS, b"", "not sent")

    def test_confirmation_of_nothing(self) -> None:
        """So is a channel's confirmation or refusal."""
        numbers = struct.pack(">LLLL", 5, 0, 1000, 2000)
        self.assert_ends(MSG_CHANNEL_OPEN_CONFIRMATION, numbers, "not being opened")
        refusal = struct.pack(">LL", 5, 2) + NS(b"no") + NS(b"")
        self.assert_ends(MSG_CHANNEL_OPEN_FAILURE, refusal, "not being opened")

    def test_malformed_refusal(self) -> None:
        """Who waits for a channel hears of the end when its refusal is malformed."""
        opened = Opened()
        opening = opened.pair.client_layer.open_channel(b"chisel", b"", Handler())
        opened.raw(MSG_CHANNEL_OPEN_FAILURE, struct.pack(">LLL", 1, 2, 1000))
        opened.pair.lose()
        self.assertIn("longer than its message", str(self.failureResultOf(opening, SSHError).value))

    def test_lengths_that_lie(self) -> None:
        """A length that is not that of the message is an error."""
        lie = struct.pack(">LL", 0, 1000) + b"short"
        self.assert_ends(MSG_CHANNEL_DATA, lie, "not as long as it says")
        self.assert_ends(MSG_GLOBAL_REQUEST, struct.pack(">L", 1000), "longer than its message")
        self.assert_ends(MSG_CHANNEL_OPEN, NS(b"chisel") + b"short", "too short")
        self.assert_ends(MSG_CHANNEL_WINDOW_ADJUST, b"", "too short")

    def test_request_too_long(self) -> None:
        """A global request beyond the limit is an error."""
        payload = NS(b"x") + b"\0" + bytes(MAX_REQUEST + 1)
        self.assert_ends(MSG_GLOBAL_REQUEST, payload, "too long")

    def test_packet_size_of_nothing(self) -> None:
        """A channel that can carry no data, or next to none in a packet, is refused."""
        for size in (0, 1, MIN_PACKET - 1):
            opened = Opened()
            opened.raw(MSG_CHANNEL_OPEN, NS(b"chisel") + struct.pack(">LLL", 9, 1000, size) + b"x")
            self.assertEqual(len(opened.pair.client_requests.opens), 1)
            opened.pair.lose()
            # The server here did not open number 9 itself, and objects to its refusal.
            self.assertIn("channel 9 was not being opened", str(opened.pair.server_owner.ended[0]))

    def test_packet_size_of_nothing_for_our_own(self) -> None:
        """A confirmation with such a size ends the connection."""
        self.assert_ends(MSG_CHANNEL_OPEN_CONFIRMATION, struct.pack(">LLLL", 0, 0, 1000, 1), "is the least")

    def test_channel_request(self) -> None:
        """A channel request is answered with a failure where it wants an answer."""
        opened = Opened()
        opened.raw(MSG_CHANNEL_REQUEST, struct.pack(">L", 0) + NS(b"shell") + b"\1")
        opened.raw(MSG_CHANNEL_REQUEST, struct.pack(">L", 0) + NS(b"shell") + b"\0")
        self.assertEqual(opened.pair.client_owner.ended, [])

    @settings(max_examples=300, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from([*range(80, 83), *range(90, 101), 127]),
                st.one_of(
                    st.binary(max_size=60),
                    st.builds(
                        lambda numbers, rest: struct.pack(f">{len(numbers)}L", *numbers) + rest,
                        st.lists(st.integers(0, 3) | st.integers(0, 0xFFFFFFFF), max_size=4),
                        st.binary(max_size=30),
                    ),
                ),
            ),
            max_size=8,
        )
    )
    def test_any_messages(self, messages: list[tuple[int, bytes]]) -> None:
        """Whatever comes, no exception escapes, and everybody hears of the end once."""
        opened = Opened()
        for message, payload in messages:
            opened.pair.server.sendPacket(message, payload)
        data = bytes(opened.pair.server_wire.written)
        opened.pair.server_wire.written.clear()
        opened.pair.client.dataReceived(data)
        opened.pair.lose()
        self.assertEqual(len(opened.pair.client_owner.ended), 1)
        self.assertEqual(sum(event in ("lost", "closed") for event in opened.near.events), 1)
        self.assertEqual(len(opened.pair.client_layer), 0)
