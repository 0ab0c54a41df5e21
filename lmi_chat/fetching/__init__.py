"""Fetch files into a folder: S3's objects, and the members of tar archives."""


class FetchFailed(Exception):
    """Files could not be fetched; the message is one sentence for the person who named their source."""


class SourceMissing(FetchFailed):
    """There is nothing at the address."""


class DiskFull(FetchFailed):
    """There is no room for the files."""


class SourceUnreachable(FetchFailed):
    """Their server could not be asked, or not for now; the same address may do later."""
