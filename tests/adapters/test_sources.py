"""Sources of adapters: folders, archives good and hostile, S3 (a real server) and a hub that the test plays."""

import errno
import json
import re
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lmi_chat.adapters.files import FileRules, TrustedCode
from lmi_chat.adapters.sources import AdapterSources
from lmi_chat.errors import BadAdapter, Error, NotFound, Unavailable
from lmi_chat.limits import RegistryLimits
from tests.support import s3
from tests.support.adapters import FILES, extended, link, packed, write

pytestmark = pytest.mark.processes

SMALL = FileRules(limits=RegistryLimits(bytes=4096, files=8))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def fetched(src: str, tmp_path: Path, rules: FileRules | None = None) -> dict[str, bytes]:
    into = tmp_path / "into"
    into.mkdir()
    await AdapterSources(rules).fetch(src, into)
    assert {path.name for path in into.iterdir()} == set(contents(into)), "plain files alone"
    return contents(into)


async def refused(src: str, tmp_path: Path, rules: FileRules | None = None) -> Error:
    into = tmp_path / "into"
    into.mkdir()
    with pytest.raises(Error) as raised:
        await AdapterSources(rules).fetch(src, into)
    assert raised.value.param == "src"
    assert not list(into.iterdir()), "nothing is left"
    return raised.value


@pytest.mark.parametrize("form", ["{}", "{}/", "file://{}", "file://localhost{}"])
async def test_a_folder_gives_what_is_an_adapters_and_a_copy_of_it(tmp_path: Path, form: str) -> None:
    folder = write(tmp_path / "a b", README_md=b"x", optimizer_pt=bytes(9999))
    src = form.format(str(folder).replace(" ", "%20") if "://" in form else folder)
    assert await fetched(src, tmp_path, SMALL) == FILES
    (folder / "adapter_config.json").write_bytes(b"changed")
    assert contents(tmp_path / "into") == FILES


async def test_links_in_a_folder_are_files_as_a_hubs_cache_has_them(tmp_path: Path) -> None:
    blobs = write(tmp_path / "blobs")
    folder = tmp_path / "snapshot"
    folder.mkdir()
    for name in FILES:
        (folder / name).symlink_to(blobs / name)
    assert await fetched(str(folder), tmp_path) == FILES


@pytest.mark.parametrize("inside", ["", "adapter/", "./"])
@pytest.mark.parametrize("mode", ["w:gz", "w"])
async def test_an_archive_is_unpacked(tmp_path: Path, inside: str, mode: str) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(packed({inside + name: content for name, content in FILES.items()}, mode=mode))
    assert await fetched(str(path), tmp_path) == FILES


async def test_a_folder_that_holds_one_archive_is_that_archive(tmp_path: Path) -> None:
    (tmp_path / "artefact").mkdir()
    (tmp_path / "artefact" / "adapter.tar.gz").write_bytes(packed(FILES))
    assert await fetched(str(tmp_path / "artefact"), tmp_path) == FILES


WEIGHTS = "adapter_model.safetensors"
OUT = {"../escaped": b"x", "/escaped": b"x", "a/../../escaped": b"x"}


