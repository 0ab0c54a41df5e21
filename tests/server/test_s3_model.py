"""Models from S3, against a real S3 server that the tests start."""

import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
from collections import namedtuple
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from lmi_chat.config.settings import read
from lmi_chat.engine.vllm import engine as engine_vllm
from lmi_chat.fetching import FetchFailed, s3_download
from lmi_chat.fetching import archive as fetching_archive
from lmi_chat.fetching import s3 as fetching_s3
from lmi_chat.observability import startup
from lmi_chat.observability.startup import StartupProgress
from lmi_chat.pipeline.pipeline import Pipeline
from lmi_chat.server import bootstrap, s3_model
from tests.support import s3
from tests.support.model_folders import TOKENIZER, with_header
from tests.support.s3 import KEYS, Wire

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("wire")]
RANGE = 64 << 10
TENSOR_BYTES = 40 * RANGE + 7
HEADER = {"t": {"dtype": "U8", "shape": [TENSOR_BYTES], "data_offsets": [0, TENSOR_BYTES]}}
WEIGHTS = with_header(HEADER) + random.Random(1).randbytes(TENSOR_BYTES)
FILES = {
    "config.json": b"{}",
    "tokenizer.json": TOKENIZER,
    "model.safetensors": WEIGHTS,
    "sub/x.txt": b"x",
    "empty": b"",
}
ROOT = Path(__file__).parents[2]
RUN = f"""
import sys
from pathlib import Path
from lmi_chat.fetching import s3_download
from lmi_chat.server import s3_model
s3_download.RANGE_BYTES = {RANGE}
print(s3_model.fetch(sys.argv[1], Path(sys.argv[2])))
"""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with s3.server() as port:
        client = s3.client(port)
        client.create_bucket(Bucket="bucket")
        put(client, "models/tiny", FILES)
        yield port


@pytest.fixture
def client(port: int) -> Any:
    return s3.client(port)


