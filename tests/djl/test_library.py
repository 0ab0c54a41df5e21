"""Where `djl_python` comes from, and what is said where there is none."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import djl_python
from lmi_chat import djl
from lmi_chat.djl import custom_handler, formatters, handler, library
from tests.support.djl import given

ROOT = Path(__file__).parents[2]


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "djl_python"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if not Path(each, "djl_python").exists()])


def test_whichever_stands_first_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside DJL Serving that is DJL's own."""
    assert library.load() is djl_python
    other = ModuleType("djl_python")
    monkeypatch.setitem(sys.modules, "djl_python", other)
    assert library.load() is other


def test_everything_of_ours_imports_without_it() -> None:
    modules = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "lmi_chat" / "djl").glob("[!_]*.py")]
    names = [".".join(path.parts) for path in modules] + ["lmi_chat.cli.djl_serving", "model"]
    code = f"import sys; sys.modules['djl_python'] = None; import {', '.join(names)}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_break_inside_it_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "djl_python").mkdir()
    (tmp_path / "djl_python" / "__init__.py").write_text("import no_such_module\n")
    monkeypatch.delitem(sys.modules, "djl_python")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        library.load()


@pytest.mark.usefixtures("missing")
async def test_our_handler_says_what_is_missing_at_its_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler, "_lines", [])
    with pytest.raises(ModuleNotFoundError, match="DJL Serving brings its own, elsewhere the distribution djl-serving"):
        await djl.handle(djl_python.Input())
    with pytest.raises(ModuleNotFoundError, match="djl_python is not installed"):
        await djl.register_adapter(given(b""))


@pytest.mark.usefixtures("missing")
async def test_a_custom_handler_without_it_is_told_in_a_sentence(tmp_path: Path) -> None:
    module = ModuleType("custom")
    module.handle = lambda _: None  # type: ignore[attr-defined]
    with pytest.raises(custom_handler.BadDirectory, match="failed to load: djl_python is not installed: DJL Serving"):
        await custom_handler.Foreign(module, {}, 1).load()
    (tmp_path / "model.py").write_text("from djl_python.input_parser import input_formatter\n")
    with pytest.raises(custom_handler.BadDirectory, match=r"model\.py does not load: djl_python is not installed"):
        formatters.of_folder(tmp_path)


@pytest.mark.usefixtures("missing")
def test_a_plain_module_that_is_missing_is_no_matter_of_djl_python(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("import no_such_module\n")
    with pytest.raises(custom_handler.BadDirectory, match="No module named 'no_such_module'"):
        custom_handler.load(tmp_path, "model.py")
