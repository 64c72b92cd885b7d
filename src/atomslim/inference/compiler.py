"""The C++ compiler that packages are made with: whether a working one is installed, and its error messages."""

import os
import shutil
import subprocess

from atomslim.errors import ConfigError, one_line, printable

ANSWERS_WITHIN = 60
"""Seconds that a compiler has to print its version."""


def require_compiler() -> None:
    """Raise ConfigError where AOTInductor would find no C++ compiler, or one that does not even print its version."""
    wanted = os.environ.get("CXX", "g++")
    if shutil.which(wanted) is None:
        raise ConfigError(f"no C++ compiler {wanted}: install g++, or name one by the environment variable CXX")
    try:
        subprocess.run([wanted, "--version"], capture_output=True, check=True, timeout=ANSWERS_WITHIN)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(
            f"the C++ compiler {wanted} does not work ({one_line(error)}): name another by the environment variable CXX"
        ) from error


def compiler_failure(error: BaseException) -> str:
    """Say on one line why a program was not compiled: the compiler's first error, if it said one."""
    cause = getattr(error, "inner_exception", error)
    output = getattr(cause, "output", None)
    if output is None:
        return one_line(cause)
    lines = [line.strip() for line in str(output).splitlines() if line.strip()]
    first = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "it ended silently")
    return f"the C++ compiler fails: {printable(first)[:200]}"
