"""A locustfile beside the tested one: it ends the run when enough requests have been made, however slow the machine is."""

from __future__ import annotations

import os
from typing import Any

import gevent  # type: ignore[import-untyped, unused-ignore]
from locust import events  # type: ignore[import-not-found, unused-ignore]
from locust.env import Environment  # type: ignore[import-not-found, unused-ignore]
from locust.runners import WorkerRunner  # type: ignore[import-not-found, unused-ignore]

ENOUGH = int(os.environ["ENOUGH_REQUESTS"])
CSV_INTERVAL = 1.0
"""Seconds between two writes of locust's CSV files, which has nothing to do with the end of the run."""


@events.init.add_listener  # type: ignore[untyped-decorator, unused-ignore]
def watch(environment: Environment, **_: Any) -> None:
    runner: Any = environment.runner
    hooks: Any = environment.events
    options: Any = environment.parsed_options
    is_over = False

    def look(**_: Any) -> None:
        nonlocal is_over
        if environment.stats.total.num_requests >= ENOUGH and not is_over:
            is_over = True
            # In a greenlet of its own: this one may be a user's, which is ended by that.
            gevent.spawn_later(3 * CSV_INTERVAL if options.csv_prefix else 0, runner.quit)

    if not isinstance(runner, WorkerRunner):
        hooks.request.add_listener(look)
        hooks.worker_report.add_listener(look)
