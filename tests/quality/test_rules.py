"""docs/rules.md: every rule has a test, and every test that it names is there."""

from __future__ import annotations

import re

from twisted.python.reflect import namedAny
from twisted.trial.unittest import SynchronousTestCase

from tests.quality.checkout import texts

PAGE = "docs/rules.md"


class RuleTests(SynchronousTestCase):
    """The list of rules."""

    def test_each_has_a_test(self) -> None:
        """No rule stands there without the name of a test."""
        rules = re.findall(r"^- .*", texts()[PAGE], re.MULTILINE)
        self.assertGreater(len(rules), 50)
        self.assertEqual([rule for rule in rules if "`tests." not in rule], [])

    def test_each_test_is_there(self) -> None:
        """Each name leads to a method of a test case, or of a suite that several share."""
        missing = []
        for name in re.findall(r"`(tests\.[\w.]+)`", texts()[PAGE]):
            try:
                found = namedAny(name)
            except AttributeError:
                found = None
            if not callable(found) or not name.rpartition(".")[2].startswith("test_"):
                missing.append(name)
        self.assertEqual(missing, [])
