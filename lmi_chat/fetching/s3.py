"""List S3's objects by boto3's client, and put its errors into one sentence."""

import errno
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmi_chat.fetching import DiskFull, FetchFailed, SourceMissing, SourceUnreachable
from lmi_chat.fetching.s3_download import CONNECTIONS, S3Object
from lmi_chat.text import one_line

ADDRESS = re.compile(r"[sS]3://(?P<bucket>[A-Za-z0-9._-]{1,255})(?:/(?P<key>[^\0-\x1f]{0,1024}))?")
MAX_OBJECTS = 10_000
SERVER_ERROR = 500
DENIED = frozenset({"AccessDenied", "AllAccessDisabled", "403", "Forbidden"})
BAD_CREDENTIALS = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
)
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class Sentences:
    """Turns boto3's errors, and the disk's, inside its block into one sentence.

    Files go into `folder`, and `advice` is what to do where it takes none.
    """

    def __init__(self, address: str, bucket: str, folder: Path, advice: str) -> None:
        self._address, self._bucket, self._folder, self._advice = address, bucket, folder, advice

    def __enter__(self) -> None:
        """Nothing."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Raise FetchFailed in the place of what was raised."""
        if error is None or isinstance(error, FetchFailed):
            return
        from botocore.exceptions import BotoCoreError, ClientError

        # botocore's errors of connections are OSErrors too
        if isinstance(error, ClientError):
            raise self._of_answer(error.response) from error
        if isinstance(error, BotoCoreError):
            raise self._of_client(error) from error
        if isinstance(error, OSError):
            raise self._of_disk(error) from error

    def _of_disk(self, error: OSError) -> FetchFailed:
        if error.errno in NO_SPACE:
            text = f"The disk of {self._folder} is full: {self._address} was not fetched whole"
            return DiskFull(f"{text}; what is there stays.")
        return FetchFailed(f"{self._address} cannot be kept in {self._folder} ({error.strerror}): {self._advice}.")

    def _of_answer(self, response: dict[str, Any]) -> FetchFailed:
        code, said = response["Error"].get("Code", ""), one_line(response["Error"].get("Message", ""), 200)
        if code == "NoSuchBucket":
            return SourceMissing(f"There is no bucket {self._bucket} ({self._address}).")
        if code in DENIED:
            rights = f"s3:ListBucket on the bucket {self._bucket} and s3:GetObject on its objects"
            return FetchFailed(f"Access to {self._address} is denied: the role or user of this process needs {rights}.")
        if code in BAD_CREDENTIALS:
            return FetchFailed(
                f"S3 does not accept the AWS credentials of this process ({code}): {self._address} was not fetched."
            )
        if code in {"PreconditionFailed", "412"}:
            return FetchFailed(f"{self._address} was changed while it was fetched: start again.")
        is_ours = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) < SERVER_ERROR
        kind = FetchFailed if is_ours else SourceUnreachable
        return kind(f"S3 refused {self._address}: {said or 'no reason given'} ({code}).")

    def _of_client(self, error: Exception) -> FetchFailed:
        from botocore import exceptions

        if isinstance(error, (exceptions.NoCredentialsError, exceptions.PartialCredentialsError)):
            return FetchFailed(
                f"There are no AWS credentials to read {self._address} with: give the endpoint or the machine a role, "
                "or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            )
        said = one_line(str(error), 300).rstrip(".")
        if isinstance(error, (exceptions.ConnectionError, exceptions.HTTPClientError, exceptions.IncompleteReadError)):
            return SourceUnreachable(
                f"S3 cannot be reached for {self._address}: {said}. What has arrived stays for the next start."
            )
        return FetchFailed(f"{self._address} cannot be fetched: {said}.")


def client(address: str) -> Any:
    """Build boto3's client: credentials, region and endpoint are where boto3 looks for them. Raises FetchFailed."""
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise FetchFailed(
            f"{address} needs boto3, which is not installed: pip install boto3 (lmi-chat's extra aws)."
        ) from error
    return boto3.session.Session().client(
        "s3",
        config=Config(
            max_pool_connections=CONNECTIONS,
            connect_timeout=5,
            read_timeout=60,
            retries={"mode": "standard", "max_attempts": 4},
            response_checksum_validation="when_required",  # a range has none of its own; whole files are checked
        ),
    )


def below(client: Any, bucket: str, prefix: str) -> Iterator[S3Object]:
    """List what begins with `prefix`, but for the markers of folders. Raises FetchFailed beyond MAX_OBJECTS."""
    count = 0
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for each in page.get("Contents", []):
            if not each["Key"].endswith("/"):
                yield S3Object(bucket, each["Key"], each["ETag"], each["Size"])
                count += 1
        if count > MAX_OBJECTS:
            raise FetchFailed(
                f"s3://{bucket}/{prefix} holds more than {MAX_OBJECTS} objects: name the model's own folder."
            )
