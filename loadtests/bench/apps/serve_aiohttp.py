"""aiohttp's server on uvloop: python -m bench.apps.serve_aiohttp PORT"""

from __future__ import annotations

import sys

import uvloop
from aiohttp import web

from bench.body import response_body

BODY = response_body()


async def handler(request: web.Request) -> web.Response:
    if request.method == "POST":
        await request.read()
    return web.Response(body=BODY, content_type="text/plain")


if __name__ == "__main__":
    app = web.Application(client_max_size=64 << 20)
    app.router.add_route("*", "/{path:.*}", handler)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None, loop=uvloop.new_event_loop())
