"""FILE.py:job, loaded as a module: the file's folder comes first on sys.path, as for `python FILE.py`.

Every way this can fail is a TopologyError that says which; an exception in the file comes with the part of its
traceback that is the user's.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, TracebackType

from streamcore.api import Job
from streamcore.errors import StreamcoreError, TopologyError


def load_job(target: str) -> Job:
    path, name = _split(target)
    module = _module(path)
    job = getattr(module, name, None)
    if isinstance(job, Job):
        return job
    jobs = sorted(key for key, value in vars(module).items() if isinstance(value, Job))
    told = f"the file has {', '.join(f'{path}:{j}' for j in jobs)}" if jobs else "no name in the file is a Job"
    what = f"{path} has no {name!r}" if job is None else f"{name!r} in {path} is a {type(job).__name__}, not a Job"
    raise TopologyError(what, told)


def load_functions(target: str, prefix: str) -> dict[str, Callable[[], object]]:
    """FILE.py:NAME's one function, or all of FILE.py's own whose names begin with `prefix`."""
    if target.endswith(".py"):
        path, wanted = _split(f"{target}:{prefix}")[0], None
    else:
        path, wanted = _split(target)
    module = _module(path)
    found = {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and name.startswith(prefix)
    }
    if wanted is not None:
        found = {name: value for name, value in found.items() if name == wanted}
    if not found:
        what = f"no function {wanted!r}" if wanted else f"no function whose name begins with {prefix!r}"
        raise TopologyError(f"{path} has {what}", f"write `def {prefix}something() -> None:` that calls chaos.run")
    return found


def job_name(text: str) -> str:
    """For commands that need a job's name alone: that, or FILE.py:job."""
    return load_job(text).name if text.endswith(".py") or ".py:" in text else text


def _split(target: str) -> tuple[Path, str]:
    file, colon, name = target.rpartition(":")
    if not colon:
        file, name = target, "job"
    path = Path(file)
    if not name.isidentifier() or path.suffix != ".py":
        raise TopologyError(f"{target!r} does not name a job", "write FILE.py:NAME, as examples/wordcount.py:job")
    if not path.is_file():
        raise TopologyError(f"there is no file {path} (in {Path.cwd()})", "correct the path")
    return path, name


def _module(path: Path) -> ModuleType:
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # as for `python -m`: a test may name its job by package
    name = path.stem if path.stem not in sys.modules else f"streamcore_job_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise TopologyError(f"{path} cannot be loaded as Python", "give a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except StreamcoreError:
        del sys.modules[name]
        raise
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise TopologyError(
            f"{path} raised {type(error).__name__} while it was loaded:\n{_users_part(error, path)}",
            "mend the file; nothing has run yet",
        ) from error
    return module


def _users_part(error: BaseException, path: Path) -> str:
    """From the file's own first line on: the frames of the loading machinery are of no use."""
    at: TracebackType | None = error.__traceback__
    while at is not None and at.tb_frame.f_code.co_filename != str(path.resolve()):
        at = at.tb_next
    return "".join(traceback.format_exception(type(error), error, at, chain=False)).rstrip()
