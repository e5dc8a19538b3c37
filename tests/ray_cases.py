"""A Ray cluster of two nodes on this machine, for tests."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import whycam

# Of the cluster that is started here: others of this machine are not to use it.
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
# Ray reads it once, when it is first imported.
os.environ.update(TOKEN)
# A machine is known to be lost after five looks in vain, a second apart, and not after half a minute.
HEALTH = {"period_ms": "1000", "initial_delay_ms": "1000", "failure_threshold": "5", "timeout_ms": "10000"}


def find_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def find_ip() -> str:
    """This machine's address as Ray has it."""
    import ray

    return str(ray.util.get_node_ip_address())


class Cluster:
    """Two nodes on this machine, processes of their own; each alone has room for three workers."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.port, self.folder = find_ports(1)[0], folder
        source = str(Path(whycam.__file__).parents[1])
        self.env = {**os.environ, "PYTHONPATH": source, "WHYCAM_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
        # Workers of the usual niceness would hardly run beside other tests.
        self.env |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
        self.env |= {f"RAY_health_check_{name}": value for name, value in HEALTH.items()}
        self.nodes: list[subprocess.Popen[bytes]] = []
        self.add_node("--head", f"--port={self.port}", "--include-dashboard=false", "--disable-usage-stats")
        self.address = f"{find_ip()}:{self.port}"
        # Asking Ray itself takes a Python that imports it: it is asked once, when both nodes are started.
        self._wait_for_port()
        self.add_node(f"--address={self.address}")
        self.wait(len(self.nodes))

    def add_node(self, *words: str) -> None:
        # Ports that are given need not be waited for, which a busy machine does in vain.
        names = ("metrics-export-port", "dashboard-agent-grpc-port", "dashboard-agent-listen-port")
        ports = zip((*names, "runtime-env-agent-port"), find_ports(4), strict=True)
        command = [str(Path(sys.executable).with_name("ray")), "start", *words, "--num-cpus=3", "--block"]
        command += ["--object-store-memory=200000000"]
        command += [f"--{name}={port}" for name, port in ports]
        command += [f"--temp-dir={self.folder}"] if "--head" in words else []
        with (self.folder / f"node{len(self.nodes)}.log").open("wb") as log:
            self.nodes.append(subprocess.Popen(command, env=self.env, stdout=log, stderr=log, start_new_session=True))

    def _wait_for_port(self) -> None:
        deadline = time.monotonic() + 120
        while True:
            with suppress(OSError), socket.create_connection((find_ip(), self.port), timeout=5):
                return
            assert time.monotonic() < deadline, (self.folder / "node0.log").read_text()
            time.sleep(0.1)

    def wait(self, nodes: int) -> None:
        """Until so many nodes are up."""
        code = (
            "import ray, sys\n"
            "ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')\n"
            "sys.exit(sum(node['Alive'] for node in ray.nodes()) != int(sys.argv[2]))"
        )
        deadline = time.monotonic() + 120
        while True:
            words = [sys.executable, "-c", code, f"{find_ip()}:{self.port}", str(nodes)]
            try:
                if subprocess.run(words, env=self.env, capture_output=True, timeout=40, check=False).returncode == 0:
                    return
            except subprocess.TimeoutExpired:
                pass
            assert time.monotonic() < deadline, (self.folder / f"node{nodes - 1}.log").read_text()

    def find_processes(self, name: str = "", node: int | None = None) -> list[int]:
        """Those that this cluster, or one node of it, has started and whose command line begins so."""
        children: dict[int, list[int]] = {}
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(path.name))
        waiting = [one.pid for i, one in enumerate(self.nodes) if node in {None, i}]
        found = []
        while waiting:
            pid = waiting.pop()
            waiting += children.get(pid, [])
            with suppress(OSError):
                if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(name.encode()):
                    found.append(pid)
        return found

    def kill_node(self, node: int) -> None:
        """All processes of a node at once, as a machine that loses its power."""
        for pid in self.find_processes(node=node):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.nodes[node].wait()

    def stop(self) -> None:
        for node in reversed(range(len(self.nodes))):
            self.kill_node(node)


@contextmanager
def start_cluster(cache: Path) -> Iterator[Cluster]:
    """Both nodes; workers find a copy of the cache."""
    # Paths of sockets may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    shutil.copytree(cache, folder / "cache")
    made = Cluster(folder, folder / "cache")
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)
