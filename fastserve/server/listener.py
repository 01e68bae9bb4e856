"""`Listener`: opens listening sockets and hands accepted ones to connections. Creates no task.

It accepts itself, instead of leaving that to the loop's own server, for three reasons:
asyncio makes a task per connection; libuv drops connections in silence when file
descriptors run out; and neither can stop accepting while there are too many.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from fastserve.errors import ListenError
from fastserve.server.config import ServerConfig
from fastserve.server.connection import Connection
from fastserve.server.service import Service
from fastserve.server.wire import Wire

__all__ = ["Listener", "open_sockets"]

logger = logging.getLogger("fastserve")

ACCEPT_BATCH = 64
"""Connections accepted in one turn of the loop; those that are open have their turn then."""
ACCEPT_RETRY = 1.0
"""Seconds without accepting after file descriptors or memory ran out."""

_out_of_resources = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


def open_sockets(
    host: str | None,
    port: int,
    *,
    sock: socket.socket | None,
    uds: str | os.PathLike[str] | None,
    fd: int | None,
    reuse_port: bool,
    config: ServerConfig,
) -> list[socket.socket]:
    """Listening, non-blocking sockets for one way to say where. Raises `ListenError`."""
    if sum(given is not None for given in (sock, uds, fd)) > 1:
        raise ListenError("give one of sock, uds and fd, or host and port")
    if sock is not None:
        sockets = [sock]
    elif fd is not None:
        sockets = [_inherited(fd)]
    elif uds is not None:
        sockets = [_bind_unix(os.fspath(uds))]
    else:
        sockets = _bind_tcp(host, port, reuse_port)
    try:
        for s in sockets:
            s.setblocking(False)
            if s.family != getattr(socket, "AF_UNIX", None):
                # Accepted sockets inherit both on Linux and BSD: no system call per connection.
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, config.tcp_keepalive)
            s.listen(config.backlog)
    except OSError as error:
        for s in sockets:
            s.close()
        raise ListenError(
            error.errno, f"can't listen on {_where(sockets[0])}: {os.strerror(error.errno or 0)}"
        ) from None
    return sockets


def _where(sock: socket.socket) -> str:
    try:
        return str(sock.getsockname())
    except OSError:
        return "the socket"


def _inherited(fd: int) -> socket.socket:
    duplicate = -1
    try:
        duplicate = os.dup(fd)
        sock = socket.socket(fileno=duplicate)
    except (OSError, OverflowError) as error:
        if duplicate >= 0:
            os.close(duplicate)
        if isinstance(error, OverflowError):
            raise ListenError(errno.EBADF, f"{fd} is no file descriptor") from None
        raise ListenError(
            error.errno,
            f"file descriptor {fd} is not a socket that this process inherited: {os.strerror(error.errno or 0)}",
        ) from None
    if sock.type != socket.SOCK_STREAM:
        sock.close()
        raise ListenError(errno.EINVAL, f"file descriptor {fd} is not a stream socket")
    return sock


def _bind_unix(path: str) -> socket.socket:
    if not hasattr(socket, "AF_UNIX"):
        raise ListenError(errno.ENOTSUP, "this system has no unix sockets: use host and port")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        sock.bind(path)
    except OSError as error:
        sock.close()
        if isinstance(error, ListenError):
            raise
        advice = {
            errno.EACCES: "its folder can't be written to; choose another path",
            errno.ENOENT: "its folder does not exist; create it first",
            errno.EADDRINUSE: "a file that is not a socket is there; choose another path",
        }.get(error.errno or 0, str(error))
        raise ListenError(error.errno, f"can't listen on unix:{path}: {advice}") from None
    return sock


def _remove_stale(path: str) -> None:
    """Remove a socket file that nobody listens on, which a killed process leaves behind."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except TimeoutError:
            pass
    raise ListenError(errno.EADDRINUSE, f"unix:{path} is in use by another process; stop it, or choose another path")


def _bind_tcp(host: str | None, port: int, reuse_port: bool) -> list[socket.socket]:
    if not 0 <= port <= 65535:  # getaddrinfo takes the rest of the division
        raise ListenError(errno.EINVAL, f"can't listen on port {port}: takes 0 to 65535")
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ListenError(errno.EADDRNOTAVAIL, f"can't listen on host {host!r}, port {port}: {reason}") from None
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            try:
                sock = socket.socket(family, kind, protocol)
            except OSError:
                continue  # a family that this system resolves and does not speak
            sockets.append(sock)
            if os.name == "posix":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if port == 0 and len(sockets) > 1:
                # All addresses of a host have one port, also when the system chose it.
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            try:
                sock.bind(address)
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL and len(found) > 1:
                    sockets.pop().close()  # such as ::1 where IPv6 is off
                    continue
                raise
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise ListenError(error.errno, _tcp_advice(host, port, error)) from None
    if not sockets:
        raise ListenError(
            errno.EADDRNOTAVAIL, f"can't listen on {host}:{port}: no address of this host is this machine's"
        )
    return sockets


