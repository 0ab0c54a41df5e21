import base64
from typing import Any

import pytest

from lmi_chat.errors import BadField, PromptTooLong
from lmi_chat.media import MediaAccess
from tests.support.fakes import deployment, parse, refusal
from tests.support.media import PNG, WAV, FakeRenderer, data_url, media

URL = data_url(PNG)
SIZE = len(PNG)
IMAGE: dict[str, Any] = {"type": "image_url", "image_url": {"url": URL}}


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


def chat(*parts: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}], **more}


def prompt(body: dict[str, Any], **changes: Any) -> str:
    return parse(body, deployment(**{"media": media(), **changes})).job.prompt_text


@pytest.mark.parametrize(
    "part",
    [
        IMAGE,
        {"type": "image_url", "image_url": {"url": URL, "detail": "low"}},
        {"type": "image_url", "image_url": URL},
        {"type": "input_image", "image_url": URL, "detail": "auto"},
        {"type": "image", "image": URL},
        {"type": "image", "url": URL},
    ],
)
def test_every_form_of_an_image_is_the_same(part: dict[str, Any]) -> None:
    assert prompt(chat(text("a"), part, text("b"))) == f"a[image:{SIZE}]b"


def test_images_and_texts_keep_their_order() -> None:
    task = parse(chat(text("a"), IMAGE, text("b"), IMAGE, text("c")), deployment(media=media()))
    assert task.job.prompt_text == f"a[image:{SIZE}]b[image:{SIZE}]c"
    assert task.job.media is not None
    assert task.job.media.tokens == {"image": 6}
    assert task.job.prompt_ids == [*task.job.prompt_text.encode()]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "audio_url", "audio_url": {"url": data_url(WAV, "audio/wav")}},
        {"type": "input_audio", "input_audio": {"data": data_url(WAV).partition(",")[2], "format": "wav"}},
        {"type": "input_audio", "input_audio": {"data": data_url(WAV, "audio/wav"), "format": "wav"}},
        {"type": "audio", "audio": data_url(WAV, "audio/wav")},
    ],
)
def test_every_form_of_audio_is_the_same(part: dict[str, Any]) -> None:
    assert prompt(chat(part), media=media(FakeRenderer(audio=1))) == f"[audio:{len(WAV)}]"


def test_what_the_template_is_told_reaches_the_renderer() -> None:
    renderer = FakeRenderer(image=1)
    body = chat(IMAGE, chat_template_kwargs={"enable_thinking": False}, add_generation_prompt=False)
    prompt(body, media=media(renderer))
    assert renderer.variables["enable_thinking"] is False
    assert renderer.variables["add_generation_prompt"] is False


def test_a_chat_of_text_needs_no_renderer() -> None:
    renderer = FakeRenderer(image=1)
    body = chat(text("a"), text("b"))
    assert prompt(body, media=media(renderer)) == prompt(body, media=None)
    assert renderer.rendered == 0


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        (IMAGE, "images"),
        ({"type": "input_image", "image_url": URL}, "images"),
        ({"type": "input_audio", "input_audio": {}}, "audio"),
        ({"type": "audio_url", "audio_url": {}}, "audio"),
        ({"type": "video_url", "video_url": {}}, "videos"),
        ({"type": "image_embeds", "image_embeds": "x"}, "images"),
    ],
)
def test_a_kind_that_the_model_does_not_take_is_named_with_the_model(part: dict[str, Any], kind: str) -> None:
    error = refusal(chat(part), "chat")
    assert error.param == "messages[0].content[0].type"
    assert f"must be text: the model tiny takes no {kind}; got" in error.message
    other = refusal(chat({"type": "video_url"}), "chat", media=media())
    assert "must be one of text, image_url, input_image, image: the model tiny takes no videos" in other.message


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        (
            chat({"type": "image_url"}),
            "messages[0].content[0].image_url",
            "must be a URL (https:, data: or file:), got",
        ),
        (chat({"type": "image_url", "image_url": {}}), "messages[0].content[0].image_url.url", "got null"),
        (chat({"type": "image_url", "image_url": 7}), "messages[0].content[0].image_url", "got 7"),
        (chat({"type": "image", "url": ["x"]}), "messages[0].content[0].url", "got an array"),
        (
            chat({"type": "cat"}),
            "messages[0].content[0].type",
            'one of text, image_url, input_image, image, got "cat"',
        ),
        (chat(*[IMAGE] * 4), "messages", "must have at most 3 images, got 4 (option.limit_mm_per_prompt)"),
        (chat({"type": "image_embeds", "image_embeds": "x"}), "messages[0].content[0].type", "option.enable_mm_embeds"),
        (chat(IMAGE, use_beam_search=True, n=2), "use_beam_search", "no beam search beside images, audio or videos"),
        (chat(IMAGE, truncate_prompt_tokens=3), "messages", "must have text alone where the prompt is truncated"),
    ],
)
def test_a_bad_part_is_named_before_anything_is_fetched(body: dict[str, Any], param: str, words: str) -> None:
    renderer = FakeRenderer(image=3)
    error = refusal(body, "chat", media=media(renderer))
    assert error.param == param
    assert words in error.message
    assert renderer.rendered == 0


