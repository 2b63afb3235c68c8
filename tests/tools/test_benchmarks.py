"""The benchmarks: every row runs, a bad arm costs one cell, results are whole, charts are SVG.

What is measured is not looked at: tests do not lean on speed.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import textwrap
import time
import urllib.request
import xml.etree.ElementTree as ET
from pathlib import Path

import arms
import compare
import floor
import plot
import publish
import pytest
import report
import results
import rows
import runner
import worker
from rows import scale
from servers import wrk
from servers.apps import APPS

import hotloop

BENCHMARKS = Path(compare.__file__).parent
WITH_WORK = [row for row in rows.ROWS.values() if row.work is not None]
FACTORIES = {"asyncio": asyncio.SelectorEventLoop, "hotloop": hotloop.new_event_loop}
QUICK = runner.Setting(rounds=1, repeats=1, seconds=60, count=20)


# ---- rows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", FACTORIES)
@pytest.mark.parametrize("row", WITH_WORK, ids=lambda row: row.name)
def test_a_row_runs(row: rows.Row, loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "descriptors_left", lambda: 30)
    count = {"memory_connection": 15}.get(row.name, min(row.count, 20))
    found = worker.figures(row, FACTORIES[loop], count, 1)
    assert found.keys() in ({"wall", "cpu"}, {"bytes"})
    assert all(len(values) == 1 for values in found.values())


def test_the_table_has_the_rows_that_were_promised() -> None:
    titles = {row.title for row in rows.ROWS.values()}
    assert titles >= {
        "call_soon", "call_soon, 2 arguments", "chain of callbacks", "call_soon_threadsafe",
        "timer armed, cancelled", "the same among 100,000", "timers firing", "sleep(0)",
        "create and await a task", "gather of 1,000", "TaskGroup of 100", "futures in ping-pong",
        "10 callbacks on a future", "Queue", "Event, 100 waiters", "wait_for", "timeout()",
        "run_in_executor", "getaddrinfo, literal", "TCP echo 1 KiB ×1", "TCP echo 1 KiB ×50",
        "TCP echo 10 KiB", "TCP echo 100 KiB", "BufferedProtocol 10 KiB", "Unix echo 1 KiB",
        "TLS echo 1 KiB", "TLS echo 100 KiB", "streams 1 KiB", "streams readline",
        "sock_recv / sock_sendall", "two writes a reply", "bulk 64 MiB", "UDP 512 B",
        "connect and close", "spawn", "subprocess pipe", "raw protocol", "streams",
        "uvicorn 13 B", "uvicorn 10 KiB", "starlette", "aiohttp", "fan-out handler",
    }  # fmt: skip


def test_rows_are_chosen_by_name_title_group_and_pattern() -> None:
    def names(patterns: str) -> list[str]:
        return [row.name for row in rows.choose(patterns, rows.ROWS.values())]

    assert names("sleep(0)") == names("sleep0") == ["sleep0"]
    assert names("call_soon, 2 arguments") == ["call_soon_args"]
    assert names("tcp*,queue")[:2] == ["queue", "tcp_echo_1k"]
    assert set(names("tasks")) == {row.name for row in WITH_WORK if row.group == "tasks"}
    with pytest.raises(SystemExit, match="nonsense"):
        names("queue,nonsense")


# ---- arms that go wrong ------------------------------------------------------------------------


def bad_arm(folder: Path, body: str) -> str:
    """The name of an arm whose new_event_loop() has this body."""
    folder.mkdir()
    code = "import os, sys, time\ndef new_event_loop():\n" + textwrap.indent(body, "    ")
    (folder / "hotloop.py").write_text(code)
    return f"hotloop@{folder}"


def one_row(names: list[str], setting: runner.Setting) -> dict[str, runner.Cell]:
    return compare.measure_row(rows.ROWS["call_soon"], names, setting, "")


def test_a_crash_costs_one_cell(tmp_path: Path) -> None:
    bad = bad_arm(tmp_path / "bad", "os.abort()")
    cells = one_row([bad, "asyncio"], runner.Setting(rounds=2, repeats=1, count=20))
    assert "SIGABRT" in cells[bad].reason
    assert cells[bad].main() is None
    assert len(cells["asyncio"].figures["wall"]) == 2


def test_an_exception_costs_one_cell(tmp_path: Path) -> None:
    bad = bad_arm(tmp_path / "bad", "raise OSError('no such luck')")
    cells = one_row([bad, "asyncio"], QUICK)
    assert cells[bad].reason == "OSError: no such luck"
    assert cells["asyncio"].main()


def test_a_hang_costs_one_cell_and_leaves_no_process(tmp_path: Path) -> None:
    """Nor a child of the one that hangs."""
    pid = tmp_path / "pid"
    bad = bad_arm(
        tmp_path / "bad",
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(pid)!r} + '.new', 'w').write(str(child.pid))\n"
        f"os.rename({str(pid)!r} + '.new', {str(pid)!r})\n"
        "time.sleep(600)",
    )
    cells = one_row([bad], runner.Setting(rounds=2, repeats=1, seconds=5, count=20))
    assert cells[bad].reason == "nothing within 5 s"
    while pid.exists() and not ended(int(pid.read_text())):
        time.sleep(0.01)  # the signal was sent, and takes its time on a machine at work


def ended(pid: int) -> bool:
    """Gone, or dead and waiting for the parent that it was given."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_an_arm_that_prints_nonsense_costs_one_cell(tmp_path: Path) -> None:
    bad = bad_arm(tmp_path / "bad", "print('nonsense', flush=True)\nos._exit(0)")
    assert "nonsense" in one_row([bad], QUICK)[bad].reason


