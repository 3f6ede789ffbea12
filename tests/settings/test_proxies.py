"""Tests for L{pipeops_agent.settings.proxies}: which proxy leads to which target."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.secrets import Secret
from pipeops_agent.settings import DIRECT, report
from pipeops_agent.settings.problems import Unfit
from pipeops_agent.settings.proxies import Proxies, ReadProxies, parse_exemptions, read_proxies
from pipeops_agent.settings.proxy_url import Proxy, ProxyURL, parse_proxy
from tests.settings.case import TOKEN, SettingsCase

_LABELS = st.from_regex(r"[a-z][a-z0-9-]{0,10}[a-z0-9]", fullmatch=True)
_NAMES = st.lists(_LABELS, min_size=1, max_size=4).map(".".join)


class URLTests(SynchronousTestCase):
    """L{parse_proxy}."""

    def test_forms(self) -> None:
        """Scheme, host, port; without scheme it is HTTP, without port the scheme's usual one."""
        for text, shown in {
            "http://proxy.corp:3128": "http://proxy.corp:3128",
            "http://proxy.corp": "http://proxy.corp:80",
            "https://proxy.corp/": "https://proxy.corp:443",
            "proxy.corp:8080": "http://proxy.corp:8080",
            "10.0.0.1": "http://10.0.0.1:80",
            "socks5://proxy.corp": "socks5://proxy.corp:1080",
            "SOCKS5H://Proxy.Corp": "socks5://proxy.corp:1080",
            "http://[fd00::1]:3128": "http://[fd00::1]:3128",
        }.items():
            self.assertEqual(str(parse_proxy(text)), shown)

    def test_credentials(self) -> None:
        """User and password are percent-decoded; the password may be missing; neither is ever shown."""
        proxy = parse_proxy("http://us%65r:p%40s%3As%2F%C3%A9@proxy.corp:3128", "HTTPS_PROXY")
        self.assertEqual(proxy.credentials, ("user", Secret("p@s:s/é")))
        self.assertEqual(repr(proxy), "<proxy http://proxy.corp:3128>")
        self.assertEqual(parse_proxy("user@proxy.corp").credentials, ("user", Secret("")))
        self.assertEqual(parse_proxy("http://a:b@c@proxy.corp").credentials, ("a", Secret("b@c")))

    def test_refused(self) -> None:
        """What names no proxy is an error that says what is expected, and does not repeat the text."""
        for text in (
            "http://",
            "http://user:hunter2@",
            "http://proxy.corp/path",
            "http://proxy.corp?hunter2",
            "http://proxy.corp#hunter2",
            "http://user:hunter/2@proxy.corp",
            "http://proxy.corp:0",
            "http://proxy.corp:65536",
            "http://proxy corp",
            "http://pröxy",
            "http://[::1",
            "socks4://hunter2@proxy.corp",
            "ftp://proxy.corp",
            "http://a%3Ab:hunter2@proxy.corp",
            "http://hunter2%0a@proxy.corp",
            "http://%ff:hunter2@proxy.corp",
            "socks5://user@proxy.corp",
            f"socks5://user:{'x' * 256}@proxy.corp",
        ):
            error = self.assertRaises(Unfit, parse_proxy, text)
            self.assertNotIn("hunter2", str(error), text)
            self.assertNotIn("xxx", str(error), text)


