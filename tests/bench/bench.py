"""Larder beside b3sum, bare streams and Syncthing. Called by tests/bench/run; prints Markdown to stdout."""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import larder
import syncthing
import workloads
from measure import children_seconds, discard, median, percentile, remove_discarded, say, settle, timed, until

B3SUM = os.environ.get("B3SUM_BIN", "b3sum")
WALK = os.environ.get("WALK_BIN", "walk")
BARE = os.environ.get("BARE_BIN", "bare_stream")


def arguments():
    parser = argparse.ArgumentParser(prog="tests/bench/run", description=__doc__)
    parser.add_argument("--only", default="W2,W1,W3", help="workloads, such as W1,W3")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured; the median counts")
    parser.add_argument("--scale", type=float, default=1.0, help="shrinks the workloads for a quick look")
    parser.add_argument("--million", nargs="?", type=int, const=1_000_000, help="also P9, with so many files")
    parser.add_argument("--no-syncthing", action="store_true", help="leave Syncthing out")
    parser.add_argument("--no-larder", action="store_true", help="measure the others only")
    parser.add_argument("--no-stream", action="store_true", help="leave the bare streams out")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="where the files are made")
    return parser.parse_args()


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def b3sum(folder):
    """Seconds and CPU seconds of b3sum over all files of a folder; in one process, however many they are."""
    names = "".join(f"{path}\0" for path in files_of(folder)).encode()
    begin_cpu = children_seconds()
    seconds = timed(["xargs", "-0", "-n", "100000", "-s", "2000000", B3SUM, "--no-names"], input=names)
    return seconds, children_seconds() - begin_cpu


def same(left, right):
    """Whether two folders hold the same files with the same bytes."""
    listed = lambda root: [(str(path.relative_to(root)), path.stat().st_size) for path in files_of(root)]
    sums = lambda root: subprocess.run(
        ["xargs", "-0", B3SUM, "--no-names"], input="".join(f"{path}\0" for path in files_of(root)).encode(),
        capture_output=True, check=True).stdout
    return listed(left) == listed(right) and sums(left) == sums(right)


def measure(name, options, root):
    """All rounds of one workload; a list of samples for each figure."""
    say(f"{name}: making files")
    workload = workloads.make(name, root / name, options.scale)
    samples = {}

    def note(**figures):
        for key, value in figures.items():
            samples.setdefault(key, []).append(value)

    b3sum(workload.folder)  # Every reader after this finds the files in the page cache.
    for number in range(options.rounds):
        settle()
        seconds, cpu = b3sum(workload.folder)
        note(b3sum=seconds, b3sum_cpu=cpu, walk=min(timed([WALK, str(workload.folder)]) for _ in range(5)))
        say(f"{name} round {number + 1}: b3sum {seconds:.2f} s")
        if not options.no_stream and name != "W2":
            run = bare_stream(workload, root)
            note(**run)
            say(f"{name} round {number + 1}: bare streams {run}")
        if not options.no_syncthing:
            with syncthing.Pair(root / "syncthing") as pair:
                settle()
                run = pair.run(workload)
                check(same(workload.folder, run.pop("target")), f"Syncthing's copy of {name}")
            note(**{f"syncthing_{key}": value for key, value in run.items()})
            say(f"{name} round {number + 1}: Syncthing {run}")
        if not options.no_larder:
            with larder.Pair(root / "larder") as pair:
                settle()
                run = pair.run(workload)
                target = run.pop("target")
                check(same(workload.folder, inner(target, workload)), f"Larder's copy of {name}")
            note(**{f"larder_{key}": value for key, value in run.items()})
            say(f"{name} round {number + 1}: Larder {run}")
    discard(workload.folder)
    if name != "W2":
        remove_discarded()
    return workload, {key: median(values) for key, values in samples.items()}


def inner(target, workload):
    """The fetched folder itself, whether `get` puts its name below the target or not."""
    return target / workload.name if (target / workload.name).is_dir() else target


def check(holds, what):
    if not holds:
        raise SystemExit(f"bench: {what} is not what it should be: the figures mean nothing")


