"""Resident memory of the server per idle keep-alive connection.

    python loadtests/idle_memory.py [--connections 9000] [-- COMMAND ... {port}]

Starts a server (`fastserve run` with a small handler, or COMMAND), opens that many connections to
127.0.0.1, sends one request on each and reads the answer, waits until the server has had time to
notice that they are idle, and reads its resident memory; then closes them and reads it again.
Needs two file descriptors per connection, one in each process (``ulimit -n``).
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def resident(pid: int) -> int:
    """Bytes of resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def connect(port: int) -> socket.socket:
    """A connection that has had its first answer."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    sock.sendall(REQUEST)
    answer = sock.recv(4096)
    if b" 200 " not in answer:
        raise SystemExit(f"idle_memory.py: error: the server answered {answer[:80]!r}")
    return sock


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and process.poll() is None:
        try:
            connect(port).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("idle_memory.py: error: the server did not start")


def measure(command: list[str], connections: int, settle: float) -> None:
    port = free_port()
    process = subprocess.Popen([part.replace("{port}", str(port)) for part in command])
    try:
        wait_for(port, process)
        for _ in range(200):  # the allocator's own first needs
            connect(port).close()
        time.sleep(settle)
        start = resident(process.pid)
        held = [connect(port) for _ in range(connections)]
        time.sleep(settle)
        open_ = resident(process.pid)
        for sock in held:
            sock.close()
        time.sleep(settle)
        closed = resident(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    print(f"at the start          {start / 1024:9.0f} KiB")
    print(
        f"{connections:6} connections    {open_ / 1024:9.0f} KiB   {(open_ - start) / connections / 1024:.2f} KiB each"
    )
    print(f"after they closed     {closed / 1024:9.0f} KiB   {closed / start:.2f} x the start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=9000)
    parser.add_argument(
        "--settle", type=float, default=2.0, help="seconds for timers to run: several ticks of the server"
    )
    parser.add_argument("command", nargs="*", help="a server's command with {port}; default: fastserve")
    arguments = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = arguments.connections + 100
    if soft < need:
        if hard != resource.RLIM_INFINITY and hard < need:
            raise SystemExit(f"idle_memory.py: error: needs {need} file descriptors, the limit is {hard}; ulimit -n")
        resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    measure(
        arguments.command
        or [
            sys.executable,
            "-m",
            "fastserve",
            "run",
            "handlers:async_handler",
            "--port",
            "{port}",
            "--log-level",
            "error",
        ],
        arguments.connections,
        arguments.settle,
    )


if __name__ == "__main__":
    main()
