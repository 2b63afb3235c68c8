"""`python -m hotloop program.py …`: runs an unchanged program on hotloop.

The program gets what plain `python` would give it: a `__main__` module of its own, sys.argv,
sys.path[0], the exit status, and tracebacks that begin with its own first frame.
"""

from __future__ import annotations

import importlib.machinery
import io
import linecache
import os
import pkgutil
import runpy
import sys
import types
from collections.abc import Callable
from typing import Any, NoReturn

import hotloop
from hotloop._default import make_ours_the_default

USAGE = """\
usage: python -m hotloop [-m module | -c code | program.py | folder | zipfile | -] [argument ...]

Runs a Python program unchanged, with hotloop as the event loop wherever asyncio makes one.

  -m module    run a library module, as `python -m module` does
  -c code      run the code in the next argument
  -            run the program that stands on standard input
  -h, --help   show this text
  --version    show hotloop's version

HOTLOOP_BACKEND=epoll|select in the environment picks the poller.
"""

# 3.15 dropped the name.
_CACHED: dict[str, object] = {"__cached__": None} if sys.version_info < (3, 15) else {}


def _fresh_main(**attributes: object) -> dict[str, Any]:
    """Puts a new `__main__` where pickle and multiprocessing look for it; its namespace."""
    main = types.ModuleType("__main__")
    main.__dict__.update({"__builtins__": sys.modules["builtins"], **attributes})
    if sys.version_info < (3, 14):
        main.__annotations__ = {}
    sys.modules["__main__"] = main
    return main.__dict__


def _fail(status: int, message: str) -> NoReturn:
    """Ends the process as the interpreter does when it cannot start a program."""
    sys.stderr.write(message + "\n")
    raise SystemExit(status)


def _absolute(path: str) -> str:
    """As the interpreter makes a script's path absolute: joined, not normalised."""
    return path if os.path.isabs(path) else os.path.join(os.getcwd(), path)


def _set_path0(entry: str) -> None:
    """`-m hotloop` left the current folder in front, unless Python was told not to."""
    if not sys.flags.safe_path:
        sys.path[0] = entry


def _read_program(path: str) -> bytes:
    try:
        with io.open_code(_absolute(path)) as file:
            return file.read()
    except OSError as exc:
        _fail(
            2,
            f"{sys.executable}: can't open file {_absolute(path)!r}: "
            f"[Errno {exc.errno}] {exc.strerror}",
        )


def _run_script(path: str) -> None:
    where = _absolute(path)
    if pkgutil.get_importer(where) is not None:
        _run_container(where)
        return
    loader: Any
    if path.endswith(".pyc"):
        loader = importlib.machinery.SourcelessFileLoader("__main__", where)
        code = loader.get_code("__main__")
    else:
        source = _read_program(path)
        _set_path0(os.path.dirname(os.path.realpath(where)))
        loader = importlib.machinery.SourceFileLoader("__main__", where)
        code = compile(source, where, "exec", dont_inherit=True)
    _set_path0(os.path.dirname(os.path.realpath(where)))
    exec(code, _fresh_main(__file__=where, __loader__=loader, **_CACHED))


def _run_container(path: str) -> None:
    """A folder or a zip file with a `__main__.py`."""
    if sys.flags.safe_path:
        sys.path.insert(0, path)
    else:
        sys.path[0] = path
    _fresh_main()
    runpy._run_module_as_main("__main__", False)  # type: ignore[attr-defined]


def _run_module(name: str) -> None:
    _fresh_main()
    runpy._run_module_as_main(name)  # type: ignore[attr-defined]


def _run_stdin(_argument: str) -> None:
    _set_path0("")
    code = compile(sys.stdin.buffer.read(), "<stdin>", "exec", dont_inherit=True)
    loader = importlib.machinery.BuiltinImporter
    exec(code, _fresh_main(__file__="<stdin>", __loader__=loader, **_CACHED))


def _run_code(source: str) -> None:
    _set_path0("")
    if sys.version_info >= (3, 13):  # since when tracebacks show the lines of `-c`
        lines = source.splitlines(keepends=True)
        linecache.cache["<string>"] = (len(source), None, lines, "<string>")
    code = compile(source, "<string>", "exec", dont_inherit=True)
    exec(code, _fresh_main(__loader__=importlib.machinery.BuiltinImporter))


def _hide_own_frames(exc: BaseException) -> None:
    """Cuts the frames up to and including ours off the traceback."""
    tb = exc.__traceback__
    while tb is not None and tb.tb_frame.f_code is not _guarded.__code__:
        tb = tb.tb_next
    while tb is not None and tb.tb_frame.f_globals is globals():
        tb = tb.tb_next
    exc.__traceback__ = tb


def _guarded(run: Callable[[str], None], argument: str) -> None:
    """Runs the program; what it raises is shown as if there were no frames of ours.

    The interpreter itself does the rest: it knows the exit status, dies of SIGINT after a
    KeyboardInterrupt, and joins threads and runs atexit functions first.
    """
    try:
        run(argument)
    except SystemExit:
        raise
    except BaseException:
        shown_by = sys.excepthook

        def excepthook(kind: type[BaseException], exc: BaseException, _tb: Any) -> None:
            sys.excepthook = shown_by
            _hide_own_frames(exc)
            sys.last_traceback = exc.__traceback__
            shown_by(kind, exc, exc.__traceback__)

        sys.excepthook = excepthook
        raise


def _parse(args: list[str]) -> tuple[Callable[[str], None], str, list[str]]:
    """What to run, its argument, and the program's sys.argv."""
    if not args:
        _fail(2, USAGE.rstrip())
    first, rest = args[0], args[1:]
    if first in ("-h", "--help"):
        print(USAGE, end="")
        raise SystemExit(0)
    if first in ("-V", "--version"):
        print(f"hotloop {hotloop.__version__}")
        raise SystemExit(0)
    if first == "-":
        return _run_stdin, "-", args
    for option, run in (("-m", _run_module), ("-c", _run_code)):
        if first.startswith(option):
            if first != option:  # as in `-mmodule`
                return run, first[2:], [option, *rest]
            if not rest:
                _fail(2, f"Argument expected for the {option} option\n{USAGE}".rstrip())
            return run, rest[0], [option, *rest[1:]]
    if first.startswith("-"):
        _fail(2, f"Unknown option: {first}\n{USAGE}".rstrip())
    return _run_script, first, args


def main() -> None:
    """The command."""
    run, argument, sys.argv = _parse(sys.argv[1:])
    make_ours_the_default()
    _guarded(run, argument)


if __name__ == "__main__":
    main()