class ExemptionTests(SynchronousTestCase):
    """What C{NO_PROXY} covers."""

    def direct(self, rules: str, host: str, port: int = 443) -> bool:
        exemptions, _ = parse_exemptions(rules)
        proxies = Proxies(https=parse_proxy("proxy.corp"), exemptions=exemptions)
        return proxies.for_target(host, port, tls=True) is None

    def test_names(self) -> None:
        """A name is itself and what is below it; with a dot or a star only what is below."""
        for rule in ("corp.example", "CORP.example", "corp.example."):
            for host in ("corp.example", "api.corp.example", "API.Corp.Example", "corp.example."):
                self.assertTrue(self.direct(rule, host), (rule, host))
            self.assertFalse(self.direct(rule, "notcorp.example"))
        for rule in (".corp.example", "*.corp.example"):
            self.assertTrue(self.direct(rule, "api.corp.example"))
            self.assertFalse(self.direct(rule, "corp.example"))
            self.assertFalse(self.direct(rule, "notcorp.example"))

    def test_addresses(self) -> None:
        """Addresses and networks, of both families, however they are written; a name is no address."""
        for rule, host in (
            ("10.1.2.3", "10.1.2.3"),
            ("10.0.0.0/8", "10.255.0.1"),
            ("10.1.2.3/8", "10.255.0.1"),
            ("10.0.0.0/8", "::ffff:10.0.0.1"),
            ("fd00::/8", "fd12::1"),
            ("fd00::1", "fd00:0::1"),
            ("[fd00::1]", "fd00::1"),
        ):
            self.assertTrue(self.direct(rule, host), (rule, host))
        self.assertFalse(self.direct("10.0.0.0/8", "11.0.0.1"))
        self.assertFalse(self.direct("10.0.0.0/8", "ten.example"))
        self.assertFalse(self.direct("fd00::/8", "10.0.0.1"))

    def test_ports(self) -> None:
        """A port narrows an entry."""
        for rule, host in (
            ("api.example:8443", "api.example"),
            (".example:8443", "api.example"),
            ("10.1.2.3:8443", "10.1.2.3"),
            ("[fd00::1]:8443", "fd00::1"),
        ):
            self.assertTrue(self.direct(rule, host, 8443), rule)
            self.assertFalse(self.direct(rule, host, 443), rule)

    def test_list(self) -> None:
        """Commas and blanks separate; the star is everything; what means nothing is named."""
        self.assertTrue(self.direct(" a.example ,, b.example c.example", "c.example"))
        self.assertTrue(self.direct("a.example,*", "z.example"))
        self.assertFalse(self.direct("", "a.example"))
        exemptions, unreadable = parse_exemptions("a.example,10.0.0.0/33,http://x,a.*.b,x:99999")
        self.assertEqual(len(exemptions), 1)
        self.assertEqual(unreadable, ("10.0.0.0/33", "http://x", "a.*.b", "x:99999"))

    @given(st.text(max_size=60), _NAMES)
    def test_anything(self, rules: str, host: str) -> None:
        """No text is an error, and none takes a decision away: the answer is a yes or a no."""
        self.assertIn(self.direct(rules, host), (True, False))

    @given(_NAMES, _LABELS)
    def test_below(self, domain: str, label: str) -> None:
        """What is below a domain is covered by it; what only ends in the same letters is not."""
        self.assertTrue(self.direct(domain, f"{label}.{domain}"))
        self.assertTrue(self.direct(f".{domain}", f"{label}.{domain}"))
        self.assertFalse(self.direct(domain, f"{label}{domain}"))

    @given(st.ip_addresses(), st.integers(0, 32))
    def test_networks(self, address: IPv4Address | IPv6Address, length: int) -> None:
        """An address is covered by each of its networks."""
        self.assertTrue(self.direct(f"{address}/{length}", str(address)))

    @given(st.ip_addresses(v=4, network="127.0.0.0/8"))
    def test_loopback(self, address: IPv4Address) -> None:
        """Nothing on loopback goes through a proxy, and nothing needs to say so."""
        self.assertIn(address, IPv4Network("127.0.0.0/8"))
        self.assertTrue(self.direct("", str(address)))


class ProxiesTests(SynchronousTestCase):
    """L{Proxies.for_target}."""

    def test_never(self) -> None:
        """Loopback and the API server's service address are reached directly; the target counts as named."""
        proxy = parse_proxy("proxy.corp")
        for service in ("10.96.0.1", "fd00::1"):
            proxies = read_proxies(
                "environment", {"HTTPS_PROXY": "proxy.corp", "KUBERNETES_SERVICE_HOST": service}
            ).proxies
            for host in (
                "localhost",
                "LOCALHOST.",
                "a.localhost",
                "127.0.0.1",
                "::1",
                "::ffff:127.0.0.1",
                service,
            ):
                self.assertIsNone(proxies.for_target(host, 443, tls=True), host)
            for host in ("10.96.0.2", "ip6-loopback", "localhost.corp.example", "0x7f000001"):
                self.assertEqual(str(proxies.for_target(host, 443, tls=True)), str(proxy), host)

    def test_by_scheme(self) -> None:
        """With TLS and without may be two ways."""
        read = read_proxies(
            "environment",
            {"HTTPS_PROXY": "secure.corp", "HTTP_PROXY": "plain.corp", "NO_PROXY": "near.example"},
        )
        proxies = read.proxies
        self.assertEqual(
            proxies.way_to("a.example", 1, tls=True), "through the proxy http://secure.corp:80 (HTTPS_PROXY)"
        )
        self.assertEqual(
            proxies.way_to("a.example", 1, tls=False), "through the proxy http://plain.corp:80 (HTTP_PROXY)"
        )
        self.assertEqual(proxies.way_to("near.example", 1, tls=True), "directly")
        self.assertEqual(DIRECT.usual_way, "directly")


