"""`ReportingUser`: a locust user on `SyncHostClient`. Its requests are in locust's statistics like those of any other user.

For a locustfile of your own:

    from host_client_user import ReportingUser
    from locust import task

    class Shopper(ReportingUser):
        @task
        def look(self) -> None:
            self.client.get("/items/1", name="/items/[id]")

All users of a process share one client for each host, as the parts of a service would: connections are pooled. It is made
when the first user starts, so behind locust's monkey-patching and behind the forks of ``--processes``, and closed when the
test stops.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from locust import User  # type: ignore[import-not-found, unused-ignore]
from locust.env import Environment  # type: ignore[import-not-found, unused-ignore]
from locust.exception import (  # type: ignore[import-not-found, unused-ignore]
    CatchResponseError,
    RescheduleTask,
    StopTest,
)

from fastserve import ClientError, ClientResponse, ConfigError, SyncHostClient

__all__ = ["ReportingClient", "ReportingUser"]

Check = Callable[[ClientResponse], str | None]
"""Looks at a response, and says what is wrong with it: with a text, or by raising."""

_clients: WeakKeyDictionary[Environment, dict[tuple[type, str], SyncHostClient]] = WeakKeyDictionary()


class ReportingUser(User):  # type: ignore[misc, unused-ignore]
    """`client` is a `ReportingClient` for `host`, which may be all that `HostClient` takes as an address."""

    abstract = True

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        try:
            if not self.host:
                raise ConfigError("no host: say --host http://127.0.0.1:8000, or set `host` in the class")
            self.client = ReportingClient(self, _shared_client(self, self.host))
        except ConfigError as error:
            environment.process_exit_code = 1  # locust takes a test that never began for a good one
            raise StopTest(str(error)) from None

    def client_options(self) -> dict[str, Any]:
        """Options of the client that is made; to be overridden."""
        return {}


class ReportingClient:
    """The methods of `SyncHostClient`, with two more arguments: `name` is the row in the statistics, the URL by default, and
    `check` says what is wrong with a response, if anything is. A status from 400 on is a failure in any case.

    A request without a response is reported, and ends the task: the user goes on with the next one.
    """

    def __init__(self, user: ReportingUser, host_client: SyncHostClient) -> None:
        self.host_client = host_client
        self._user = user
        self._fire = user.environment.events.request.fire

    def request(
        self, method: str, url: str, *, name: str | None = None, check: Check | None = None, **parts: Any
    ) -> ClientResponse:
        started = time.time()
        clock = time.perf_counter()
        try:
            response = self.host_client.request(method, url, **parts)
        except ClientError as error:
            self._report(method, url, name, started, clock, error=error)
            raise RescheduleTask from error
        self._report(method, url, name, started, clock, response, len(response.body), check=check)
        return response

    def get(self, url: str, **parts: Any) -> ClientResponse:
        return self.request("GET", url, **parts)

    def head(self, url: str, **parts: Any) -> ClientResponse:
        return self.request("HEAD", url, **parts)

    def post(self, url: str, **parts: Any) -> ClientResponse:
        return self.request("POST", url, **parts)

    def put(self, url: str, **parts: Any) -> ClientResponse:
        return self.request("PUT", url, **parts)

    def patch(self, url: str, **parts: Any) -> ClientResponse:
        return self.request("PATCH", url, **parts)

    def delete(self, url: str, **parts: Any) -> ClientResponse:
        return self.request("DELETE", url, **parts)

    @contextmanager
    def stream(
        self, method: str, url: str, *, name: str | None = None, check: Check | None = None, **parts: Any
    ) -> Iterator[ClientResponse]:
        """As `SyncHostClient.stream`; it is reported at the end of the block, with the bytes that were read there."""
        started = time.time()
        clock = time.perf_counter()
        size = 0
        try:
            with self.host_client.stream(method, url, **parts) as response:
                reader = response.stream
                assert isinstance(reader, Iterator)

                def counted() -> Iterator[bytes]:
                    nonlocal size
                    for piece in reader:
                        size += len(piece)
                        yield piece

                response.stream = counted()
                try:
                    yield response
                finally:
                    response.stream = reader  # which the client closes
        except ClientError as error:
            self._report(method, url, name, started, clock, length=size, error=error)
            raise RescheduleTask from error
        self._report(method, url, name, started, clock, response, size, check=check)

    def _report(
        self,
        method: str,
        url: str,
        name: str | None,
        started: float,
        clock: float,
        response: ClientResponse | None = None,
        length: int = 0,
        *,
        error: Exception | None = None,
        check: Check | None = None,
    ) -> None:
        elapsed = time.perf_counter() - clock
        if response is not None:
            error = _wrong(response, check)
        self._fire(
            request_type=method,
            name=name or url,
            response_time=elapsed * 1000,
            response_length=length,
            response=response,
            context=self._user.context(),
            exception=error,
            start_time=started,
            url=url,
        )


def _wrong(response: ClientResponse, check: Check | None) -> Exception | None:
    try:
        response.raise_for_status()
        wrong = check(response) if check is not None else None
    except Exception as error:  # a check may trip over what it did not expect
        return error
    return None if wrong is None else CatchResponseError(wrong)


def _shared_client(user: ReportingUser, host: str) -> SyncHostClient:
    environment = user.environment
    clients = _clients.get(environment)
    if clients is None:
        clients = _clients[environment] = {}
        environment.events.test_stop.add_listener(lambda **_: _close_all(clients))
    key = (type(user), host)
    if key not in clients:
        clients[key] = SyncHostClient(host, **user.client_options())
    return clients[key]


def _close_all(clients: dict[tuple[type, str], SyncHostClient]) -> None:
    while clients:
        clients.popitem()[1].close()
