"""Tests for L{pipeops_agent.log.redact}."""

from __future__ import annotations

import base64
import json
import string
from urllib.parse import quote

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from pipeops_agent.log.redact import MASK, MAX_LEARNED, MAX_TEXT, Redactor, is_sensitive
from pipeops_agent.secrets import Secret

TOKEN = "pk_live-9f8E7d6C5b4A3z2Y1x"


def knowing(*secrets: str) -> Redactor:
    redactor = Redactor()
    for secret in secrets:
        redactor.learn(Secret(secret))
    return redactor


class LearnedTests(SynchronousTestCase):
    """Secrets that were told are found by their text."""

    def test_in_a_sentence(self) -> None:
        """The secret goes, the rest stays."""
        self.assertEqual(
            knowing(TOKEN).clean(f"sent {TOKEN}, twice: {TOKEN}."), f"sent {MASK}, twice: {MASK}."
        )

    def test_surrounding_space(self) -> None:
        """A token read with its file's newline is found without it."""
        self.assertEqual(knowing(f" {TOKEN}\n").clean(f"<{TOKEN}>"), f"<{MASK}>")

    def test_escaped(self) -> None:
        """It is found as python, JSON and URLs write it."""
        secret = "p\"a's\\s/w ö+rd\t1"
        redactor = knowing(secret)
        for written in (
            repr(secret),
            repr(secret.encode()),
            json.dumps(secret),
            json.dumps(secret, ensure_ascii=False),
            quote(secret, safe=""),
            secret.encode().hex(),
        ):
            cleaned = redactor.clean(f"x {written} y")
            self.assertIn(MASK, cleaned, written)
            self.assertNotIn("rd", cleaned, written)

    def test_base64_in_the_middle(self) -> None:
        """It is found in base64, whatever comes before and after it in the encoded text."""
        redactor = knowing(TOKEN)
        for before in ("", "u", "us", "use", "user:"):
            for after in ("", "\n", "@h", "xyz"):
                raw = f"{before}{TOKEN}{after}".encode()
                for encoded in (base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()):
                    left = redactor.clean(f"blob {encoded}").removeprefix("blob ")
                    self.assertIn(MASK, left)
                    # At most the characters that the secret shares with its neighbours are left.
                    self.assertLess(len(left), len(encoded) - len(TOKEN) + len(MASK))

    def test_lines_of_a_key(self) -> None:
        """Each line of a key file is a secret, its armour is not."""
        key = "-----BEGIN KEY-----\nMIIEowIBAAKCAQEAu1SU1LfVLPHCozMxH2Mo\nshort\n-----END KEY-----"
        redactor = knowing(key)
        self.assertEqual(redactor.clean("line 2: MIIEowIBAAKCAQEAu1SU1LfVLPHCozMxH2Mo"), f"line 2: {MASK}")
        self.assertEqual(redactor.clean("a short -----BEGIN KEY-----"), "a short -----BEGIN KEY-----")

    def test_too_short(self) -> None:
        """What is too short to be told from everyday words is not learned, and the caller is told."""
        redactor = Redactor()
        self.assertFalse(redactor.learn(Secret("admin")))
        self.assertFalse(redactor.learn(Secret("")))
        self.assertFalse(redactor.learn(Secret("  1234567 ")))
        self.assertTrue(redactor.learn(Secret("12345678")))
        self.assertEqual(redactor.clean("the admin said so"), "the admin said so")

    def test_overlapping(self) -> None:
        """A secret that contains another is masked as a whole."""
        self.assertEqual(knowing("abcdefgh", "abcdefghijkl").clean("abcdefghijkl!"), f"{MASK}!")

    def test_made_by_masking(self) -> None:
        """A secret that only appears when another is masked does not appear."""
        redactor = knowing("xx***yy-zz", "middle-part")
        self.assertNotIn("xx***yy-zz", redactor.clean("xxmiddle-partyy-zz"))

    def test_oldest_is_forgotten(self) -> None:
        """Tokens rotate: a bounded number is remembered, and learning again makes one the youngest."""
        redactor = knowing(TOKEN)
        for number in range(MAX_LEARNED - 1):
            redactor.learn(Secret(f"rotated-token-{number:05}"))
        redactor.learn(Secret(TOKEN))
        redactor.learn(Secret("one-more-secret"))
        self.assertEqual(redactor.clean(TOKEN), MASK)
        self.assertEqual(redactor.clean("rotated-token-00000"), "rotated-token-00000")
        self.assertEqual(redactor.clean("rotated-token-00001"), MASK)

    def test_kept(self) -> None:
        """What is kept outlives any number of others; replaced, it is one of them."""
        redactor = Redactor()
        redactor.keep("the token", Secret(TOKEN))
        redactor.keep("proxies", Secret("proxy-one"), Secret("proxy-two"), Secret("short"))
        for number in range(MAX_LEARNED + 5):
            redactor.learn(Secret(f"rotated-token-{number:05}"))
        self.assertEqual(redactor.clean(f"{TOKEN} proxy-one proxy-two short"), f"{MASK} {MASK} {MASK} short")
        redactor.keep("the token", Secret("another-token"))
        self.assertEqual(redactor.clean(f"{TOKEN} another-token"), f"{MASK} {MASK}")
        for number in range(MAX_LEARNED):
            redactor.learn(Secret(f"rotated-token-{number:05}"))
        self.assertEqual(redactor.clean(f"{TOKEN} another-token"), f"{TOKEN} {MASK}")
        redactor.keep("the token")
        redactor.keep("proxies")
        self.assertEqual(redactor.clean("another-token proxy-two"), f"{MASK} {MASK}")

    def test_surrogates(self) -> None:
        """A secret from an environment that is not UTF-8 can be learned and found."""
        self.assertEqual(knowing("abcdefgh\udcff").clean("<abcdefgh\udcff>"), f"<{MASK}>")

    def test_cut_through_a_secret(self) -> None:
        """A text that is too long is cut, and never so that the beginning of a secret is left."""
        for offset in range(1, len(TOKEN)):
            text = "x" * (MAX_TEXT - offset) + TOKEN + "tail"
            cleaned = knowing(TOKEN).clean(text)
            self.assertTrue(cleaned.endswith("…"))
            self.assertEqual(set(cleaned), {"x", "…"})

    @settings(max_examples=200, deadline=None)
    @given(
        secret=st.text(string.ascii_letters + string.digits + "_-+/=. äß\"'\\", min_size=8, max_size=60),
        before=st.text(max_size=40),
        after=st.text(max_size=40),
    )
    def test_never_survives(self, secret: str, before: str, after: str) -> None:
        """Whatever stands around it, no learned secret is left in the text."""
        redactor = knowing(secret)
        if len(secret.strip()) >= 8:
            self.assertNotIn(secret.strip(), redactor.clean(before + secret + after))