class EnvironmentTests(SynchronousTestCase):
    """L{read_proxies}."""

    def read(self, environ: dict[str, str], choice: str = "environment") -> ReadProxies:
        return read_proxies(ProxyURL().parse(choice), environ)

    def ways(self, environ: dict[str, str], choice: str = "environment") -> tuple[str, str]:
        read = self.read(environ, choice)
        self.assertEqual(read.problems, ())
        return str(read.proxies.https), str(read.proxies.http)

    def test_all_proxy(self) -> None:
        """ALL_PROXY stands in for those that are not set."""
        self.assertEqual(self.ways({"ALL_PROXY": "a"}), ("http://a:80", "http://a:80"))
        self.assertEqual(self.ways({"ALL_PROXY": "a", "HTTP_PROXY": "h"}), ("http://a:80", "http://h:80"))
        self.assertEqual(self.ways({"HTTPS_PROXY": "s"}), ("http://s:80", "None"))
        self.assertEqual(self.ways({}), ("None", "None"))

    def test_case(self) -> None:
        """Capitals win over small letters, unless empty; two that differ are a caution without values."""
        self.assertEqual(self.ways({"https_proxy": "low", "HTTPS_PROXY": " "})[0], "http://low:80")
        both = self.read({"https_proxy": "a:hunter2@low", "HTTPS_PROXY": "up", "no_proxy": "x.example"})
        self.assertEqual(str(both.proxies.https), "http://up:80")
        (caution,) = both.cautions
        self.assertIn("HTTPS_PROXY and https_proxy differ", caution)
        self.assertNotIn("hunter2", caution)
        self.assertIsNone(both.proxies.for_target("x.example", 443, tls=True))

    def test_setting(self) -> None:
        """C{pipeops.proxy} wins: then the variables are not even read; NO_PROXY holds all the same."""
        environ = {"HTTPS_PROXY": "ftp://wrong", "NO_PROXY": "near.example,*x*"}
        self.assertEqual(self.ways(environ, "socks5://own"), ("socks5://own:1080", "socks5://own:1080"))
        read = self.read(environ, "own")
        self.assertIsNone(read.proxies.for_target("near.example", 443, tls=True))
        self.assertEqual(read.cautions, ("variable NO_PROXY: '*x*' means nothing there",))
        for word in ("none", "None", ""):
            self.assertEqual(self.read({"HTTPS_PROXY": "p"}, word), ReadProxies(DIRECT))

    def test_wrong(self) -> None:
        """A variable that names no proxy is a problem with its name, and its value nowhere."""
        read = self.read({"https_proxy": "ftp://user:hunter2@proxy"})
        (problem,) = read.problems
        self.assertTrue(str(problem).startswith("https_proxy: ftp:// is not spoken"))
        self.assertNotIn("hunter2", str(problem))


class SettingTests(SettingsCase):
    """C{pipeops.proxy}, and the variables, among all settings."""

    def test_shown(self) -> None:
        """The password is masked in what C{--check-config} prints, and in every text of the settings."""
        environ = {"PIPEOPS_TOKEN": TOKEN, "PIPEOPS_PROXY": "http://agent:hunter2%21@proxy.corp:3128"}
        loaded = self.load("{}", environ)
        text = report(loaded)
        self.assertIn("http://agent:***@proxy.corp:3128", text)
        self.assertIn("control plane: reached through the proxy http://proxy.corp:3128 (pipeops.proxy)", text)
        for shown in (text, repr(loaded), str(loaded)):
            self.assertNotIn("hunter2", shown)
        self.assertEqual(loaded.proxies.secrets(), (Secret("hunter2!"),) * 2)

    def test_from_environment(self) -> None:
        """By default the variables count; what is wrong with them is an error of the settings."""
        environ = {"PIPEOPS_TOKEN": TOKEN, "HTTPS_PROXY": "http://u:hunter2@proxy.corp"}
        loaded = self.load("{}", environ)
        self.assertEqual(loaded.settings.pipeops.proxy, "environment")
        self.assertIn("(HTTPS_PROXY)", report(loaded))
        self.assertNotIn("hunter2", report(loaded))
        self.assertEqual(
            self.problems("{}", {**environ, "HTTPS_PROXY": "http://u:hunter2/@proxy"})[0].split(":")[0],
            "HTTPS_PROXY",
        )

    def test_off(self) -> None:
        """Empty and C{none} switch proxies off, whatever the environment says."""
        environ = {"PIPEOPS_TOKEN": TOKEN, "HTTPS_PROXY": "proxy.corp"}
        for text in ("none", '""', "NONE"):
            loaded = self.load(f"pipeops: {{proxy: {text}}}", environ)
            self.assertEqual((loaded.settings.pipeops.proxy, loaded.proxies), ("none", DIRECT))

    def test_readable_by_others(self) -> None:
        """A password in a file that everybody can read is a caution; a proxy without one is not."""
        self.write("pipeops: {proxy: 'http://a:hunter2@proxy.corp'}", mode=0o644)
        (caution,) = self.load().cautions
        self.assertIn("pipeops.proxy: every user", caution)
        self.write("pipeops: {proxy: 'http://proxy.corp'}", mode=0o644)
        self.assertEqual(self.load().cautions, ())

    def test_values_are_equal(self) -> None:
        """The same URL twice is no change; another password is."""
        self.assertEqual(parse_proxy("a:b@c"), parse_proxy("http://a:b@c:80"))
        self.assertNotEqual(parse_proxy("a:b@c"), parse_proxy("a:d@c"))
        self.assertIsInstance(hash(parse_proxy("a:b@c")), int)

    def test_kind(self) -> None:
        """A proxy without credentials is read back from what is shown of it."""
        kind = ProxyURL()
        for text in ("none", "environment", "http://proxy.corp:80", "socks5://[fd00::1]:1080"):
            self.assertEqual(kind.show(kind.parse(text)), text)
        value = kind.parse("proxy.corp")
        assert isinstance(value, Proxy)
        self.assertEqual(value.named_by, "pipeops.proxy")
        self.assertEqual(ip_address(parse_proxy("[fd00::1]").host).version, 6)
