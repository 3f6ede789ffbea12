"""Tests for C{/openapi.json}: what it describes is what there is, and what is answered is as described."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema_rs
import msgspec

from pipeops_agent.cluster.objects import KubeEvent, Node, Pod, Service, Workload
from pipeops_agent.status import ForwardStatus, KindStatus
from pipeops_agent.web.api.examples import EXAMPLES
from pipeops_agent.web.api.operation import COMMON
from pipeops_agent.web.api.operations import OPERATIONS
from pipeops_agent.web.api.schemas import components, plain
from pipeops_agent.web.replies import Reply
from pipeops_agent.web.routes import Route
from tests.web.api.case import ApiCase
from tests.web.harness import START, Answer


class OpenApiCase(ApiCase):
    def setUp(self) -> None:
        super().setUp()
        self.document = self.ask("/openapi.json").json

    def schema(self, path: str, code: int, method: str = "get") -> Any:
        """What the body of an answer must be, with all that it refers to; None: there is none in JSON."""
        answer = self.document["paths"][path][method]["responses"][str(code)]
        if "$ref" in answer:
            answer = self.document["components"]["responses"][answer["$ref"].rpartition("/")[2]]
        content = answer.get("content", {}).get("application/json")
        return None if content is None else {**content["schema"], "components": self.document["components"]}

    def described(self) -> set[tuple[str, str]]:
        """What can be asked, by the document."""
        paths = self.document["paths"].items()
        return {(path, method.upper()) for path, methods in paths for method in methods}

    def routes(self) -> set[tuple[str, str]]:
        """What can be asked, by the site's table."""
        table = self.site.router._tables.items()
        return {("/".join(segments), method) for segments, handlers in table for method in handlers}

    def check(self, path: str, answer: Answer) -> None:
        """That C{answer} is one of those that are described for C{path}."""
        schema = self.schema(path, answer.code)
        if schema is not None:
            jsonschema_rs.validator_for(schema, validate_formats=True).validate(answer.json)


def walk(value: Any) -> Iterator[Any]:
    """C{value} and all that is in it."""
    yield value
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for each in inner:
        yield from walk(each)


class DocumentTests(OpenApiCase):
    """The document by itself."""

    def test_versions(self) -> None:
        """It says what it is, and needs no token."""
        self.assertEqual(
            (self.document["openapi"], self.document["info"]["title"]), ("3.1.0", "pipeops-agent")
        )

    def test_all_routes(self) -> None:
        """Every route is described, and nothing that is none."""
        self.assertEqual(self.described(), self.routes())

    def test_names(self) -> None:
        """Programs that are made from it get unique names."""
        names = [operation.name for operation in OPERATIONS]
        self.assertEqual(len(names), len(set(names)))

    def test_references(self) -> None:
        """Whatever is referred to is there, and everything there is referred to."""
        found = {each["$ref"] for each in walk(self.document) if isinstance(each, Mapping) and "$ref" in each}
        there = {
            f"#/components/{kind}/{name}"
            for kind in ("schemas", "responses")
            for name in self.document["components"][kind]
        }
        self.assertEqual(found, there)

    def test_schemas(self) -> None:
        """Each is a schema of the draft that OpenAPI 3.1 means (2020-12)."""
        for name, schema in self.document["components"]["schemas"].items():
            jsonschema_rs.Draft202012Validator({**schema, "components": self.document["components"]})
            self.assertTrue(schema["description"], name)

    def test_no_markup_of_the_code(self) -> None:
        """Docstrings have become CommonMark."""
        for text in walk(self.document):
            if isinstance(text, str):
                self.assertNotRegex(text, r"[CL]\{|@\w+var")

    def test_parameters(self) -> None:
        """A parameter has the bounds that it is checked by."""
        found = {
            each["name"]: each["schema"]
            for each in self.document["paths"]["/api/cluster/pods"]["get"]["parameters"]
        }
        self.assertEqual(found["limit"], {"type": "integer", "minimum": 1, "maximum": 1000, "default": 200})
        self.assertEqual(set(found), {"limit", "continue", "namespace"})
        self.assertNotIn("default", found["namespace"])

    def test_fields_described(self) -> None:
        """What the code says of a field, the description says of its property; an inherited one too."""
        schemas = self.document["components"]["schemas"]
        self.assertEqual(schemas["PodList"]["properties"]["items"]["description"], "The objects.")
        self.assertIn("kubectl get pods", schemas["Pod"]["properties"]["status"]["description"])

    def test_required(self) -> None:
        """What is always sent is required; what may be left out is not."""
        schemas = self.document["components"]["schemas"]
        self.assertEqual(set(schemas["Pod"]["required"]), set(schemas["Pod"]["properties"]))
        self.assertEqual(schemas["ReadyCheck"]["required"], ["ok"])

    def test_security(self) -> None:
        """Who must show a token, who may, and who need not."""
        paths = self.document["paths"]
        self.assertEqual(paths["/api/settings"]["get"]["security"], [{"token": ["read"]}])
        self.assertEqual(paths["/ready"]["get"]["security"], [{}, {"token": []}])
        self.assertEqual(paths["/health"]["get"]["security"], [])


