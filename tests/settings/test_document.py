"""Tests for the settings file, L{document} and L{parsing}: which one, whose, and what is in it."""

from __future__ import annotations

import os

from pipeops_agent.settings import SettingsError
from pipeops_agent.settings.document import MAX_BYTES, read_document
from pipeops_agent.settings.nodes import Mapping
from pipeops_agent.settings.parsing import parse
from pipeops_agent.settings.problems import Origin
from tests.settings.case import TOKEN, UID, SettingsCase


class WhichFileTests(SettingsCase):
    """Where the settings are looked for."""

    def test_none(self) -> None:
        """No file is needed."""
        self.assertIsNone(self.load().file)

    def test_working_directory(self) -> None:
        """C{config.yaml} in the working directory is read, before the one at home."""
        path = self.write("server: {port: 1}")
        (self.home / ".pipeops-agent.yaml").write_text("server: {port: 2}")
        loaded = self.load()
        self.assertEqual((loaded.file, loaded.settings.server.port), (path, 1))

    def test_home(self) -> None:
        """Without it, the one at home is, and is named as people name it."""
        path = self.home / ".pipeops-agent.yaml"
        path.write_text("\nserver: {port: 2}")
        path.chmod(0o600)
        loaded = self.load()
        self.assertEqual((loaded.file, loaded.settings.server.port), (path, 2))
        self.assertEqual(str(loaded.origins["server.port"]), "~/.pipeops-agent.yaml line 2")

    def test_named(self) -> None:
        """C{--config} wins over both, from where the process stands, or from home."""
        self.write("server: {port: 1}")
        named = self.write("server: {port: 3}", name="other.yaml")
        loaded = self.load(options={"config": "other.yaml"})
        self.assertEqual((loaded.file, loaded.settings.server.port), (named, 3))
        self.assertEqual(self.settings(options={"config": str(named.absolute())}).server.port, 3)
        (self.home / "mine.yaml").write_text("server: {port: 4}")
        (self.home / "mine.yaml").chmod(0o600)
        self.assertEqual(self.settings(options={"config": "~/mine.yaml"}).server.port, 4)

    def test_named_and_missing(self) -> None:
        """A file that was asked for and is not there is an error, although others are there."""
        self.write("server: {port: 1}")
        self.assertEqual(
            self.problems(options={"config": "no.yaml"}),
            ["no.yaml: can't be read: No such file or directory (option --config)"],
        )

    def test_dangling(self) -> None:
        """A link to nothing is an error: somebody meant a file to be there."""
        os.symlink("nowhere", self.cwd / "config.yaml")
        self.assertEqual(self.problems(), ["config.yaml: can't be read: No such file or directory"])

    def test_impossible_name(self) -> None:
        """A name that no file can have is an error like another."""
        self.assertEqual(
            self.problems(options={"config": "a\0b"}),
            ["'a\\x00b': can't be read: not a path (option --config)"],
        )


class TrustTests(SettingsCase):
    """Whose file is accepted."""

    def test_foreign_owner(self) -> None:
        """A file of neither root nor the user is refused, with the remedy; nothing of it is used."""
        path = self.write("server: {port: x}")
        if UID == 0:
            os.chown(path, 12345, -1)
        owner, runs_as = (12345, 0) if UID == 0 else (UID, UID + 1)
        self.assertEqual(
            self.problems(uid=runs_as),
            [
                f"config.yaml: owned by user {owner}, who is neither root nor the user that runs the agent;"
                f" if you trust its content: chown {runs_as} config.yaml"
            ],
        )

    def test_roots_file(self) -> None:
        """Root's file is accepted whoever runs the agent."""
        if UID != 0:
            self.skipTest("only root can make root's file")
        self.write("server: {port: 9}")
        self.assertEqual(self.settings(uid=12345).server.port, 9)

    def test_writable_by_others(self) -> None:
        """A file that group or others may write is refused, with the remedy."""
        for mode in (0o620, 0o602, 0o666):
            self.write("server: {port: 9}", mode=mode)
            self.assertEqual(
                self.problems(),
                [
                    f"config.yaml: can be written by others than its owner (mode 0{mode:o});"
                    " chmod go-w config.yaml"
                ],
            )

    def test_readable_by_others(self) -> None:
        """A file that others may only read is accepted."""
        self.write("server: {port: 9}", mode=0o644)
        loaded = self.load()
        self.assertEqual((loaded.settings.server.port, loaded.cautions), (9, ()))

    def test_token_readable_by_others(self) -> None:
        """A token in such a file brings a caution; a reference to a variable is no token."""
        self.write(f"pipeops: {{token: {TOKEN}}}", mode=0o644)
        self.assertEqual(
            self.load(environ={}).cautions,
            ("pipeops.token: every user of this machine can read config.yaml; chmod go-r it",),
        )
        self.write("pipeops: {token: '${MY_TOKEN}'}", mode=0o644)
        self.assertEqual(self.load(environ={"MY_TOKEN": TOKEN}).cautions, ())

    def test_through_a_link(self) -> None:
        """The file counts, not the link to it."""
        self.write("server: {port: 9}", name="real.yaml", mode=0o666)
        os.symlink("real.yaml", self.cwd / "config.yaml")
        self.assertIn("chmod go-w", self.problems()[0])

    def test_remedy_is_quoted(self) -> None:
        """The command in the remedy can be pasted."""
        self.write("", name="my file.yaml", mode=0o666)
        self.assertIn("chmod go-w 'my file.yaml'", self.problems(options={"config": "my file.yaml"})[0])


