"""Put measured figures into the tree: docs/benchmarks/, README.md and docs/performance.md.

    python benchmarks/publish.py RESULTS.json

docs/benchmarks/ keeps one JSON for each Python (medians, and the least and greatest measurement);
rows that are not in RESULTS.json stay as they were, so that a part can be measured again. The
pages are made from those of all Pythons, the charts from the newest one's.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import plot
from arms import FLOOR
from report import over, share, show
from results import Results, load
from runner import Cell

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "benchmarks"
PAGES = (ROOT / "README.md", ROOT / "docs" / "performance.md")
MARK = "<!-- {name}: {end} -->"
HEADS = {
    "scheduling": "ns a callback or timer",
    "tasks": "ns an operation",
    "transports": "ns an operation; of bulk, a MiB",
    "servers": "requests a second",
    "scale": "ns an operation, or KiB a thing",
    "more": "ns an operation",
}


# ---- what is kept ---------------------------------------------------------------------------


def digits(value: float) -> float:
    return float(f"{value:.4g}")


def summary(cell: dict[str, Any]) -> dict[str, Any]:
    """A cell with the median, the least and the greatest in place of all measurements."""
    figures = {}
    for kind, values in cell["figures"].items():
        middle = Cell({kind: values}).median(kind)
        figures[kind] = [digits(v) for v in sorted((min(values), middle or 0.0, max(values)))]
    return (
        {"figures": figures, "reason": cell["reason"]} if cell["reason"] else {"figures": figures}
    )


def ordered(rows: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """In the table's order; what it does not have any more is dropped."""
    return {name: rows[name] for name in names if name in rows}


def keep(new: Results, folder: Path, names: list[str]) -> None:
    """Merge what was measured into the Python's file; each row keeps the day of its figures."""
    version = ".".join(new.about["python"].split(".")[:2])
    path = folder / f"python-{version}.json"
    rows = load(path).rows if path.exists() else {}
    for name, row in new.rows.items():
        arms = {arm: summary(cell) for arm, cell in row["arms"].items()}
        rows[name] = {**row, "arms": arms, "date": new.about["date"]}
    Results(new.arms, new.base, new.about, ordered(rows, names)).save(path)


def kept(folder: Path) -> list[Results]:
    """Of every Python, the newest first."""
    found = [load(path) for path in folder.glob("python-*.json")]
    return sorted(found, key=lambda one: version_of(one).split(".")[1].zfill(3), reverse=True)


def version_of(results: Results) -> str:
    return ".".join(results.about["python"].split(".")[:2])


# ---- pages -----------------------------------------------------------------------------------


def table(heads: list[str], lines: list[list[str]]) -> str:
    """Markdown; the first column is text, the others are figures."""
    rule = "|---" + "|---:" * (len(heads) - 1) + "|"
    return "\n".join(["| " + " | ".join(heads) + " |", rule]
                     + ["| " + " | ".join(line) + " |" for line in lines])  # fmt: skip


def machine(results: Results) -> str:
    about = results.about
    versions = ", ".join(
        f"{name} {version}" for name, version in about["versions"].items() if name != "asyncio"
    )
    return (
        f"{about['cpus']} × {about['cpu']}, {about['system']}, Python {about['python']}; "
        f"{versions}; {about['date']}"
    )


def others(results: Results) -> list[str]:
    return [arm for arm in results.arms if arm not in (results.base, "hotloop")]


def ratios_table(every: list[Results]) -> str:
    """How many times the base's speed: peers on the newest Python, hotloop on all of them."""
    newest = every[0]
    own = [f"hotloop, {version_of(one)}" for one in every]
    lines = []
    for name, row in newest.rows.items():
        if row["group"] in ("scale", "more"):
            continue
        line = [row["title"] if row["group"] != "servers" else f"server: {row['title']}"]
        line += [over(newest.ratio(name, arm)) for arm in others(newest)]
        for one in every:
            figure = over(one.ratio(name, "hotloop")) if name in one.rows else "-"
            line.append(f"**{figure}**" if figure != "-" else "-")
        line.append(share(newest.cells(name), "hotloop"))
        lines.append(line)
    return table(["row", *others(newest), *own, "of the floor"], lines)


def picture(name: str, charts: set[str], where: str) -> str:
    """`name` is a chart's; nothing where it has not been drawn."""
    return f"![{name}: times as fast]({where}/{name}.svg)\n" if f"{name}.svg" in charts else ""