def bare_stream(workload, root):
    """Seconds that all bytes of a workload take as one file over a bare QUIC stream and a bare TLS stream."""
    whole, target = root / "bare-source", root / "bare-target"
    with whole.open("wb") as out:
        for path in files_of(workload.folder):
            with path.open("rb") as source:
                shutil.copyfileobj(source, out, 8 << 20)
    settle()
    run = subprocess.run([BARE, whole, target], capture_output=True, text=True, check=True)
    whole.unlink()
    figures = json.loads(run.stdout)
    return {"bare_quic": figures["quic_seconds"], "bare_tls": figures["tls_seconds"]}


def million(count, root):
    """P9: what `find` and `where` cost with very many contents."""
    folder = root / "million"
    say(f"making {count:,} files")
    workloads.make_million(folder, count)
    settle()
    node = larder.Node(root / "million-node", "big")
    try:
        node.run("init", "--name", "big")
        node.run("up")
        node.run("location", "add", "big", folder)
        begin = time.monotonic()
        summary = node.run("index", "big")[0]
        say(f"indexed in {time.monotonic() - begin:.1f} s: {summary}")
        check(summary["scanned"] == count, "the index of the million")
        figures = {"index": time.monotonic() - begin, "memory": node.memory()[0]}
        catalog = sum(path.stat().st_size for path in (node.home / "catalog").rglob("*") if path.is_file())
        figures["catalog"] = catalog / count
        # The search index is built behind the answer; what is measured is the state that people meet.
        rare = lambda number: {"query": f"{number % count:07}"}
        until("the last file is found", lambda: larder.Socket(node).ask("/v1/find", rare(count - 1)), 300, 0.5)

        held = larder.Socket(node)
        contents, finds, wheres = [], [], []
        for step in range(1000):
            body = rare(step * 7919)
            begin = time.perf_counter()
            hits = held.ask("/v1/find", body)
            finds.append(time.perf_counter() - begin)
            contents.append(hits[0]["content_id"])
        for content in contents:
            begin = time.perf_counter()
            held.ask("/v1/where", {"reference": content})
            wheres.append(time.perf_counter() - begin)
        nothing = []
        for _ in range(1000):
            begin = time.perf_counter()
            held.request("GET", "/v1/catalog/nothing")
            held.getresponse().read()
            nothing.append(time.perf_counter() - begin)
        find = [larder.BIN, "--home", str(node.home), "--json", "find"]
        where = [larder.BIN, "--home", str(node.home), "--json", "where"]
        figures |= {
            "find": percentile(finds, 0.99),
            "where": percentile(wheres, 0.99),
            "nothing": percentile(nothing, 0.99),
            "medians": [median(values) for values in (finds, wheres, nothing)],
            "find command": percentile([timed([*find, f"{n * 7919 % count:07}"]) for n in range(200)], 0.99),
            "where command": percentile([timed([*where, content]) for content in contents[:200]], 0.99),
        }
        return figures
    finally:
        node.stop()
        shutil.rmtree(folder, ignore_errors=True)


def row(*cells):
    print("| " + " | ".join(cells) + " |")


def judged(value, limit, at_least):
    return "yes" if (value >= limit if at_least else value <= limit) else "**no**"


def ratio(label, what, ours, theirs, other, limit, at_least):
    """A row that compares: `at_least` a limit (we are that much faster) or at most (we take that much of it)."""
    value = theirs / ours if at_least else ours / theirs
    sign = "≥" if at_least else "≤"
    row(label, what, f"{ours:.3g} s", f"{other} {theirs:.3g} s",
        f"{value:.2f}× {'as fast' if at_least else 'the time'}", f"{sign} {limit}×",
        judged(value, limit, at_least))


