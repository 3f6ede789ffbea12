"""Tests for L{pipeops_agent.web.api.settings}: every value with its origin, and no secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeops_agent.settings import Loaded, compare, load_settings, take_live
from pipeops_agent.settings.definitions import DEFINITIONS
from tests.web.api.case import ApiCase

SECRET = "pk_live-do-not-show-me-1234567890"


class SettingsTests(ApiCase):
    """What is answered."""

    def load(self, text: str, **environ: str) -> Loaded:
        """Settings as they are read at a start."""
        directory = Path(self.mktemp()).resolve()
        directory.mkdir(mode=0o700)
        (directory / "config.yaml").write_text(text)
        return load_settings({}, environ, cwd=directory, home=directory, uid=directory.stat().st_uid)

    def start_with(self, text: str, **environ: str) -> None:
        self.loaded = self.load(text, **{"PIPEOPS_TOKEN": SECRET, **environ})
        self.settings = self.loaded.settings

    def rows(self) -> dict[str, Any]:
        return {each["path"]: each for each in self.get("/api/settings").json["settings"]}

    def test_origins(self) -> None:
        """A value from the file, from a variable, by default."""
        self.start_with("server:\n  port: 9090\n", PIPEOPS_CLUSTER_NAME="shop")
        rows = self.rows()
        self.assertEqual(
            rows["server.port"],
            {
                "path": "server.port",
                "value": "9090",
                "origin": {"kind": "file", "name": "config.yaml", "line": 2},
                "secret": False,
                "live": False,
                "changed": False,
            },
        )
        self.assertEqual(
            rows["agent.cluster_name"]["origin"],
            {"kind": "variable", "name": "PIPEOPS_CLUSTER_NAME", "line": 0},
        )
        self.assertEqual(rows["agent.poll_interval"]["origin"]["kind"], "default")
        self.assertEqual((rows["agent.poll_interval"]["value"], rows["logging.level"]["live"]), ("5s", True))

    def test_all(self) -> None:
        """No setting is left out."""
        self.start_with("")
        paths = self.rows()
        for path in DEFINITIONS:
            self.assertTrue(any(each.partition("[")[0] == path for each in paths), path)

    def test_parts(self) -> None:
        """A list has a row for each part."""
        self.start_with("kubernetes:\n  namespaces: [shop, web]\n")
        rows = self.rows()
        self.assertEqual(rows["kubernetes.namespaces[1]"]["value"], "web")
        self.assertEqual(rows["tunnel.forwards[0].name"]["value"], "kubernetes-api")

    def test_secrets(self) -> None:
        """Length and a short hash; neither a token nor a proxy's password is anywhere in the answer."""
        self.start_with("", PIPEOPS_PROXY="http://user:hunter2-of-the-proxy@proxy.example:3128")
        body = self.get("/api/settings").body.decode()
        self.assertNotIn(SECRET, body)
        self.assertNotIn("hunter2", body)
        token = self.rows()["pipeops.token"]
        self.assertTrue(token["secret"])
        self.assertRegex(token["value"], rf"^<secret, {len(SECRET)} characters, sha256 [0-9a-f]{{8}}>$")

    def test_file_and_way(self) -> None:
        """Which file was read, and how the control plane is reached."""
        self.start_with("tunnel: {allow_insecure: yes}")
        answer = self.get("/api/settings").json
        self.assertEqual(answer["file"], str(self.loaded.file))
        self.assertEqual(answer["control_plane"], "directly")
        self.assertIn("tunnel.allow_insecure: a tunnel server without TLS is accepted", answer["cautions"])
        self.start_with("")
        self.loaded = Loaded(self.settings, {}, None)
        self.assertIsNone(self.get("/api/settings").json["file"])

    def test_after_sighup(self) -> None:
        """What holds is shown: a live setting's new value, another's old one, marked as changed."""
        self.start_with("server: {port: 9090}\nlogging: {level: info}\n")
        self.loaded = self.load("server: {port: 9191}\nlogging: {level: debug}\n", PIPEOPS_TOKEN=SECRET)
        self.assertTrue(compare(self.settings, self.loaded.settings))
        self.settings = take_live(self.settings, self.loaded.settings)
        rows = self.rows()
        self.assertEqual((rows["logging.level"]["value"], rows["logging.level"]["changed"]), ("debug", False))
        self.assertEqual((rows["server.port"]["value"], rows["server.port"]["changed"]), ("9090", True))
