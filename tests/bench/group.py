"""Groups of many real nodes on loopback: what being idle costs (P10), and how fast a change spreads (P17).

The second checks the simulation's model of gossip (`larder-sim gossip`): both are printed beside each other.
"""

import argparse
import os
import re
import statistics
import subprocess
import tempfile
import time
from datetime import datetime
from pathlib import Path

from larder import Node
from measure import cpu_seconds, discard, remove_discarded, say, until

LINE = re.compile(r"^(\S+) +DEBUG.*: (tells|held from gossip) device=(\S+) next_seq=(\d+)")


class Group:
    """Nodes that all know each other; the first has a location."""

    def __init__(self, root, count):
        self.root = root
        self.nodes = [Node(root / f"n{number}", f"n{number}") for number in range(count)]

    def __enter__(self):
        try:
            self.begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def begin(self):
        first = self.nodes[0]
        first.run("init", "--name", first.name)
        first.run("up", "-v")
        for node in self.nodes[1:]:
            node.run("join", first.run("invite")[0]["code"], "--name", node.name, "-v")
        say(f"{len(self.nodes)} nodes have joined")
        folder = self.root / "folder"
        folder.mkdir()
        first.run("location", "add", "bench", folder)
        self.folder = folder
        until("all see each other", self.complete, 600, 2)
        until("all know the same", self.agree, 600, 2)

    def complete(self):
        peers = [node.run("status")[0]["peers"] for node in self.nodes]
        return all(len(seen) == len(self.nodes) - 1 and all(peer["online"] for peer in seen) for seen in peers)

    def agree(self):
        return len({node.run("catalog", "digest")[0]["digest"] for node in self.nodes}) == 1

    def __exit__(self, *_):
        for node in self.nodes:
            node.stop()
        discard(self.root)

    def pids(self):
        return [node.pid() for node in self.nodes]

    def lines(self):
        """What the nodes logged about news: (time, node, who said it, number after it, whether it is the author)."""
        for node in self.nodes:
            for log in node.home.rglob("larder.*.log"):
                for line in log.read_text(errors="replace").splitlines():
                    if found := LINE.match(line):
                        at = datetime.fromisoformat(found[1].replace("Z", "+00:00")).timestamp()
                        yield at, node.name, found[3], int(found[4]), found[2] == "tells"


def loopback_bytes():
    """Bytes that loopback has carried so far."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name.strip() == "lo":
            return int(rest.split()[0])
    return 0


def idle(root, count, seconds):
    with Group(root, count) as group:
        time.sleep(30)
        say(f"idle for {seconds} s")
        cpu, carried, begin = cpu_seconds(group.pids()), loopback_bytes(), time.monotonic()
        time.sleep(seconds)
        elapsed = time.monotonic() - begin
        share = (cpu_seconds(group.pids()) - cpu) / elapsed / count
        rate = (loopback_bytes() - carried) / elapsed / count
        memory = max(node.memory()[0] for node in group.nodes)
    print(f"| P10 | idle, {count - 1} peers each: share of a core | {share * 100:.3f} % | < 0.1 % |")
    print(f"| P10 | bytes a second and node on loopback, all protocols and headers | {rate:.0f} | - |")
    print(f"| – | memory of a node at most | {memory / 2**20:.0f} MiB | - |")


def spread(root, count, changes, sim):
    with Group(root, count) as group:
        first = group.nodes[0]
        for number in range(changes):
            (group.folder / f"news-{number}.txt").write_bytes(os.urandom(64))
            first.run("index", "bench")
            time.sleep(0.3)
        until("all know the same", group.agree, 300, 1)
        told, held = {}, {}
        for at, _, device, seq, is_author in group.lines():
            if is_author:
                told[device, seq] = at
            else:
                held.setdefault((device, seq), []).append(at)
    last = sorted(told, key=told.get)[-changes:]
    times = [(at - told[key]) * 1000 for key in last for at in held.get(key, [])]
    everybody = [max(held[key]) - told[key] for key in last if len(held.get(key, [])) == count - 1]
    at = lambda values, share: sorted(values)[min(len(values) - 1, int(len(values) * share))]
    hops = f"{len(times)} of {changes * (count - 1)} by gossip"
    print(f"| P17 | {count} real nodes on loopback and {os.cpu_count()} cores, change → one node | "
          f"p50 {at(times, .5):.0f} ms, p99 {at(times, .99):.0f} ms ({hops}) |")
    if everybody:
        ms = [value * 1000 for value in everybody]
        print(f"| P17 | likewise, change → all | p50 {statistics.median(ms):.0f} ms, p99 {at(ms, .99):.0f} ms |")
    if sim:
        # What one node's share of the work takes is read off the real run: the cores are what limits it there.
        hold = statistics.median(ms) * (os.cpu_count() or 1) / count if everybody else 3
        model = subprocess.run(
            [sim, "gossip", "--nodes", str(count), "--between", "loopback", "--cores", str(os.cpu_count()),
             "--every-ms", "1000", "--messages", str(changes), "--hold-ms", f"{hold:.2f}"],
            capture_output=True, text=True, check=True)
        print(f"\nThe model with {hold:.2f} ms of work a node: {model.stdout.strip()}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["idle", "spread"])
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--seconds", type=int, default=120, help="how long to be idle")
    parser.add_argument("--changes", type=int, default=40, help="how many changes to spread")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="larder-group-", ignore_cleanup_errors=True) as root:
        if args.what == "idle":
            idle(Path(root) / "group", args.nodes or 6, args.seconds)
        else:
            spread(Path(root) / "group", args.nodes or 50, args.changes, os.environ.get("SIM_BIN"))
        remove_discarded()


main()
