"""What explain-config prints, and the tables of docs/configuration.md."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from lmi_chat.config.aliases import FAMILIES, NOT_YET, NOTED, REFUSED, RENAMED, TOLD, WITHOUT_EFFECT
from lmi_chat.config.describe import as_json, as_text, families, mapping, table, warnings
from lmi_chat.config.settings import OWN, read
from lmi_chat.config.sources import BadSetting

ROOT = Path(__file__).parents[2]
KINDS = {"max_model_len": "int", "hf_token": "str", "enforce_eager": "bool"}
ENVIRONMENT = {
    "OPTION_STRICT_REQUESTS": "true",
    "OPTION_ROLLING_BATCH": "disable",
    "OPTION_TOOL_SERVER": "demo",
    "HF_TOKEN": "hf_abc",
    "SM_VLLM_HF_TOKEN": "abc",
}


def test_every_value_and_its_origin(tmp_path: Path) -> None:
    path = tmp_path / "serving.properties"
    path.write_text("# mine\noption.max_model_len=2048\n")
    text = as_text(read({"port": "1", "chat_template": "{{ a }}\n{{ b }}"}, ENVIRONMENT, path, KINDS))
    values, _, notes = text.partition("\n\nAccepted without effect:\n")
    rows = {line.split()[0]: line for line in values.splitlines()}
    assert rows.keys() == {*OWN, "engine.max_model_len", "engine.hf_token"}
    assert rows["port"].split(maxsplit=2) == ["port", "1", "command line"]
    assert rows["strict_requests"].split(maxsplit=2)[1:] == ["true", "environment OPTION_STRICT_REQUESTS"]
    assert rows["max_n"].split() == ["max_n", "16", "default"]
    assert rows["model_id"].split() == ["model_id", "-", "default"]
    assert "{{ a }} {{ b }}  command line" in " ".join(rows["chat_template"].split(" ", 1))
    assert rows["engine.max_model_len"].split() == ["engine.max_model_len", "2048", f"{path}:2"]
    assert sorted(notes.splitlines()) == [
        "HF_TOKEN = (hidden)  environment HF_TOKEN: read by the hub's client",
        "rolling_batch = disable  environment OPTION_ROLLING_BATCH: batching is always continuous, and asynchronous",
        "tool_server = demo  environment OPTION_TOOL_SERVER: tools: not served by this version",
    ]
    assert "abc" not in text


def test_the_same_as_json() -> None:
    document = json.loads(as_json(read({"port": "1"}, ENVIRONMENT, None, KINDS)))
    rows = {row["key"]: (row["value"], row["origin"]) for row in document["settings"]}
    assert rows["port"] == (1, "command line")
    assert rows["strict_requests"] == (True, "environment OPTION_STRICT_REQUESTS")
    assert rows["engine.hf_token"] == ("(hidden)", "environment SM_VLLM_HF_TOKEN")
    assert {row["key"]: row["is_warning"] for row in document["without_effect"]} == {
        "HF_TOKEN": False,
        "rolling_batch": False,
        "tool_server": True,
    }
    assert "abc" not in json.dumps(document)


def test_warnings_are_what_somebody_may_miss() -> None:
    [line] = warnings(read({}, ENVIRONMENT, None, KINDS))
    assert line == "environment OPTION_TOOL_SERVER: tool_server = demo: tools: not served by this version"


@pytest.mark.parametrize("words", [["--json"], []])
def test_the_command(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lmi_chat", "explain-config", "--port", "7", *words],
        env={"PYTHONPATH": str(ROOT), "PATH": "/bin"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    if words:
        assert {"key": "port", "value": 7, "origin": "command line"} in json.loads(done.stdout)["settings"]
    else:
        assert "command line" in next(line for line in done.stdout.splitlines() if line.startswith("port "))


def test_a_long_value_is_cut_for_eyes_only() -> None:
    settings = read({"chat_template": "x" * 5000}, {}, None, KINDS)
    assert max(len(line) for line in as_text(settings).splitlines()) < 300
    assert "x" * 5000 in as_json(settings)


@pytest.mark.skipif(find_spec("vllm") is None, reason="without an engine its keys are not known")
@pytest.mark.parametrize("command", ["serve", "explain-config"])
def test_a_slip_stops_the_start_with_a_sentence(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lmi_chat", command],
        env={"PYTHONPATH": str(ROOT), "PATH": "/bin", "OPTION_MAX_MESAGES": "4096"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line == (
        "lmi-chat: environment OPTION_MAX_MESAGES: max_mesages is no key of lmi-chat or of the engine, got '4096';"
        " the nearest known key is max_messages"
    )


def test_the_table_has_every_key() -> None:
    head, rule, *rows = table().splitlines()
    assert (head, rule) == ("| key | type | default | meaning |", "|---|---|---|---|")
    assert [row.split("`")[1] for row in rows] == [*OWN]
    assert all(row.count(" | ") == 3 for row in rows)
    assert "| `port` | integer | 8080 | port to listen on (also `SAGEMAKER_BIND_TO_PORT`) |" in rows
    assert any(row.startswith("| `strict_requests` | boolean | false |") for row in rows)
    assert any(row.startswith("| `model_id` | string |  |") for row in rows)


@pytest.mark.parametrize(
    ("file", "mark", "made"),
    [
        ("docs/configuration.md", "settings", table),
        ("docs/configuration.md", "sources", families),
        ("docs/configuration.md", "names", mapping),
    ],
)
def test_the_documents_have_the_codes_own_tables(file: str, mark: str, made: object) -> None:
    assert callable(made)
    assert f"<!-- {mark} -->\n{made()}\n<!-- /{mark} -->" in (ROOT / file).read_text(encoding="utf-8")


def test_the_mapping_has_every_name() -> None:
    text = mapping()
    variables = {name.variable for family in FAMILIES for name in family.names}
    for name in {*variables, *RENAMED, *WITHOUT_EFFECT, *TOLD, *NOT_YET, *REFUSED, *NOTED}:
        assert f"`{name}`" in text


SECRET = "s3cr3t"
HOLDING = [
    f'{{"hf_token": "{SECRET}", "kept": 1}}',
    f'{{"a": [{{"Api-Key": "{SECRET}", "kept": 1}}]}}',
    f'{{"a": {{"password": ["{SECRET}"], "kept": 1}}}}',
    f'{{"secret": {{"x": "{SECRET}"}}, "kept": 1}}',
    f'[{{"token": "{SECRET}", "kept": 1}}]',
    f'{{"url": "https://user:{SECRET}@host/kept"}}',
    f"https://user:{SECRET}@host/kept",
    f'{{"a": "hf_{SECRET}", "kept": 1}}',
    f'  {{"token": "{SECRET}", "kept": 1}}',
]


@pytest.mark.parametrize("value", HOLDING)
def test_secrets_inside_values_are_hidden_everywhere(value: str) -> None:
    """In a setting of the engine, in one of ours, in what sets nothing, in a refusal; the rest stays readable."""
    environment = {"OPTION_HF_OVERRIDES": value, "OPTION_TOOL_SERVER": value}
    settings = read({"served_model_name": value}, environment, None, KINDS | {"hf_overrides": "str"})
    for text in (as_text(settings), as_json(settings), *warnings(settings)):
        assert SECRET not in text
        assert "kept" in text
    with pytest.raises(BadSetting) as raised:
        read({"no_such_key": value, "port": value}, {}, None, KINDS)
    assert SECRET not in str(raised.value)


def test_what_only_sounds_like_a_secret_is_shown() -> None:
    value = '{"num_speculative_tokens": 5, "max_token": 7, "use_key": true}'
    assert value in as_text(read({"speculative_config": value}, {}, None, KINDS | {"speculative_config": "str"}))


def test_nearly_json_is_hidden_whole() -> None:
    text = as_text(read({"hf_overrides": f"{{'token': '{SECRET}'}}"}, {}, None, KINDS | {"hf_overrides": "str"}))
    assert SECRET not in text
