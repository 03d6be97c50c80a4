"""What to type for the Python that runs this. Imports nothing that takes time."""

import shlex
import shutil
import sys
from pathlib import Path


def python_command() -> str:
    """What to type for the interpreter that runs this: `python`, or its path where `python` is another one."""
    found = shutil.which("python")
    if found and Path(found).samefile(sys.executable) and Path(found).parent == Path(sys.executable).parent:
        return "python"
    executable = Path(sys.executable)
    return shlex.quote(str(executable.relative_to(Path.cwd()) if executable.is_relative_to(Path.cwd()) else executable))
