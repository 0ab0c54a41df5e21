"""A generation as per-token formatters read it."""

from djl_python.output_formatter import RequestOutput, TextGenerationOutput
from djl_python.request_io import Sequence, TextInput, Token


def test_a_sequence_is_read_token_by_token() -> None:
    asked = TextInput(request_id=1, input_text="hi", input_ids=[1, 2])
    output = TextGenerationOutput(request_id=1, input=asked)
    assert isinstance(output, RequestOutput)
    output.set_next_token(Token(3, "a", -0.5))
    output.set_next_token(Token(4, "b", -1.0, special_token=True), is_last_token=True, finish_reason="eos_token")
    output.set_next_token(Token(5, "c"), sequence_index=1)
    best = output.sequences[output.best_sequence_index]
    read = [best.get_next_token() for _ in range(3)]
    assert [(token and token.text, is_first, is_last) for token, is_first, is_last in read] == [
        ("a", True, False),
        ("b", False, True),
        (None, False, False),
    ]
    assert not best.has_next_token()
    assert best.finish_reason == "eos_token"
    assert output.get_tokens_as_dict() == [
        {"id": 3, "text": "a", "log_prob": -0.5},
        {"id": 4, "text": "b", "log_prob": -1.0, "special_token": True},
    ]
    asked.tgi_compat = True
    assert output.get_tokens_as_dict()[1] == {"id": 4, "text": "b", "logprob": -1.0, "special": True}
    output.set_best_sequence_index(1)
    output.set_finish_reason("length", 1)
    assert output.sequences[1].finish_reason == "length"
    assert asked.prompt_tokens_length() == 2


def test_the_likeliest_tokens_and_the_prompts() -> None:
    output = TextGenerationOutput(request_id="r", input=TextInput(request_id="r"))
    output.set_next_top_tokens([Token(1, "a", -0.1), Token(2, "b", -2.0)], 0)
    output.prompt_tokens_details.append(Token(9, "p", -3.0, error_msg="odd"))
    assert output.get_top_tokens_as_dict()[0][1] == {"id": 2, "text": "b", "log_prob": -2.0}
    assert output.get_prompt_tokens_as_dict() == [{"id": 9, "text": "p", "log_prob": -3.0, "error_msg": "odd"}]
    sequence = output.sequences[0]
    assert sequence.has_next_top_tokens()
    assert [token.id for token in sequence.get_next_top_tokens() or []] == [1, 2]
    assert sequence.get_next_top_tokens() is None
    assert Sequence().tokens is not Sequence().tokens
