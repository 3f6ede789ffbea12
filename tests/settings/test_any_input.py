"""Properties: whatever is in file, environment and options, settings or SettingsError come out."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.settings import Loaded, SettingsError, load_settings, report
from pipeops_agent.settings.definitions import DEFINITIONS
from tests.settings.case import TOKEN, UID

_BOUNDED = hypothesis_settings(deadline=None, max_examples=150)
_OPTIONS = [each.option.removeprefix("--") for each in DEFINITIONS.values() if each.option]
_VARIABLES = [each.variable for each in DEFINITIONS.values()]

_KEYS = st.sampled_from(
    sorted({part for path in DEFINITIONS for part in path.split(".")} | {"name", "local_addr"})
)
_TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", "5s", "0", "-1", ".nan", "a:1", "[::1]:1", "${HOME}", "${X:-1}", "$", "true", "https://a", "~"]
    ),
)
_VALUES = st.recursive(
    st.one_of(_TEXTS, st.none(), st.integers(), st.floats(), st.booleans()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_KEYS | _TEXTS, inner, max_size=4)),
    max_leaves=12,
)
_SECTIONS = st.sampled_from(sorted({path.partition(".")[0] for path in DEFINITIONS}))
_FILES = st.dictionaries(_SECTIONS, st.dictionaries(_KEYS, _VALUES, max_size=5), max_size=5)


class AnyInputTests(SynchronousTestCase):
    """Nothing but settings or L{SettingsError}, whose text gives no token away."""

    def load(
        self,
        content: bytes = b"",
        environ: Mapping[str, str] | None = None,
        options: Mapping[str, str | None] | None = None,
    ) -> Loaded | None:
        """Load, and report; None: L{SettingsError}, whose text is returned by no one."""
        environ = {"PIPEOPS_TOKEN": TOKEN, **(environ or {})}
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            file = directory / "config.yaml"
            file.write_bytes(content)
            file.chmod(0o600)
            try:
                loaded = load_settings(options or {}, environ, cwd=directory, home=directory, uid=UID)
            except SettingsError as error:
                text = str(error)
                self.assertTrue(error.problems)
                self.assertEqual(len(text.split("\n")), len(error.problems), "one line for each problem")
                self.assertNotIn(TOKEN, text)
                return None
        self.assertNotIn(TOKEN, report(loaded))
        return loaded

    @given(st.binary(max_size=200))
    @_BOUNDED
    def test_any_bytes(self, content: bytes) -> None:
        """Any bytes as a file."""
        self.load(content)

    @given(st.text(alphabet="abc:- \n{}[]&*!|>'\"%@`#,?~$<\t.1", max_size=80))
    @_BOUNDED
    def test_any_yaml(self, text: str) -> None:
        """Any text made of what YAML is made of."""
        self.load(text.encode())

    @given(_FILES)
    @_BOUNDED
    def test_any_tree(self, tree: Mapping[str, object]) -> None:
        """Any tree under the keys that settings have; JSON is YAML."""
        self.load(json.dumps(tree).encode())

    @given(
        st.dictionaries(
            st.sampled_from(_VARIABLES), _TEXTS | st.text(alphabet="[]{}a:,= \"'&*!\n"), max_size=6
        )
    )
    @_BOUNDED
    def test_any_variables(self, environ: Mapping[str, str]) -> None:
        """Any texts in the variables."""
        self.load(environ=environ)

    @given(st.dictionaries(st.sampled_from(_OPTIONS), _TEXTS, max_size=6))
    @_BOUNDED
    def test_any_options(self, options: Mapping[str, str | None]) -> None:
        """Any texts on the command line."""
        self.load(options=options)

    @given(st.text(alphabet=st.characters(codec="ascii", min_codepoint=33, max_codepoint=126), min_size=1))
    @_BOUNDED
    def test_any_token(self, token: str) -> None:
        """Any token that a header can carry arrives as it is, from a variable as from a file."""
        loaded = self.load(environ={"PIPEOPS_TOKEN": token})
        assert loaded is not None
        assert loaded.settings.pipeops.token is not None
        self.assertEqual(loaded.settings.pipeops.token.reveal(), token)
        written = json.dumps({"pipeops": {"token": token.replace("$", "$$")}}).encode()
        loaded = self.load(written, environ={"PIPEOPS_TOKEN": ""})
        assert loaded is not None
        assert loaded.settings.pipeops.token is not None
        self.assertEqual(loaded.settings.pipeops.token.reveal(), token)