def report(results, big, options):
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    print(f"Machine: {cpu}, {os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}. "
          f"Both ends of a transfer share it, over loopback. Median of {options.rounds} rounds"
          + (f", workloads scaled by {options.scale}" if options.scale != 1 else "") + ".\n")
    for workload, _ in results.values():
        print(f"- {workload.name}: {workload.text}; {workload.bytes / 1e6:,.0f} MB")
    print()

    if not options.no_larder:
        row("#", "what", "Larder", "beside", "ratio", "target", "holds")
        row(*["---"] * 7)
        for name, (workload, figures) in results.items():
            if name in ("W1", "W3"):
                limit = 0.8 if name == "W1" else 0.7
                ratio("P1", f"first index of {name}", figures["larder_index"], figures["b3sum"], "b3sum", limit, True)
            else:
                ratio("P2", f"first index of {name}", figures["larder_index"], figures["b3sum"], "b3sum", 2, False)
            if "syncthing_scan" in figures and name == "W2":
                ratio("P2", f"first index of {name}", figures["larder_index"], figures["syncthing_scan"],
                      "Syncthing's scan", 1.5, True)
            if "syncthing_total" in figures:
                label, limit = ("P4", 5) if name == "W2" else ("P3", 2)
                ratio(label, f"{name} from new files to verified files at the other node", figures["larder_total"],
                      figures["syncthing_total"], "Syncthing", limit, True)
                ours, theirs = figures["larder_cpu"], figures["syncthing_cpu"]
                row("P3", f"{name}: CPU of both ends", f"{ours:.3g} s", f"Syncthing {theirs:.3g} s",
                    f"{ours / theirs:.2f}×", "≤ 0.5×", judged(ours / theirs, 0.5, False))
            for stream in ("QUIC", "TLS"):
                if f"bare_{stream.lower()}" in figures:
                    ratio("P3", f"{name}: `get` alone", figures["larder_get"], figures[f"bare_{stream.lower()}"],
                          f"bare {stream} stream", 0.7, True)
            if name == "W2":
                row("P8", "nothing changed in W2, `index --quick`", f"{figures['larder_quick']:.3g} s", "–", "–",
                    "< 1 s", judged(figures["larder_quick"], 1, False))
                ratio("P8", "nothing changed in W2, `index --smart`", figures["larder_smart"], figures["walk"],
                      "bare walk", 1.5, False)
        if big:
            for label, limit in (("find", 1e-3), ("where", 1e-3), ("find command", 2e-2), ("where command", 2e-2)):
                row("P9", f"p99 of `{label}` among {options.million:,} contents", f"{big[label] * 1e3:.2f} ms", "–",
                    "–", f"< {limit * 1e3:.0f} ms", judged(big[label], limit, False))
        print()

    columns = {
        "b3sum": "b3sum", "bare QUIC": "bare_quic", "bare TLS": "bare_tls", "Syncthing: scan": "syncthing_scan",
        "all": "syncthing_total", "CPU": "syncthing_cpu", "Larder: index": "larder_index", "seen there": "larder_seen",
        "get": "larder_get", "all ": "larder_total", "CPU ": "larder_cpu",
    }
    row("workload", *columns, "memory")
    row(*["---"] * (len(columns) + 2))
    for name, (_, figures) in results.items():
        seconds = [f"{figures[key]:.3g} s" if key in figures else "–" for key in columns.values()]
        most = f"{figures['larder_memory'] / 2**20:.0f} MiB" if "larder_memory" in figures else "–"
        row(name, *seconds, most)
    if big:
        find, where, nothing = (f"{value * 1e3:.2f}" for value in big["medians"])
        print(f"\n{options.million:,} files: indexed in {big['index']:.1f} s, {big['catalog']:.0f} bytes of catalog a "
              f"file, {big['memory'] / 2**20:.0f} MiB of memory. Over the socket, from Python, an answer that asks for "
              f"nothing takes {big['nothing'] * 1e3:.2f} ms (p99); the medians are {find} ms for `find`, {where} ms for "
              f"`where`, {nothing} ms for nothing.")


def main():
    options = arguments()
    # Being told to end is no reason to leave instances behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    root = Path(tempfile.mkdtemp(prefix="larder-bench-", dir=options.dir))
    try:
        if not options.no_syncthing:
            say(f"Syncthing {syncthing.version()}")
        results = {name: measure(name, options, root) for name in options.only.split(",") if name}
        big = million(options.million, root) if options.million and not options.no_larder else None
        report(results, big, options)
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
