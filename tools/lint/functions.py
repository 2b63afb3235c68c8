"""How long and how branched the C functions are, and how much of the text is comment."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import lizard

ROOT = Path(__file__).resolve().parents[2]
MOST_LINES = 120
MOST_BRANCHES = 25  # cyclomatic complexity
MANY_BRANCHES = 15
SHARE_WITH_MANY = 0.04
LEAST_COMMENT, MOST_COMMENT = 0.12, 0.20  # of all lines


def comment_lines(text: str) -> int:
    """Lines with a comment on them. Strings that hold comment marks are not known here."""
    count, inside = 0, False
    for line in text.splitlines():
        if inside or "/*" in line or "//" in line:
            count += 1
        opened, closed = line.rfind("/*"), line.rfind("*/")
        inside = opened > closed or (inside and closed < 0)
    return count


def main() -> int:
    paths = sorted((ROOT / "csrc").rglob("*.[ch]"))
    functions = []
    for path in paths:
        for function in lizard.analyze_file(str(path)).function_list:
            name = f"{path.relative_to(ROOT)}:{function.start_line}: {function.name}"
            functions.append((name, function.length, function.cyclomatic_complexity))
    if not functions:
        return 0

    faults = [f"{name}: {lines} lines" for name, lines, _ in functions if lines > MOST_LINES]
    faults += [f"{name}: complexity {n}" for name, _, n in functions if n > MOST_BRANCHES]
    many = [(name, n) for name, _, n in functions if n > MANY_BRANCHES]
    if len(many) > SHARE_WITH_MANY * len(functions):
        faults += [f"{name}: complexity {n}" for name, n in many if n <= MOST_BRANCHES]
        faults.append(f"{len(many)} of {len(functions)} functions over complexity {MANY_BRANCHES}")
    texts = [path.read_text() for path in paths]
    comments = sum(map(comment_lines, texts)) / sum(text.count("\n") for text in texts)
    if not LEAST_COMMENT <= comments <= MOST_COMMENT:
        faults.append(
            f"comment lines {comments:.1%}: not between {LEAST_COMMENT:.0%} and {MOST_COMMENT:.0%}"
        )
    for fault in faults:
        print(f"    {fault}")

    lengths = [lines for _, lines, _ in functions]
    print(
        f"    {len(functions)} functions, median {statistics.median(lengths):.0f} lines, longest"
        f" {max(lengths)}; {len(many)} over complexity {MANY_BRANCHES};"
        f" comment lines {comments:.1%}"
    )
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