class ExampleTests(OpenApiCase):
    """The examples."""

    def test_all(self) -> None:
        """Each operation that answers a struct has one, of that struct."""
        for operation in OPERATIONS:
            kind = operation.answers.get(200) and operation.answers[200].kind
            if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
                self.assertIs(type(EXAMPLES[operation.name]), kind, operation.name)
            else:
                self.assertNotIn(operation.name, EXAMPLES)

    def test_valid(self) -> None:
        """Each is as its schema says."""
        for path, methods in self.document["paths"].items():
            for method, operation in methods.items():
                content = operation["responses"].get("200", {}).get("content", {})
                described = content.get("application/json", {})
                if "example" in described:
                    schema = self.schema(path, 200, method)
                    jsonschema_rs.validator_for(schema).validate(described["example"])


class AnswerTests(OpenApiCase):
    """What is really answered."""

    def fill(self) -> None:
        """Make everything be there that can be in an answer."""
        self.board.enter("running")
        self.board.identify("agent-1")
        self.board.set_heartbeat(state="ok", since=START, last_success=START)
        self.board.set_tunnel(
            state="connected",
            since=START,
            contact=START,
            rtt=0.1,
            forwards=(ForwardStatus(name="a", local_addr="localhost:1", state="proven", since=START),),
        )
        self.board.set_cluster(
            configured=True, reachable=True, lists=(KindStatus(kind="pods", state="live", since=START),)
        )
        self.runtime.startService()
        self.addCleanup(self.runtime.stopService)
        common: Any = {"uid": "u", "resource_version": "1", "created": START}
        for kind, item in (
            ("nodes", Node(name="n", ready=True, schedulable=True, **common)),
            ("pods", Pod(namespace="s", name="p", **common)),
            ("services", Service(namespace="s", name="p", **common)),
            ("deployments", Workload(namespace="s", name="p", kind="Deployment", **common)),
            ("events", KubeEvent(namespace="s", name="p", last_seen=START, **common)),
        ):
            self.cluster.inventory[kind].put(item)

    def test_as_described(self) -> None:
        """Each operation, of an agent that knows nothing yet and of one that knows everything."""
        for fill in (lambda: None, self.fill):
            fill()
            for operation in OPERATIONS:
                if operation.method == "GET" and operation.name != "get_connectivity":
                    answer = self.get(operation.path)
                    self.assertIn(answer.code, operation.all_answers, operation.path)
                    self.check(operation.path, answer)

    def test_refusals_as_described(self) -> None:
        """So are the answers to those who may not, and to what is malformed."""
        for operation in OPERATIONS:
            if operation.needs is not None:
                self.check(operation.path, self.ask(operation.path))
                refused = self.get(f"{operation.path}?nonsense=1")
                self.assertEqual(refused.code, 400)
                self.check(operation.path, refused)

    def test_checks_find_something(self) -> None:
        """An answer that lacks a field, or has a wrong one, would be found."""
        for body in (
            {"status": "healthy", "version": "1"},
            {"status": "ill", "version": "1", "timestamp": "x"},
        ):
            wrong = self.ask("/health")
            wrong.body = json.dumps(body).encode()
            self.assertRaises(jsonschema_rs.ValidationError, self.check, "/health", wrong)

    def test_undescribed_route(self) -> None:
        """A route that nobody has described would be found."""
        self.build(Route("GET", "/api/new", lambda request, parameters: Reply()))
        self.assertEqual(self.routes() - self.described(), {("/api/new", "GET")})


class CommonTests(ApiCase):
    """What all operations may answer."""

    def test_headers(self) -> None:
        """Each of them has a name, and the challenge is where it is described."""
        self.assertTrue(all(answer.common for answer in COMMON))
        self.assertIn("WWW-Authenticate", self.ask("/api/settings").headers)
        self.assertNotIn("WWW-Authenticate", self.get("/api/settings").headers)


class Inner(msgspec.Struct):
    """Something inside."""

    text: str


class Outer(msgspec.Struct, omit_defaults=True):
    """
    Something with C{code} and L{a link<some.where>}.

    @ivar inner: what is in it, which
        goes over two lines.
    @ivar pair: C{x} and y.
    """

    inner: dict[str, Inner | None]
    pair: tuple[int, Inner] | None = None


class SchemaTests(ApiCase):
    """L{components}."""

    def test_struct(self) -> None:
        """Docstrings become descriptions, in whatever a struct is held."""
        references, schemas = components([Outer])
        self.assertEqual(references, {Outer: {"$ref": "#/components/schemas/Outer"}})
        self.assertEqual(schemas["Outer"]["description"], "Something with `code` and `a link`.")
        properties = schemas["Outer"]["properties"]
        self.assertEqual(properties["inner"]["description"], "What is in it, which goes over two lines.")
        self.assertEqual(properties["pair"]["description"], "`x` and y.")
        self.assertEqual(schemas["Outer"]["required"], ["inner"])
        self.assertEqual(schemas["Inner"]["description"], "Something inside.")

    def test_taken(self) -> None:
        """Of what the agent is told, a field with a default may be missing, and the default is said."""

        class Asked(msgspec.Struct):
            """A question."""

            what: str
            limit: int = 5

        _, schemas = components([], taken=[Asked])
        self.assertEqual(schemas["Asked"]["required"], ["what"])
        self.assertEqual(schemas["Asked"]["properties"]["limit"]["default"], 5)
        _, schemas = components([Asked])
        self.assertEqual(schemas["Asked"]["required"], ["what", "limit"])

    def test_plain(self) -> None:
        """Braces in code are no end of it."""
        self.assertEqual(plain('C{{"a": 1}} and C{b}'), '`{"a": 1}` and `b`')
