"""Where a deployment takes adapters from: its folder for unknown names, and what secure mode forbids of them."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from lmi_chat.adapters.registry import AdapterRegistry
from lmi_chat.config import secure_mode
from lmi_chat.config.settings import Settings, read
from lmi_chat.config.sources import BadSetting
from lmi_chat.dialects.formatters import Formatters
from lmi_chat.djl.formatters import of_adapter
from lmi_chat.engine import AdapterLimits
from lmi_chat.errors import BadAdapter, Error, NotFound
from lmi_chat.server import adapters
from tests.support.adapters import write
from tests.support.scripted import Scripted

CODE = (
    b"from djl_python.output_formatter import output_formatter\n\n@output_formatter\ndef own(answer):\n    return 7\n"
)
Use = Callable[[AdapterRegistry], object]


def settings(**given: str) -> Settings:
    return read({name: str(value) for name, value in given.items()}, {}, None, {"enable_lora": "bool"}, {})


@asynccontextmanager
async def opened(formatters: Formatters | None = None, **given: str) -> AsyncIterator[AdapterRegistry]:
    engine = Scripted(adapters=AdapterLimits(max_loras=2, max_cpu_loras=2, max_rank=8))
    registry = await adapters.open_registry(settings(**given), engine, "nowhere", formatters or Formatters())
    assert registry is not None
    try:
        yield registry
    finally:
        registry.delete_files()


async def test_an_unknown_name_is_looked_for_in_the_configured_folder(tmp_path: Path) -> None:
    write(tmp_path / "french")
    async with opened(adapter_folder=str(tmp_path)) as registry:
        assert registry.knows("french")
        assert registry.knows("german"), "that may be there"
        assert not registry.knows("../french")
        async with registry.hold("french") as adapter:
            assert (Path(adapter.path) / "adapter_config.json").is_file()
            assert not Path(adapter.path).is_relative_to(tmp_path)
        with pytest.raises(NotFound):
            await registry.hold("german").__aenter__()
    async with opened() as registry:
        assert not registry.knows("french")


async def test_a_folder_that_is_none_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="adapter_folder must be a folder that exists or s3://bucket/folder/, got"):
        async with opened(adapter_folder=str(tmp_path / "no")):
            pass
    async with opened(adapter_folder="s3://bucket/adapters/"):
        pass


@pytest.mark.parametrize(("trusted", "is_run"), [("off", False), ("local", True), ("any", True)])
async def test_whose_code_is_run(tmp_path: Path, trusted: str, *, is_run: bool) -> None:
    src = str(write(tmp_path / "a", model_py=CODE))
    formatters = Formatters(load=of_adapter)
    async with opened(formatters, adapter_code=trusted) as registry:
        await registry.register("a", src)
        assert ("a" in formatters.adapters) == is_run
        await registry.remove("a")
        assert not formatters.adapters


@pytest.mark.parametrize(
    ("control", "file", "is_refused"),
    [
        (secure_mode.SCRIPTS, "model.py", True),
        (secure_mode.PICKLE, "adapter_model.bin", True),
        (secure_mode.SCRIPTS, "adapter_model.bin", False),
        (secure_mode.PICKLE, "model.py", False),
    ],
)
async def test_secure_mode_holds_for_adapters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, control: str, file: str, *, is_refused: bool
) -> None:
    monkeypatch.setenv(secure_mode.SECURE_MODE, "true")
    monkeypatch.setenv(secure_mode.CONTROLS, control)
    folder = write(tmp_path / "a")
    if file.endswith(".bin"):
        (folder / "adapter_model.safetensors").rename(folder / file)
    else:
        (folder / file).write_bytes(CODE)
    async with opened() as registry:
        error: Error | None = None
        try:
            await registry.register("a", str(folder))
        except BadAdapter as raised:
            error = raised
        assert (error is not None) == is_refused
        assert error is None or "the platform's secure mode" in error.message


@pytest.mark.parametrize("key", ["adapter_folder", "adapter_code"])
def test_a_file_that_comes_with_the_model_opens_no_door_for_adapters(tmp_path: Path, key: str) -> None:
    path = tmp_path / "serving.properties"
    path.write_text(f"option.{key}={'off' if key == 'adapter_code' else tmp_path}\n")
    configured = read({}, {}, path, {}, {})
    secure = secure_mode.SecureMode(frozenset({secure_mode.SCRIPTS}), (tmp_path,))
    with pytest.raises(BadSetting, match=key):
        secure.check_settings(configured)
