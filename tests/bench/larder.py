"""Two Larder nodes on loopback, driven through the command line as a user does."""

import http.client
import json
import os
import socket
import subprocess
import time
from pathlib import Path

from measure import children_seconds, cpu_seconds, discard, until

CONFIG = '[network]\nlisten = ["127.0.0.1:0"]\nmdns = false\n'
BIN = os.environ.get("LARDER_BIN", "larder")


class Node:
    """One node with a fresh home."""

    def __init__(self, root, name):
        self.name, self.root, self.home = name, root, root / "home"
        self.home.mkdir(parents=True)
        (self.home / "config.toml").write_text(CONFIG)

    def run(self, *args):
        """Runs a command that must succeed, and gives the objects that it prints."""
        command = [BIN, "--home", str(self.home), "--json", "--progress", "none", *map(str, args)]
        run = subprocess.run(command, cwd=self.root, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if run.returncode != 0:
            raise RuntimeError(f"{self.name}: larder {' '.join(map(str, args))}: {run.returncode}: {run.stderr}")
        return [json.loads(line) for line in run.stdout.splitlines()]

    def pid(self):
        """The process of the node that runs in this home."""
        home = os.fsencode(str(self.home))
        for entry in Path("/proc").iterdir():
            try:
                args = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            except OSError:
                continue
            if home in args and b"up" in args:
                return int(entry.name)
        return None

    def memory(self):
        """Resident bytes now and at most."""
        status = Path(f"/proc/{self.pid()}/status").read_text()
        field = lambda name: int(status.split(name)[1].split()[0]) * 1024
        return field("VmRSS:"), field("VmHWM:")

    def stop(self):
        if self.pid():
            subprocess.run([BIN, "--home", str(self.home), "down", "-q"], timeout=60, check=False)


class Socket(http.client.HTTPConnection):
    """The control socket, held open: what an answer costs without the start of a command."""

    def __init__(self, node):
        super().__init__("larder", timeout=60)
        self.path = str(node.home / "run" / "larder.sock")

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)

    def ask(self, route, body):
        self.request("POST", route, json.dumps(body), {"content-type": "application/json"})
        answer = self.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{route}: {answer.status} {text!r}")
        return json.loads(text)


class Pair:
    """Two nodes of one group; the first has an empty location."""

    def __init__(self, root):
        self.root = root
        self.a, self.b = Node(root / "a", "a"), Node(root / "b", "b")

    def __enter__(self):
        try:
            self.a.run("init", "--name", "a")
            self.a.run("up")
            self.b.run("join", self.a.run("invite")[0]["code"], "--name", "b")
            self.folder = self.root / "folder"
            self.folder.mkdir()
            self.a.run("location", "add", "bench", self.folder)
            online = lambda: all(peer["online"] for peer in self.b.run("status")[0]["peers"])
            until("the nodes see each other", online, 60)
            self.pids = [self.a.pid(), self.b.pid()]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for one in (self.a, self.b):
            one.stop()
        discard(self.root)

    def run(self, workload):
        """Moves a workload into A's location, indexes it, waits until B knows, and fetches it there."""
        begin_cpu = cpu_seconds(self.pids) + children_seconds()
        inside = self.folder / workload.name
        os.rename(workload.folder, inside)
        begin = time.monotonic()
        self.a.run("index", "bench")
        indexed = time.monotonic()

        def known():
            locations = self.b.run("status")[0]["locations"]
            return locations and locations[0]["files"] == workload.files

        until("the other node knows of everything", known, 300, 0.005)
        seen = time.monotonic()
        target = self.root / "arrived"
        self.b.run("get", f"bench:{workload.name}/", "-o", target)
        end = time.monotonic()
        cpu = cpu_seconds(self.pids) + children_seconds() - begin_cpu
        result = {
            "index": indexed - begin,
            "seen": seen - indexed,
            "get": end - seen,
            "total": end - begin,
            "cpu": cpu,
            "memory": max(one.memory()[1] for one in (self.a, self.b)),
            "target": target,
        }
        for mode in ("quick", "smart"):
            result[mode] = sorted(self._again(mode) for _ in range(5))[2]
        os.rename(inside, workload.folder)
        return result

    def _again(self, mode):
        begin = time.monotonic()
        self.a.run("index", "bench", f"--{mode}")
        return time.monotonic() - begin
