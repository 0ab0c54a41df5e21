"""The command line: words into settings, and the exit codes of fetch-model."""

from pathlib import Path

import pytest

from lmi_chat.cli.main import main, pairs
from lmi_chat.config.sources import BadSetting
from lmi_chat.fetching import FetchFailed
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
        ((), [], FetchFailed("no network"), 1, "lmi-chat: no network\n"),
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


def test_code_beside_the_weights_alone_is_not_run_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.py").write_text("raise SystemExit('it ran')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("lmi_chat.cli.directory.serve_settings", lambda _: 0)
    assert main(["serve", "--model-id", str(tmp_path)]) == 0
    assert f"{tmp_path}/model.py is not run: there is no serving.properties beside it" in capsys.readouterr().err


def test_which_folders_code_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The platform's model folder has it without serving.properties too, though the working folder has that file."""
    (platform := tmp_path / "platform").mkdir()
    (working := tmp_path / "working").mkdir()
    (working / "serving.properties").write_text("engine=Python\n")
    monkeypatch.chdir(working)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("lmi_chat.config.sources.MODEL_FOLDER", platform)
    ran: list[tuple[Path, Path | None]] = []

    def run(folder: Path, path: Path | None, _: dict[str, str], *, is_models: bool) -> int:
        assert not is_models
        ran.append((folder, path))
        return 0

    monkeypatch.setattr("lmi_chat.cli.directory.run", run)
    monkeypatch.setattr("lmi_chat.cli.directory.serve_settings", lambda _: 0)
    assert main(["serve"]) == 0
    assert ran == []
    (working / "model.py").touch()
    assert main(["serve"]) == 0
    (platform / "model.py").touch()
    assert main(["serve"]) == 0
    (platform / "serving.properties").touch()
    assert main(["serve"]) == 0
    assert main(["serve", "--properties", "serving.properties"]) == 0
    (platform / "model.py").rename(platform / "other.py")
    (platform / "serving.properties").unlink()
    monkeypatch.setenv("OPTION_ENTRYPOINT", "other.py")
    assert main(["serve"]) == 0
    ours, theirs = Path("serving.properties"), platform / "serving.properties"
    assert ran.pop() == (platform, ours)
    assert ran == [(working, ours), (platform, ours), (platform, theirs), (working, ours)]
