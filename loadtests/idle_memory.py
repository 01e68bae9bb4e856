"""Resident memory of the server per idle keep-alive connection.

    python loadtests/idle_memory.py [--connections 9000] [-- COMMAND ... {port}]

Starts a server (`fastserve run` with a small handler, or COMMAND), opens that many connections to
127.0.0.1, sends one request on each and reads the answer, waits until the server has had time to
notice that they are idle, and reads its resident memory; then closes them and reads it again.
Needs two file descriptors per connection, one in each process (``ulimit -n``).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from bench.idle import memory_of_idle
from bench.peers import environment, find_servers
from bench.processes import NotStarted, allow_files, free_port, started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=9000)
    parser.add_argument(
        "--settle", type=float, default=2.0, help="seconds for timers to run: several ticks of the server"
    )
    parser.add_argument("command", nargs="*", help="a server's command with {port}; default: fastserve")
    arguments = parser.parse_args()
    port = free_port()
    try:
        allow_files(arguments.connections + 100)
        with tempfile.TemporaryDirectory() as work:
            fastserve = find_servers(Path(work), ["fastserve"]).peers["fastserve"]
        command = [part.replace("{port}", str(port)) for part in arguments.command] or fastserve.fill(port=port)
        with started(command, port, env=environment()) as server:
            idle = memory_of_idle(server, arguments.connections, arguments.settle)
    except (OSError, NotStarted) as error:
        raise SystemExit(f"idle_memory.py: error: {error}") from None
    print(f"at the start          {idle.start / 1024:9.0f} KiB")
    print(f"{idle.connections:6} connections    {idle.open / 1024:9.0f} KiB   {idle.each / 1024:.2f} KiB each")
    print(f"after they closed     {idle.closed / 1024:9.0f} KiB   {idle.closed / idle.start:.2f} x the start")


if __name__ == "__main__":
    main()