def sections(every: list[Results], charts: set[str], where: str) -> dict[str, str]:
    """What a page may have, by the name of its marks; `where` leads from it to the figures."""
    newest = every[0]
    machines = "\n".join(f"- {machine(one)}" for one in every)
    groups = [picture(group, charts, where) for group in newest.groups()]
    return {
        "chart": picture("overview", charts, where),
        "charts": "\n".join(filter(None, groups)),
        "benchmarks": (
            f"How many times as fast as {newest.base}, medians (`make bench`; peers on Python "
            f"{version_of(newest)}; the floor is the same in C on epoll):\n\n"
            f"{ratios_table(every)}\n\n{machines}\n\n"
            "All figures, and what a crowd of idle connections or timers costs: "
            f"[docs/benchmarks]({where}/README.md).\n"
        ),
    }


def figures_table(results: Results, group: str) -> str:
    """Figures, and ratios by the clock and of CPU time."""
    lines = []
    for name in results.group(group):
        cells = results.cells(name)
        line = [results.rows[name]["title"]]
        for arm in results.arms:
            ratio = results.ratio(name, arm)
            shown = show(cells[arm], group) if arm in cells else "-"
            line.append(f"{shown} ({over(ratio)})" if ratio and arm != results.base else shown)
        line.append(over(results.ratio(name, "hotloop", "cpu")))
        if FLOOR in cells or group == "transports":
            line.append(share(cells, "hotloop"))
        lines.append(line)
    heads = [f"{group}: {HEADS.get(group, '')}", *results.arms, "CPU"]
    wide = max((len(line) for line in lines), default=0)
    return table(heads + ["of the floor"] * (wide - len(heads)), lines)


def server_table(results: Results) -> str:
    """The 99th percentile and the memory of the servers."""
    lines = []
    for name in results.group("servers"):
        cells = results.cells(name)
        for kind, title, unit in (("p99", "p99, ms", 1e3), ("rss", "memory, MiB", 1 << 20)):
            values = [cells[arm].median(kind) if arm in cells else None for arm in results.arms]
            shown = ["-" if value is None else f"{value / unit:.1f}" for value in values]
            lines.append([f"{results.rows[name]['title']}: {title}", *shown])
    return table(["", *results.arms], lines)


def reasons(results: Results) -> str:
    """Why cells are empty."""
    lines = []
    for name, row in results.rows.items():
        for arm, cell in results.cells(name).items():
            if cell.reason:
                lines.append(f"- {row['title']}, {arm}: {cell.reason[:160]}")
    return "Without a figure:\n\n" + "\n".join(lines) + "\n" if lines else ""


def full_page(every: list[Results], charts: set[str]) -> str:
    parts = [
        "# Figures\n",
        "Written by `make bench-readme`. In brackets: how many times as fast as the base "
        "(uvloop), by the clock; the column CPU: hotloop's ratio of CPU time. What a row measures: "
        "`python benchmarks/compare.py --list`.\n",
    ]
    for results in every:
        parts.append(f"## Python {version_of(results)}\n\n{machine(results)}.\n")
        if "scale" in results.groups() and results.about.get("descriptors", -1) >= 0:
            limit = results.about["descriptors"]
            parts.append(f"Connections are as many as {limit:,} descriptors allow.\n")
        for group in results.groups():
            chart = f"{group}.svg"
            if chart in charts and results is every[0]:
                parts.append(f"![{group}]({chart})\n")
            parts.append(figures_table(results, group) + "\n")
            if group == "servers":
                parts.append(server_table(results) + "\n")
        parts.append(reasons(results))
    return "\n".join(part for part in parts if part)


def between_marks(text: str, name: str, section: str) -> str:
    """The page with `section` between the marks of that name; as it is, if it has none."""
    begin, end = (MARK.format(name=name, end=end) for end in ("begin", "end"))
    before, found, rest = text.partition(begin)
    if not found:
        return text
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"a page has {begin} but no {end}")
    return f"{before}{begin}\n{section}{end}{after}"


def publish(
    new: Results, names: list[str], folder: Path = FOLDER, pages: tuple[Path, ...] = PAGES
) -> None:
    keep(new, folder, names)
    every = kept(folder)
    plot.draw_all(every[0], folder)
    charts = {path.name for path in folder.glob("*.svg")}
    (folder / "README.md").write_text(full_page(every, charts))
    for page in pages:
        text = page.read_text()
        where = os.path.relpath(folder, page.parent)
        for name, section in sections(every, charts, where).items():
            text = between_marks(text, name, section)
        page.write_text(text)


def main() -> None:
    from rows import ROWS

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--charts", type=Path, help="only draw, into this folder")
    options = parser.parse_args()
    new = load(options.results)
    if options.charts:
        for path in plot.draw_all(new, options.charts):
            print(path)
    else:
        publish(new, list(ROWS))


if __name__ == "__main__":
    main()
