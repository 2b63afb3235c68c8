"""The suites that `make suites` runs: one entry a package, all pinned.

A suite comes from the package's sdist, the package itself from the index, in the same version; it
runs in an environment of its own with hotloop beside it. uvloop is in none of these environments.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Suite:
    name: str
    version: str
    requires: tuple[str, ...] = ()
    # What of the sdist is needed to run its tests. Not the package: that is the installed one,
    # which has its C parts. Empty: the tests are installed with the package, and run there.
    keep: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()  # for pytest; {redis} is the port of that service
    paths: tuple[str, ...] = ("tests",)
    environment: dict[str, str] = field(default_factory=dict)
    without: dict[str, str] = field(default_factory=dict)  # left out on both loops: why
    # Fails on hotloop only, and says nothing against it: what of asyncio's own the test wants.
    presumes: dict[str, str] = field(default_factory=dict)
    minutes: int = 15  # for one run of it
    service: str = ""  # of tests/integration/servers.py
    missing: str = ""  # why it cannot be run
    note: str = ""

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"


PYTEST = ("pytest==9.2.0", "pytest-timeout==2.4.0")
NO_NETWORK = "needs the internet"
OVERRIDE = ("-o", "addopts=")

SUITES = (
    Suite(
        "anyio",
        "4.16.0",
        (
            *PYTEST,
            "pytest-mock==3.17.0",
            "blockbuster==1.5.29",
            "hypothesis==6.170.17",
            "psutil==7.2.2",
            "trustme==1.2.1",
            "truststore==0.10.5",
        ),
        keep=("tests", "pyproject.toml"),
        arguments=("-m", "not network"),
        environment={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        note="Without trio: what runs is its asyncio backend, with and without eager tasks. Where "
        "`localhost` has no IPv6 address its tests of that fail, on both.",
    ),
    Suite(
        "uvicorn",
        "0.54.0",
        (
            *PYTEST,
            "pytest-mock==3.17.0",
            "anyio==4.16.0",
            "httptools==0.9.0",
            "python-dotenv==1.2.4",
            "PyYAML==6.0.4",
            "watchfiles==1.3.0",
            "websockets==17.4",
            "wsproto==1.3.2",
            "zttp==0.0.35",
            "a2wsgi==1.10.10",
            "trustme==1.2.1",
            "cryptography==50.0.2",
            "httpx2==2.16.2",
            "coverage==7.17.4",
            "typing-extensions==4.16.0",
        ),
        keep=("tests", "pyproject.toml"),
        arguments=(*OVERRIDE, "--timeout=120"),
        without={"tests/benchmarks": "measures only"},
        presumes={
            "tests/test_compat.py::test_asyncio_run__default_loop_factory": "asserts that the "
            "loop of the default policy is a SelectorEventLoop, and another policy is set here",
        },
    ),
    Suite(
        "aiohttp",
        "3.14.5",
        (
            *PYTEST,
            "pytest-mock==3.17.0",
            "pytest-xdist==3.8.0",
            "blockbuster==1.5.29",
            "coverage==7.17.4",
            "freezegun==1.5.5",
            "gunicorn==27.0.1",
            "isal==1.9.1",
            "zlib-ng==1.1.0",
            "proxy.py==2.4.10",
            "re-assert==1.1.0",
            "trustme==1.2.1",
            "brotli==1.2.1",
        ),
        keep=("tests", "pytest.ini", "README.rst"),
        arguments=(
            *OVERRIDE,
            "-m",
            "not dev_mode and not autobahn and not internal",
            "--ignore-glob=tests/test_benchmarks_*",
            "--ignore=tests/autobahn",
        ),
        minutes=45,
        note="As root, three tests of files without read permission fail on both.",
    ),
    Suite(
        "tornado",
        "6.6.1",
        PYTEST,
        # Its tests may log nothing but for the access log, which its own runner switches off.
        arguments=(
            "-o",
            "python_files=*_test.py",
            "--log-disable=tornado.access",
            "--timeout=120",
        ),
        paths=("tornado/test",),
        # Its HTTPS tests load the system's certificates for each client, which takes 60 ms of CPU
        # time before the connection; test_request_timeout has 100 ms from there to the handler.
        environment={"ASYNC_TEST_TIMEOUT": "25", "SSL_CERT_FILE": "tornado/test/test.crt"},
    ),
    Suite(
        "httpx",
        "0.28.1",
        (
            *PYTEST,
            "anyio==4.16.0",
            "trustme==1.2.1",
            "cryptography==50.0.2",
            "uvicorn==0.54.0",
            "chardet==7.7.0",
            "h2==4.4.1",
            "socksio==1.0.0",
            "brotli==1.2.1",
            "zstandard==0.25.0",
            "click==8.5.1",
            "pygments==2.21.0",
            "rich==13.9.4",
            "trio==0.35.0",
        ),
        keep=("tests", "pyproject.toml", "README.md", "CHANGELOG.md"),
        arguments=("-m", "not network", "-k", "not trio", "--timeout=120"),
    ),
    Suite(
        "httpcore",
        "1.0.9",
        (
            *PYTEST,
            "anyio==4.16.0",
            "trio==0.35.0",
            "h2==4.4.1",
            "socksio==1.0.0",
            "pytest-httpbin==2.1.0",
        ),
        keep=("tests", "pyproject.toml"),
        arguments=("-k", "not trio", "--timeout=120"),
    ),
    Suite(
        "aiosmtpd",
        "1.4.6",
        (*PYTEST, "pytest-mock==3.17.0", "pytest-asyncio==1.5.0", "setuptools==80.10.2"),
        arguments=("-o", "asyncio_mode=auto", "--timeout=120"),
        paths=("aiosmtpd/tests",),
    ),
    Suite(
        "redis",
        "8.1.0",
        (
            *PYTEST,
            "pytest-asyncio==1.5.0",
            "numpy==2.5.5",
            "ujson==6.1.0",
            "redis-entraid==1.2.2",
            "pybreaker==1.4.1",
            "aiohttp==3.14.5",
            "xxhash==4.1.0",
            "opentelemetry-sdk==1.45.2",
            "cryptography==50.0.2",
        ),
        keep=("tests", "pyproject.toml"),
        arguments=(
            *OVERRIDE,
            "-o",
            "log_cli=false",
            "--redis-url",
            "redis://127.0.0.1:{redis}/0",
            "-m",
            "not redismod and not onlycluster and not ssl and not cp_integration"
            " and not multidb_integration and not replica",
            "--ignore=tests/test_asyncio/test_scenario",
        ),
        paths=("tests/test_asyncio",),
        service="redis",
        minutes=25,
        note="Its asyncio part, with a server that has no modules, no cluster and no TLS. What "
        "fails on both wants Sentinel, or a server at port 6379 (13 tests), or a newer one than "
        "Redis 7.0 (4).",
    ),
    Suite(
        "asyncpg",
        "0.32.0",
        (*PYTEST, "distro==1.9.0"),
        keep=("tests", "pyproject.toml"),
        arguments=(*OVERRIDE, "--assert=plain", "--timeout=300"),
        environment={"PGINSTALLATION": "{postgres_programs}"},
        without={"tests/test__sourcecode.py": "looks at the source's form"},
        service="postgres_programs",
        minutes=25,
    ),
    Suite(
        "python-socketio",
        "5.18.1",
        (
            *PYTEST,
            "pytest-asyncio==1.5.0",
            "aiohttp==3.14.5",
            "uvicorn==0.54.0",
            "simple-websocket==1.1.0",
            "websocket-client==1.9.2",
            "requests==2.34.2",
            "msgpack==1.2.4",
            "redis==8.1.0",
            "valkey==6.2.0",
        ),
        keep=("tests", "pyproject.toml"),
        arguments=("--timeout=60", "-p", "no:logging"),
    ),
    Suite(
        "websockets",
        "17.4",
        missing="its sdists leave the tests out on purpose (`prune tests`); those of 15 and 16 "
        "have only tests/test_*.py, without the helpers which these import, and none of them runs "
        "a loop; `make integration` runs its servers and clients",
    ),
    Suite(
        "psycopg",
        "3.3.9",
        missing="no sdist of psycopg 3 has its tests",
    ),
    Suite(
        "distributed",
        "2026.8.0",
        missing="its sdists are without tests since July 2021, but for helpers (utils_test.py), "
        "and what was then does not run on these Pythons; `make dask` runs a cluster",
    ),
)