def test_an_unknown_arm_is_refused() -> None:
    with pytest.raises(SystemExit, match="rocketloop"):
        arms.arm("rocketloop")


def test_rounds_alternate() -> None:
    """Every arm is first and last equally often."""
    names = ["a", "b", "c"]
    orders = [runner.turns(names, number) for number in range(6)]
    assert all(sorted(order) == names for order in orders)
    for name in names:
        assert sum(order[0] == name for order in orders) == 2
        assert sum(order[-1] == name for order in orders) == 2


# ---- results -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What compare.py prints and writes for a few rows."""
    path = tmp_path_factory.mktemp("bench") / "results.json"
    command = [sys.executable, str(BENCHMARKS / "compare.py"), "--arms", "asyncio,hotloop"]
    command += ["--rows", "call_soon,tcp_echo_1k,memory_timer,sendfile", "--rounds", "2"]
    command += ["--repeats", "2", "--count", "20", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, path


def test_the_table_is_printed(measured: tuple[str, Path]) -> None:
    text, _ = measured
    assert re.search(r"^call_soon +[\d,]+ +[\d,]+ ", text, re.MULTILINE)
    assert re.search(r"^TCP echo 1 KiB ×1 .*%$", text, re.MULTILINE) or not floor.build()
    assert re.search(r"^memory: armed timer .* KiB", text, re.MULTILINE)


def test_json_has_all(measured: tuple[str, Path]) -> None:
    found = json.loads(measured[1].read_text())
    assert found["about"].keys() >= {"date", "machine", "cpu", "cpus", "system", "python"}
    assert found["about"]["versions"].keys() == {"asyncio", "hotloop"}
    assert found["rows"].keys() == {"call_soon", "tcp_echo_1k", "memory_timer", "sendfile"}
    for name, row in found["rows"].items():
        assert row["arms"].keys() >= {"asyncio", "hotloop"}
        kinds = {"bytes"} if name.startswith("memory") else {"wall", "cpu"}
        for arm in ("asyncio", "hotloop"):
            figures = row["arms"][arm]["figures"]
            assert figures.keys() == kinds
            assert {len(values) for values in figures.values()} == {1 if "bytes" in kinds else 4}


def test_ratios_and_shares() -> None:
    found = results.Results(["asyncio", "uvloop", "hotloop"], "uvloop", {})
    cells = {
        "asyncio": runner.Cell(reason="why"),
        "uvloop": runner.Cell({"wall": [40.0], "cpu": [30.0]}),
        "hotloop": runner.Cell({"wall": [10.0, 20.0, 90.0], "cpu": [10.0]}),
        "floor": runner.Cell({"wall": [5.0], "cpu": [5.0]}),
    }
    found.add(rows.ROWS["tcp_echo_1k"], cells)
    assert found.ratio("tcp_echo_1k", "hotloop") == 2
    assert found.ratio("tcp_echo_1k", "hotloop", "cpu") == 3
    assert found.ratio("tcp_echo_1k", "asyncio") is None
    assert report.share(found.cells("tcp_echo_1k"), "hotloop") == "25%"
    assert report.below(cells) == ["    asyncio: why"]


# ---- what is published -------------------------------------------------------------------------


def made_up(python: str, names: list[str]) -> results.Results:
    about = {
        "date": "2026-01-02", "machine": "x", "cpu": "C", "cpus": 2, "system": "S",
        "python": python, "versions": {"asyncio": python, "uvloop": "1", "hotloop": "2"},
    }  # fmt: skip
    found = results.Results(["asyncio", "uvloop", "hotloop"], "uvloop", about)
    for name in names:
        kinds = {"memory_task": ["bytes"], "raw": ["wall", "cpu", "p99", "rss"]}
        cells = {
            arm: runner.Cell(
                {kind: [value, value + 1] for kind in kinds.get(name, ["wall", "cpu"])}
            )
            for arm, value in (("asyncio", 8e6), ("uvloop", 4e6), ("hotloop", 2e6))
        }
        if name == "queue":
            cells["asyncio"] = runner.Cell(reason="fell over")
        found.add(rows.ROWS[name], cells)
    return found


def test_publishing_merges_and_rewrites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot, "draw_all", lambda results, folder: [])
    page = tmp_path / "README.md"
    begin, end = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
    chart = "<!-- chart: begin -->", "<!-- chart: end -->"
    page.write_text(f"before\n{chart[0]}\n{chart[1]}\n{begin}\nold\n{end}\nafter\n")
    folder = tmp_path / "figures"
    folder.mkdir()
    (tmp_path / "docs").mkdir()
    deeper = tmp_path / "docs" / "performance.md"
    deeper.write_text("<!-- charts: begin -->\n<!-- charts: end -->\n")
    (folder / "overview.svg").touch()
    (folder / "tasks.svg").touch()
    names = list(rows.ROWS)
    publish.publish(made_up("3.13.1", ["call_soon"]), names, folder, (page, deeper))
    publish.publish(made_up("3.14.1", ["raw", "memory_task"]), names, folder, (page, deeper))
    publish.publish(made_up("3.14.2", ["call_soon", "queue"]), names, folder, (page, deeper))
    text = page.read_text()
    shown = "![overview: times as fast](figures/overview.svg)"
    assert text.startswith(f"before\n{chart[0]}\n{shown}\n{chart[1]}\n{begin}\n")
    assert text.endswith(f"[docs/benchmarks](figures/README.md).\n{end}\nafter\n")
    assert deeper.read_text().splitlines()[1:-1] == [
        "![tasks: times as fast](../figures/tasks.svg)"
    ]
    assert "old" not in text
    assert re.search(r"^\| call_soon \| 0\.50 \| \*\*2\.00\*\* \| \*\*2\.00\*\* \|", text, re.M)
    assert re.search(r"^\| Queue \| - \| \*\*2\.00\*\* \| - \|", text, re.M)
    kept = json.loads((folder / "python-3.14.json").read_text())
    assert list(kept["rows"]) == ["call_soon", "queue", "raw", "memory_task"]
    figures = (folder / "README.md").read_text()
    assert "- Queue, asyncio: fell over" in figures
    assert "raw protocol: p99, ms" in figures