class ShapeTests(SynchronousTestCase):
    """Secrets that nobody told are found by what stands around them."""

    def cleaned(self, text: str) -> str:
        return Redactor().clean(text)

    def test_authorization(self) -> None:
        """Authorization headers, as they are sent and as python shows them."""
        for text in (
            "Authorization: Bearer s3cr3t-value",
            "authorization: bearer s3cr3t-value",
            "Proxy-Authorization: Basic s3cr3t-value",
            "Authorization: s3cr3t-value",
            "{'Authorization': 'Bearer s3cr3t-value'}",
            '{"authorization":"Bearer s3cr3t-value"}',
            repr(Headers({"Authorization": ["Bearer s3cr3t-value"]})),
            "sent Bearer s3cr3t-value to it",
        ):
            self.assertNotIn("s3cr3t", self.cleaned(text), text)
            self.assertIn(MASK, self.cleaned(text), text)

    def test_named_values(self) -> None:
        """Values whose name says that they are secret, in JSON, python, forms and settings."""
        for text in (
            '{"token": "s3cr3t"}',
            '{"k8s_service_token":"s3cr3t with \\" quote s3cr3t"}',
            "{'password': b's3cr3t'}",
            '"{\\"token\\": \\"s3cr3t\\"}"',
            "password=s3cr3t&user=me",
            "password = s3cr3t",
            'Settings(token="s3cr3t, with comma s3cr3t")',
            "api_key=s3cr3t",
            "client-secret='s3cr3t",
            "X-Api-Key: s3cr3t",
            "Set-Cookie: s3cr3t=1",
            'token="s3cr3t\\\ns3cr3t"',
        ):
            self.assertNotIn("s3cr3t", self.cleaned(text), text)

    def test_sentences_survive(self) -> None:
        """Sentences about tokens and passwords can still be read."""
        for text in (
            "pipeops.token: required; set PIPEOPS_TOKEN or pipeops.token_file",
            "the token was refused (401)",
            "pipeops.token_file: can't be read",
            "3 tokens: none matches",
            "token = " + repr(Secret(TOKEN)),
            "password authentication failed",
        ):
            self.assertEqual(self.cleaned(text), text)

    def test_json_web_token(self) -> None:
        """A JWT is known by its shape, also without its signature."""
        token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhZ2VudCJ9.c2lnbmF0dXJl"
        self.assertEqual(self.cleaned(f"<{token}>"), f"<{MASK}>")
        self.assertEqual(self.cleaned(token.rpartition(".")[0]), MASK)

    def test_userinfo(self) -> None:
        """User and password in a URL go, the host stays."""
        self.assertEqual(
            self.cleaned("via http://user:p@ss@proxy.example:3128/x?y=a@b"),
            f"via http://{MASK}@proxy.example:3128/x?y=a@b",
        )
        self.assertEqual(self.cleaned("wss://host/path@2"), "wss://host/path@2")

    def test_private_key(self) -> None:
        """A private key goes to its end; one that was cut off goes to the end of the text."""
        begin, end = "-----BEGIN EC PRIVATE KEY-----", "-----END EC PRIVATE KEY-----"
        self.assertEqual(self.cleaned(f"a {begin}\nMHcCAQEE\n{end} b"), f"a {MASK} b")
        self.assertEqual(self.cleaned(f"a {begin}\\nMHcCAQEE"), f"a {MASK}")
        certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"
        self.assertEqual(self.cleaned(certificate), certificate)

    def test_names(self) -> None:
        """Fields are secret when their name ends in a word for it."""
        for name in (
            "token",
            "X-Api-Key",
            "k8s_service_token",
            "db.password",
            "Authorization",
            "credentials",
        ):
            self.assertTrue(is_sensitive(name), name)
        for name in ("tokens", "token_file", "secret_name", "fingerprint", "author", "key"):
            self.assertFalse(is_sensitive(name), name)

    def test_hostile_texts_take_linear_time(self) -> None:
        """No repetition that a peer can send makes the expressions run in more than linear time."""
        for piece in (
            "token:",
            "eyJ",
            "://",
            "://a@",
            'token="',
            "Authorization:",
            "-----BEGIN ",
            "bearer ",
            "a",
        ):
            text = piece * (MAX_TEXT // len(piece))
            # A quadratic expression takes minutes for this; the bound is on nothing but finishing.
            self.assertLess(len(self.cleaned(text)), 2 * MAX_TEXT)
