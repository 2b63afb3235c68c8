"""`make fuzz SECONDS=… [TARGET=…]`: every fuzz target for that long, and a table of what ran.

Targets in C (fuzz_*.c) are built with clang's libFuzzer, under AddressSanitizer and UBSan; those
in Python are hypothesis' machines (test_machine_*.py) and atheris on the input of TLS
(fuzz_tls.py). A finding stays in build/fuzz-TAG/NAME/; what is fixed goes into corpus/NAME/, or
as an explicit example into the machine's file, and is run by every `make test` from then on.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CLANG = shlex.split(os.environ.get("CLANG", "clang"))
FLAGS = "-std=c11 -O1 -g -UNDEBUG -Wall -Wextra -Wshadow -Wstrict-prototypes -Werror".split()
SANITIZE = ["-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=undefined"]
WRAP = [f"-Wl,--wrap={name}" for name in ("malloc", "calloc", "realloc")]
VARIANTS = {"wake-pipe": ("wake", ["-DHL_WAKE_PIPE"])}  # name -> source, defines
SPARE = 120  # seconds beyond its time that a target may take to come to an end


@dataclass
class Outcome:
    target: str
    kind: str
    verdict: str
    seconds: float
    executions: int


def c_targets() -> list[str]:
    return sorted(path.stem.removeprefix("fuzz_") for path in HERE.glob("fuzz_*.c")) + list(
        VARIANTS
    )


def machines() -> list[str]:
    return sorted(
        path.stem.removeprefix("test_machine_") for path in HERE.glob("test_machine_*.py")
    )


def source_of(name: str) -> tuple[Path, list[str]]:
    stem, defines = VARIANTS.get(name, (name, []))
    return HERE / f"fuzz_{stem}.c", defines


def build(name: str, program: Path) -> None:
    source, defines = source_of(name)
    core = sorted((ROOT / "csrc" / "core").glob("*.c"))
    folders = [f"-I{ROOT / folder}" for folder in ("csrc", "tests/c", "tests/fuzz")]
    files = [str(path) for path in (source, *core)]
    command = [*CLANG, *FLAGS, *SANITIZE, *defines, *folders, *files]
    subprocess.run([*command, "-o", str(program), "-pthread", *WRAP], check=True)


def last_number(pattern: str, text: str) -> int:
    found = re.findall(pattern, text)
    return int(found[-1]) if found else 0


def call(
    command: list[str], folder: Path, limit: float, environ: dict[str, str]
) -> tuple[str, str]:
    """How it ended, and what it wrote; the output is kept beside what it found."""
    log = folder / "log.txt"
    with log.open("wb") as out:
        try:
            done = subprocess.run(
                command,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=folder,
                env=os.environ | environ,
                timeout=limit,
                check=False,
            )
            verdict = "ok" if done.returncode == 0 else f"FAILED (exit {done.returncode})"
        except subprocess.TimeoutExpired:
            verdict = "HANGS"
    return verdict, log.read_text(errors="replace")


def run_c(name: str, folder: Path, seconds: int) -> tuple[str, int]:
    program = folder / "program"
    build(name, program)
    seeds = HERE / "corpus" / VARIANTS.get(name, (name, []))[0]
    (folder / "corpus").mkdir(exist_ok=True)
    options = [f"-max_total_time={seconds}", "-max_len=600", "-len_control=0", "-timeout=30"]
    found = [str(folder / "corpus"), *([str(seeds)] if seeds.is_dir() else [])]
    command = [str(program), *found, *options, "-print_final_stats=1", "-rss_limit_mb=4096"]
    verdict, said = call(command, folder, seconds + SPARE, {"ASAN_OPTIONS": "", "LD_PRELOAD": ""})
    return verdict, last_number(r"number_of_executed_units: (\d+)", said)


def run_machine(name: str, folder: Path, seconds: int) -> tuple[str, int]:
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider"]
    command += [f"--rootdir={ROOT}", f"-c{ROOT / 'pyproject.toml'}"]
    command += ["-ofaulthandler_timeout=0", str(HERE / f"test_machine_{name}.py")]
    environ = {"HOTLOOP_FUZZ_SECONDS": str(seconds)}
    verdict, said = call(command, folder, seconds + SPARE * 3, environ)
    return verdict, sum(map(int, re.findall(r"fuzz: (\d+) programs", said)))


def run_tls(folder: Path, seconds: int) -> tuple[str, int]:
    command = [sys.executable, str(HERE / "fuzz_tls.py"), "--seconds", str(seconds)]
    verdict, said = call(command, folder, seconds + SPARE, {})
    return verdict, last_number(r"(?:fuzz:|number_of_executed_units:) (\d+)", said)


def run(target: str, build_folder: Path, seconds: int) -> Outcome:
    folder = build_folder / target
    folder.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    if target in machines():
        kind, (verdict, count) = "machine", run_machine(target, folder, seconds)
    elif target == "tls":
        kind, (verdict, count) = "tls", run_tls(folder, seconds)
    elif shutil.which(CLANG[0]) is None:
        kind, verdict, count = "libFuzzer", f"NOT RUN: there is no {CLANG[0]}", 0
    else:
        kind, (verdict, count) = "libFuzzer", run_c(target, folder, seconds)
    took = time.monotonic() - begin
    return Outcome(target, kind, verdict, round(took, 1), count)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "fuzz")
    parser.add_argument("targets", nargs="*", help="default: all")
    args = parser.parse_args()
    known = [*c_targets(), *machines(), *(["tls"] if (HERE / "fuzz_tls.py").exists() else [])]
    strange = set(args.targets) - set(known)
    if strange:
        parser.error(f"no such target: {', '.join(sorted(strange))}; there are {', '.join(known)}")

    outcomes = []
    for target in args.targets or known:
        print(f"fuzz: {target} for {args.seconds} s", flush=True)
        outcomes.append(run(target, args.build.resolve(), args.seconds))
        print(
            "      {target:14} {verdict:10} {executions} executions".format(**asdict(outcomes[-1]))
        )
        if outcomes[-1].verdict != "ok":
            said = (args.build / target / "log.txt").read_text(errors="replace")
            print(said[-6000:], flush=True)
    report = args.build / "report.json"
    report.write_text(json.dumps([asdict(one) for one in outcomes], indent=2) + "\n")
    bad = [one.target for one in outcomes if one.verdict.startswith(("FAILED", "HANGS"))]
    total = sum(one.executions for one in outcomes)
    print(f"fuzz: {len(outcomes)} targets, {total} executions, {len(bad)} with a finding; {report}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
