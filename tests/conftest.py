"""What several tests share: a PostgreSQL server of their own, and surroundings for Ray."""

import contextlib
import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

LONG = 600  # seconds, for a machine that is busy: nothing here is late before

# How long an example takes says more of the machine than of the code.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

# Before torch is imported, and for the processes that tests start: their networks are so small that handing work from
# thread to thread takes longer than doing it. OMP_NUM_THREADS=2 make test tries it with two.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import shape_checks  # noqa: E402  # it imports torch

# Before sfumato is imported, so that shapes and kinds of tensors are checked wherever a test comes by.
shape_checks.install()


@pytest.fixture(autouse=True)
def _modules_that_a_test_wrote_end_with_it(tmp_path_factory):
    """Two tests that write a module of one name, such as `my_nets.py`, each get their own, in any order."""
    before = set(sys.modules)
    yield
    written = str(tmp_path_factory.getbasetemp())
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(written):
            del sys.modules[name]


class PostgresServer:
    """Debian's PostgreSQL with a fresh cluster on a free port of this machine; it ends with the process that made it."""

    def __init__(self, programs: Path, folder: Path):
        self.programs, self.folder = programs, folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        # The server refuses root. Its collation is not that of bytes, so that a wrong order shows.
        self.account = {"user": _account(folder)} if os.geteuid() == 0 else {}
        made = [
            programs / "initdb",
            "-D",
            folder / "data",
            "-U",
            "tester",
            "--auth=trust",
            "--no-sync",
            "--encoding=UTF8",
        ]
        made += ["--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en"]
        subprocess.run(made, check=True, capture_output=True, cwd=folder, timeout=LONG, **self.account)
        self.process = None

    def url(self, database="postgres", user="tester"):
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def start(self):
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "off",
            "shared_buffers": "32MB",
        }
        command = [self.programs / "postgres", "-D", self.folder / "data"]
        command += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        # The shell stops the server at the end of its input, which comes even if these tests are killed.
        watched = ["sh", "-c", '"$@" & read -r _; kill -INT $!; wait $!', "sh", *command]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                watched, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=self.folder, **self.account
            )
        ready = [self.programs / "pg_isready", "-h", "127.0.0.1", "-p", str(self.port), "-q"]
        deadline = time.monotonic() + LONG
        while subprocess.run(ready, check=False).returncode:
            if time.monotonic() > deadline:
                pytest.fail(f"PostgreSQL does not start:\n{(self.folder / 'log').read_text()}")
            time.sleep(0.05)

    def stop(self):
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait(LONG)
            self.process = None


def _account(folder: Path) -> int:
    """Somebody who is not root, to whom the folder is given."""
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
        os.chown(folder, user, -1)
        return user
    raise LookupError("there is no user postgres or nobody")


def _programs() -> Path | None:
    """Where the server's programs are."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


@pytest.fixture
def read_only():
    """A context in which nobody may make files in a folder, not even root."""
    return _read_only


@contextlib.contextmanager
def _read_only(folder):
    """Nobody may make files in it, not even root."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    folder.chmod(0o500)
    try:
        if not os.access(folder, os.W_OK):
            yield
            return
        if (chattr := shutil.which("chattr")) is None or subprocess.run(
            [chattr, "+i", folder], capture_output=True, check=False
        ).returncode:
            pytest.skip("root may write anywhere, and cannot forbid it to itself here")
        try:
            yield
        finally:
            subprocess.run([chattr, "-i", folder], check=True)
    finally:
        folder.chmod(mode)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A running server; the tests that want one are skipped where there is none, but not with CI=true."""
    programs = _programs()
    missing = [] if programs else ["the programs of PostgreSQL"]
    try:
        import psycopg  # noqa: F401
    except ImportError:
        missing.append("psycopg")
    if missing:
        reason = f"needs {' and '.join(missing)}"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    folder = Path(tempfile.mkdtemp(prefix="sfumato-postgres-"))
    try:
        server = PostgresServer(programs, folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def surroundings():
    """Ray's own files in a folder that is removed; short, as sockets have their names from it."""
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="sf", ignore_cleanup_errors=True) as folder,
    ):
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_AUTH_TOKEN_PATH", f"{folder}/token")
        Path(folder, "token").write_text("0" * 64)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_gcs_server_port_wait_time_s", str(LONG))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