def test_marks_of_a_page() -> None:
    assert publish.between_marks("nothing\n", "chart", "section\n") == "nothing\n"
    with pytest.raises(SystemExit, match="end"):
        publish.between_marks("<!-- chart: begin -->\n", "chart", "section\n")


def test_the_pages_have_their_marks() -> None:
    readme, performance = (page.read_text() for page in publish.PAGES)
    for text, names in ((readme, ("chart", "benchmarks")), (performance, ("charts", "benchmarks"))):
        for name in names:
            assert f"<!-- {name}: begin -->\n" in text
            assert f"<!-- {name}: end -->\n" in text


def test_charts_are_svg(tmp_path: Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("matplotlib draws the charts, and it is in the benchmarks' environment only")
    made_up("3.14.2", ["call_soon", "queue", "raw"]).save(tmp_path / "results.json")
    command = [sys.executable, str(BENCHMARKS / "publish.py"), str(tmp_path / "results.json")]
    subprocess.run([*command, "--charts", str(tmp_path)], check=True, capture_output=True)
    paths = sorted(tmp_path.glob("*.svg"))
    assert [path.stem for path in paths] == ["overview", "scheduling", "servers", "tasks"]
    for path in paths:
        assert ET.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        assert "hotloop" in path.read_text()


# ---- the floor, the servers --------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    sorted({row.floor for row in rows.ROWS.values() if row.floor}),
    ids=lambda arguments: "-".join(arguments),
)
def test_the_floor_is_measured(arguments: tuple[str, ...]) -> None:
    if shutil.which("cc") is None:
        pytest.skip("the floor is compiled with cc")
    assert floor.build()
    found = floor.floor(arguments, 60, QUICK)
    assert found.keys() == {"wall", "cpu"}
    assert found["wall"][0] > 0