class ReadTests(SettingsCase):
    """What can't be read."""

    def test_unreadable(self) -> None:
        """A file that the user may not read says so."""
        self.write("server: {port: 9}", mode=0o000)
        if UID == 0:  # root may read everything: be somebody else for the reading
            for folder in (self.cwd, self.cwd.parent):
                folder.chmod(0o755)
            self.addCleanup(os.seteuid, 0)
            os.seteuid(65534)
        self.assertEqual(self.problems(), ["config.yaml: can't be read: Permission denied"])

    def test_directory(self) -> None:
        """A directory is no settings file."""
        (self.cwd / "config.yaml").mkdir()
        self.assertEqual(self.problems(), ["config.yaml: not a regular file"])

    def test_pipe(self) -> None:
        """A named pipe is refused at once, and not waited for."""
        os.mkfifo(self.cwd / "config.yaml", 0o600)
        self.assertEqual(self.problems(), ["config.yaml: not a regular file"])

    def test_not_utf8(self) -> None:
        """Another encoding is refused with its line."""
        self.assertEqual(
            self.problems(b"agent:\n  name: M\xfcller\n"), ["config.yaml: not UTF-8 (config.yaml line 2)"]
        )
        self.assertIn("not UTF-8", self.problems("agent: {}".encode("utf-16"))[0])

    def test_byte_order_mark(self) -> None:
        """A byte order mark, as Windows editors write it, is no harm."""
        self.assertEqual(self.settings("server: {port: 9}".encode("utf-8-sig")).server.port, 9)

    def test_too_large(self) -> None:
        """The largest file is read, one byte more is not."""
        padding = MAX_BYTES - len("server: {port: 9}\n")
        self.assertEqual(self.settings("server: {port: 9}\n" + "#" * padding).server.port, 9)
        self.assertEqual(
            self.problems("server: {port: 9}\n" + "#" * (padding + 1)), ["config.yaml: larger than 256 KiB"]
        )

    def test_descriptors_are_closed(self) -> None:
        """Neither a good nor a bad file stays open."""
        before = os.listdir("/proc/self/fd")
        self.load("server: {port: 9}")
        self.problems("server: [")
        self.write("", mode=0o666)
        self.problems()
        self.assertEqual(len(os.listdir("/proc/self/fd")), len(before))


