"""The marks of formatters, as DJL's own loader and ours look for them."""

from djl_python.input_parser import input_formatter
from djl_python.output_formatter import output_formatter
from lmi_chat.djl import formatters


def test_a_mark_is_an_attribute_and_the_function_stays_as_it_is() -> None:
    def own(body: object) -> object:
        return body

    assert not hasattr(own, formatters.INPUT)
    assert input_formatter(own) is own
    assert (formatters.INPUT, getattr(own, formatters.INPUT)) == ("is_input_formatter", True)
    assert output_formatter(own) is own
    assert (formatters.OUTPUT, getattr(own, formatters.OUTPUT)) == ("is_output_formatter", True)