@pytest.mark.parametrize(
    ("sound", "words"),
    [
        (None, "must be an object such as"),
        ({"format": "wav"}, "data must be audio in base64, got null"),
        ({"data": "AAAA", "format": "a/b;c"}, "format must be a format such as wav or mp3"),
        ({"data": "AAAA", "format": 7}, "format must be a format such as wav or mp3, got 7"),
    ],
)
def test_bad_audio_in_the_body(sound: object, words: str) -> None:
    body = chat({"type": "input_audio", "input_audio": sound})
    assert words in refusal(body, "chat", media=media(FakeRenderer(audio=1))).message


def test_nothing_is_fetched_for_a_request_that_is_wrong_elsewhere() -> None:
    asked: list[str] = []

    def resolve(name: str, _port: int) -> list[str]:
        asked.append(name)
        return ["127.0.0.1"]

    access = MediaAccess(hosts=frozenset({"*"}), resolve=resolve)
    remote = {"type": "image_url", "image_url": {"url": "https://a.test/x.png"}}
    for wrong in ({"temperature": "x"}, {"model": "other"}, {"n": 2, "use_beam_search": True}, {"max_tokens": 0}):
        refusal(chat(remote, **wrong), "chat", media=media(access=access))
    refusal(chat(text("x" * 20_000), remote), "chat", media=media(access=access))
    assert asked == []
    assert "public addresses" in refusal(chat(remote), "chat", media=media(access=access)).message
    assert asked == ["a.test"]


def test_the_number_of_all_media_is_bounded() -> None:
    many = media(FakeRenderer(image=99, audio=99), items=2)
    sound = {"type": "audio_url", "audio_url": {"url": data_url(WAV, "audio/wav")}}
    message = refusal(chat(IMAGE, IMAGE, sound), "chat", media=many).message
    assert "must have at most 2 images, audio and videos, got 3 (option.max_media)" in message


def test_a_bad_item_is_named() -> None:
    error = refusal(chat(text("a"), {"type": "image_url", "image_url": {"url": "data:x"}}), "chat", media=media())
    assert isinstance(error, BadField)
    assert error.param == "messages[0].content[1]"


def test_a_prompt_that_does_not_fit() -> None:
    class Long(FakeRenderer):
        def render_text(self, pieces: Any, items: Any) -> Any:
            return super().render_text([*pieces, "x" * 2000], items)

    error = refusal(chat(IMAGE), "chat", media=media(Long(image=1)))
    assert isinstance(error, PromptTooLong)


