"""A node's image for pods: Debian's static busybox and nothing else, in the form of C{docker save}."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Final
from unittest import SkipTest

from tests.peers.kubernetes.running import KubeCluster, cluster

IMAGE: Final = "localhost/busybox:1"

_APPLETS: Final = ("cat", "dd", "echo", "head", "httpd", "sh", "sleep", "stty", "tr", "true", "usleep", "yes")


_loaded: set[str] = set()


def cluster_with_busybox() -> KubeCluster:
    """
    A whole cluster, whose node has the image.

    @raise SkipTest: as L{cluster}, and where there is no static busybox (Debian's C{busybox-static}).
    """
    program = shutil.which("busybox")
    if program is None:
        reason = "pods need busybox-static, which is not installed"
        if os.environ.get("CI"):
            raise RuntimeError(reason)
        raise SkipTest(reason)
    kube = cluster()
    if kube.network not in _loaded:
        with tempfile.TemporaryDirectory() as directory:
            archive = Path(directory) / "busybox.tar"
            _write_image(program, archive)
            kube.load_image(str(archive))
        _loaded.add(kube.network)
    return kube


def _write_image(program: str, archive: Path) -> None:
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for name in ("bin", "tmp"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
            tar.addfile(folder)
        tar.add(program, "bin/busybox")
        for name in _APPLETS:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Entrypoint": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as tar:
        for name, data in (
            ("config.json", json.dumps(config).encode()),
            ("layer.tar", layer.getvalue()),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
