from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamcore.cli.load import job_name, load_job
from streamcore.errors import TopologyError

GOOD = """
from streamcore import Job, Topic
from {helper} import NAME

job = Job(NAME)
job.stream(Topic("a", str)).to(Topic("b", str))
other = 7
"""


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "names_of_mine.py").write_text('NAME = "from-helper"\n')
    path = tmp_path / "my_job.py"
    path.write_text(GOOD.format(helper="names_of_mine"))
    return path


def refusal(target: str) -> str:
    with pytest.raises(TopologyError) as caught:
        load_job(target)
    return str(caught.value)


def test_the_files_own_folder_can_be_imported_from(file: Path) -> None:
    assert load_job(f"{file}:job").name == "from-helper"


def test_job_is_the_name_when_none_is_given(file: Path) -> None:
    assert load_job(str(file)).name == "from-helper"


def test_a_job_may_be_named_by_its_file_or_by_itself(file: Path) -> None:
    assert job_name(f"{file}:job") == "from-helper"
    assert job_name("from-helper") == "from-helper"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert f"there is no file {tmp_path}/no.py" in refusal(f"{tmp_path}/no.py:job")


@pytest.mark.parametrize("target", ["job", "x.txt:job", "x.py:", "x.py:a-b", ":job"])
def test_what_names_no_job_is_told_how_to(target: str) -> None:
    assert "write FILE.py:NAME" in refusal(target)


def test_a_missing_name_is_told_with_those_that_are_there(file: Path) -> None:
    assert refusal(f"{file}:jbo") == f"{file} has no 'jbo'\n  what to do: the file has {file}:job"


def test_a_name_that_is_no_job_is_told(file: Path) -> None:
    assert "'other' in" in refusal(f"{file}:other") and "is a int, not a Job" in refusal(f"{file}:other")


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("x = 1\ny = x / 0\n", "ZeroDivisionError"),
        ("def f(:\n", "SyntaxError"),
        ("raise SystemExit(3)\n", "SystemExit"),
    ],
)
def test_an_exception_in_the_file_comes_with_the_users_part_of_the_traceback(
    tmp_path: Path, source: str, error: str
) -> None:
    path = tmp_path / "broken_job.py"
    path.write_text(source)
    message = refusal(f"{path}:job")
    assert f"{path} raised {error} while it was loaded" in message
    assert str(path) in message.split("\n", 1)[1]
    assert "importlib" not in message and "streamcore/cli" not in message


def test_a_file_named_like_a_library_does_not_replace_it(tmp_path: Path, file: Path) -> None:
    path = tmp_path / "json.py"
    path.write_text(file.read_text())
    before = sys.modules["json"]
    assert load_job(f"{path}:job").name == "from-helper"
    assert sys.modules["json"] is before
