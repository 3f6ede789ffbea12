"""
Real proxies from Debian, on loopback: tinyproxy and squid (CONNECT), microsocks (SOCKS 5).

Each knows the name L{NAME}, which nobody else does: it sees a hosts file of its own. So whoever reaches that
name has left the look-up to the proxy.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SkipTest

from pipeops_agent.scheduling import bounded, sleep
from pipeops_agent.secrets import Secret
from pipeops_agent.settings.proxies import Proxies
from pipeops_agent.settings.proxy_url import Proxy, Scheme
from tests.peers.harness import Owner, free_port
from tests.peers.processes import PATIENCE, PeerEnded, Program

NAME = "control-plane.test"
"""Known to the proxies alone; it is 127.0.0.1."""

FORBIDDEN = "forbidden.test"
"""A name, as known to the proxies, that those with rules allow no connection to."""

USER, PASSWORD = "agent-7", "corréct@horse:b/attery"
"""What every proxy wants; each character that a URL would trip over."""

_ASCII_PASSWORD = "correct-horse-battery"
"""tinyproxy's and squid's files have no way to write the other one."""

_AGAIN = 0.02


def find(program: str) -> str:
    """The path of C{program}; without it, the test is skipped."""
    path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if path is None:
        raise SkipTest(f"{program} is not installed")
    return path


def _own_hosts(hosts: Path) -> list[str]:
    """What to put before a command so that it sees C{hosts} as C{/etc/hosts}, and ends with this process."""
    prefix = [find("setpriv"), "--pdeathsig", "KILL", find("unshare"), "--mount"]
    if os.geteuid() != 0:
        prefix += ["--map-root-user"]
    prefix += [find("sh"), "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(hosts)]
    tried = subprocess.run([*prefix, find("true")], capture_output=True, check=False, text=True)
    if tried.returncode:
        raise SkipTest(f"a mount namespace of one's own is not allowed here: {tried.stderr.strip()}")
    return prefix


@dataclass
class RunningProxy:
    """One proxy; it ends with its test."""

    scheme: Scheme
    port: int
    password: str
    start: Callable[[], Program]
    program: Program

    def proxy(self, *, password: str | None = None) -> Proxy:
        """How an agent is told of it."""
        given = Secret(self.password if password is None else password)
        return Proxy(
            scheme=self.scheme,
            host="127.0.0.1",
            port=self.port,
            credentials=(USER, given),
            named_by="HTTPS_PROXY",
        )

    def proxies(self, **changes: Any) -> Proxies:
        """All targets through it."""
        proxy = self.proxy(**changes)
        return Proxies(https=proxy, http=proxy)

    async def again(self, reactor: Any) -> None:
        """Start it anew, at the same place."""
        self.program = self.start()
        await until_listening(reactor, self.program, self.port)


class ProxyStarter:
    """Starts proxies for one test."""

    def __init__(self, reactor: Any, case: Owner) -> None:
        self._reactor = reactor
        self._case = case
        # Not below the working directory: squid runs as a user of its own, who may not enter there.
        self._directory = Path(tempfile.mkdtemp(prefix="proxy-"))
        self._directory.chmod(0o755)
        case.addCleanup(shutil.rmtree, self._directory, ignore_errors=True)
        self._hosts = self._write("hosts", f"127.0.0.1 localhost {NAME} {FORBIDDEN} other.test\n")

    def _write(self, name: str, text: str) -> Path:
        path = self._directory / name
        path.write_text(text)
        path.chmod(0o644)
        return path

    async def tinyproxy(self) -> RunningProxy:
        """CONNECT, a login, and a filter; it answers a wrong password with 401."""
        port = free_port()
        rules = self._write("filter", f"^{FORBIDDEN}$\n")
        settings = self._write(
            "tinyproxy.conf",
            f"Port {port}\nListen 127.0.0.1\nTimeout 600\nLogLevel Error\nMaxClients 100\n"
            f'BasicAuth {USER} {_ASCII_PASSWORD}\nFilter "{rules}"\nFilterExtended On\n',
        )
        command = [*_own_hosts(self._hosts), find("tinyproxy"), "-d", "-c", str(settings)]
        return await self._run("http", port, _ASCII_PASSWORD, command)

    async def squid(self) -> RunningProxy:
        """CONNECT, a login, and rules."""
        port = free_port()
        return await self._run("http", port, _ASCII_PASSWORD, self._squid_command(port))

    def _squid_command(self, port: int) -> list[str]:
        helper = Path("/usr/lib/squid/basic_ncsa_auth")
        if not helper.exists():
            raise SkipTest(f"{helper} is not installed")
        hashed = subprocess.run(
            [find("openssl"), "passwd", "-apr1", "-stdin"],
            input=_ASCII_PASSWORD,
            capture_output=True,
            check=True,
            text=True,
        ).stdout.strip()
        users = self._write("users", f"{USER}:{hashed}\n")
        settings = self._write(
            "squid.conf",
            f"http_port 127.0.0.1:{port}\nhosts_file {self._hosts}\n"
            f"auth_param basic program {helper} {users}\nauth_param basic children 1\n"
            f"acl login proxy_auth REQUIRED\nacl forbidden dstdomain {FORBIDDEN}\n"
            "http_access deny forbidden\nhttp_access allow login\nhttp_access deny all\n"
            "cache deny all\npid_filename none\naccess_log none\ncache_log /dev/null\n"
            f"cache_store_log none\ncoredump_dir {self._directory}\nshutdown_lifetime 0 seconds\n"
            "netdb_filename none\nvisible_hostname squid.test\n",
        )
        return [find("setpriv"), "--pdeathsig", "KILL", find("squid"), "-N", "-f", str(settings)]

    async def microsocks(self) -> RunningProxy:
        """SOCKS 5 with user and password; it has no rules."""
        port = free_port()
        login = ["-u", USER, "-P", PASSWORD]
        where = ["-i", "127.0.0.1", "-p", str(port)]
        command = [*_own_hosts(self._hosts), find("microsocks"), *where, *login]
        return await self._run("socks5", port, PASSWORD, command)

    async def _run(self, scheme: Scheme, port: int, password: str, command: Sequence[str]) -> RunningProxy:
        def start() -> Program:
            program = Program.start(self._reactor, command, lambda line: None, "TERM")
            self._case.addCleanup(lambda: Deferred.fromCoroutine(program.kill()))
            return program

        running = RunningProxy(scheme, port, password, start, start())
        await until_listening(self._reactor, running.program, port)
        return running


async def until_listening(reactor: Any, program: Program, port: int) -> None:
    """Wait until C{program} takes connections on a port of loopback."""

    async def look() -> None:
        while True:
            if program.status is not None:
                raise PeerEnded(f"ended with status {program.status}\n{program.output}")
            try:
                protocol: Any = await TCP4ClientEndpoint(reactor, "127.0.0.1", port).connect(_Probe())
            except ConnectError:
                await sleep(reactor, _AGAIN)
                continue
            protocol.transport.abortConnection()
            return

    await bounded(reactor, PATIENCE, look(), f"a proxy on port {port}")


class _Probe(Factory):
    noisy = False
    protocol = Protocol