class ParseTests(SettingsCase):
    """What the YAML may be."""

    def test_empty(self) -> None:
        """An empty file, one of comments, and empty sections set nothing."""
        for text in ("", "# nothing\n", "---\n", "~", "agent:\nserver: ~\ntunnel: {}\n"):
            self.assertEqual(self.settings(text).server.port, 8080)

    def test_not_a_mapping(self) -> None:
        """A list or a text at the top is no settings."""
        for text in ("- a\n", "just text", "'~'", "8080"):
            self.assertEqual(
                self.problems(text), ["config.yaml: expected a mapping of sections (config.yaml line 1)"]
            )

    def test_syntax(self) -> None:
        """A syntax error is given with its line."""
        lines = self.problems("agent:\n  name: a\n b: c\n")
        self.assertEqual(len(lines), 1)
        self.assertTrue(lines[0].startswith("config.yaml: not valid YAML: "), lines)
        self.assertTrue(lines[0].endswith("(config.yaml line 3)"), lines)

    def test_syntax_errors_hide_secrets(self) -> None:
        """A token that YAML takes for something else is not repeated."""
        for written in (
            f"*{TOKEN}", f"!{TOKEN}", f"!!{TOKEN}", f"%{TOKEN}", f"@{TOKEN}", f"[{TOKEN}", f"{{{TOKEN}",
            f"'{TOKEN}", f'"{TOKEN}\\z"', f"&{TOKEN} &b x", f"a: {TOKEN}: c", f"|{TOKEN}", f"`{TOKEN}`",
            f"- {TOKEN}",
        ):  # fmt: skip
            lines = self.problems(f"pipeops:\n  token: {written}\n", {})
            self.assertNotIn(TOKEN[4:], "\n".join(lines), written)

    def test_duplicate_keys(self) -> None:
        """A key that is there twice is refused with both lines, at every depth."""
        lines = self.problems(
            "server:\n  port: 1\n  port: 2\nagent:\n  labels:\n    a: b\n    a: c\nserver: {}\n"
            "tunnel:\n  forwards:\n    - name: a\n      local_addr: b:1\n      name: c\n"
        )
        self.assertEqual(
            sorted(lines),
            [
                "agent.labels.a: duplicate key, first on line 6 (config.yaml line 7)",
                "server.port: duplicate key, first on line 2 (config.yaml line 3)",
                "server: duplicate key, first on line 1 (config.yaml line 8)",
                "tunnel.forwards[0].name: duplicate key, first on line 11 (config.yaml line 13)",
            ],
        )

    def test_aliases(self) -> None:
        """Anchors and aliases work; an alias before its anchor, or inside it, does not."""
        settings = self.settings("agent:\n  labels: &l {a: b}\n  name: &n x\n  region: *n\n")
        self.assertEqual((settings.agent.region, settings.agent.labels), ("x", {"a": "b"}))
        for text in ("agent: {name: *n}\n", "agent: &a {labels: *a}\n"):
            self.assertEqual(
                self.problems(text), ["config.yaml: an alias has no anchor before it (config.yaml line 1)"]
            )

    def test_alias_bomb(self) -> None:
        """A file that unfolds to billions is refused before it does."""
        bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
        for n in range(1, 10):
            bomb += f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n"
        lines = self.problems(bomb)
        self.assertEqual(lines, ["config.yaml: holds more than 20000 values (config.yaml line 5)"])

    def test_many_values(self) -> None:
        """So is one that holds too much as it is."""
        self.assertIn("holds more than 20000 values", self.problems("- [" + "x," * 20_000 + "]")[0])

    def test_deep(self) -> None:
        """So is one that is nested beyond sense, without an overflow of the stack."""
        for text in ("[" * 50_000, "{a: " * 5000, "\n".join(" " * n + "a:" for n in range(200))):
            self.assertIn("config.yaml: nested more than 32 deep", self.problems(text)[0])

    def test_tags(self) -> None:
        """No tag makes an object, and none is needed."""
        for tag in ("!!python/object/apply:os.system", "!!str", "!mine", "!"):
            self.assertEqual(
                self.problems(f"agent: {{name: {tag} x}}"),
                ["config.yaml: tags (!name) are not used in settings; quote the text (config.yaml line 1)"],
            )

    def test_several_documents(self) -> None:
        """A second document would be ignored by others; here it is an error."""
        self.assertEqual(
            self.problems("agent: {}\n---\nserver: {}\n"),
            ["config.yaml: holds more than one document (config.yaml line 2)"],
        )

    def test_keys_are_texts(self) -> None:
        """A list as a key is refused."""
        self.assertEqual(
            self.problems("? [a, b]\n: c\n"),
            ["config.yaml: a key must be a text, not a list or mapping (config.yaml line 1)"],
        )

    def test_unusual_escapes(self) -> None:
        """What the YAML library itself stumbles over is an error with a place like any other."""
        for text in ('a: "\\UFFFFFFFF"', "a: \x07", f"%YAML 1.{'9' * 5000}\n---\n"):
            self.assertIn("config.yaml: not valid YAML", self.problems(text)[0])

    def test_yaml_guesses_nothing(self) -> None:
        """What YAML 1.1 takes for other types is the text that it looks like."""
        settings = self.settings("agent: {name: no, region: 010, cloud_provider: 1:30, cluster_name: 1.10}")
        agent = settings.agent
        self.assertEqual(
            (agent.name, agent.region, agent.cloud_provider, agent.cluster_name),
            ("no", "010", "1:30", "1.10"),
        )

    def test_lines_of_nodes(self) -> None:
        """Every node knows the line on which it begins."""
        root = parse("a:\n  - b\n  - |\n    c\nd: e\n", Origin("file", "f", 1), expands=True)
        assert isinstance(root, Mapping)
        self.assertEqual([value.origin.line for _, value in root.entries], [2, 5])

    def test_a_refusal_is_an_error_of_settings(self) -> None:
        """The reader itself raises what the whole raises."""
        path = self.write("a: [", mode=0o600)
        self.assertRaises(SettingsError, read_document, path, "f", UID)
