"""Read PromQL: the series that an expression asks for, with the labels that it needs of them.

The part of the language that dashboards use (prometheus.io, "Querying basics" and "Operators"); anything else is an
error, so that nothing goes unread.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

TOKEN = re.compile(
    r"""\s*(?:(?P<number>\d+(?:\.\d+)?(?:[smhd]\b)?)|(?P<name>[a-zA-Z_:][\w:]*)|(?P<text>"(?:[^"\\]|\\.)*")"""
    r"""|(?P<sign>=~|!~|!=|>=|<=|==|[-+*/%=<>(){}\[\],]))"""
)
AGGREGATIONS = {"sum", "max", "min", "avg", "count", "topk"}
RATES = {"rate", "increase"}
FUNCTIONS = {*RATES, "histogram_quantile", "clamp_min", "time", "label_values"}
OPERATORS = {"+", "-", "*", "/", ">", "<", "==", "or", "and", "unless"}


@dataclass
class Series:
    """One selector: the name of its samples, the labels that it is asked for, the functions that it stands in."""

    name: str
    labels: set[str] = field(default_factory=set)
    within: set[str] = field(default_factory=set)


@dataclass
class Expression:
    """The series below it, and the labels of its result; None: those that the series have."""

    series: list[Series]
    labels: set[str] | None = None


class _Reader:
    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        place = 0
        while place < len(text.rstrip()):
            found = TOKEN.match(text, place)
            if found is None:
                raise ValueError(f"no PromQL: {text[place:]!r}")
            self._tokens.append((found.lastgroup or "", found[found.lastgroup or 0]))
            place = found.end()
        self._tokens.append(("end", ""))

    def next(self) -> str:
        return self._tokens[0][1]

    def kind(self) -> str:
        return self._tokens[0][0]

    def take(self, expected: str | None = None) -> str:
        _, found = self._tokens.pop(0)
        if expected not in (None, found):
            raise ValueError(f"{found!r} in place of {expected!r}")
        return found

    def takes(self, sign: str) -> bool:
        if self.next() != sign:
            return False
        self.take()
        return True

    def listed(self, opening: str, closing: str, item: Callable[[], None]) -> None:
        self.take(opening)
        while not self.takes(closing):
            item()
            if self.next() != closing:
                self.take(",")

    def expression(self) -> Expression:
        left = self.operand()
        while self.next() in OPERATORS:
            self.take()
            right = self.operand()
            left = Expression(left.series + right.series, left.labels if left.series else right.labels)
        return left

    def operand(self) -> Expression:
        if self.takes("("):
            inner = self.expression()
            self.take(")")
            return inner
        if self.kind() == "number":
            self.take()
            return Expression([])
        if self.kind() != "name":
            raise ValueError(f"{self.next()!r} is no operand")
        name = self.take()
        if name in AGGREGATIONS:
            return self.aggregation()
        return self.call(name) if self.next() == "(" else self.selector(name)

    def aggregation(self) -> Expression:
        kept: set[str] = set()
        if has_labels := self.takes("by"):
            self.listed("(", ")", lambda: kept.add(self.take()))
        inner = self.arguments()
        if not has_labels and self.takes("by"):
            self.listed("(", ")", lambda: kept.add(self.take()))
        for one in inner.series:
            one.labels |= kept
        return Expression(inner.series, kept)

    def call(self, name: str) -> Expression:
        if name not in FUNCTIONS:
            raise ValueError(f"{name} is no function that is known here")
        inner = self.arguments()
        for one in inner.series:
            one.within.add(name)
        if name == "histogram_quantile" and inner.labels is not None:
            return Expression(inner.series, inner.labels - {"le"})
        return inner

    def arguments(self) -> Expression:
        found: list[Expression] = []
        self.listed("(", ")", lambda: found.append(self.expression()))
        return next((one for one in found if one.series), Expression([]))

    def selector(self, name: str) -> Expression:
        series = Series(name)

        def matcher() -> None:
            series.labels.add(self.take())
            if self.take() not in {"=", "=~", "!=", "!~"} or self.kind() != "text":
                raise ValueError(f"a matcher of {name} is no matcher")
            self.take()

        if self.next() == "{":
            self.listed("{", "}", matcher)
        if self.takes("["):
            self.take()
            self.take("]")
            series.within.add("a range")
        return Expression([series])


def read(text: str) -> Expression:
    """Read an expression, with Grafana's variables in it."""
    reader = _Reader(text.replace("$__rate_interval", "5m").replace("$__range", "1h"))
    found = reader.expression()
    if reader.kind() != "end":
        raise ValueError(f"{reader.next()!r} after the end")
    return found
