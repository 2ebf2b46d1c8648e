"""What it costs to store a file sealed (P15): Larder beside rclone crypt, on one disk and one SeaweedFS, in one run.

    LARDER_BIN=target/release/larder tests/servers/install --bench && python3 -B tests/bench/sealed.py [--mib 1024] [--rounds 3]

Beside the two stand what limits both: hashing alone, a durable copy on the disk alone, and the same bytes unencrypted to the
same server by rclone. Everything stays on loopback.
"""

import argparse
import json
import os
import random
import secrets
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from larder import BIN, Node
from measure import median, remove_discarded, say, settle, timed, until

B3SUM = os.environ.get("B3SUM_BIN", "b3sum")


def weed():
    """SeaweedFS as `tests/servers/install` has put it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    found = [path for path in cache.glob("larder-tests/python-*/bin/weed") if os.access(path, os.X_OK) and path.is_file()]
    if not found:
        raise SystemExit("SeaweedFS is missing: run tests/servers/install --bench")
    return max(found, key=lambda path: path.stat().st_mtime)


class Server:
    """A SeaweedFS on free ports, with one account and one bucket."""

    def __init__(self, root):
        self.root = root
        root.mkdir()
        self.key, self.secret = secrets.token_hex(8), secrets.token_hex(16)
        identity = {"name": "bench", "actions": ["Admin"],
                    "credentials": [{"accessKey": self.key, "secretKey": self.secret}]}
        (root / "s3.json").write_text(json.dumps({"identities": [identity]}))
        (root / "master.toml").write_text("[master.volume_growth]\ncopy_1 = 1\n")

    def __enter__(self):
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(9)]
        ports = [held.getsockname()[1] for held in sockets]
        for held in sockets:
            held.close()
        names = ["s3", "master", "volume", "filer", "s3.grpc", "master.grpc", "volume.grpc", "filer.grpc"]
        flags = [f"-{name.replace('.grpc', '.port.grpc') if '.grpc' in name else name + '.port'}={port}"
                 for name, port in zip(names, ports)]
        self.log = (self.root / "log.txt").open("wb")
        self.process = subprocess.Popen(
            [weed(), f"-logdir={self.root}", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={self.root}", "-filer",
             "-s3", f"-s3.config={self.root / 's3.json'}", "-volume.max=500", "-master.volumeSizeLimitMB=64",
             "-master.telemetry=false", "-iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-metricsPort=0",
             f"-debug.port={ports[8]}", *flags], stdout=self.log, stderr=self.log, cwd=self.root)
        self.endpoint = f"http://127.0.0.1:{ports[0]}"
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)
        self.log.close()

    def remotes(self, root):
        """rclone's remotes, as its environment: `s3:`, sealed `far:` upon it, and sealed `near:` on the disk."""
        obscured = subprocess.run(["rclone", "obscure", "a benchmark"], capture_output=True, text=True, check=True)
        remotes = {
            "S3": {"TYPE": "s3", "PROVIDER": "Other", "ENDPOINT": self.endpoint, "ACCESS_KEY_ID": self.key,
                   "SECRET_ACCESS_KEY": self.secret, "FORCE_PATH_STYLE": "true"},
            "FAR": {"TYPE": "crypt", "REMOTE": "s3:bench/rclone", "PASSWORD": obscured.stdout.strip()},
            "NEAR": {"TYPE": "crypt", "REMOTE": str(root / "near"), "PASSWORD": obscured.stdout.strip()},
        }
        # What the surroundings say about other S3 services would lead rclone astray.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RCLONE_"))}
        return inherited | {"RCLONE_CONFIG": os.devnull} | {
            f"RCLONE_CONFIG_{name}_{key}": value for name, remote in remotes.items() for key, value in remote.items()}


def made(path, mib, seed):
    source = random.Random(seed)
    with path.open("wb") as out:
        for _ in range(mib):
            out.write(source.randbytes(1 << 20))
    return path


def durable_copy(source, target):
    return timed(["dd", f"if={source}", f"of={target}", "bs=4M", "conv=fsync", "status=none"])


def measure(root, mib, rounds):
    samples = {}

    def note(name, seconds):
        samples.setdefault(name, []).append(seconds)
        say(f"{name}: {seconds:.2f} s")

    node = Node(root / "node", "bench")
    with Server(root / "server") as server:
        env = server.remotes(root)
        rclone = lambda *args: timed(["rclone", *args], env=env)
        until("SeaweedFS takes a bucket", lambda: subprocess.run(
            ["rclone", "mkdir", "s3:bench"], env=env, capture_output=True, check=False).returncode == 0, 60, 0.5)
        node.run("init", "--name", "bench")
        node.run("up")
        try:
            sealed, files = root / "sealed", root / "files"
            files.mkdir()
            sealed.mkdir()
            node.run("location", "add", "files", files)
            node.run("location", "add", "near", sealed, "--profile", "sealed")
            node.run("profile", "add", "cloud", "--provider", "s3", "--set", f"endpoint={server.endpoint}",
                     "--encrypted", "--chunked")
            account = f"access_key_id={server.key}\nsecret_access_key={server.secret}\n"
            command = [BIN, "--home", str(node.home), "credential", "set", "cloud", "--no-test"]
            subprocess.run(command, input=account, text=True, check=True, stdout=subprocess.DEVNULL)
            node.run("location", "add", "far", "s3://bench/larder", "--profile", "cloud")
            for number in range(rounds):
                # Every round has bytes of its own: what is stored already would cost nothing.
                path = made(files / f"round-{number}.bin", mib, f"larder sealed {number}")
                node.run("index", "files")
                content = node.run("find", path.name)[0]["content_id"]
                settle()
                note("hash", timed([B3SUM, "--no-names", str(path)]))
                note("disk", durable_copy(path, root / "copy"))
                (root / "copy").unlink()
                settle()
                note("network", rclone("copyto", str(path), f"s3:bench/plain-{number}"))
                for kind, place in (("disk", "near"), ("server", "far")):
                    settle()
                    begin = time.monotonic()
                    node.run("ensure", content, "--at", place)
                    note(f"larder {kind}", time.monotonic() - begin)
                    settle()
                    note(f"rclone {kind}", rclone("copyto", str(path), f"{place}:{path.name}"))
        finally:
            node.stop()
    return {name: median(values) for name, values in samples.items()}


def report(figures, mib):
    rate = lambda seconds: f"{mib / seconds:.0f} MiB/s"
    limit = {"disk": max(figures["hash"], figures["disk"]), "server": max(figures["hash"], figures["network"])}
    print("| P15 | sealed put | Larder | slowest part alone | ratio (≥ 0.8×) | rclone crypt | ratio (≥ 1×) |")
    print("|---|---|---|---|---|---|---|")
    for kind in ("disk", "server"):
        ours, theirs = figures[f"larder {kind}"], figures[f"rclone {kind}"]
        print(f"| P15 | {mib} MiB to {kind} | {rate(ours)} | {rate(limit[kind])} | {limit[kind] / ours:.2f}× | "
              f"{rate(theirs)} | {theirs / ours:.2f}× |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="larder-sealed-", ignore_cleanup_errors=True) as root:
        report(measure(Path(root), args.mib, args.rounds), args.mib)
        remove_discarded()


main()
