"""Tests of L{pipeops_agent.cluster.access}: the way to the cluster that is configured."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.caller import Caller
from pipeops_agent.cluster.access import ClusterAccess
from pipeops_agent.cluster.errors import Misconfigured
from pipeops_agent.cluster.finding import Finder, Surroundings
from pipeops_agent.cluster.reach import Reach
from pipeops_agent.cluster.streaming import Terminal
from pipeops_agent.secrets import Secret
from pipeops_agent.settings.model import KubernetesSettings
from tests.cluster.case import EVERYTHING

NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


class AccessCase(SynchronousTestCase):
    """
    A kubeconfig for a server at 192.0.2.1, and a reactor that goes nowhere.

    @ivar kept: what the log was told.
    """

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.kept: list[str] = []

    def access(
        self,
        cluster: Mapping[str, str],
        environ: Mapping[str, str] | None = None,
        user: Mapping[str, str] | None = None,
    ) -> ClusterAccess:
        path = self.directory / "kubeconfig"
        text = yaml.safe_dump(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": "https://192.0.2.1:6443", **cluster}}],
                "users": [{"name": "u", "user": dict(user or {})}],
            }
        )
        path.write_text(text)
        reactor: Any = self.reactor
        around = Surroundings(environ=environ or {}, wall=lambda: NOON)
        access = ClusterAccess(
            reactor,
            Finder(reactor, KubernetesSettings(kubeconfig=str(path)), around),
            version="0",
            observe=lambda *_: None,
            keep=self.keep,
        )
        access.look()
        return access

    def keep(self, name: str, secret: Secret) -> None:
        self.kept.append(f"{name}: {secret.reveal()}")

    def ask(self, access: ClusterAccess) -> list[tuple[str, int]]:
        """Where a call leads to."""
        asking = Deferred.fromCoroutine(access.api.version())
        places = [(host, port) for host, port, *_ in self.reactor.tcpClients]
        asking.cancel()
        self.failureResultOf(asking, CancelledError)
        return places


class ProxyTests(AccessCase):
    """The kubeconfig's C{proxy-url}, and no other (C{docs/proxies.md})."""

    def test_proxy_url(self) -> None:
        """Calls go through it; its password is known to the log before it is used."""
        access = self.access({"proxy-url": "http://agent:horse-battery@192.0.2.9:3128"})
        self.assertEqual(self.ask(access), [("192.0.2.9", 3128)])
        self.assertEqual(self.kept, ["the cluster's proxy: horse-battery"])

    def test_socks(self) -> None:
        """So do they through a SOCKS proxy."""
        self.assertEqual(
            self.ask(self.access({"proxy-url": "socks5://192.0.2.9:1080"})), [("192.0.2.9", 1080)]
        )

    def test_environment(self) -> None:
        """The proxies of the environment are for the outside."""
        environ = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "ALL_PROXY"), "http://192.0.2.9:3128")
        self.assertEqual(self.ask(self.access({}, environ)), [("192.0.2.1", 6443)])

    def test_no_proxy(self) -> None:
        """One that can't be is a sentence that names it, without its password."""
        access = self.access({"proxy-url": "gopher://agent:horse-battery@192.0.2.9"})
        with self.assertRaises(Misconfigured) as caught:
            _ = access.config
        self.assertIn("proxy-url", caught.exception.sentence)
        self.assertNotIn("horse", caught.exception.sentence)


class StreamTests(AccessCase):
    """Streams to pods (exec, attach) go where calls go."""

    def places(self, access: ClusterAccess) -> list[tuple[str, int]]:
        """Where a stream leads to."""
        terminal = Terminal(namespace="shop", pod="web")
        caller = Caller(subject="x", scopes=EVERYTHING, origin="")
        opening = Deferred.fromCoroutine(access.streams(Reach()).exec(caller, terminal, ("true",)))
        places = [(host, port) for host, port, *_ in self.reactor.tcpClients]
        opening.cancel()
        self.failureResultOf(opening)
        return places

    def test_proxy_url(self) -> None:
        """By the kubeconfig's proxy, or straight to the server."""
        self.assertEqual(self.places(self.access({})), [("192.0.2.1", 6443)])
        self.assertEqual(
            self.places(self.access({"proxy-url": "http://192.0.2.9:3128"}))[1:], [("192.0.2.9", 3128)]
        )

    def test_no_cluster(self) -> None:
        """Where no cluster was found, nowhere; the error says why."""
        access = self.access({"proxy-url": "gopher://192.0.2.9"})
        with self.assertRaises(Misconfigured) as caught:
            access.streams(Reach())
        self.assertIn("proxy-url", caught.exception.sentence)


class SecretTests(AccessCase):
    """What the log must know."""

    def test_token(self) -> None:
        """A token is known to the log before it is sent; the same one is told once."""
        access = self.access({}, user={"token": "the-kubeconfigs-token"})
        for _ in range(2):
            self.ask(access)
        self.assertEqual(self.kept, ["the cluster's token: the-kubeconfigs-token"])