@pytest.mark.parametrize(
    ("archive", "says"),
    [
        *((packed({**FILES, name: content}), "leads out of its folder") for name, content in OUT.items()),
        (packed(FILES, link("model.py", "/etc/passwd")), "leads out|points to no file"),
        (packed(FILES, link("model.py", "../../secret")), "leads out|points to no file"),
        (packed(FILES, link("model.py", "/etc/passwd", tarfile.LNKTYPE)), "leads out|points to no file"),
        (packed(FILES, link("a", "b"), link("b", "a")), "points to no file"),
        (packed(FILES, link("pipe", "", tarfile.FIFOTYPE)), "no file, folder or link"),
        (packed({**FILES, "zeros": bytes(5000)}), "more than 8 files and"),
        (packed(FILES | {f"f{number}": b"" for number in range(9)}), "more than 8 files and"),
        (packed(FILES)[:150], "is broken"),
        (packed({**FILES, "a/" * 600 + "x": b"", "a/" * 1500 + "x": b""}), "more than 64 folders in one another"),
        (extended({"GNU.sparse.map": "x"}), "is broken"),
        (extended({"comment": "x"}, times=3000), "is broken"),
        (extended({"comment": "x" * 2**20}), "is broken: a header has 104\\d+ bytes, of at most 1048576"),
        (b"no archive", "is broken"),
    ],
)
async def test_a_hostile_archive_is_refused_whole(tmp_path: Path, archive: bytes, says: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    path = tmp_path / "a.tar.gz"
    path.write_bytes(archive)
    error = await refused(str(path), tmp_path, SMALL)
    assert isinstance(error, BadAdapter)
    assert re.search(says, error.message), error.message
    assert not (tmp_path / "escaped").exists()


async def test_links_within_an_archive_become_files(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    files = {"adapter_config.json": FILES["adapter_config.json"], "w": FILES[WEIGHTS]}
    path.write_bytes(packed(files, link(WEIGHTS, "w")))
    assert await fetched(str(path), tmp_path) == FILES
    assert not (tmp_path / "into" / WEIGHTS).is_symlink()


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "there is nothing at"),
        ({"x": b""}, "it has no adapter_config.json"),
        ({"adapter_config.json": b"{}"}, "has no weights"),
        ({**FILES, "adapter_config.json": b"{"}, "is no JSON"),
        ({**FILES, "adapter_config.json": b"[" * 3000}, "is no JSON"),
        ({**FILES, "adapter_config.json": b"[]"}, "must be a JSON object"),
        ({**FILES, "adapter_config.json": b'{"peft_type":"IA3","r":1}'}, 'peft_type must be LORA, got "IA3"'),
        ({**FILES, "adapter_config.json": b'{"r":0}'}, "r, the rank, must be a whole number from 1, got 0"),
        ({**FILES, "adapter_config.json": b'{"r":true}'}, "r, the rank, must be"),
        (
            {**FILES, "adapter_config.json": bytes(2**20 + 1)},
            "at most 1048576 are read",
        ),
        ({**FILES, WEIGHTS: bytes(4096)}, "max_adapter_bytes is 4096"),
    ],
)
async def test_what_is_no_adapter_is_told(tmp_path: Path, files: dict[str, bytes], says: str) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    error = await refused(str(folder), tmp_path, SMALL)
    assert says in error.message
    assert error.status == (400 if files else 404)


@pytest.mark.parametrize(
    ("src", "status"),
    [
        *(("/nowhere/at/all", 404), ("nowhere", 404), ("file:///nowhere", 404), ("a\0b", 400), ("file:///a%00b", 400)),
        *(
            ("file://elsewhere/a", 400),
            ("http://127.0.0.1/a", 400),
            ("s3://", 400),
            ("hf://x", 400),
            ("hf://a/b/../c", 400),
        ),
        *(("/etc/passwd", 400), ("x" * 5000, 400)),
    ],
)
async def test_a_source_that_is_none(tmp_path: Path, src: str, status: int) -> None:
    assert (await refused(src, tmp_path)).status == status


async def test_a_full_disk_is_no_fault_of_the_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    error = await refused(str(write(tmp_path / "a")), tmp_path)
    assert (error.status, error.code) == (507, "adapters_full")


@pytest.mark.parametrize(
    ("trusted", "is_kept"), [("off", False), ("local", True), ("any", True)], ids=["off", "local", "any"]
)
async def test_a_folders_code_is_kept_where_it_may_run(tmp_path: Path, trusted: TrustedCode, *, is_kept: bool) -> None:
    src = str(write(tmp_path / "a", model_py=b"x = 1"))
    found = await fetched(src, tmp_path, FileRules(trusted=trusted))
    assert ("model.py" in found) == is_kept


async def test_secure_mode_wants_neither_code_nor_pickles(tmp_path: Path) -> None:
    src = str(write(tmp_path / "a", model_py=b"x = 1"))
    error = await refused(src, tmp_path, FileRules(refuses_code=True, trusted="off"))
    assert "model.py, which the platform's secure mode forbids" in error.message
    folder = write(tmp_path / "b")
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    (tmp_path / "into").rmdir()
    assert "safetensors" in (await refused(str(folder), tmp_path, FileRules(refuses_pickle=True))).message
    (tmp_path / "into").rmdir()
    assert "adapter_model.bin" in await fetched(str(folder), tmp_path)


