"""A function named in YAML is found where the user keeps it; its errors name the user's line."""

import sys
from pathlib import Path

import pytest

from pipecut.errors import RunError, TraceError, UserFileError
from pipecut.model.functions import calling, find_function, is_machinery, user_frame


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("functions_here", "functions_broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "functions_here.py").write_text("number = 3\ndef double(x):\n    return 2 * x\n")
    (tmp_path / "functions_broken.py").write_text("raise SystemExit(2)\n")
    return tmp_path


def test_a_function_of_the_files_folder_is_found(folder: Path) -> None:
    assert find_function("functions_here:double", [folder], "job.yaml:3:1")(4) == 8
    assert str(folder) in sys.path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("functions_here:triple", "module 'functions_here' has no function 'triple'"),
        ("functions_here:number", "module 'functions_here' has no function 'number'"),
        ("functions_here", "'functions_here' is no module:function; write it like functions_here:"),
        ("functions_here:", "is no module:function; write it like functions_here:function"),
        (":double", "':double' is no module:function; write it like mymodule:function"),
        ("functions_nowhere:f", "cannot import 'functions_nowhere' of 'functions_nowhere:f': No"),
        ("functions_broken:f", "importing 'functions_broken' failed: SystemExit: 2"),
    ],
)
def test_what_is_not_found_is_said(name: str, message: str, folder: Path) -> None:
    with pytest.raises(UserFileError) as raised:
        find_function(name, [folder], "job.yaml:3:1")
    assert str(raised.value).startswith("job.yaml:3:1: ") and message in str(raised.value)


def test_an_error_of_the_users_code_names_its_line() -> None:
    with pytest.raises(UserFileError) as raised, calling("the factory"):
        raise ValueError("too\n  wide")
    message = str(raised.value)
    assert message.startswith("the factory failed at ") and __file__ in message
    assert message.endswith("ValueError: too wide")


def test_an_error_of_pipecut_stays_as_it_is() -> None:
    with pytest.raises(TraceError, match="^no loss$"), calling("the factory"):
        raise TraceError("no loss")


def test_an_exit_is_an_error_of_the_wanted_class() -> None:
    with pytest.raises(RunError, match="SystemExit: 3"), calling("the data", RunError):
        raise SystemExit(3)


def test_code_of_pipecut_torch_and_python_is_machinery() -> None:
    import json

    import torch

    for module in (json, torch, sys.modules["pipecut.errors"]):
        assert module.__file__ is not None and is_machinery(module.__file__)
    assert is_machinery("<string>") and not is_machinery(__file__)
    assert user_frame(ValueError("never raised")) == ""