def _tcp_advice(host: str | None, port: int, error: OSError) -> str:
    where = f"{host or '*'}:{port}"
    if error.errno == errno.EADDRINUSE:
        return f"{where} is in use by another process; stop it, or choose another port (0 takes a free one)"
    if error.errno == errno.EACCES:
        return f"may not listen on {where}: ports below 1024 need a privilege; choose a higher one"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"can't listen on {where}: that is no address of this machine (0.0.0.0 is all of them)"
    return f"can't listen on {where}: {os.strerror(error.errno or 0)}"


class Listener:
    """Accepts on `sockets` for `service`, at most `max_connections` at a time and `max_conns_per_ip` from one address.

    `unlink` removes a unix socket's file at the end: not for sockets that others made, who may listen on.
    """

    def __init__(self, service: Service, sockets: list[socket.socket], *, unlink: bool) -> None:
        self.sockets = sockets
        self.addresses: list[Any] = [s.getsockname() for s in sockets]
        self._service = service
        self._loop = service.loop
        self._open = 0
        self._per_ip: dict[str, int] = {}
        self._accepting = False
        self._out_of_resources = False
        self._retry: asyncio.TimerHandle | None = None
        self._unlink = _unix_file(sockets[0]) if unlink else None

    @property
    def open(self) -> int:
        """Connections accepted and not closed yet; among them those whose transport is not made yet."""
        return self._open

    def start(self) -> None:
        self._resume()

    def close(self) -> None:
        """Accept no more, and close the sockets. Open connections stay."""
        self._pause()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        for sock in self.sockets:
            sock.close()
        self.sockets = []
        if self._unlink is not None and self._unlink == _file_id(self.addresses[0]):
            os.unlink(self.addresses[0])

    def _resume(self) -> None:
        self._retry = None
        if not self._accepting and self.sockets:
            self._accepting = True
            for sock in self.sockets:
                self._loop.add_reader(sock.fileno(), self._accept, sock)

    def _pause(self) -> None:
        if self._accepting:
            self._accepting = False
            for sock in self.sockets:
                self._loop.remove_reader(sock.fileno())

    def _accept(self, listening: socket.socket) -> None:
        config = self._service.config
        for _ in range(ACCEPT_BATCH):
            if self._open >= config.max_connections:
                # The rest waits in the backlog, where the kernel bounds it.
                self._pause()
                return
            try:
                sock, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._accept_failed(error)
                return
            if self._out_of_resources:
                self._out_of_resources = False
                logger.warning("accepting connections again")
            ip = None
            if config.max_conns_per_ip and isinstance(address, tuple):
                ip = str(address[0])
                count = self._per_ip.get(ip, 0)
                if count >= config.max_conns_per_ip:
                    if config.log_all_errors:
                        logger.info("connection from %s closed: it has %d already", ip, count)
                    sock.close()
                    continue
                self._per_ip[ip] = count + 1
            self._open += 1
            sock.setblocking(False)
            connection = Connection(self._service, ip)
            opening = self._loop.connect_accepted_socket(partial(_identity, connection), sock)
            _step(opening, sock, self._service.connection_closed, connection)

    def _accept_failed(self, error: OSError) -> None:
        if error.errno in _out_of_resources:
            if not self._out_of_resources:
                self._out_of_resources = True
                logger.error(
                    "can't accept connections: %s; trying again every second (raise ulimit -n, or lower max_connections)",
                    os.strerror(error.errno),
                )
        else:
            logger.error("can't accept connections: %s; trying again in a second", error)
        self._pause()
        self._retry = self._loop.call_later(ACCEPT_RETRY, self._resume)

    def connection_closed(self, connection: Wire) -> None:
        self._open -= 1
        ip = connection.ip
        if ip is not None:
            self._per_ip[ip] -= 1
            if not self._per_ip[ip]:
                del self._per_ip[ip]
        if not self._accepting and self._retry is None:
            self._resume()


def _identity(connection: Connection) -> Connection:
    return connection


def _step(
    coroutine: Coroutine[Any, Any, Any],
    sock: socket.socket,
    failed: Callable[[Wire], None],
    connection: Connection,
    _done: Any = None,
) -> None:
    """Drive `coroutine`, which waits for futures of the loop, without a task."""
    try:
        waiter = coroutine.send(None)
    except StopIteration:
        return
    except Exception as error:
        # Mostly a client that had gone before its transport was ready.
        logger.debug("an accepted connection could not be opened: %s", error)
        sock.close()
        failed(connection)
        return
    waiter.add_done_callback(lambda done: _step(coroutine, sock, failed, connection, done))


def _unix_file(sock: socket.socket) -> tuple[int, int] | None:
    if sys.platform == "win32" or sock.family != socket.AF_UNIX:
        return None
    return _file_id(sock.getsockname())


def _file_id(path: Any) -> tuple[int, int] | None:
    """Which file `path` is now: a successor's socket of the same name must not be removed."""
    if not isinstance(path, str) or not path:
        return None  # unnamed or abstract
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
