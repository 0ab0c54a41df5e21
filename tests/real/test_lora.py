"""LoRA on the real engine: each adapter's own answer beside the others, and nothing that ends the engine."""

import json
import shutil
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import LoraServer, Reply
from tests.support import lora_weights

QUESTION = "The colours of the rainbow are"


def parameters(tokens: int = 16, **more: object) -> dict[str, object]:
    return {"max_new_tokens": tokens, "do_sample": False, "ignore_eos_token": True, **more}


def ask(server: LoraServer, name: str, tokens: int = 16, **more: object) -> str:
    """The text that an adapter ("": the model alone) answers."""
    named = {"adapters": name} if name else {}
    found = server.whole({"inputs": QUESTION, "parameters": parameters(tokens, **more), **named})
    return str(found["generated_text"])


def streamed(server: LoraServer, name: str, tokens: int = 16) -> str:
    named = {"adapters": name} if name else {}
    lines = server.lines({"inputs": QUESTION, "parameters": parameters(tokens), **named})
    return "".join(line["token"]["text"] for line in lines)


def register(server: LoraServer, name: str, src: Path, **flags: bool) -> Reply:
    return server.post({"name": name, "src": str(src), **flags}, "/adapters")


def remove(server: LoraServer, name: str) -> None:
    assert server.request("DELETE", f"/adapters/{name}")[0] == 200


@pytest.fixture
def clean(lora: LoraServer) -> Iterator[LoraServer]:
    """The server with LoRA; at the end nothing is registered, and the engine has nothing, as at the beginning."""
    yield lora
    for entry in json.loads(lora.request("GET", "/adapters")[2])["adapters"]:
        remove(lora, urllib.parse.quote(entry["name"]))
    assert lora.request("GET", "/ping")[0] == 200
    assert lora.look("loaded") == lora.look("versions") == []


def test_adapters_and_the_model_answer_side_by_side_as_they_do_alone(clean: LoraServer) -> None:
    names = ["", "a0", "a1", "a2", "a3"]
    alone = {"": ask(clean, "")}
    for name, src in zip(names[1:], clean.four, strict=True):
        assert register(clean, name, src)[0] == 200
        alone[name] = ask(clean, name)
    assert len({*alone.values()}) == len(names)
    taken = clean.look("paths")
    with ThreadPoolExecutor(20) as pool:
        whole = list(pool.map(lambda name: ask(clean, name), names * 3))
        streams = list(pool.map(lambda name: streamed(clean, name), names * 3))
        general = list(pool.map(lambda name: ask(clean, name, top_n_tokens=2, details=True), names * 3))
    assert whole == streams == general == [alone[name] for name in names] * 3
    after = clean.look("paths")
    assert after["FastRequest"] - taken.get("FastRequest", 0) == 24
    assert after["Outputs"] - taken.get("Outputs", 0) == 12


def test_several_sequences_prompts_and_beams_keep_the_adapter(clean: LoraServer) -> None:
    for name, src in zip(("a0", "a1"), clean.four, strict=False):
        register(clean, name, src)
    base, own, other = ask(clean, ""), ask(clean, "a0"), ask(clean, "a1")
    body: dict[str, Any] = {"model": "a0", "prompt": [QUESTION] * 2, "n": 2, "temperature": 0, "max_tokens": 16}
    found = clean.whole(body | {"ignore_eos": True}, "/v1/completions")
    assert [choice["text"] for choice in found["choices"]] == [own] * 4
    mixed = clean.whole({"inputs": [QUESTION] * 3, "parameters": parameters(), "adapters": ["a1", "", "a0"]})
    assert [part["generated_text"] for part in mixed] == [other, base, own]
    beams = {"use_beam_search": True, "n": 2, "temperature": 0, "max_tokens": 6, "prompt": QUESTION}
    searched = [clean.whole(beams | {"model": name}, "/v1/completions")["choices"] for name in ("a0", "a1", "a0")]
    texts = [[choice["text"] for choice in choices] for choices in searched]
    assert texts[0] == texts[2] != texts[1]


