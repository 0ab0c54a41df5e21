"""SageMaker's secure mode: each control stops a start that breaks it, by the ways of production, and lets others be."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lmi_chat.cli.main import main
from lmi_chat.config import secure_mode
from lmi_chat.config.settings import Settings, read
from lmi_chat.config.sources import BadSetting
from lmi_chat.engine.vllm import engine as engine_vllm
from lmi_chat.pipeline.pipeline import Pipeline
from lmi_chat.server import bootstrap
from tests.support.model_folders import safetensors, write_folder

KINDS = {
    **dict.fromkeys(("trust_remote_code", "enforce_eager"), "bool"),
    **dict.fromkeys(("speculative_config", "hf_overrides", "load_format", "download_dir"), "str"),
    **dict.fromkeys(secure_mode.CODE_KEYS, "str"),
}
ALL = ",".join(secure_mode.ENFORCED)


def start(folder: Path, given: dict[str, str], file: Path | None = None) -> Settings:
    return read({"model_id": str(folder), **given}, {}, file, KINDS)


@pytest.fixture
def controls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Secure mode with these controls, in which the engine is reached by what they let through."""

    def load(*_: object, **__: object) -> None:
        raise engine_vllm.StartFailed("the engine was reached")

    monkeypatch.setattr(engine_vllm, "check_installed", lambda: None)
    monkeypatch.setattr(engine_vllm, "load", load)
    monkeypatch.setattr(bootstrap, "MODEL_FOLDER", tmp_path / "opt")

    def switch(names: str) -> None:
        monkeypatch.setenv("SAGEMAKER_SECURE_MODE", "true")
        monkeypatch.setenv("SAGEMAKER_SECURITY_CONTROLS", names)
        (tmp_path / "channel").mkdir()
        monkeypatch.setenv("SAGEMAKER_UNTRUSTED_CHANNELS", str(tmp_path / "channel"))

    return switch


async def loaded(settings: Settings) -> str:
    """What stops the start."""
    with pytest.raises((BadSetting, bootstrap.StartFailed)) as raised:
        await bootstrap.load(settings, Pipeline(bootstrap.pipeline_config(settings)), lambda _: None)
    return str(raised.value)


SETTINGS = [
    ("DISALLOW_TRUST_REMOTE_CODE", {"trust_remote_code": "true"}),
    ("DISALLOW_TRUST_REMOTE_CODE", {"speculative_config": '{"model": "a", "trust_remote_code": true}'}),
    ("DISALLOW_TRUST_REMOTE_CODE", {"hf_overrides": '{"a": [{"trust_remote_code": "true"}]}'}),
    *(("DISALLOW_CUSTOM_INFERENCE_SCRIPTS", {name: "a.B"}) for name in secure_mode.CODE_KEYS),
    ("DISALLOW_REQUIREMENTS_TXT", {"install_requirements": "true"}),
    ("DISALLOW_PICKLE_FILES", {"load_format": "pt"}),
    ("DISALLOW_PICKLE_FILES", {"load_format": "npcache"}),
    ("DISALLOW_CHAT_TEMPLATE", {"chat_template": "{{ messages }}"}),
]


@pytest.mark.parametrize(("control", "given"), SETTINGS)
async def test_a_setting_that_a_control_forbids(
    control: str, given: dict[str, str], tmp_path: Path, controls: Callable[[str], None]
) -> None:
    folder = write_folder(tmp_path / "model")
    if "load_format" in given:
        for name in ("weights.pt", "weights.bin"):
            (folder / name).write_bytes(b"1")
    settings = start(folder, given)
    others = ",".join(name for name in secure_mode.ENFORCED if name != control)
    controls(others)
    assert await loaded(settings) == "the engine was reached"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAGEMAKER_SECURITY_CONTROLS", control)
        says = await loaded(settings)
    assert says.startswith(f"command line: {next(iter(given))}")
    assert says.endswith(f"the platform's secure mode forbids it ({control})")


TEMPLATED = json.dumps({"chat_template": "{{ 1 }}"}).encode()
FILES = [
    ("DISALLOW_CUSTOM_INFERENCE_SCRIPTS", "model.py", b""),
    ("DISALLOW_CUSTOM_INFERENCE_SCRIPTS", "adapters/a/model.py", b""),
    ("DISALLOW_REQUIREMENTS_TXT", "requirements.txt", b""),
    ("DISALLOW_REQUIREMENTS_TXT", "code/requirements.txt", b""),
    *(("DISALLOW_PICKLE_FILES", f"x{ending}", b"1") for ending in secure_mode.PICKLE_ENDINGS),
    ("DISALLOW_PICKLE_FILES", "deep/er/TRAINING.BIN", b"1"),
    ("DISALLOW_CHAT_TEMPLATE", "tokenizer_config.json", TEMPLATED),
    ("DISALLOW_CHAT_TEMPLATE", "processor_config.json", TEMPLATED),
    ("DISALLOW_CHAT_TEMPLATE", "chat_template.json", TEMPLATED),
    ("DISALLOW_CHAT_TEMPLATE", "chat_template.jinja", b"{{ 1 }}"),
    ("DISALLOW_CHAT_TEMPLATE", "additional_chat_templates/tool_use.jinja", b"{{ 1 }}"),
]


