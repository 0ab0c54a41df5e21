"""The command line: words into settings, and the exit codes of fetch-model."""

from pathlib import Path

import pytest

from lmi_chat.cli.main import main, pairs
from lmi_chat.config.sources import BadSetting
from lmi_chat.server import default_model


def test_words_become_keys_and_texts() -> None:
    words = ["--port", "9000", "--max-n=3", "--strict-requests", "--chat-template", "a=b", "--store="]
    expected = {"port": "9000", "max_n": "3", "strict_requests": "true", "chat_template": "a=b", "store": ""}
    assert pairs(words) == expected
    assert pairs(["--served-model-name", "a", "b", "--port", "1"]) == {"served_model_name": "a,b", "port": "1"}
    with pytest.raises(BadSetting, match="command line: 'port' stands alone; write --key value"):
        pairs(["port", "9000"])


def test_a_client_takes_no_unknown_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["chat", "http://127.0.0.1:9", "--colour"])
    assert "unknown: --colour" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "wrong", "raised", "code", "said"),
    [
        ((), ["a"], None, 0, ""),
        (("--verify",), [], None, 0, ""),
        (("--verify",), ["a", "b"], None, 1, "lmi-chat: these files do not match their checksums: a, b\n"),
        ((), [], default_model.FetchFailed("no network"), 1, "lmi-chat: no network\n"),
        ((), [], KeyboardInterrupt(), 130, ""),
    ],
)
def test_the_exit_codes_of_fetch_model(  # noqa: PLR0913, PLR0917 a row of the table
    words: tuple[str, ...],
    wrong: list[str],
    raised: BaseException | None,
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fetch(_: Path) -> None:
        if raised:
            raise raised

    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(default_model, "folder", lambda: tmp_path)
    monkeypatch.setattr(default_model, "fetch", fetch)
    monkeypatch.setattr(default_model, "verify", lambda _: wrong)
    assert main(["fetch-model", *words]) == code
    out, err = capsys.readouterr()
    assert (out, err) == ("" if code else f"{tmp_path}\n", said)
