"""Load a server of `app.py` with locust: scenarios that people run, for the server and for `HostClient`.

    fastserve run app:handler --app-dir loadtests --log-level error
    locust -f loadtests/locustfile.py -H http://127.0.0.1:8000                                     # a web page, :8089
    locust -f loadtests/locustfile.py -H http://127.0.0.1:8000 --headless -u 64 -t 30s MixUser
    ... --processes 2 --html report.html --csv figures --max-fail-ratio 0 --max-p95 50

Name the user classes that shall run; without any all do, in equal parts. ``--list`` shows them. Every response is compared
with what it must be. Exit status 1: a limit was passed, or, without ``--max-fail-ratio``, anything failed at all.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from typing import Any, cast

from host_client_user import ReportingUser
from locust import FastHttpUser, events  # type: ignore[import-not-found, unused-ignore]
from locust.env import Environment  # type: ignore[import-not-found, unused-ignore]
from locust.runners import WorkerRunner  # type: ignore[import-not-found, unused-ignore]
from scenarios import MIX, SCENARIOS, Scenario

from fastserve import ClientResponse

logger = logging.getLogger(__name__)


# Options


def ratio(text: str) -> float:
    return _number(text, 1.0, "a ratio from 0 to 1, such as 0.01")


def milliseconds(text: str) -> float:
    return _number(text, float("inf"), "a number of milliseconds, at least 0")


def seconds(text: str) -> float:
    return _number(text, 3600.0, "a number of seconds from 0 to 3600")


def connections(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:9]) > 0 and len(text) <= 9):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of connections, at least 1")
    return int(text)


def _number(text: str, most: float, takes: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not {takes}")
    return number


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator, unused-ignore]
def add_options(parser: argparse.ArgumentParser) -> None:
    group: Any = parser.add_argument_group("fastserve", "Options of this locustfile.")
    group.add_argument(
        "--max-fail-ratio",
        type=ratio,
        metavar="RATIO",
        help="Exit status 1 when more than this part of the requests failed, 0 otherwise.",
    )
    group.add_argument(
        "--max-p95",
        type=milliseconds,
        metavar="MS",
        help="Exit status 1 when the 95th percentile of the response times, of all requests together, is above this.",
    )
    group.add_argument(
        "--think-time", type=seconds, default=0.0, metavar="SECONDS", help="Pause of a user between requests."
    )
    group.add_argument(
        "--max-conns",
        type=connections,
        default=512,
        metavar="NUMBER",
        help="HostClient users: most connections of the client of a process. Users that find all in use wait in line.",
    )


def passed_limits(environment: Environment) -> list[str]:
    """Each limit that the whole run has passed, in words."""
    options: Any = environment.parsed_options
    total = environment.stats.total
    found = []
    if not total.num_requests:
        found.append("no request was made")
    if options.max_fail_ratio is not None and total.fail_ratio > options.max_fail_ratio:
        found.append(f"{total.fail_ratio:.2%} of the requests failed, at most {options.max_fail_ratio:.2%} may")
    if options.max_p95 is not None:
        p95 = total.get_response_time_percentile(0.95)
        if p95 > options.max_p95:
            found.append(f"p95 is {p95:g} ms, at most {options.max_p95:g} ms are allowed")
    return found


@events.quitting.add_listener  # type: ignore[untyped-decorator, unused-ignore]
def judge(environment: Environment, **_: Any) -> None:
    """Set the exit status where limits were asked for; otherwise it is locust's own: 1 when anything failed."""
    options: Any = environment.parsed_options
    runner: Any = environment.runner
    if isinstance(runner, WorkerRunner) or (options.max_fail_ratio is None and options.max_p95 is None):
        return
    limits = passed_limits(environment)
    for limit in limits:
        logger.error("Limit passed: %s", limit)
    if limits:
        environment.process_exit_code = 1
    elif options.max_fail_ratio is not None and not runner.exceptions and not environment.process_exit_code:
        environment.process_exit_code = 0  # failures there may be, so many


# Users


def asking(weights: dict[str, int]) -> list[Any]:
    """The tasks of a user that sends these scenarios, each as often as its weight says."""
    tasks: list[Any] = []
    for name, weight in weights.items():
        tasks += [_task(SCENARIOS[name])] * weight
    return tasks


def _task(scenario: Scenario) -> Callable[..., Any]:
    def send(user: FastUser | ClientUser) -> None:
        user.send(scenario)

    return send


def think(user: Any) -> float:
    seconds: float = user.environment.parsed_options.think_time
    return seconds


class FastUser(FastHttpUser):  # type: ignore[misc, unused-ignore]
    """Sends scenarios with locust's own fast client."""

    abstract = True
    wait_time = think

    def send(self, scenario: Scenario) -> None:
        with self.client.request(
            scenario.method,
            scenario.path,
            name=scenario.name,
            headers=dict(scenario.headers),
            data=cast(Any, scenario.body),  # str, says locust; bytes go through as they are
            catch_response=True,
        ) as response:
            # What failed already has no body to be read.
            if response.request_meta["exception"] is None and response.content != scenario.expected:
                response.failure("the body is not the expected one")


class SmallGetUser(FastUser):
    tasks = asking({"small GET": 1})


class BrowserGetUser(FastUser):
    tasks = asking({"browser GET": 1})


class JsonPostUser(FastUser):
    tasks = asking({"JSON POST": 1})


class LargeBodyUser(FastUser):
    tasks = asking({"64 KiB both ways": 1})


class StreamUser(FastUser):
    tasks = asking({"streamed response": 1})


class BlockingUser(FastUser):
    tasks = asking({"blocking handler": 1})


class NoKeepAliveUser(FastUser):
    tasks = asking({"keep-alive off": 1})


class MixUser(FastUser):
    tasks = asking(MIX)


class ClientUser(ReportingUser):
    """Sends scenarios with `SyncHostClient`."""

    abstract = True
    wait_time = think

    def client_options(self) -> dict[str, Any]:
        return {"max_conns": self.environment.parsed_options.max_conns, "max_conn_wait_timeout": 30.0}

    def send(self, scenario: Scenario) -> None:
        def check(response: ClientResponse) -> str | None:
            return None if response.body == scenario.expected else "the body is not the expected one"

        self.client.request(
            scenario.method,
            scenario.path,
            name=f"HostClient: {scenario.name}",
            check=check,
            headers=scenario.headers or None,
            body=scenario.body,
        )


class HostClientSmallGetUser(ClientUser):
    tasks = asking({"small GET": 1})


class HostClientUser(ClientUser):
    tasks = asking(MIX)
