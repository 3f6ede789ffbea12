"""Tests of L{pipeops_agent.cluster.streaming}: the upgrade, and what may come instead."""

from __future__ import annotations

import json

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost

from pipeops_agent.caller import Caller
from pipeops_agent.cluster.errors import ClusterError, StatusError, Unreachable
from pipeops_agent.cluster.scope import OutOfReach, Scope
from pipeops_agent.cluster.socket import MAX_HANDSHAKE
from pipeops_agent.cluster.streaming import UPGRADE_TIMEOUT, Terminal
from pipeops_agent.net import ClientTLS, ConnectProblem
from pipeops_agent.secrets import Secret
from tests.cluster.case import EVERYTHING
from tests.cluster.streams_case import CALLER, TERMINAL, UNAUTHORIZED, StreamsCase, T


class OpenTests(StreamsCase):
    """The upgrade: what is asked for, and what may come instead."""

    def test_asked(self) -> None:
        """Path, command and streams as the API has them, v5 first, the credential's token."""
        self.exec("sh", "-c", "a b&c")
        asked = self.server.asked
        assert asked is not None
        self.assertEqual(asked.path, "/k8s/c1/api/v1/namespaces/shop/pods/web/exec")
        wanted = {"container": ["main"], "stdin": ["true"], "stdout": ["true"], "stderr": ["true"]}
        self.assertEqual(asked.params, {**wanted, "command": ["sh", "-c", "a b&c"]})
        self.assertEqual(asked.protocols, ["v5.channel.k8s.io", "v4.channel.k8s.io"])
        self.assertEqual(asked.headers["authorization"], "Bearer old")
        self.assertEqual(asked.headers["user-agent"], "PipeOps-Agent/1.2.3")
        self.assertEqual(asked.headers["host"], "kube.test:6443")
        self.assertEqual(self.observed, [("get", "pods/exec", 101)])

    def test_terminal(self) -> None:
        """With a terminal there is no stderr; without a container the server chooses."""
        self.exec(terminal=Terminal(namespace="shop", pod="web", tty=True))
        assert self.server.asked is not None
        wanted = {"stdout": ["true"], "tty": ["true"], "command": ["true"]}
        self.assertEqual(self.server.asked.params, wanted)

    def test_address(self) -> None:
        """An IPv6 address stands in brackets in C{Host}."""
        self.host = "2001:db8::1"
        self.exec()
        assert self.server.asked is not None
        self.assertEqual(self.server.asked.headers["host"], "[2001:db8::1]:6443")
        self.assertEqual(self.endpoints.places[0][:2], ("2001:db8::1", 6443))

    def test_own_token(self) -> None:
        """A caller's own token goes out in place of the agent's, and without the agent's certificate."""
        self.tokens.certificate = b"the agent's"
        caller = Caller(subject="x", scopes=EVERYTHING, origin="", kubernetes_token=Secret("theirs"))
        self.exec(caller=caller)
        assert self.server.asked is not None
        self.assertEqual(self.server.asked.headers["authorization"], "Bearer theirs")
        self.assertEqual(self.endpoints.places[0][2], ClientTLS())

    def test_out_of_reach(self) -> None:
        """The owner's rules come before any connection."""
        for scope in (
            Scope(read_only=True),
            Scope(denied_verbs=frozenset({"exec", "attach", "port-forward"})),
            Scope(denied_namespaces=frozenset({"shop"})),
        ):
            self.scope = scope
            self.failure(self.streams.exec(CALLER, TERMINAL, ("true",)), OutOfReach)
            self.failure(self.streams.attach(CALLER, TERMINAL), OutOfReach)
            self.failure(self.streams.port_forward(CALLER, "shop", "web", 80), OutOfReach)
        self.assertEqual(self.endpoints.places, [])

    def test_into_the_own_namespace(self) -> None:
        """Nobody gets into the agent's own pods, where its token lies, but with a token of their own."""
        self.home = "shop"
        for opening in (
            self.streams.exec(CALLER, TERMINAL, ("cat", "/var/run/secrets/token")),
            self.streams.attach(CALLER, TERMINAL),
            self.streams.port_forward(CALLER, "shop", "web", 80),
        ):
            error = self.failure(opening, OutOfReach)
            self.assertIn("need a Kubernetes token of your own", str(error))
        self.assertEqual(self.endpoints.places, [])
        caller = Caller(subject="a", scopes=CALLER.scopes, origin="b", kubernetes_token=Secret("theirs"))
        self.exec(caller=caller)
        self.assertEqual(len(self.endpoints.places), 1)

    def refused(self, answer: bytes, kind: type[T], size: int = 1 << 30) -> T:
        """The error that an answer instead of the upgrade makes."""
        self.endpoints.answers.append(answer)
        opening = Deferred.fromCoroutine(self.streams.exec(CALLER, TERMINAL, ("true",)))
        self.pump(size)
        error: T = self.failureResultOf(opening, kind).value
        self.assertTrue(self.link.client_pipe.aborted)
        return error

    def test_refused(self) -> None:
        """The server's Status says why, in whatever pieces it comes."""
        body = json.dumps({"kind": "Status", "message": "pods is forbidden", "reason": "Forbidden"}).encode()
        answer = b"HTTP/1.1 403 Forbidden\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
        for size in (1, 7, 1 << 30):
            error = self.refused(answer, StatusError, size)
            self.assertEqual((error.code, error.reason), (403, "Forbidden"))
            self.assertEqual(str(error), "exec in shop/web: pods is forbidden (403)")
        self.assertEqual(self.observed[-1], ("get", "pods/exec", 403))

    def test_refused_by_another(self) -> None:
        """What is no Status is quoted: its first line."""
        error = self.refused(b"HTTP/1.1 502 Bad Gateway\r\n\r\n<html>nginx\nmore", StatusError)
        self.assertEqual(str(error), "exec in shop/web: <html>nginx (502)")

    def test_refused_and_lost(self) -> None:
        """A body that ends too early does not hide the status."""
        self.endpoints.answers.append(b"HTTP/1.1 404 Not Found\r\nContent-Length: 900\r\n\r\n{")
        opening = self.begin(self.streams.exec(CALLER, TERMINAL, ("true",)))
        self.assertNoResult(opening)
        self.link.lose(ConnectionLost())
        self.assertEqual(self.failureResultOf(opening, StatusError).value.code, 404)

    def test_no_websocket(self) -> None:
        """Answers that are none, or never end, are refused."""
        for answer in (
            b"SSH-2.0-OpenSSH\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
            b"\xff\xfe\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nX: " + b"x" * MAX_HANDSHAKE,
        ):
            self.assertIn("exec in shop/web: ", str(self.refused(answer, Unreachable)))

    def test_no_subprotocol(self) -> None:
        """A server that speaks none of ours is told apart, and left."""
        self.endpoints.speaks = ()
        error = self.failure(self.streams.exec(CALLER, TERMINAL, ("true",)), ClusterError)
        self.assertIn("speaks none of v5.channel.k8s.io", str(error))

    def test_unauthorized(self) -> None:
        """After a 401 the credential is got anew, once."""
        self.endpoints.answers = [UNAUTHORIZED]
        self.exec()
        assert self.server.asked is not None
        self.assertEqual(self.server.asked.headers["authorization"], "Bearer new")
        self.tokens.token = Secret("old")
        self.endpoints.answers = [UNAUTHORIZED, UNAUTHORIZED, UNAUTHORIZED]
        self.failure(self.streams.exec(CALLER, TERMINAL, ("true",)), StatusError)
        self.assertEqual(len(self.endpoints.answers), 1)

    def test_unauthorized_caller(self) -> None:
        """A caller's own token has no other."""
        self.endpoints.answers = [UNAUTHORIZED]
        caller = Caller(subject="x", scopes=EVERYTHING, origin="", kubernetes_token=Secret("theirs"))
        self.failure(self.streams.exec(caller, TERMINAL, ("true",)), StatusError)
        self.assertEqual(self.tokens.token, Secret("old"))

    def test_unreachable(self) -> None:
        """No connection: its own sentence."""
        self.endpoints.problem = ConnectProblem("tcp", "connection refused", retryable=True)
        error = self.failure(self.streams.exec(CALLER, TERMINAL, ("true",)), Unreachable)
        self.assertEqual((str(error), error.sent), ("exec in shop/web: connection refused", False))
        self.assertEqual(self.observed, [("get", "pods/exec", None)])

    def test_no_answer(self) -> None:
        """Neither a connection nor an upgrade is waited for for ever."""
        for hang in (True, False):
            self.endpoints.hang = hang
            self.endpoints.answers = [b""]
            opening = self.begin(self.streams.exec(CALLER, TERMINAL, ("true",)))
            self.advance(UPGRADE_TIMEOUT - 1)
            self.assertNoResult(opening)
            self.advance(1)
            self.assertIn("within 30 s", str(self.failureResultOf(opening, Unreachable).value))
        self.assertTrue(self.link.client_pipe.aborted)

    def test_cancelled(self) -> None:
        """Cancelled while connecting, and while upgrading: nothing is left."""
        for hang in (True, False):
            self.endpoints.hang = hang
            self.endpoints.answers = [b""]
            opening = self.begin(self.streams.exec(CALLER, TERMINAL, ("true",)))
            opening.cancel()
            self.failureResultOf(opening, CancelledError)
            self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertTrue(self.link.client_pipe.aborted)