def test_every_server_row_has_an_application() -> None:
    assert [row.name for row in rows.ROWS.values() if row.work is None] == list(APPS)


@pytest.mark.parametrize("app", APPS)
def test_an_application_answers(app: str) -> None:
    needs = {"uvicorn_13": "uvicorn", "uvicorn_10k": "uvicorn", "starlette": "starlette"}.get(app)
    for package in [needs, "httptools"] if needs else []:
        if importlib.util.find_spec(str(package)) is None:
            pytest.skip(f"{package} is in the benchmarks' environment only")
    command = [sys.executable, str(BENCHMARKS / "servers" / "serve.py"), app, "hotloop"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            port = int(server.stdout.readline())
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/7", timeout=60) as answer:
                assert answer.status == 200
                length = {"uvicorn_10k": 10240, "starlette": 24, "aiohttp": 27}.get(app, 13)
                assert len(answer.read()) == length
        finally:
            server.kill()


def test_a_server_that_cannot_start_costs_one_cell(tmp_path: Path) -> None:
    bad = bad_arm(tmp_path / "bad", "raise OSError('no such luck')")
    with pytest.raises(runner.Failed, match="no such luck"):
        wrk.ask("raw", bad, QUICK)


def test_wrks_report_is_read() -> None:
    text = "    50%  1.00ms\n    99%    2.50ms\n  1000 requests in 1.00s, 1.00MB read\n"
    assert wrk.read_report(f"{text}Requests/sec:   999.50\n") == (999.5, 2500.0, 1000)
    for bad in ("Non-2xx or 3xx responses: 3\n", "Socket errors: connect 0, read 7, write 0\n", ""):
        with pytest.raises(runner.Failed):
            wrk.read_report(f"{text if bad else ''}{bad}Requests/sec: 10.0\n")


def test_without_wrk_the_servers_are_skipped_aloud(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wrk, "available", lambda: "")
    assert compare.measurable([rows.ROWS["raw"], rows.ROWS["queue"]]) == [rows.ROWS["queue"]]
    assert "wrk" in capsys.readouterr().err
