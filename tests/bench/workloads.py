"""The inputs of docs/performance.md: incompressible, the same in every run."""

import random
from dataclasses import dataclass
from pathlib import Path

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@dataclass
class Workload:
    """A folder of files."""

    name: str
    text: str
    folder: Path
    files: int = 0
    bytes: int = 0


def _write(path, source, length):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as out:
        left = length
        while left:
            piece = min(left, 8 * MIB)
            out.write(source.randbytes(piece))
            left -= piece


def make(name, folder, scale):
    """Makes W1, W2 or W3; `scale` shrinks it for a quick look."""
    source = random.Random(f"larder {name}")
    if name == "W1":
        text, sizes = "one file of 1 GiB", [("large.bin", int(GIB * scale))]
    elif name == "W2":
        count = int(10_000 * scale)
        text = "10,000 files of 1–16 KiB in 200 folders"
        sizes = [(f"folder-{n % 200:03}/file-{n:05}.bin", source.randint(KIB, 16 * KIB)) for n in range(count)]
    elif name == "W3":
        count = int(400 * scale)
        text = "400 files of 2–6 MiB"
        sizes = [(f"picture-{n:03}.bin", source.randint(2 * MIB, 6 * MIB)) for n in range(count)]
    else:
        raise ValueError(name)
    for path, size in sizes:
        _write(folder / path, source, size)
    return Workload(name, text, folder, len(sizes), sum(size for _, size in sizes))


def make_million(folder, count):
    """A location with very many small files, each with a content of its own and words to find it by."""
    words = "beach hotel garden letter winter summer report invoice family music river mountain".split()
    for number in range(count):
        place = folder / f"{number % 1000:03}"
        if number < 1000:
            place.mkdir(parents=True)
        word = words[number % len(words)]
        (place / f"{word}-{number:07}.txt").write_bytes(b"content %d of the benchmark" % number)
