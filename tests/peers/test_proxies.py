"""The agent behind real proxies: everything that it does, and every way in which they say no."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import psutil
from twisted.internet.protocol import Factory, Protocol

from pipeops_agent.errors import ExitStatus
from pipeops_agent.net import ClientTLS, Connector, ConnectProblem
from pipeops_agent.settings import Loaded, Settings
from pipeops_agent.settings.model_pipeops import TLSSettings
from pipeops_agent.settings.proxies import Proxies, parse_exemptions
from pipeops_agent.settings.proxy_url import Proxy
from tests.agent.house import REACTOR, TOKEN, House, change, look_until
from tests.agent.twistd import FAST, TwistdCase
from tests.peers.harness import free_port
from tests.peers.proxies import FORBIDDEN, NAME, USER, ProxyStarter, RunningProxy

if TYPE_CHECKING:
    _Base = House
else:
    _Base = object


def connections_to(port: int) -> int:
    """How many connections this process has to a port of loopback."""
    ends = [tuple(each.raddr) for each in psutil.Process().net_connections("tcp")]
    return ends.count(("127.0.0.1", port))


class ProxyContract(_Base):
    """
    What holds for each proxy.

    @cvar login_refused: what is said of a wrong password.
    @cvar unreachable: what is said of a target that does not answer the proxy.
    """

    login_refused = ""
    unreachable = ""

    async def start_proxy(self, starter: ProxyStarter) -> RunningProxy:
        """The proxy in question."""
        raise NotImplementedError

    async def behind_proxy(self) -> Settings:
        """Start proxy and sandbox; return settings in which the sandbox has the name that the proxy knows."""
        self.starter = ProxyStarter(REACTOR, self)
        self.running = await self.start_proxy(self.starter)
        self.start_sandbox(tls=True, names=(NAME,), directory=str(self.directory))
        port = urlsplit(self.sandbox.api_url).port
        settings = self.settings()
        tls = TLSSettings(ca_file=str(self.sandbox.ca_file))
        return change(settings, pipeops={"api_url": f"https://{NAME}:{port}", "tls": tls})

    async def refusal(self, host: str, port: int, proxies: Proxies | None = None) -> ConnectProblem:
        """Why C{host} is not reached."""
        connector = Connector(REACTOR, connect_timeout=10, proxies=lambda: proxies or self.running.proxies())
        try:
            await connector.endpoint(host, port, tls=ClientTLS()).connect(Factory.forProtocol(Protocol))
        except ConnectProblem as problem:
            self.assertEqual(problem.step, "proxy")
            self.assertIn(f"the proxy 127.0.0.1:{self.running.port} ", problem.sentence)
            self.assertNotIn(self.running.password, str(problem))
            return problem
        raise AssertionError("it was reached")

    async def test_all_of_it(self) -> None:
        """Registration, heartbeats, tunnel and forwards go through, TLS verified, no name looked up here."""
        self.start_agent(await self.behind_proxy(), proxies=self.running.proxies())
        status = await self.until_connected()
        steps = [step.name for step in status.tunnel.attempts[0].steps]
        self.assertEqual(steps[:4], ["tcp", "proxy", "tls", "upgrade"])
        user = await self.connect("kubernetes-api")
        user.say(b"through" * 10000)
        self.assertEqual(await user.heard(70000), b"through" * 10000)
        await self.heartbeats(3)
        self.assertEqual(self.known.registrations, 1)
        said = [one["msg"] for one in self.records(level="info") if "is reached" in one["msg"]]
        self.assertEqual(said, [self.way_through(self.running)])
        for secret in (self.running.password, USER, TOKEN.reveal()):
            self.assertNotIn(secret, self.logged())

    async def test_wrong_password(self) -> None:
        """The agent ends at once, and says that it was the proxy, without the password."""
        settings = await self.behind_proxy()
        self.start_agent(settings, proxies=self.running.proxies(password="wrong-password-1"))
        error = await self.fatal_error()
        self.assertEqual(error.status, ExitStatus.UNAVAILABLE)
        self.assertIn(f"the proxy 127.0.0.1:{self.running.port} {self.login_refused}", error.sentence)
        self.assertNotIn("wrong-password-1", self.logged())

    async def test_no_password(self) -> None:
        """A proxy that wants a login is told from one that did not like it."""
        await self.behind_proxy()
        bare = Proxy(scheme=self.running.scheme, host="127.0.0.1", port=self.running.port)
        problem = await self.refusal(NAME, 443, Proxies(https=bare))
        self.assertIn("wants a user and a password", problem.sentence)
        self.assertFalse(problem.retryable)

    async def test_unreachable_target(self) -> None:
        """A target that the proxy does not reach may be there later."""
        await self.behind_proxy()
        port = free_port()
        problem = await self.refusal(NAME, port)
        self.assertIn(f"can't reach {NAME}:{port}", problem.sentence)
        self.assertIn(self.unreachable, problem.sentence)
        self.assertTrue(problem.retryable)

    async def test_other_name(self) -> None:
        """A server with a certificate for another name is refused, through the proxy as without."""
        settings = await self.behind_proxy()
        port = urlsplit(settings.pipeops.api_url).port
        elsewhere = change(settings, pipeops={"api_url": f"https://{self.other_name}:{port}"})
        self.start_agent(elsewhere, proxies=self.running.proxies())
        error = await self.fatal_error()
        self.assertIn("is not for this name, but for", error.sentence)

    other_name = "other.test"

    async def test_killed(self) -> None:
        """A proxy that dies takes the tunnel with it; once it is back, so is the tunnel: the same ids."""
        self.start_agent(await self.behind_proxy(), proxies=self.running.proxies())
        await self.until_connected()
        ids = (self.known.agent_id, self.known.cluster_id)
        await self.running.program.kill()
        await self.until(lambda status: status.tunnel.state == "waiting", "the loss")
        await self.until(lambda status: status.heartbeat.failures > 0, "a failing heartbeat")
        self.assertIn("the proxy", self.agent.board.now.heartbeat.message)
        self.assertIn("refuses connections", self.agent.board.now.heartbeat.message)
        await self.running.again(REACTOR)
        await self.until_connected()
        self.assertEqual((self.known.agent_id, self.known.cluster_id), ids)
        self.assertEqual(self.known.registrations, 1)

    async def test_another_proxy(self) -> None:
        """SIGHUP with another C{pipeops.proxy}: new connections, calls first, take the new way at once."""
        settings = await self.behind_proxy()
        first = self.running
        self.start_agent(settings, proxies=first.proxies())
        await self.until_connected()
        second = await self.start_proxy(self.starter)
        now = change(settings, pipeops={"proxy": second.proxy()})
        self.next_settings = lambda: Loaded(now, {}, None, proxies=second.proxies())
        self.agent.reload()
        await self.heartbeats(2)
        await look_until(lambda: connections_to(first.port) == 1, "the tunnel to be alone on its old way")
        await first.program.kill()
        await self.until(lambda status: status.tunnel.state != "connected", "the loss of the tunnel")
        await self.until_connected()
        self.assertEqual(self.records(component="heartbeat", level="warn"), [])
        self.assertEqual(len(self.records(level="info", msg=self.way_through(second))), 1)

    def way_through(self, proxy: RunningProxy) -> str:
        """What is said at start, and when it changes."""
        way = f"through the proxy {proxy.proxy()} (HTTPS_PROXY)"
        return f"the control plane is reached {way}; tunnel servers {way}, but for NO_PROXY"

    async def test_exempt(self) -> None:
        """What NO_PROXY names is not asked of the proxy: this name is unknown here."""
        settings = await self.behind_proxy()
        exemptions, _ = parse_exemptions(f".test,{NAME}")
        proxy = self.running.proxy()
        self.start_agent(settings, proxies=Proxies(https=proxy, exemptions=exemptions))
        error = await self.fatal_error()
        self.assertIn(NAME, error.sentence)
        self.assertNotIn("proxy", error.sentence)


class RuledContract(ProxyContract):
    """What holds for each proxy that has rules."""

    async def test_forbidden(self) -> None:
        """A target that the rules forbid is named, with what is to be done."""
        await self.behind_proxy()
        problem = await self.refusal(FORBIDDEN, 443)
        self.assertIn(f"does not allow a connection to {FORBIDDEN}:443 (403 ", problem.sentence)
        self.assertIn("rules", problem.remedy)
        self.assertFalse(problem.retryable)


class TinyproxyTests(RuledContract, House):
    """C{tinyproxy}."""

    login_refused = "does not accept the user and password (401 "
    unreachable = "(500 "

    async def start_proxy(self, starter: ProxyStarter) -> RunningProxy:
        return await starter.tinyproxy()


class SquidTests(RuledContract, House):
    """C{squid}."""

    login_refused = "does not accept the user and password (407 "
    unreachable = "(503 Service Unavailable, ERR_CONNECT_FAIL)"

    async def start_proxy(self, starter: ProxyStarter) -> RunningProxy:
        return await starter.squid()


class MicrosocksTests(ProxyContract, House):
    """C{microsocks}."""

    login_refused = "does not accept the user and password (status "
    unreachable = "connection refused"

    async def start_proxy(self, starter: ProxyStarter) -> RunningProxy:
        return await starter.microsocks()


class ProcessTests(TwistdCase):
    """The agent as it is started, with the proxy in its environment."""

    async def test_from_the_environment(self) -> None:
        """HTTPS_PROXY, as every program reads it, is enough; its password is in nothing that anybody sees."""
        running = await ProxyStarter(REACTOR, self).microsocks()
        sandbox = self.start_sandbox(tls=True, names=(NAME,), directory=str(self.directory))
        self.configure(FAST)
        password = quote(running.password, safe="")
        program = self.start_for(
            f"https://{NAME}:{urlsplit(sandbox.api_url).port}",
            environ={
                "HTTPS_PROXY": f"socks5://{USER}:{password}@127.0.0.1:{running.port}",
                "PIPEOPS_TLS_CA_FILE": str(sandbox.ca_file),
                "PIPEOPS_LOG_LEVEL": "debug",
            },
        )
        await program.says("the tunnel is connected")
        self.assertEqual(
            program.saying("is reached")[0]["control_plane"],
            f"through the proxy socks5://127.0.0.1:{running.port} (HTTPS_PROXY)",
        )
        program.signal("TERM")
        await program.ended()
        for secret in (running.password, password, USER):
            self.assertNotIn(secret, program.out.decode() + program.err.decode())
        self.check_well_behaved(program)

    async def test_no_proxy_at_all(self) -> None:
        """A variable that names no proxy ends the start, and is named without its value."""
        program = await self.run_agent(
            environ={"HTTPS_PROXY": "ftp://agent:horse-battery@proxy", "PIPEOPS_TOKEN": "token-0123456789"}
        )
        self.assertEqual(program.status, ExitStatus.CONFIG)
        self.assertIn("HTTPS_PROXY: ftp:// is not spoken", program.records[-1]["msg"])
        self.assertNotIn("horse", program.out.decode() + program.err.decode())