def test_all_that_may_be_pinned_is_and_others_have_their_turns(clean: LoraServer) -> None:
    alone = {}
    for number, src in enumerate(clean.four):
        assert register(clean, f"a{number}", src, pin=number == 0)[0] == 200
        alone[f"a{number}"] = ask(clean, f"a{number}")
    status, _, data = register(clean, "second", clean.four[1], pin=True)
    assert (status, json.loads(data)["error"]["code"]) == (507, "adapters_full")
    names = [*alone] * 4
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda name: streamed(clean, name), names)) == [alone[name] for name in names]
    assert clean.request("GET", "/ping")[0] == 200


def test_files_may_go_as_soon_as_an_adapter_is_registered(clean: LoraServer, tmp_path: Path) -> None:
    alone = {}
    for number, src in enumerate(clean.four):
        shutil.copytree(src, tmp_path / src.name)
        assert register(clean, f"a{number}", tmp_path / src.name, preload=number < 2)[0] == 200
        shutil.rmtree(tmp_path / src.name)
    for name in ("a3", "a2", "a1", "a0"):
        alone[name] = ask(clean, name)
    assert len({*alone.values()}) == 4
    assert len(clean.look("loaded")) == 3  # one was pushed out, and comes back
    assert {name: ask(clean, name) for name in alone} == alone


def test_a_stream_ends_as_it_began_whatever_becomes_of_its_adapter(clean: LoraServer) -> None:
    register(clean, "a", clean.four[0])
    expected, updated = ask(clean, "a", 150), ""
    for change in ("update", "remove"):
        register(clean, "a", clean.four[0])
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(streamed, clean, "a", 150)
            while not clean.in_engine():
                pass
            if change == "update":
                assert clean.post({"src": str(clean.four[1])}, "/adapters/a/update")[0] == 200
                updated = ask(clean, "a")
            else:
                remove(clean, "a")
                assert clean.post({"inputs": QUESTION, "adapters": "a"})[0] == 404
            assert not running.done()
            assert running.result() == expected
        if change == "update":
            assert updated == ask(clean, "a") != expected
            remove(clean, "a")


def test_weights_at_the_same_source_are_new_ones_after_an_update(clean: LoraServer, tmp_path: Path) -> None:
    src = tmp_path / "same"
    shutil.copytree(clean.four[0], src)
    register(clean, "a", src)
    first = ask(clean, "a")
    shutil.copytree(clean.four[1], src, dirs_exist_ok=True)
    assert ask(clean, "a") == first
    assert clean.post({}, "/adapters/a/update")[0] == 200
    register(clean, "b", clean.four[1])
    assert ask(clean, "a") == ask(clean, "b") != first


def test_what_the_model_cannot_use_is_refused_in_one_sentence(clean: LoraServer, model: Path, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    lora_weights.write(tmp_path / "rank", model, 5, rank=16)
    lora_weights.write(tmp_path / "wide", model, 5, hidden=512)
    lora_weights.write(tmp_path / "deep", model, 5, layers=40)
    save_file({}, lora_weights.write(tmp_path / "empty", model, 5) / "adapter_model.safetensors")
    (lora_weights.write(tmp_path / "broken", model, 5) / "adapter_model.safetensors").write_bytes(b"no header")
    sentences = {
        "rank": "LoRA rank 16 is greater than max_lora_rank 8.",
        "wide": "model.layers.0.self_attn.q_proj has 576 inputs here, 512 there",
        "deep": "this one has no model.layers.30.self_attn.q_proj",
        "empty": "",
        "broken": "",
    }
    register(clean, "good", clean.four[0])
    loaded = clean.look("loaded")
    for name, sentence in sentences.items():
        status, _, data = register(clean, name, tmp_path / name)
        error = json.loads(data)["error"]
        assert (status, error["code"]) == (400, "bad_adapter"), error
        assert sentence in error["message"]
        assert str(clean.folder.parent) not in error["message"]
    assert register(clean, "nowhere", tmp_path / "nowhere")[0] == 404
    assert clean.look("loaded") == loaded
    assert len(clean.look("versions")) == 1


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_thousand_random_steps_of_sixteen_clients(clean: LoraServer) -> None:
    told = clean.look(f"storm 1000 16 1 {clean.folder}")
    assert "failed" not in told, told
    assert told.pop("answered") > 60
    assert told.pop("refused") > 150
    names = told.pop("names")
    assert names
    assert told == {"texts": 4, "is_dead": False, "unregistered": [], "unpinned": [], "files": 0}
    assert clean.request("GET", "/ping")[0] == 200
