"""Two Syncthing instances on loopback: no discovery, relays, NAT, reports or upgrades; driven through REST."""

import json
import os
import re
import socket
import subprocess
import time
import urllib.request
import xml.etree.ElementTree as xml
from pathlib import Path

from measure import cpu_seconds, discard, until

KEY = "larder-benchmark"
FOLDER = "bench"
OFF = {
    "globalAnnounceEnabled": "false",
    "localAnnounceEnabled": "false",
    "relaysEnabled": "false",
    "natEnabled": "false",
    "startBrowser": "false",
    "crashReportingEnabled": "false",
    "urAccepted": "-1",
    "autoUpgradeIntervalH": "0",
    "reconnectionIntervalS": "5",
    "stunServer": "",
    # It makes itself nice by default, which would be a handicap here.
    "setLowPriority": "false",
}


def version():
    return subprocess.run(["syncthing", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Instance:
    """One Syncthing with a fresh home."""

    def __init__(self, root):
        self.home, self.folder = root / "home", root / "folder"
        self.folder.mkdir(parents=True)
        command = ["syncthing", "generate", "--home", str(self.home), "--no-default-folder", "--skip-port-probing"]
        made = subprocess.run(command, capture_output=True, text=True, check=True)
        self.device = re.search(r"Device ID: (\S+)", made.stdout + made.stderr)[1]
        self.gui, self.sync, self.process = free_port(), free_port(), None

    def configure(self, peer):
        path = self.home / "config.xml"
        tree = xml.parse(path)
        root, options = tree.getroot(), tree.getroot().find("options")
        for name, value in OFF.items():
            for old in options.findall(name):
                options.remove(old)
            xml.SubElement(options, name).text = value
        options.find("listenAddress").text = f"tcp://127.0.0.1:{self.sync}"
        root.find("gui/address").text = f"127.0.0.1:{self.gui}"
        root.find("gui/apikey").text = KEY
        for old in root.findall("device"):
            root.remove(old)
        for one in (self, peer):
            device = xml.SubElement(root, "device", id=one.device, name=one.device[:7], compression="metadata")
            xml.SubElement(device, "address").text = f"tcp://127.0.0.1:{one.sync}"
        folder = xml.SubElement(
            root, "folder", id=FOLDER, label=FOLDER, path=str(self.folder), type="sendreceive",
            rescanIntervalS="0", fsWatcherEnabled="false",
        )
        for one in (self, peer):
            xml.SubElement(folder, "device", id=one.device)
        tree.write(path)

    def start(self):
        environment = {"HOME": str(self.home), "PATH": os.environ["PATH"], "STNOUPGRADE": "1", "STNODEFAULTFOLDER": "1"}
        command = ["syncthing", "serve", "--home", str(self.home), "--no-browser", "--no-restart", "--no-upgrade"]
        with (self.home / "log").open("w") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def rest(self, path, method="GET"):
        url = f"http://127.0.0.1:{self.gui}/rest/{path}"
        request = urllib.request.Request(url, method=method, headers={"X-API-Key": KEY})
        with urllib.request.urlopen(request, timeout=600) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def try_rest(self, path):
        try:
            return self.rest(path)
        except OSError:
            return None

    def status(self):
        return self.rest(f"db/status?folder={FOLDER}")

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Pair:
    """Two instances that share one empty folder."""

    def __init__(self, root):
        self.root = root
        self.a, self.b = Instance(root / "a"), Instance(root / "b")

    def __enter__(self):
        self.a.configure(self.b)
        self.b.configure(self.a)
        try:
            for one in (self.a, self.b):
                one.start()
            for one, other in ((self.a, self.b), (self.b, self.a)):
                connected = lambda: (one.try_rest("system/connections") or {}).get("connections", {}).get(
                    other.device, {}).get("connected")
                until("Syncthing's instances are connected", connected, 120)
                until("Syncthing's folder is idle", lambda: one.status()["state"] == "idle", 120)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for one in (self.a, self.b):
            one.stop()
        discard(self.root)

    def run(self, workload):
        """Moves a workload into A's folder, asks for a scan at once, and waits until B has all of it."""
        begin_cpu = cpu_seconds([self.a.process.pid, self.b.process.pid])
        inside = self.a.folder / workload.name
        os.rename(workload.folder, inside)
        begin = time.monotonic()
        self.a.rest(f"db/scan?folder={FOLDER}", "POST")
        scanned = time.monotonic()

        def done():
            # Files are counted and not bytes, because Syncthing counts 128 bytes for each folder.
            status = self.b.status()
            return (
                status["state"] == "idle"
                and status["needTotalItems"] == 0
                and status["inSyncFiles"] == workload.files
            )

        until("Syncthing has brought everything", done, 900)
        end = time.monotonic()
        cpu = cpu_seconds([self.a.process.pid, self.b.process.pid]) - begin_cpu
        os.rename(inside, workload.folder)
        return {"scan": scanned - begin, "total": end - begin, "cpu": cpu, "target": self.b.folder / workload.name}
