"""Tests of how manifests are read: L{yamltext} and L{manifests}."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.cluster.operations import yamltext
from pipeops_agent.cluster.operations.manifests import MAX_DOCUMENTS, BadManifest, Manifest, read_manifests
from pipeops_agent.cluster.operations.yamltext import MAX_DEPTH, MAX_TEXT, YamlProblem, read_yaml

MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"


def outcome(coroutine: Any) -> Any:
    """What comes of it, with as many turns as it needs."""
    clock, found = Clock(), list[Any]()
    Deferred.fromCoroutine(coroutine(clock)).addCallbacks(found.append, found.append)
    while not found:
        clock.advance(0.001)
    if isinstance(found[0], Failure):
        found[0].raiseException()
    return found[0]


def values(text: str) -> list[Any]:
    """The documents in C{text}."""
    return [value for value, _, _ in outcome(lambda clock: read_yaml(clock, text))]


def manifests(text: str) -> list[Manifest]:
    """The objects in C{text}."""
    found: list[Manifest] = outcome(lambda clock: read_manifests(clock, text))
    return found


class YamlTests(SynchronousTestCase):
    """YAML as Kubernetes reads it."""

    def refused(self, text: str) -> str:
        with self.assertRaises(YamlProblem) as caught:
            values(text)
        return str(caught.exception)

    def test_scalars(self) -> None:
        """Plain ones mean what they mean to kubectl 1.32, which was asked; quoted ones are texts."""
        for text, meaning in (
            ("a", "a"),
            ("yes", True),
            ("off", False),
            ("null", None),
            ("12", 12),
            ("-3", -3),
            ("0x1F", 31),
            ("010", 8),
            ("0b11", 3),
            ("1_000", 1000),
            ("1.5", 1.5),
            ("1e3", 1000),
            ("3.0", 3),
            ("+.5", 0.5),
            ("0o10", 8),
            ("08", 8),
            ("-0b11", -3),
            ("1e", "1e"),
            ("0b2", "0b2"),
            ("_1", "_1"),
            ("12:30:45", "12:30:45"),
            ("2001-01-01", "2001-01-01"),
            ("1.2.3", "1.2.3"),
            ("100m", "100m"),
            ("'12'", "12"),
            ('"yes"', "yes"),
            ("!!str 12", "12"),
            ("9223372036854775808", 9223372036854775808),
            ("99999999999999999999", 1e20),
        ):
            self.assertEqual(values(f"x: {text}"), [{"x": meaning}], text)
            self.assertIs(type(values(f"x: {text}")[0]["x"]), type(meaning), text)

    def test_documents(self) -> None:
        """Empty ones and comments are passed over; number and line are those of the text."""
        text = "# first\na: 1\n---\n---\n# nothing\n---\n\nb: 2\n"
        found = outcome(lambda clock: read_yaml(clock, text))
        self.assertEqual(found, [({"a": 1}, 1, 2), ({"b": 2}, 4, 8)])

    def test_keys(self) -> None:
        """Keys are texts in JSON."""
        self.assertEqual(
            values("1: a\ntrue: b\n1.5: c\n1e3: d"), [{"1": "a", "true": "b", "1.5": "c", "1000": "d"}]
        )

    def test_duplicate(self) -> None:
        """A key that is there twice is an error, with its line; also where one is quoted."""
        self.assertIn(
            "document 2, line 5: the key 'b' is there twice", self.refused("a: 1\n---\nb: 1\nc: 2\nb: 3")
        )
        self.assertIn("twice", self.refused('{"a": 1, a: 2}'))

    def test_aliases_and_merges(self) -> None:
        """They stand for what they name; what a mapping says itself comes before what it merges."""
        text = "x: &x {a: 1, b: 2}\nw: *x\nz: {<<: *x, b: 3}\nl: {<<: [{a: 5}, *x]}"
        found = values(text)[0]
        self.assertEqual(found["w"], {"a": 1, "b": 2})
        self.assertEqual(found["z"], {"a": 1, "b": 3})
        self.assertEqual(found["l"], {"a": 5, "b": 2})
        self.assertIn("<< needs a mapping", self.refused("a: {<<: 1}"))
        self.assertEqual(values("a: {'<<': 1}"), [{"a": {"<<": 1}}])

    def test_bomb(self) -> None:
        """Aliases count as what they stand for: nine lines are not a billion values."""
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
        self.assertIn("more than 200000 values", self.refused("\n".join(lines)))

    def test_merge_bomb(self) -> None:
        """Merging is bounded as well."""
        lines = ["a0: &a0 {x0: 1, y0: 1}"]
        lines += [f"a{i}: &a{i} {{x{i}: *a{i - 1}, y{i}: *a{i - 1}}}" for i in range(1, 40)]
        self.assertIn("more than 200000 values", self.refused("\n".join(lines)))

    def test_depth(self) -> None:
        """Nesting is bounded."""
        values("[" * MAX_DEPTH + "]" * MAX_DEPTH)
        self.assertIn("nested more than", self.refused("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)))
        self.assertIn("nest", self.refused("[" * 50_000))

    def test_size(self) -> None:
        """A text is bounded in length, and in values."""
        self.assertIn("longer than", self.refused(" " * (MAX_TEXT + 1)))
        self.patch(yamltext, "MAX_VALUES", 10)
        self.assertIn("more than 10 values", self.refused("[1,2,3,4,5,6,7,8,9,10]"))

    def test_recursive_alias(self) -> None:
        """An alias inside what it names has no end."""
        self.assertIn("no anchor before it", self.refused("a: &a [*a]"))

    def test_not_yaml(self) -> None:
        """The line is named, for what the parser and for what the reader refuses."""
        for text, line, words in (
            ("a: 1\nb: [1, 2}", 2, "not YAML"),
            ("a: b: c", 1, "not YAML"),
            ("a: 1\n\tb: 2", 2, "not YAML"),
            ("a: \x00", 1, "not allowed"),
            ("a: !foo b", 1, "tags"),
            ("a: !!binary aGk=", 1, "tags"),
            ("a: !!python/object:os.system {}", 1, "tags"),
            ("x: 1\na: *b", 2, "no anchor"),
            ("~: b", 1, "a key must be a text"),
            ("? [a]\n: b", 1, "a key must be a text"),
            ("a: .nan", 1, "JSON does not have"),
            ("a: -.inf", 1, "JSON does not have"),
            ("a: 1e999", 1, "too large"),
            ("%YAML 9.9\n---\na: 1", 1, "not YAML"),
        ):
            said = self.refused(text)
            self.assertIn(words, said, text)
            self.assertRegex(said, rf"^document 1, line {line}:", text)

    def test_others_get_their_turn(self) -> None:
        """A long text is not read in one go."""
        clock, found = Clock(), list[Any]()
        text = f"[{','.join('1' * 3_000)}]"
        Deferred.fromCoroutine(read_yaml(clock, text)).addCallback(found.append)
        self.assertEqual((len(found), len(clock.getDelayedCalls())), (0, 1))
        clock.advance(0)
        self.assertEqual(len(found[0][0][0]), 3_000)

    json_values = st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn"))),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.text(st.characters(codec="ascii", categories=("L", "N")), max_size=8), inner, max_size=4
            )
        ),
        max_leaves=12,
    )

    @settings(max_examples=100, deadline=None)
    @given(json_values)
    def test_json(self, value: Any) -> None:
        """Whatever JSON can say reads back as the same."""
        text = json.dumps([value])
        self.assertEqual(values(text), [[value]])

    @settings(max_examples=100, deadline=None)
    @given(json_values)
    def test_dumped(self, value: Any) -> None:
        """What PyYAML writes, quoted, reads back as the same."""
        text = yaml.safe_dump({"x": value}, default_style='"', allow_unicode=True)
        self.assertEqual(values(text), [{"x": value}])

    @settings(max_examples=200, deadline=None)
    @given(st.text(alphabet="ab:{}[],&*!<>|-#'\"\n \t\\%@?~1.0x", max_size=60))
    def test_anything(self, text: str) -> None:
        """Any text is read or refused, never anything else."""
        with contextlib.suppress(YamlProblem):
            json.dumps(values(text))


class ManifestTests(SynchronousTestCase):
    """Texts with objects."""

    def refused(self, text: str) -> str:
        with self.assertRaises(BadManifest) as caught:
            manifests(text)
        return str(caught.exception)

    def test_order(self) -> None:
        """Namespaces first, then CRDs, then the rest as they stand."""
        text = "\n---\n".join(
            f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}}}"
            for version, kind, name in (
                ("v1", "Pod", "a"),
                ("apiextensions.k8s.io/v1", "CustomResourceDefinition", "b"),
                ("v1", "ConfigMap", "c"),
                ("v1", "Namespace", "d"),
                ("v1", "Pod", "e"),
            )
        )
        found = manifests(text)
        self.assertEqual([each.name for each in found], ["d", "b", "a", "c", "e"])
        self.assertEqual([each.document for each in found], [4, 2, 1, 3, 5])
        self.assertEqual(found[0].line, 13)

    def test_list(self) -> None:
        """A v1 List is its items; another list is a wrong object."""
        text = "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Pod, metadata: {name: a}}]"
        self.assertEqual([each.words for each in manifests(text)], ["Pod a"])
        self.assertIn("items: expected a list", self.refused("apiVersion: v1\nkind: List\nitems: 1"))

    def test_json(self) -> None:
        """JSON is YAML, with tabs too."""
        text = json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}, indent="\t")
        self.assertEqual([each.words for each in manifests(text)], ["Pod a"])

    def test_bad(self) -> None:
        """Each has a message with document and line."""
        for text, said in (
            ("", "holds no object"),
            ("# nothing\n---\n", "holds no object"),
            ("- a\n- b", "document 1 (line 1): expected an object with apiVersion and kind, got a list"),
            ("just words", "got a text or a number"),
            ("12", "got a text or a number"),
            (f"{MAP}---\nkind: Pod\nmetadata: {{name: a}}", "document 2 (line 5): apiVersion: missing"),
            ("apiVersion: v1\nmetadata: {name: a}", "kind: missing"),
            ("apiVersion: 1\nkind: Pod", "apiVersion: expected a text"),
            ("apiVersion: v1\nkind: ''", "kind: expected a text"),
            ("apiVersion: v1\nkind: Pod", "metadata: missing"),
            ("apiVersion: v1\nkind: Pod\nmetadata: [a]", "metadata: expected a mapping"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {}", "metadata.name: missing"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: 12}", "metadata.name: expected a text (quote it)"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: ../a}", "metadata.name: it can't be"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: a/b}", "metadata.namespace"),
            ("a: ]", "document 1, line 1: not YAML"),
            (f"{MAP}kind: Pod", "line 4: the key 'kind' is there twice"),
        ):
            self.assertIn(said, self.refused(text), text)

    def test_too_many(self) -> None:
        """The number of objects is bounded."""
        self.assertEqual(len(manifests("---\n".join([MAP] * MAX_DOCUMENTS))), MAX_DOCUMENTS)
        self.assertIn("more than", self.refused("---\n".join([MAP] * (MAX_DOCUMENTS + 1))))

    def test_empty_name(self) -> None:
        """C{generateName} is enough; whether it fits is the operation's matter."""
        found = manifests("apiVersion: v1\nkind: Pod\nmetadata: {generateName: a-}")
        self.assertEqual(found[0].name, "")