@pytest.mark.parametrize("place", ["model", "channel"])
@pytest.mark.parametrize(("control", "name", "data"), FILES)
async def test_a_file_that_a_control_forbids(
    control: str, name: str, data: bytes, place: str, tmp_path: Path, controls: Callable[[str], None]
) -> None:
    """In the model's folder and in every untrusted channel, however deep."""
    others = ",".join(each for each in secure_mode.ENFORCED if each != control)
    controls(others)
    path = write_folder(tmp_path / "model").parent / place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    settings = start(tmp_path / "model", {})
    assert await loaded(settings) == "the engine was reached"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAGEMAKER_SECURITY_CONTROLS", control)
        says = await loaded(settings)
    assert str(path) in says
    assert f"the platform's secure mode forbids it ({control}" in says


async def test_a_safe_model_is_served_with_every_control(tmp_path: Path, controls: Callable[[str], None]) -> None:
    controls(ALL)
    assert await loaded(start(write_folder(tmp_path / "model"), {})) == "the engine was reached"


@pytest.mark.parametrize(
    "name",
    ["store", "async_folder", "tool_parser_plugin", "host", "port", "api_key_file", "ssl_certfile", "download_dir"],
)
async def test_a_models_own_file_opens_no_doors(name: str, tmp_path: Path, controls: Callable[[str], None]) -> None:
    controls("DISALLOW_REQUIREMENTS_TXT")
    write_folder(tmp_path / "model")
    for folder in ("channel", "trusted"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "serving.properties").write_text(f"option.{name}=1\noption.enforce_eager=true\n")
    says = await loaded(start(tmp_path / "model", {}, tmp_path / "channel" / "serving.properties"))
    shown = " = 1" if name in {"download_dir", "tool_parser_plugin"} else ""
    assert says == (
        f"{tmp_path}/channel/serving.properties:1: {name}{shown}: the platform's"
        " secure mode forbids it: it must not be set by a file that comes with the model"
    )
    settings = start(tmp_path / "model", {}, tmp_path / "trusted" / "serving.properties")
    assert await loaded(settings) == "the engine was reached"


async def test_weights_of_the_hub_are_safetensors_alone(
    tmp_path: Path, controls: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    controls("DISALLOW_PICKLE_FILES")
    given: list[dict[str, str]] = []

    def load(arguments: dict[str, str], *_: object, **__: object) -> None:
        given.append(arguments)
        raise engine_vllm.StartFailed("the engine was reached")

    monkeypatch.setattr(engine_vllm, "load", load)
    await loaded(start(Path("org/model"), {}))
    await loaded(start(write_folder(tmp_path / "model"), {}))
    assert [each.get("load_format") for each in given] == ["safetensors", None]


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"SAGEMAKER_SECURE_MODE": "yes"}, "must be true or false, got yes"),
        ({"SAGEMAKER_SECURE_MODE": "true"}, "needs SAGEMAKER_SECURITY_CONTROLS, and it names no control"),
        ({"SAGEMAKER_SECURE_MODE": "True", "SAGEMAKER_SECURITY_CONTROLS": " , "}, "it names no control"),
        (
            {"SAGEMAKER_SECURE_MODE": "true", "SAGEMAKER_SECURITY_CONTROLS": "DISALLOW_PICKLE_FILES, NO_NETWORK"},
            "NO_NETWORK is not enforced by this server, which has DISALLOW_CUSTOM_INFERENCE_SCRIPTS, ",
        ),
        (
            {
                "SAGEMAKER_SECURE_MODE": "true",
                "SAGEMAKER_SECURITY_CONTROLS": "DISALLOW_PICKLE_FILES",
                "SAGEMAKER_UNTRUSTED_CHANNELS": "/none, /",
            },
            "SAGEMAKER_UNTRUSTED_CHANNELS: there is no folder /none",
        ),
    ],
)
async def test_what_cannot_be_enforced_stops_the_start(
    environment: dict[str, str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    assert says in await loaded(start(write_folder(tmp_path / "model"), {}))


@pytest.mark.parametrize("value", ["", "false", "False"])
async def test_controls_without_secure_mode_do_nothing(
    value: str, tmp_path: Path, controls: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    controls("NO_NETWORK")
    monkeypatch.setenv("SAGEMAKER_SECURE_MODE", value)
    settings = start(write_folder(tmp_path / "model"), {"trust_remote_code": "true"})
    assert await loaded(settings) == "the engine was reached"


RAN = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\ndef handle(inputs): return None\n"


@pytest.mark.parametrize("command", ["djl-serving", "lmi-chat serve"])
@pytest.mark.parametrize("entry", ["model.py", "own.py"])
def test_no_code_of_a_model_directory_runs(
    command: str,
    entry: str,
    tmp_path: Path,
    controls: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    from lmi_chat.cli import djl_serving

    controls("DISALLOW_CUSTOM_INFERENCE_SCRIPTS")
    folder = write_folder(tmp_path / "model")
    (folder / entry).write_text(RAN)
    (folder / "model.safetensors").write_bytes(safetensors())
    (folder / "serving.properties").write_text(f"engine=Python\noption.entryPoint={entry}\n")
    words = ["serve", "--properties", str(folder / "serving.properties")]
    assert (main(words) if command == "lmi-chat serve" else djl_serving.main([str(folder)])) == 2
    assert "the platform's secure mode forbids it (DISALLOW_CUSTOM_INFERENCE_SCRIPTS)" in capsys.readouterr().err
    assert not (folder / "ran").exists()


def test_the_keys_of_other_servers_are_refused() -> None:
    for name in ("secure_mode", "untrusted_channels", "security_controls"):
        with pytest.raises(BadSetting, match=f"{name} is not possible.*the platform sets it"):
            read({name: "true"}, {}, None, KINDS)
