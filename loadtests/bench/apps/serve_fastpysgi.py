"""fastpysgi: python -m bench.apps.serve_fastpysgi PORT asgi|wsgi"""

from __future__ import annotations

import sys
from importlib import import_module

import fastpysgi

if __name__ == "__main__":
    fastpysgi.run(import_module(f"bench.apps.{sys.argv[2]}").app, "127.0.0.1", int(sys.argv[1]))
