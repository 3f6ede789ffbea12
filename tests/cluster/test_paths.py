"""Tests of L{pipeops_agent.cluster.paths}: what a path speaks of, and which are none."""

from __future__ import annotations

from urllib.parse import quote, unquote

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.cluster.paths import MAX_PATH, ApiPath, BadPath, parse_path

NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters="/\\%?#;"),
    min_size=1,
    max_size=20,
).filter(lambda name: name not in (".", "..") and name.isprintable())
TRICKS = st.sampled_from(
    (
        *("..", ".", "", "%2e%2e", "%2E.", "%c0%ae", "a%2fb", "a%2Fb", "a%5cb", "\\", "a;b", "a%3bb"),
        *("%00", "%0a", "a\nb", "a%25b", "%", "%zz", "%ff", "a b", "a?b", "a#b", "é"),
    )
)


class ParseTests(SynchronousTestCase):
    """What the API server would read as well."""

    def check(self, path: str, **expected: object) -> None:
        found = parse_path(path)
        self.assertEqual(found, ApiPath(path=path, **expected), path)  # type: ignore[arg-type]  # as a test writes them

    def test_resources(self) -> None:
        """Core and groups, with and without namespace, name and subresource."""
        core, apps = {"version": "v1"}, {"group": "apps", "version": "v1"}
        self.check("/api/v1/pods", plural="pods", **core)
        self.check("/api/v1/nodes/n1", plural="nodes", name="n1", **core)
        self.check("/api/v1/namespaces/shop/pods", plural="pods", namespace="shop", **core)
        self.check(
            "/api/v1/namespaces/shop/pods/web/log",
            plural="pods",
            namespace="shop",
            name="web",
            subresource="log",
            **core,
        )
        self.check(
            "/apis/apps/v1/namespaces/shop/deployments/web/scale",
            plural="deployments",
            namespace="shop",
            name="web",
            subresource="scale",
            **apps,
        )
        self.check(
            "/api/v1/namespaces/shop/services/web:80/proxy/a/b",
            plural="services",
            namespace="shop",
            name="web:80",
            subresource="proxy",
            rest=("a", "b"),
            **core,
        )

    def test_namespaces(self) -> None:
        """A namespace is an object, and what others are in."""
        core = {"version": "v1", "plural": "namespaces"}
        self.check("/api/v1/namespaces", **core)
        self.check("/api/v1/namespaces/shop", name="shop", namespace="shop", **core)
        for sub in ("status", "finalize"):
            self.check(
                f"/api/v1/namespaces/shop/{sub}", name="shop", namespace="shop", subresource=sub, **core
            )

    def test_no_resource(self) -> None:
        """Discovery, health and all else."""
        self.check("/")
        self.check("/metrics")
        self.check("/logs/a")
        self.check("/api")
        self.check("/apis")
        self.check("/api/v1", version="v1")
        self.check("/apis/apps", group="apps")
        self.check("/apis/apps/v1", group="apps", version="v1")

    def test_quoting(self) -> None:
        """What is sent is quoted in one way, whatever way it came."""
        found = parse_path("/apis/rbac.authorization.k8s.io/v1/clusterroles/%73ystem%3Anode")
        self.assertEqual(found.name, "system:node")
        self.assertEqual(found.path, "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node")

    def test_refused(self) -> None:
        """Paths that two readers could take for different things, and those of no one."""
        for path in (
            "",
            "api/v1/pods",
            "https://elsewhere/api",
            "//api/v1/pods",
            "/api//v1/pods",
            "/api/v1/pods/",
            "/api/v1/namespaces/x/pods/../../",
            "/api/v1/namespaces/x/pods/../../y/pods",
            "/api/v1/namespaces/./pods",
            "/api/v1/namespaces/%2e%2e/pods",
            "/api/v1/namespaces/%2E%2E/pods",
            "/api/v1/namespaces/.%2e/pods",
            "/api/v1/namespaces/x%2f..%2fkube-system/pods",
            "/api/v1/namespaces/x%2Fy/pods",
            "/api/v1/namespaces/x%5cy/pods",
            "/api/v1/namespaces/%252e%252e/pods",
            "/api/v1/namespaces/x;y/pods",
            "/api/v1/namespaces/x%3by/pods",
            "/api/v1/pods?watch=true",
            "/api/v1/pods%3fwatch=true",
            "/api/v1/pods#x",
            "/api/v1/pods%00",
            "/api/v1/pods%0d%0aX: y",
            "/api/v1/pods\r\nX: y",
            "/api/v1/pods x",
            "/api/v1/pods%ff",
            "/api/v1/pods%c0%ae%c0%ae",
            "/api/v1/pods%2",
            "/api/v1/pods%zz",
            "/api/v1/pöds",
            "/api/v1/watch/pods",
            "/api/v1/watch/namespaces/x/pods",
            "/apis/apps/v1/watch/deployments",
            "/api/v1/proxy/nodes/n1",
            "/" + "a" * MAX_PATH,
        ):
            with self.assertRaises(BadPath, msg=path):
                parse_path(path)

    @given(st.lists(NAMES, min_size=1, max_size=8))
    def test_any_names(self, names: list[str]) -> None:
        """Whatever names a path is made of, what is sent stands for just these, and reads the same again."""
        path = "/" + "/".join(quote(name, safe="") for name in names)
        try:
            found = parse_path(path)
        except BadPath:
            self.assertTrue(len(path) > MAX_PATH or {"watch", "proxy"} & set(names))
            return
        self.assertEqual([unquote(part) for part in found.path[1:].split("/")], names)
        self.assertEqual(parse_path(found.path), found)

    @given(st.lists(NAMES, max_size=5), TRICKS, st.lists(NAMES, max_size=5))
    def test_tricks(self, before: list[str], trick: str, after: list[str]) -> None:
        """A trick is refused wherever it stands."""
        parts = [*(quote(name, safe="") for name in before), trick, *(quote(name, safe="") for name in after)]
        path = "/" + "/".join(parts)
        if path == "/":
            return
        with self.assertRaises(BadPath):
            parse_path(path)

    @given(NAMES, NAMES, st.lists(NAMES, max_size=3))
    def test_namespace_is_seen(self, namespace: str, plural: str, rest: list[str]) -> None:
        """Whatever is in a namespace is known to be in that."""
        if plural in ("status", "finalize"):
            return
        parts = ["namespaces", namespace, plural, *rest]
        for root in ("/api/v1/", "/apis/example.com/v1/"):
            found = parse_path(root + "/".join(quote(part, safe="") for part in parts))
            self.assertEqual((found.namespace, found.plural), (namespace, plural))
