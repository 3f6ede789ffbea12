"""From settings and an order to a plan."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.orders import Allocation, ServerAddress, TunnelOrder
from pipeops_agent.settings.model_tunnel import DEFAULT_FORWARDS, Forward, TunnelSettings
from pipeops_agent.tunnel.allocation import Plan, allocate, make_plan
from pipeops_agent.tunnel.remotes import Remote
from tests.tunnel.scripted import make_server

API = Forward(name="api", local_addr="localhost:6443", aliases=("k8s-api", "kube"))
HTTP = Forward(name="http", local_addr="[::1]:8080", aliases=("kube",))
OWN = Forward(name="own", local_addr="localhost:22", remote_port=2222)

FORWARDS = (API, HTTP, OWN)
SETTINGS = TunnelSettings(forwards=FORWARDS)


def ports(*allocations: Allocation, forwards: tuple[Forward, ...] = FORWARDS) -> list[int | None]:
    """The port of each forward, in the order of the settings."""
    return [planned.remote_port for planned in allocate(forwards, allocations)[0]]


def plan_for(*allocations: Allocation, settings: TunnelSettings = SETTINGS, **changes: Any) -> Plan:
    """The plan for an order with these allocations and a server with these changes."""
    return make_plan(settings, TunnelOrder("wanted", make_server(**changes), allocations))


class AllocateTests(SynchronousTestCase):
    def test_by_name_and_by_alias(self) -> None:
        """An allocation belongs to the forward of its name, or of its alias; the order does not matter."""
        self.assertEqual(ports(Allocation("http", 8001), Allocation("k8s-api", 8000)), [8000, 8001, 2222])

    def test_default_forwards_know_the_short_names(self) -> None:
        """The default forwards answer to k8s-api, kubelet and agent-http."""
        given_ = [Allocation("k8s-api", 1), Allocation("kubelet", 2), Allocation("agent-http", 3)]
        self.assertEqual(ports(*given_, forwards=DEFAULT_FORWARDS), [1, 2, 3])

    def test_alias_of_two_is_the_first_ones(self) -> None:
        """An alias that two forwards list belongs to the first of them."""
        self.assertEqual(ports(Allocation("kube", 8000)), [8000, None, 2222])

    def test_a_name_counts_for_more_than_an_alias(self) -> None:
        """Where both come, the allocation of the name is used, and the alias's skipped and said."""
        planned, skipped = allocate(FORWARDS, [Allocation("k8s-api", 8009), Allocation("api", 8000)])
        self.assertEqual(planned[0].remote_port, 8000)
        self.assertEqual(skipped, ("'k8s-api' (port 8009): api has port 8000 already",))
        named_so = Forward(name="k8s-api", local_addr="localhost:1")
        self.assertEqual(ports(Allocation("k8s-api", 8000), forwards=(API, named_so)), [None, 8000])

    def test_without_a_forward(self) -> None:
        """An allocation that belongs to no forward is skipped and said; names are compared exactly."""
        planned, skipped = allocate((API,), [Allocation("API", 8000), Allocation("other\n", 8001)])
        self.assertIsNone(planned[0].remote_port)
        self.assertEqual(
            skipped,
            (
                "'API' (port 8000) is the name of no configured forward",
                "'other\\n' (port 8001) is the name of no configured forward",
            ),
        )

    def test_without_an_allocation(self) -> None:
        """A forward without an allocation uses its own port; without one it has none, and a note says so."""
        planned, _ = allocate(FORWARDS, [])
        self.assertEqual([each.remote_port for each in planned], [None, None, 2222])
        self.assertEqual(planned[0].note, "the control plane has allocated no port for it")
        self.assertEqual(planned[2].note, "")

    def test_an_allocation_counts_for_more_than_an_own_port(self) -> None:
        """A forward's own port that is allocated to another one is not its own any more."""
        planned, _ = allocate(FORWARDS, [Allocation("api", 2222)])
        self.assertEqual([each.remote_port for each in planned], [2222, None, None])
        self.assertEqual(planned[2].note, "its own port 2222 belongs to api")
        self.assertEqual(ports(Allocation("own", 9000)), [None, None, 9000])

    def test_own_port_of_two_is_the_first_ones(self) -> None:
        """Two forwards with one own port: the first has it."""
        other = Forward(name="other", local_addr="localhost:23", remote_port=2222)
        self.assertEqual(ports(forwards=(OWN, other)), [2222, None])

    def test_one_port_allocated_twice(self) -> None:
        """A port that is allocated twice belongs to the first; the second is skipped and said."""
        planned, skipped = allocate(FORWARDS, [Allocation("api", 8000), Allocation("http", 8000)])
        self.assertEqual([each.remote_port for each in planned], [8000, None, 2222])
        self.assertEqual(skipped, ("'http' (port 8000): that port is allocated to api",))

    @given(
        st.lists(
            st.builds(
                Allocation,
                st.sampled_from(["api", "k8s-api", "kube", "http", "own", "other", ""]),
                st.sampled_from([1, 2222, 8000, 8001, 65535]),
            ),
            max_size=8,
        )
    )
    def test_any_allocations(self, allocations: list[Allocation]) -> None:
        """Whatever is allocated: no port is had twice, and every allocation is used or said to be skipped."""
        planned, skipped = allocate(FORWARDS, allocations)
        had = [each.remote_port for each in planned if each.remote_port is not None]
        self.assertEqual(len(had), len(set(had)))
        used = [port for port in had if any(each.remote_port == port for each in allocations)]
        own = [port for port in used if port == 2222 and planned[2].remote_port == 2222]
        self.assertIn(len(used) + len(skipped) - len(allocations), {0, len(own)})
        self.assertEqual([each.name for each in planned], [each.name for each in FORWARDS])