@pytest.fixture
def wire(port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    """The way to the server, which boto3 takes by its own variable."""
    wire = Wire(port)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, text in {**KEYS, "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{wire.port}"}.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setattr(s3_download, "RANGE_BYTES", RANGE)
    yield wire
    wire.close()


def put(client: Any, prefix: str, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        client.put_object(Bucket="bucket", Key=f"{prefix}/{name}", Body=content)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def archive(files: dict[str, bytes], *odd: tarfile.TarInfo, mode: Any = "w:gz") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in odd:
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    return packed.getvalue()


def odd(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


@pytest.mark.parametrize("address", ["s3://bucket/models/tiny/", "s3://bucket/models/tiny", "S3://bucket/models/tiny/"])
def test_a_folder_is_fetched_and_the_second_start_downloads_nothing(
    wire: Wire, tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[float] = []
    folder = s3_model.fetch(address, tmp_path, seen.append)
    assert folder.name == "tiny"
    assert contents(folder) == FILES
    assert seen == sorted(seen)
    assert seen[-1] == 1
    said = capsys.readouterr().err
    assert said.startswith(f"Fetching {address} (5 files, 2.6 MB) into {tmp_path}")
    assert [line.split()[0] for line in said.splitlines()[1:-1]] == ["download", "check"]
    sent = wire.sent
    assert s3_model.fetch(address, tmp_path) == folder
    assert wire.sent - sent < 8192, "the list alone"
    assert capsys.readouterr().err == ""


def test_a_log_is_told_how_far_the_download_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(s3_model, "LOG_S", 0.0)
    s3_model.fetch("s3://bucket/models/tiny/", tmp_path)
    lines = [line for line in capsys.readouterr().err.splitlines() if " of " in line and "%" in line]
    assert lines[-1] == "  2.6 MB of 2.6 MB (100%)"


def test_a_new_version_fetches_the_changed_file_alone(wire: Wire, client: Any, tmp_path: Path) -> None:
    put(client, "models/changing", FILES)
    first = s3_model.fetch("s3://bucket/models/changing/", tmp_path)
    put(client, "models/changing", {"config.json": b'{"new": 1}'})
    sent = wire.sent
    second = s3_model.fetch("s3://bucket/models/changing/", tmp_path)
    assert wire.sent - sent < RANGE
    assert (second / "config.json").read_bytes() == b'{"new": 1}'
    assert contents(second) == FILES | {"config.json": b'{"new": 1}'}
    assert contents(first) == FILES, "who serves the older one still can"


def test_an_interrupted_download_resumes(
    wire: Wire, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-c", RUN, "s3://bucket/models/tiny/", str(tmp_path)]
    wire.limit = len(WEIGHTS) // 2
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert wire.stalled.wait(50)
        process.send_signal(signal.SIGKILL)
    there = sum(len(path.read_text().splitlines()) for path in tmp_path.rglob("*.ranges"))
    assert there > 5, "something has arrived"
    again = Wire(port)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{again.port}")
    folder = s3_model.fetch("s3://bucket/models/tiny/", tmp_path)
    again.close()
    assert contents(folder) == FILES
    left = len(WEIGHTS) - (there - 3) * RANGE  # three of the ranges may be the small files'
    assert again.sent < left + RANGE
    assert " MB of it here already)" in capsys.readouterr().err
    assert not [path for path in tmp_path.rglob("*") if path.suffix in {".part", ".ranges"}]


def test_a_broken_connection_is_taken_up_where_it_broke(
    wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_download, "RANGE_BYTES", len(WEIGHTS))
    monkeypatch.setattr(s3_download, "CHUNK_BYTES", 8192)
    wire.limit, wire.breaks = 512 << 10, 3
    assert contents(s3_model.fetch("s3://bucket/models/tiny/", tmp_path)) == FILES
    assert wire.breaks == 0
    assert wire.sent < len(WEIGHTS) + (256 << 10), "not from the beginning"


def test_a_connection_that_always_breaks_is_told_and_what_came_stays(
    wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_download, "TRIES", 2)
    wire.limit, wire.breaks = 1 << 20, None
    with pytest.raises(
        FetchFailed, match=r"^S3 cannot be reached for s3://bucket/models/tiny/: .*stays for the next start\.$"
    ):
        s3_model.fetch("s3://bucket/models/tiny/", tmp_path)
    assert list(tmp_path.rglob("*.ranges"))


def test_of_two_processes_one_downloads_and_the_other_waits(wire: Wire, tmp_path: Path) -> None:
    command = [sys.executable, "-c", RUN, "s3://bucket/models/tiny/", str(tmp_path)]
    pipes: Any = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as first, subprocess.Popen(command, **pipes) as second:
        told, errors = zip(first.communicate(), second.communicate(), strict=True)
    assert told[0] == told[1]
    assert contents(Path(told[0].strip())) == FILES
    assert wire.sent < len(WEIGHTS) + (512 << 10)
    assert sum("Fetching" in text for text in errors) == 1


def test_a_waiting_process_says_so(wire: Wire, port: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", RUN, "s3://bucket/models/tiny/", str(tmp_path)]
    wire.limit = len(WEIGHTS) // 2
    direct = {**os.environ, "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}"}
    pipes: Any = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as first:
        assert wire.stalled.wait(50)
        with subprocess.Popen(command, **pipes, env=direct) as second:
            assert second.stderr
            assert second.stderr.readline().startswith(
                "Waiting for another process that is fetching s3://bucket/models/ti"
            )
            first.kill()
            out, _ = second.communicate()
    assert contents(Path(out.strip())) == FILES


def test_a_multipart_upload_is_checked_by_its_parts(client: Any, tmp_path: Path) -> None:
    part = 5 << 20
    body = random.Random(2).randbytes(2 * part + 3)
    upload = client.create_multipart_upload(Bucket="bucket", Key="multi/w.gguf")["UploadId"]
    named = {"Bucket": "bucket", "Key": "multi/w.gguf", "UploadId": upload}
    parts = [
        {
            "PartNumber": n,
            "ETag": client.upload_part(**named, PartNumber=n, Body=body[(n - 1) * part : n * part])["ETag"],
        }
        for n in (1, 2, 3)
    ]
    client.complete_multipart_upload(**named, MultipartUpload={"Parts": parts})
    assert client.head_object(Bucket="bucket", Key="multi/w.gguf")["ETag"].endswith('-3"')
    assert contents(s3_model.fetch("s3://bucket/multi", tmp_path)) == {"w.gguf": body}
    spoil = tmp_path / "spoiled"
    with pytest.raises(FetchFailed, match="wrong checksum"):
        spoiled(spoil, "s3://bucket/multi")


def spoiled(cache: Path, address: str) -> None:
    """Fetch while a byte of what arrived turns."""
    original = os.pwrite

    def pwrite(file: int, data: bytes, at: int) -> int:
        return original(file, bytes([data[0] ^ 1]) + data[1:] if at == 0 else data, at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        s3_model.fetch(address, cache)


def test_what_does_not_match_its_etag_is_refused_and_fetched_anew(tmp_path: Path) -> None:
    with pytest.raises(FetchFailed, match=r"s3://bucket/models/tiny/.* did not arrive as S3 has it \(wrong checksum\)"):
        spoiled(tmp_path, "s3://bucket/models/tiny")
    assert not [*tmp_path.rglob("*.part")], "of all that is wrong nothing counts"
    assert contents(s3_model.fetch("s3://bucket/models/tiny", tmp_path)) == FILES


@pytest.mark.parametrize("algorithm", ["SHA256", "SHA1", "CRC32"])
def test_where_the_etag_is_no_digest_a_checksum_counts(client: Any, tmp_path: Path, algorithm: str) -> None:
    key = f"kms-{algorithm}/config.json"
    client.put_object(
        Bucket="bucket",
        Key=key,
        Body=b"{ }",
        ChecksumAlgorithm=algorithm,
        ServerSideEncryption="aws:kms",
        SSEKMSKeyId="k",
    )
    head = client.head_object(Bucket="bucket", Key=key, ChecksumMode="ENABLED")
    assert head["ServerSideEncryption"] == "aws:kms"
    assert f"Checksum{algorithm}" in head
    with pytest.raises(FetchFailed, match="wrong checksum"):
        spoiled(tmp_path, f"s3://bucket/kms-{algorithm}/")
    assert contents(s3_model.fetch(f"s3://bucket/kms-{algorithm}/", tmp_path)) == {"config.json": b"{ }"}


@pytest.mark.parametrize(
    ("key", "address", "mode", "top"),
    [
        ("a/model.tar.gz", "s3://bucket/a/model.tar.gz", "w:gz", ""),
        ("a/deep.tgz", "s3://bucket/a/deep.tgz", "w:gz", "tiny/"),
        ("a/plain.tar", "s3://bucket/a/plain.tar", "w", ""),
        ("output/model.tar.gz", "s3://bucket/output/", "w:gz", "./"),
    ],
)
def test_an_archive_is_unpacked_once(
    wire: Wire, client: Any, tmp_path: Path, key: str, address: str, mode: str, top: str
) -> None:
    files = {top + name: content for name, content in FILES.items()}
    links = [
        odd(f"{top}link.json", tarfile.SYMTYPE, "config.json"),
        odd(f"{top}hard", tarfile.LNKTYPE, f"{top}link.json"),
    ]
    client.put_object(Bucket="bucket", Key=key, Body=archive(files, *links, mode=mode))
    folder = s3_model.fetch(address, tmp_path)
    assert contents(folder) == FILES | {"link.json": b"{}", "hard": b"{}"}
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    sent = wire.sent
    assert s3_model.fetch(address, tmp_path) == folder
    assert wire.sent - sent < 8192
    stored = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink())
    assert stored < len(WEIGHTS) + 10_000, "the archive itself is gone"


@pytest.mark.parametrize(
    ("member", "sentence"),
    [
        (odd("../out"), "leads out"),
        (odd("a/../../out"), "leads out"),
        (odd("/out"), "leads out"),
        (odd("link", tarfile.SYMTYPE, "/etc/passwd"), "leads out"),
        (odd("link", tarfile.SYMTYPE, "../../out"), "leads out"),
        (odd("link", tarfile.LNKTYPE, "../out"), "leads out"),
        (odd("link", tarfile.SYMTYPE, "nothing"), "points to no file"),
        (odd("link", tarfile.SYMTYPE, "link"), "points to no file"),
        (odd("config.json", tarfile.SYMTYPE, "x"), "points to no file"),
        (odd("pipe", tarfile.FIFOTYPE), "no file, folder or link"),
        (odd("disk", tarfile.BLKTYPE), "no file, folder or link"),
        (odd("config.json"), "two files of one name"),
        (odd("config.json/x"), "two files of one name"),
    ],
)
def test_an_archive_that_leads_out_is_not_unpacked(
    client: Any, tmp_path: Path, member: tarfile.TarInfo, sentence: str
) -> None:
    client.put_object(Bucket="bucket", Key="bad/model.tar.gz", Body=archive({"config.json": b"{}"}, member))
    outside = set(tmp_path.parent.iterdir())
    with pytest.raises(FetchFailed, match=sentence) as caught:
        s3_model.fetch("s3://bucket/bad/model.tar.gz", tmp_path / "cache")
    assert "s3://bucket/bad/model.tar.gz" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert set(tmp_path.parent.iterdir()) == outside
    assert not [path for path in tmp_path.rglob("*") if path.name in {"out", "config.json"}]


def test_no_file_is_written_through_a_link(client: Any, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    members = [odd("config.json"), odd("d", tarfile.SYMTYPE, str(outside)), odd("d/file", size=3)]
    client.put_object(Bucket="bucket", Key="bad/through.tar.gz", Body=archive({}, *members))
    with pytest.raises(FetchFailed, match="leads out"):
        s3_model.fetch("s3://bucket/bad/through.tar.gz", tmp_path / "cache")
    assert not list(outside.iterdir())


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (archive({"config.json": WEIGHTS})[:-5000], "is broken"),
        (b"no archive", "is broken"),
        (archive({"config.json": b"", "big": bytes(3 << 20)}), "holds more than"),
        (archive({f"{n}": b"" for n in range(50)}), "holds more than 40 files"),
        (archive({"readme.txt": b""}), r"is no model: it has no config.json \(it has readme.txt\)"),
    ],
    ids=["cut", "no archive", "large", "many", "no model"],
)
def test_an_archive_that_is_broken_or_too_large(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: bytes, sentence: str
) -> None:
    monkeypatch.setattr(fetching_archive, "MAX_EXTRA_BYTES", 1 << 20)
    monkeypatch.setattr(fetching_archive, "MAX_FILES", 40)
    client.put_object(Bucket="bucket", Key="bad/broken.tar.gz", Body=body)
    with pytest.raises(FetchFailed, match=sentence):
        s3_model.fetch("s3://bucket/bad/broken.tar.gz", tmp_path)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("s3://no-such-bucket/m/", r"^There is no bucket no-such-bucket \(s3://no-such-bucket/m/\)\.$"),
        ("s3://bucket/nothing/here/", r"^There is nothing at s3://bucket/nothing/here/: no object's key begins so\.$"),
        ("s3://bucket/models/tin", r"^There is nothing at s3://bucket/models/tin"),
        ("s3://bucket/models/tiny/config.json", r"config.json is one file: name a folder .*tar.gz"),
        (
            "s3://bucket/models/tiny/sub",
            r"^s3://bucket/models/tiny/sub is no model: it has no config.json \(it has x.txt\)\.$",
        ),
        ("s3://bucket/none.tar.gz", r"^There is nothing at s3://bucket/none.tar.gz"),
        ("s3:///m", "is no address in S3"),
        ("s3://", "is no address in S3"),
    ],
)
def test_an_address_with_no_model_is_told_before_anything_is_fetched(
    tmp_path: Path, address: str, sentence: str
) -> None:
    with pytest.raises(FetchFailed, match=sentence):
        s3_model.fetch(address, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", ["../../x", "./x", "a//x", "config.json/x"])
def test_a_key_that_cannot_be_a_file_is_refused(client: Any, tmp_path: Path, key: str) -> None:
    folder = f"odd-{abs(hash(key))}"
    put(client, folder, {"config.json": b"{}", key: b""})
    with pytest.raises(FetchFailed, match="cannot be a file of the model's folder"):
        s3_model.fetch(f"s3://bucket/{folder}/", tmp_path)


def test_too_many_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching_s3, "MAX_OBJECTS", 4)
    with pytest.raises(FetchFailed, match="s3://bucket/models/tiny/ holds more than 4 objects"):
        s3_model.fetch("s3://bucket/models/tiny", tmp_path)


def test_too_little_room_is_told_before_anything_is_fetched(
    wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")  # noqa: PYI024 stands in for shutil's own
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 10**6))
    with pytest.raises(FetchFailed, match=r"has 1\.0 MB free; s3://bucket/models/tiny takes 2\.6 MB: set download_dir"):
        s3_model.fetch("s3://bucket/models/tiny", tmp_path)
    assert wire.sent < 20_000


def test_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.delenv(name)
    with pytest.raises(
        FetchFailed, match=r"^There are no AWS credentials to read s3://bucket/x/ with: .*AWS_ACCESS_KEY_ID"
    ):
        s3_model.fetch("s3://bucket/x/", tmp_path)


def test_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(FetchFailed, match=r"^S3 cannot be reached for s3://bucket/x/: .*127\.0\.0\.1:9"):
        s3_model.fetch("s3://bucket/x/", tmp_path)


def test_no_boto3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(
        FetchFailed,
        match=r"^s3://bucket/x/ needs boto3, which is not installed: pip install boto3 \(lmi-chat's extra aws\)\.$",
    ):
        s3_model.fetch("s3://bucket/x/", tmp_path)


def test_who_may_not_read_is_told_the_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3.server(INITIAL_NO_AUTH_ACTION_COUNT="3") as port:
        s3.client(port).create_bucket(Bucket="bucket")
        iam = s3.client(port, "iam")
        iam.create_user(UserName="u")
        key = iam.create_access_key(UserName="u")["AccessKey"]
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
        with pytest.raises(
            FetchFailed, match=r"^S3 does not accept the AWS credentials of this process \(InvalidAccess"
        ):
            s3_model.fetch("s3://bucket/x/", tmp_path)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        with pytest.raises(FetchFailed, match=r"^Access to s3://bucket/x/ is denied: .*s3:ListBucket .* s3:GetObject"):
            s3_model.fetch("s3://bucket/x/", tmp_path)


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "s3").touch()
    with pytest.raises(FetchFailed, match=r"cannot be kept in .*/s3 \(Not a directory\): set download_dir"):
        s3_model.fetch("s3://bucket/models/tiny", tmp_path)


MODEL = "s3://bucket/models/tiny/"
SPELLINGS: list[tuple[dict[str, str], str]] = [
    ({"HF_MODEL_ID": MODEL}, ""),
    ({"OPTION_MODEL_ID": MODEL}, ""),
    ({"OPTION_S3URL": MODEL}, ""),
    ({"OPTION_MODEL": MODEL}, ""),
    ({"SERVING_MODEL_ID": MODEL}, ""),
    ({"SM_VLLM_MODEL": MODEL}, ""),
    ({}, f"option.model_id={MODEL}"),
    ({}, f"option.s3url = {MODEL}"),
    ({}, f"model_id={MODEL}"),
    ({"HF_MODEL_ID": "hub/m", "OPTION_TOKENIZER": MODEL}, ""),
]


@pytest.mark.parametrize(("environment", "properties"), SPELLINGS)
async def test_the_server_serves_what_s3_has_by_every_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], properties: str
) -> None:
    given: dict[str, Any] = {}

    def load(arguments: dict[str, str], names: tuple[str, ...], *_: object, **__: object) -> None:
        given.update(arguments, names=names)
        raise engine_vllm.StartFailed("enough")

    monkeypatch.setattr(engine_vllm, "load", load)
    monkeypatch.setattr(engine_vllm, "check_installed", lambda: None)
    monkeypatch.setenv("LMI_CHAT_CACHE", str(tmp_path))
    file = tmp_path / "serving.properties"
    file.write_text(properties)
    settings = read({}, environment, file, {"tokenizer": "str", "download_dir": "str"})
    health, phases = StartupProgress(), list[str]()
    with pytest.raises(bootstrap.StartFailed, match="enough"):
        await bootstrap.load(settings, Pipeline(bootstrap.pipeline_config(settings)), phases.append, reach=health.reach)
    assert phases == [startup.FETCHING]
    assert health.share == 1
    if "OPTION_TOKENIZER" in environment:
        assert contents(Path(given["tokenizer"])) == FILES
    else:
        assert contents(Path(given["model"])) == FILES
        assert given["names"] == ("tiny", "lmi")


@pytest.mark.skipif(find_spec("vllm") is None, reason="a start says first that no engine is installed")
def test_a_start_that_cannot_fetch_ends_with_one_sentence(tmp_path: Path) -> None:
    environment = {**os.environ, "HF_MODEL_ID": "s3://no-such-bucket/m/", "LMI_CHAT_CACHE": str(tmp_path)}
    command = [sys.executable, "-m", "lmi_chat", "serve", "--port", "0"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "lmi-chat: There is no bucket no-such-bucket (s3://no-such-bucket/m/)."
    assert "Traceback" not in done.stderr
