"""socketify: python -m bench.apps.serve_socketify PORT"""

from __future__ import annotations

import sys
from typing import Any

from socketify import App

from bench.body import response_body

BODY = response_body()


def get(response: Any, request: Any) -> None:
    response.write_header("Content-Type", "text/plain")
    response.end(BODY)


def post(response: Any, request: Any) -> None:
    def on_data(response: Any, chunk: Any, is_end: bool) -> None:
        if is_end:
            get(response, request)

    response.on_data(on_data)


if __name__ == "__main__":
    app = App()
    app.post("/*", post)
    app.any("/*", get)
    app.listen(int(sys.argv[1]), lambda config: None)
    app.run()