class MakePlanTests(SynchronousTestCase):
    def test_wanted(self) -> None:
        """A wanted tunnel has a target: the server, and the forwards that have a port, in settings' order."""
        plan = plan_for(Allocation("http", 8001), Allocation("api", 8000), Allocation("x", 1))
        self.assertEqual((plan.wish, plan.problem), ("wanted", None))
        assert plan.target is not None
        self.assertEqual(plan.target.server, make_server())
        self.assertEqual(
            plan.target.remotes,
            (
                Remote("api", 8000, "localhost", 6443),
                Remote("http", 8001, "::1", 8080),
                Remote("own", 2222, "localhost", 22),
            ),
        )
        self.assertEqual(plan.skipped, ("'x' (port 1) is the name of no configured forward",))

    def test_order_of_the_allocations_is_no_change(self) -> None:
        """The same allocations in another order make the same plan."""
        first, second = Allocation("http", 8001), Allocation("api", 8000)
        self.assertEqual(plan_for(first, second), plan_for(second, first))

    def test_not_wanted(self) -> None:
        """Switched off, not asked for yet, disabled, idle: no target, and the sentence says which."""
        for plan, wish, why in [
            (make_plan(TunnelSettings(enabled=False), TunnelOrder("wanted")), "disabled", "settings"),
            (make_plan(SETTINGS, None), "disabled", "not asked for yet"),
            (make_plan(SETTINGS, TunnelOrder("disabled", make_server())), "disabled", "wants no tunnel"),
            (make_plan(SETTINGS, TunnelOrder("idle", make_server())), "idle", "needs no tunnel now"),
        ]:
            self.assertEqual((plan.wish, plan.target, plan.problem), (wish, None, None))
            self.assertIn(why, plan.why)
            self.assertTrue(all(forward.remote_port is None for forward in plan.forwards))

    def test_none_left(self) -> None:
        """Without any port there is no tunnel, and that is a problem."""
        plan = plan_for(Allocation("x", 8000), settings=TunnelSettings(forwards=(API,)))
        self.assertEqual((plan.wish, plan.target), ("wanted", None))
        self.assertIn("none of the configured forwards has a port", plan.problem or "")
        self.assertIsNone(plan_for(settings=TunnelSettings(forwards=())).target)

    def test_without_tls(self) -> None:
        """A server without TLS needs tunnel.allow_insecure, and then a fingerprint."""
        plain, insecure = ServerAddress("h", tls=False), TunnelSettings(forwards=(OWN,), allow_insecure=True)
        self.assertIn("tunnel.allow_insecure is off", plan_for(address=plain).problem or "")
        self.assertIsNone(plan_for(address=plain).target)
        self.assertIsNotNone(plan_for(address=plain, settings=insecure).target)
        unknown = plan_for(address=plain, fingerprint=None, settings=insecure)
        self.assertIn("needs a server_fingerprint", unknown.problem or "")
        self.assertIsNone(unknown.target)

    def test_with_tls_alone(self) -> None:
        """A server without a fingerprint is had by TLS, which then has to vouch for it."""
        self.assertIsNotNone(plan_for(fingerprint=None).target)

    def test_no_server(self) -> None:
        """An order that names no server is a problem."""
        plan = make_plan(SETTINGS, TunnelOrder("wanted", None, (Allocation("api", 8000),)))
        self.assertIn("names no tunnel server", plan.problem or "")
        self.assertIsNone(plan.target)