@pytest.fixture(scope="module")
def bucket() -> Iterator[int]:
    with s3.server() as port:
        client = s3.client(port)
        client.create_bucket(Bucket="bucket")
        objects = {f"adapters/french/{name}": content for name, content in FILES.items()}
        objects |= {"adapters/french/checkpoint/big": bytes(9999), "adapters/french/model.py": b"x = 1"}
        objects |= {"adapters/german.tar.gz": packed(FILES), "adapters/big.tar.gz": bytes(5000), "adapters/none/x": b""}
        objects |= {"adapters/bad.tar.gz": packed({**FILES, "../escaped": b"x"})}
        for key, content in objects.items():
            client.put_object(Bucket="bucket", Key=key, Body=content)
        yield port


@pytest.fixture
def in_s3(bucket: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {**s3.KEYS, "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{bucket}"}.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


@pytest.mark.usefixtures("in_s3")
@pytest.mark.parametrize("src", ["french", "french/", "german.tar.gz"])
async def test_from_s3(tmp_path: Path, src: str) -> None:
    """Only what an adapter has is fetched; code from elsewhere is not trusted."""
    assert await fetched(f"s3://bucket/adapters/{src}", tmp_path, SMALL) == FILES


@pytest.mark.usefixtures("in_s3")
@pytest.mark.parametrize(
    ("src", "kind", "says"),
    [
        ("s3://bucket/adapters/nothing/", NotFound, "there is nothing at"),
        ("s3://bucket/adapters/nothing.tar.gz", NotFound, "there is nothing at"),
        ("s3://no-such-bucket/a/", NotFound, "There is no bucket no-such-bucket"),
        ("s3://bucket/adapters/none/", BadAdapter, "it has no adapter_config.json"),
        ("s3://bucket/adapters/big.tar.gz", BadAdapter, "has 5000 bytes; max_adapter_bytes is 4096"),
        ("s3://bucket/adapters/bad.tar.gz", BadAdapter, "leads out of its folder"),
    ],
)
async def test_what_s3_has_not(tmp_path: Path, src: str, kind: type[Error], says: str) -> None:
    error = await refused(src, tmp_path, SMALL)
    assert type(error) is kind
    assert says in error.message


@pytest.mark.usefixtures("in_s3")
async def test_s3_that_cannot_be_reached_may_be_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    error = await refused("s3://bucket/adapters/french/", tmp_path)
    assert isinstance(error, Unavailable)
    assert "S3 cannot be reached" in error.message


COMMIT = "c" * 40


class Hub(BaseHTTPRequestHandler):
    """A hub with one model, whose folder `sub` is an adapter too."""

    files = FILES | {f"sub/{name}": content for name, content in FILES.items()} | {"other.bin": bytes(9999)}

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path, _, _ = self.path.partition("?")
        if path.startswith("/api/models/me/lora"):
            siblings = [{"rfilename": name, "size": len(content)} for name, content in self.files.items()]
            self._send(200, json.dumps({"id": "me/lora", "sha": COMMIT, "siblings": siblings}).encode())
        elif path.startswith(f"/me/lora/resolve/{COMMIT}/"):
            content = self.files[path.split("/", 5)[5]]
            self._send(200, content, ETag=f'"{len(content)}"', X_Repo_Commit=COMMIT)
        else:
            self._send(404, b"{}", X_Error_Code="RepoNotFound")

    do_HEAD = do_GET  # noqa: N815


@pytest.fixture(scope="module")
def hub_port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=partial(server.serve_forever, 0.05), daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


@pytest.fixture
def hub(hub_port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    home = f"http://127.0.0.1:{hub_port}"
    monkeypatch.setattr(constants, "ENDPOINT", home)
    template = f"{home}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("src", ["hf://me/lora", "hf://me/lora@main", "hf://me/lora/sub", "hf://me/lora/sub/"])
async def test_from_a_hub(tmp_path: Path, src: str) -> None:
    assert await fetched(src, tmp_path, SMALL) == FILES


@pytest.mark.usefixtures("hub")
async def test_what_a_hub_has_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(await refused("hf://me/other", tmp_path), NotFound)
    (tmp_path / "into").rmdir()
    assert isinstance(await refused("hf://me/lora/nothing", tmp_path), NotFound)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    (tmp_path / "into").rmdir()
    assert isinstance(await refused("hf://me/lora", tmp_path), Unavailable)
