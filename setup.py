"""Builds `hotloop._core`, the one C extension; everything else stands in pyproject.toml.

Environment:
  CC, CFLAGS       as usual. CFLAGS comes after our own flags, so that `-O1 -g -UNDEBUG` wins;
                   an -O or -fsanitize in it also turns link-time optimisation and hardening off.
  HOTLOOP_WERROR   set to 1: warnings are errors.
  HOTLOOP_PGO      set to 1: built twice, the second time by the profile of benchmarks/train.py,
                   which runs on the first (gcc; it takes a minute or two more).
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MINIMUM = (3, 12)


def stop(message):
    """Ends the build with one line, where a traceback would bury the reason."""
    raise SystemExit("hotloop: " + message)


if sys.version_info < MINIMUM:
    stop("needs Python %d.%d or later, this is %d.%d" % (MINIMUM + sys.version_info[:2]))

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"

# Aliasing: the objects of `_asyncio` are read through structs of our own that mirror them.
FLAGS = (
    "-O3 -std=c11 -D_GNU_SOURCE -fvisibility=hidden -fno-strict-aliasing -fwrapv"
    " -Wall -Wextra -Wshadow -Wstrict-prototypes -Wvla"
).split()
OPTIONAL_FLAGS = ["-fno-semantic-interposition"]
LTO_FLAGS = ["-flto=auto", "-flto"]  # the first that this compiler and its linker can do
# In a build that is released: checked copies, canaries on stacks, and tables that cannot be
# overwritten once they are linked. Each only where the compiler has it.
HARDENING = [
    ["-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=3"],
    ["-fstack-protector-strong"],
]
HARDENING_LINK = ["-Wl,-z,relro", "-Wl,-z,now"]


def relative(pattern):
    return sorted(str(path.relative_to(ROOT)) for path in CSRC.glob(pattern))


def can_link(compiler, *flags):
    """Does `compiler` build a shared object with them? Asked, since clang may lack the plugin."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text("int hl_probe(void);\nint hl_probe(void) { return 0; }\n")
        command = [*compiler, "-O2", *flags, "-Werror", "-fPIC", "-shared"]
        done = subprocess.run(
            [*command, str(source), "-o", str(Path(folder, "probe.so"))],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        return done.returncode == 0


class BuildCore(build_ext):
    """build_ext that compiles the objects side by side, and only those that are out of date."""

    def build_extensions(self):
        driver = self.compiler.compiler_so[:1]
        if shutil.which(driver[0]) is None:
            stop(f"no C compiler: {driver[0]!r} is not on PATH (install gcc or clang, or set CC)")
        include = sysconfig.get_path("include")
        if not any(Path(folder, "Python.h").exists() for folder in self.compiler.include_dirs):
            stop(f"no Python.h in {include} (install Python's headers, e.g. python3-dev)")
        if not any(extension.sources for extension in self.extensions):
            stop("there are no C sources in csrc/")
        for extension in self.extensions:
            self.add_flags(extension, driver)
        self.force = True  # compile_objects knows better what is out of date: it sees the flags too
        self.compiler.compile = self.compile_objects
        if os.environ.get("HOTLOOP_PGO") == "1":
            self.profile()
        super().build_extensions()

    def profile(self):
        """Builds with counters in it, has the benchmarks count, and adds flags that use that."""
        place = Path(self.build_temp, "profile").resolve()
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(ROOT / "python" / "hotloop", place / "lib" / "hotloop")
        (extension,) = self.extensions
        compile_args, link_args = extension.extra_compile_args, extension.extra_link_args
        count = [f"-fprofile-generate={place / 'counts'}", "-fprofile-update=atomic"]
        extension.extra_compile_args = compile_args + count
        extension.extra_link_args = link_args + count[:1]
        final, inplace = self.build_lib, self.inplace
        self.build_lib, self.inplace = str(place / "lib"), False
        self.build_extension(extension)
        self.build_lib, self.inplace = final, inplace
        environment = {**os.environ, "PYTHONPATH": str(place / "lib")}
        train = [sys.executable, str(ROOT / "benchmarks" / "train.py")]
        if subprocess.run(train, env=environment, check=False).returncode:
            stop("HOTLOOP_PGO: the training run failed")
        use = [f"-fprofile-use={place / 'counts'}", "-fprofile-partial-training"]
        use += ["-fprofile-correction", "-Wno-missing-profile", "-Wno-coverage-mismatch"]
        extension.extra_compile_args = compile_args + use
        extension.extra_link_args = link_args + use[:1]

    @staticmethod
    def add_flags(extension, driver):
        user = shlex.split(os.environ.get("CFLAGS", ""))
        flags = FLAGS + [flag for flag in OPTIONAL_FLAGS if can_link(driver, flag)]
        link = []
        if not any(flag.startswith(("-O", "-fsanitize")) for flag in user):
            lto = next((flag for flag in LTO_FLAGS if can_link(driver, flag)), None)
            if lto is not None:
                flags, link = [*flags, lto], ["-O3", lto]
            for hardening in HARDENING:
                if can_link(driver, *hardening):
                    flags, link = [*flags, *hardening], [*link, *hardening]
            if can_link(driver, *HARDENING_LINK):
                link += HARDENING_LINK
        if os.environ.get("HOTLOOP_WERROR") == "1":
            flags.append("-Werror")
        extension.extra_compile_args = flags + user
        extension.extra_link_args = link + [f for f in user if f.startswith("-fsanitize")]

    def compile_objects(
        self,
        sources,
        output_dir=None,
        macros=None,
        include_dirs=None,
        debug=False,
        extra_preargs=None,
        extra_postargs=None,
        depends=None,
    ):
        """Takes the place of CCompiler.compile, which runs one compiler at a time."""
        compiler = self.compiler
        macros, objects, postargs, pp_opts, build = compiler._setup_compile(
            output_dir, macros, include_dirs, sources, depends, extra_postargs
        )
        cc_args = compiler._get_cc_args(pp_opts, debug, extra_preargs)
        command = repr((compiler.compiler_so, cc_args, postargs, pp_opts))
        newest_header = max((os.path.getmtime(path) for path in depends or ()), default=0.0)

        def compile_one(target):
            source, extension = build[target]
            stamp = Path(target + ".cmd")  # written last: an object without it is not whole
            newest = max(newest_header, os.path.getmtime(source))
            if (
                stamp.exists()
                and stamp.read_text() == command
                and Path(target).exists()
                and os.path.getmtime(target) > newest
            ):
                return
            stamp.unlink(missing_ok=True)
            compiler._compile(target, source, extension, cc_args, postargs, pp_opts)
            stamp.write_text(command)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(compile_one, objects))
        return objects


setup(
    ext_modules=[
        Extension(
            "hotloop._core",
            sources=relative("**/*.c"),
            include_dirs=["csrc"],
            depends=[*relative("**/*.h"), "setup.py"],
        )
    ],
    cmdclass={"build_ext": BuildCore},
)