def test_embeddings_where_they_are_taken() -> None:
    class Takes(FakeRenderer):
        takes_embeddings = True

        def render_chat(self, messages: Any, items: Any, variables: Any) -> Any:  # noqa: ARG002 a renderer's
            (part,) = messages[0]["content"]
            given = part["image_embeds"]
            found = {name: items[key].data if isinstance(key, str) else key for name, key in given.items()}
            return self.render_text([str(found)], {})

    takes = media(Takes(image=1))
    tensors = {"image_embeds": base64.b64encode(b"\x93NUMPY1").decode(), "image_grid_thw": [1, 2, 2]}
    part = {"type": "image_embeds", "image_embeds": tensors}
    assert prompt(chat(part), media=takes) == str({"image_embeds": b"\x93NUMPY1", "image_grid_thw": [1, 2, 2]})
    for tensor, words in (("AAA", "must be a tensor in base64"), ("AAAA", "must be a tensor as torch.save")):
        error = refusal(chat({"type": "image_embeds", "image_embeds": tensor}), "chat", media=takes)
        assert error.param == "messages[0].content[0].image_embeds"
        assert words in error.message
        error = refusal(chat(part | {"image_embeds": {"image_embeds": tensor}}), "chat", media=takes)
        assert error.param == "messages[0].content[0].image_embeds.image_embeds"
    for bad in (7, {}, "", {"a": 7}):
        error = refusal(chat({"type": "image_embeds", "image_embeds": bad}), "chat", media=takes)
        assert error.param == "messages[0].content[0].image_embeds"


# The standard schema


def test_images_in_a_text() -> None:
    """As TGI's clients write them; a text-only model reads them as the text that they are."""
    body = {"inputs": f"a![]({URL})b ![cat]({URL}) c ![x](y) [z](https://a.test)"}
    assert prompt(body) == f"a[image:{SIZE}]b [image:{SIZE}] c ![x](y) [z](https://a.test)"
    plain = {"inputs": "![](https://a.test/x.png)"}
    assert prompt(plain, media=None) == plain["inputs"]
    assert prompt(plain, media=media(FakeRenderer(audio=1))) == plain["inputs"]
    several = parse({"inputs": [f"![]({URL})", "b"]}, deployment(media=media()))
    assert [job.prompt_text for job in several.jobs] == [f"[image:{SIZE}]", "b"]
    assert [job.media is not None for job in several.jobs] == [True, False]


def test_several_prompts_of_a_request_share_what_it_may_cost() -> None:
    """Whatever is bounded for a request is bounded for all its prompts together."""
    image, chats = f"![]({URL})", {"inputs": [f"![]({URL})", chat(IMAGE)["messages"]]}
    assert len(parse(chats, deployment(media=media(all_bytes=2 * SIZE))).jobs) == 2
    error = refusal(chats, "standard", media=media(all_bytes=2 * SIZE - 1))
    assert error.param == "inputs[1][0].content[0]"
    assert f"have more than {2 * SIZE - 1} bytes (option.max_media_bytes)" in error.message
    error = refusal({"inputs": [image * 2, image]}, "standard", media=media(items=2))
    assert error.message.startswith("inputs must have at most 2 images, audio and videos in all, got 3 (option.max_m")
    parse(chats, deployment(media=media(all_bytes=2 * SIZE)))  # another request begins anew


def test_a_chat_as_inputs() -> None:
    """It ends as any chat does: with the head of an answer."""
    renderer = FakeRenderer(image=1)
    chats = {"inputs": chat(text("a"), IMAGE)["messages"]}
    assert prompt(chats, media=media(renderer)) == f"a[image:{SIZE}]"
    assert renderer.variables["add_generation_prompt"] is True


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"inputs": f"![]({URL})" * 4}, "inputs"),
        ({"inputs": f"![]({URL})", "parameters": {"num_beams": 2}}, "parameters.num_beams"),
        ({"inputs": chat(IMAGE)["messages"], "parameters": {"num_beams": 2}}, "parameters.num_beams"),
        ({"inputs": f"![]({URL})", "parameters": {"truncate": 2}}, "inputs"),
        ({"inputs": "![](file:///etc/passwd)"}, "inputs"),
        ({"inputs": ["a", "![](http://127.0.0.1/)"]}, "inputs[1]"),
    ],
)
def test_bad_images_in_a_text(body: dict[str, Any], param: str) -> None:
    assert refusal(body, "standard", media=media()).param == param
