"""Send request bodies to a URL (standard library) or to a SageMaker endpoint (boto3, where it is installed)."""

import argparse
import contextlib
import http.client
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import SplitResult, urlsplit

ENDPOINT = re.compile(r"[a-zA-Z0-9](?:-*[a-zA-Z0-9]){0,62}")
CHUNK_BYTES = 65_536
OK = 200


class Failed(Exception):
    """There is no complete answer; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, content type and chunks of an answer; iterating raises Failed when it breaks off."""

    status: int
    content_type: str
    chunks: Iterator[bytes]


class Remote(Protocol):
    """A server or endpoint that answers a request body."""

    def post(self, body: bytes, content_type: str, accept: str) -> contextlib.AbstractContextManager[Answer]:
        """Send the body; leaving the context closes the connection. Raises Failed."""


class Url:
    """A server by its address."""

    def __init__(self, url: SplitResult, headers: dict[str, str], timeout_s: float) -> None:
        """POST to `url` with additional `headers`; give up after `timeout_s` without a byte."""
        self._url, self._headers, self._timeout_s = url, headers, timeout_s

    @contextlib.contextmanager
    def post(self, body: bytes, content_type: str, accept: str) -> Iterator[Answer]:
        """See Remote.post."""
        target = self._url.path + (f"?{self._url.query}" if self._url.query else "")
        with self._asked("POST", target, body, {"content-type": content_type, "accept": accept}) as answer:
            yield answer

    @contextlib.contextmanager
    def get(self, path: str) -> Iterator[Answer]:
        """GET `path`, below the URL's own. Raises Failed."""
        with self._asked("GET", self._url.path + path, None, {}) as answer:
            yield answer

    @contextlib.contextmanager
    def _asked(self, method: str, target: str, body: bytes | None, headers: dict[str, str]) -> Iterator[Answer]:
        url = self._url
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        connection = kind(url.hostname or "", url.port, timeout=self._timeout_s)
        with contextlib.closing(connection):
            try:
                connection.request(method, target, body, headers | self._headers)
                reply = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                raise Failed(f"{url.scheme}://{url.netloc} cannot be reached: {_why(error)}") from None
            yield Answer(reply.status, reply.headers.get_content_type(), _chunks(reply))


def _chunks(reply: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := reply.read1(CHUNK_BYTES):
            yield chunk
        if reply.length:
            raise Failed(f"the answer broke off, {reply.length} bytes before its end")
    except (OSError, http.client.HTTPException) as error:
        raise Failed(f"the answer broke off: {_why(error)}") from None


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


class Endpoint:
    """An endpoint on SageMaker; boto3 finds region, keys and address."""

    def __init__(self, name: str, timeout_s: float) -> None:
        """Raises Failed without boto3, or without a region."""
        try:
            import boto3
            import botocore.config
            from botocore import exceptions
        except ImportError:
            raise Failed(f"{name} is taken for a SageMaker endpoint, which needs boto3: pip install boto3") from None
        self._name, self._errors = name, exceptions
        try:
            config = botocore.config.Config(read_timeout=timeout_s)
            self._runtime = boto3.client("sagemaker-runtime", config=config)
        except exceptions.BotoCoreError as error:
            raise Failed(f"endpoint {name}: {error}") from None

    @contextlib.contextmanager
    def post(self, body: bytes, content_type: str, accept: str) -> Iterator[Answer]:
        """See Remote.post; the response stream is used if the body asks for one."""
        asked = {"EndpointName": self._name, "ContentType": content_type, "Accept": accept, "Body": body}
        ask = self._streamed if _is_stream(body) else self._whole
        try:
            answer = ask(asked)
        except self._errors.ClientError as error:
            answer = self._refusal(error)
        except self._errors.BotoCoreError as error:
            raise Failed(f"endpoint {self._name}: {error}") from None
        with contextlib.closing(self._runtime):
            yield answer

    def _whole(self, asked: dict[str, Any]) -> Answer:
        reply = self._runtime.invoke_endpoint(**asked)
        return Answer(OK, reply.get("ContentType", ""), iter([reply["Body"].read()]))

    def _streamed(self, asked: dict[str, Any]) -> Answer:
        reply = self._runtime.invoke_endpoint_with_response_stream(**asked)
        return Answer(OK, reply.get("ContentType", ""), self._parts(reply["Body"]))

    def _parts(self, stream: Any) -> Iterator[bytes]:
        try:
            for event in stream:
                yield event["PayloadPart"]["Bytes"]
        except (self._errors.ClientError, self._errors.BotoCoreError, OSError) as error:
            raise Failed(f"the answer broke off: {error}") from None
        finally:
            stream.close()

    def _refusal(self, error: Any) -> Answer:
        """Return the model's own answer, where the platform passes it on."""
        response = error.response
        if "OriginalStatusCode" not in response:
            raise Failed(f"endpoint {self._name}: {error}") from None
        body = response.get("OriginalMessage", "").encode()
        return Answer(response["OriginalStatusCode"], "application/json", iter([body]))


def _is_stream(body: bytes) -> bool:
    try:
        asked = json.loads(body)
    except ValueError:
        return False
    return isinstance(asked, dict) and asked.get("stream") is True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name the remote, for both commands."""
    parser.add_argument("target", help="a URL (its path /invocations if it has none), or a SageMaker endpoint's name")
    parser.add_argument("--header", action="append", default=[], metavar="NAME:VALUE", help="sent too; URLs only")
    parser.add_argument("--timeout", type=float, default=300.0, metavar="SECONDS", help="without a byte")


def http_url(target: str) -> SplitResult | None:
    """Read an http(s) URL, or a host and port alone; None where it is none."""
    try:
        url = urlsplit(target if "://" in target else f"http://{target}")
        is_url = url.scheme in {"http", "https"} and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        return None
    return url if is_url else None


def find(given: argparse.Namespace, path: str = "") -> Remote:
    """Return the remote that the arguments name; `path` is appended to a URL that ends in /v1. Raises Failed."""
    if ENDPOINT.fullmatch(given.target):
        return Endpoint(given.target, given.timeout)
    url = http_url(given.target)
    if url is None or ("://" not in given.target and not any(sign in given.target for sign in ".:/")):
        raise Failed(f"{given.target!r} is neither an http(s) URL nor the name of a SageMaker endpoint")
    if url.path.rstrip("/").endswith("/v1"):
        url = url._replace(path=url.path.rstrip("/") + path)
    headers = {name.strip(): value.strip() for name, _, value in (text.partition(":") for text in given.header)}
    return Url(url._replace(path=url.path.rstrip("/") or "/invocations"), headers, given.timeout)
