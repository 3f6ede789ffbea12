"""Tests of L{pipeops_agent.cluster.quantities}."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from kubernetes.utils.quantity import parse_quantity as official
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.cluster.quantities import parse_quantity

_SUFFIXES = ("", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")


class QuantityTests(SynchronousTestCase):
    """Texts to numbers."""

    def test_examples(self) -> None:
        """What nodes and pods say."""
        self.assertEqual(parse_quantity("250m"), 0.25)
        self.assertEqual(parse_quantity("16384512Ki"), 16384512 * 1024)
        self.assertEqual(parse_quantity("110"), 110)
        self.assertEqual(parse_quantity("1.5Gi"), 1.5 * 2**30)
        self.assertEqual(parse_quantity("2e3"), 2000)
        self.assertEqual(parse_quantity("1234567n"), 1234567e-9)
        self.assertEqual(parse_quantity("-.5"), -0.5)

    @given(st.decimals(min_value=0, max_value=10**12, places=3, allow_nan=False), st.sampled_from(_SUFFIXES))
    def test_as_the_official_client(self, number: object, suffix: str) -> None:
        """Whatever the official client reads is read alike."""
        text = f"{number}{suffix}"
        self.assertAlmostEqual(
            parse_quantity(text) / (float(official(text)) or 1.0), 1.0 if official(text) else 0.0
        )

    def test_no_quantity(self) -> None:
        """What is none is an error that shows it, shortened."""
        for text in ("", "m", "1 Gi", "1gi", "NaN", "inf", "0x10", "1_000", "1e999", "٣", "9" * 65):
            with self.assertRaises(ValueError, msg=text) as caught:
                parse_quantity(text)
            self.assertLess(len(str(caught.exception)), 100)
