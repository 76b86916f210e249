"""Pulling weights from a server on this machine, which does what servers do."""

from __future__ import annotations

import dataclasses
import http.server
import threading
from pathlib import Path

import pytest
from family import ship_family, tiny_model

from vidsr.errors import ModelError, RequestError
from vidsr.models import card as card_module
from vidsr.models import pull as pull_room
from vidsr.models.card import ModelCard, shipped_cards
from vidsr.models.load import load, resolve
from vidsr.models.pull import Source, pull, source_of


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder; may be told to misbehave."""

    daemon_threads = True
    ranges = True
    break_after: int | None = None  # bytes of the next answer
    redirect: str | None = None
    declare_length = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.asked: list[tuple[str, str | None]] = []  # path, Range

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.asked.append((self.path, asked))
        path = server.folder / self.path.lstrip("/")
        if server.redirect is not None:
            self.send_response(302)
            self.send_header("Location", server.redirect)
            self.end_headers()
            return
        if not path.is_file():
            self.send_error(404, "Not Found")
            return
        content, start = path.read_bytes(), 0
        if asked and server.ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        if start:
            last = len(content) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
        if server.declare_length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = None
        if server.break_after is not None and path.suffix == ".safetensors":
            stop, server.break_after = start + server.break_after, None
        self.wfile.write(content[start:stop])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "web"
    tiny_model(folder, "mine-x2", scale=2, channels=8)
    with Server(folder) as web:
        thread = threading.Thread(target=web.serve_forever, args=(0.02,))
        thread.start()
        yield web
        web.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The user's folder, beside weights that came with vidsr."""
    ship_family(monkeypatch, tmp_path / "weights", 2)
    monkeypatch.setattr(card_module, "pulled_dir", lambda: tmp_path / "data" / "weights")
    return tmp_path / "data" / "weights"


@pytest.fixture
def source(server):
    return local(server, f"{server.address}/mine-x2.safetensors")


def local(server, address, sha256=None, **changes):
    """A source that may be asked without encryption, on this machine alone."""
    one = source_of(address, None, sha256)
    return dataclasses.replace(one, plain_hosts=frozenset({"127.0.0.1"}), **changes)


def refused(source, folder, error, match):
    with pytest.raises(error, match=match) as caught:
        list(pull(source, folder))
    assert "\n" not in str(caught.value)
    visible = [] if not folder.is_dir() else [p for p in folder.iterdir() if p.name[0] != "."]
    assert visible == []


def hidden(folder):
    return [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_pulled_model_is_listed_found_and_loads(server, source, folder):
    *_, last = pull(source, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["mine-x2.json", "mine-x2.safetensors"]
    assert last.path.read_bytes() == (server.folder / "mine-x2.safetensors").read_bytes()
    assert [card.name for card in shipped_cards()] == ["fast-x2", "mine-x2"]
    assert resolve("mine-x2") == (last.card, last.path)
    load(*resolve("mine-x2"))


def test_what_is_there_already_is_not_fetched_again(server, source, folder):
    list(pull(source, folder))
    server.asked.clear()
    *_, last = pull(source, folder)
    assert last.card is not None
    assert server.asked == [("/mine-x2.json", None)]


def test_a_connection_that_was_cut_goes_on_where_it_stopped(server, source, folder):
    server.break_after = 1000
    refused(source, folder, ModelError, r"1000 of \d+ bytes came\); the same command continues")
    assert [path.stat().st_size for path in hidden(folder)] == [1000]
    server.asked.clear()
    *_, last = pull(source, folder)
    assert ("/mine-x2.safetensors", "bytes=1000-") in server.asked
    assert last.path.read_bytes() == (server.folder / "mine-x2.safetensors").read_bytes()
    assert hidden(folder) == []


def test_a_server_that_knows_no_ranges_sends_it_again_whole(server, source, folder):
    server.break_after = 1000
    refused(source, folder, ModelError, "the same command continues")
    server.ranges = False
    *_, last = pull(source, folder)
    assert last.path.read_bytes() == (server.folder / "mine-x2.safetensors").read_bytes()


def test_a_download_that_was_complete_is_only_checked(server, source, folder, monkeypatch):
    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pull_room, "_checked", crash)
    with pytest.raises(KeyboardInterrupt):
        list(pull(source, folder))
    monkeypatch.undo()
    *_, last = pull(source, folder)
    assert last.path.read_bytes() == (server.folder / "mine-x2.safetensors").read_bytes()


def test_other_bytes_than_announced_are_refused_and_removed(server, source, folder):
    path = server.folder / "mine-x2.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    refused(source, folder, ModelError, r"not the weights that were announced \(sha256 \w+…, not")
    assert hidden(folder) == []


def test_a_part_of_other_bytes_ends_in_a_refusal_and_then_a_fresh_start(server, source, folder):
    server.break_after = 1000
    refused(source, folder, ModelError, "continues")
    (part,) = hidden(folder)
    part.write_bytes(bytes(1000))
    refused(source, folder, ModelError, "they were removed")
    *_, last = pull(source, folder)
    assert last.card is not None


@pytest.mark.parametrize("declared", [True, False])
def test_more_than_the_limit_is_refused_and_removed(server, folder, declared):
    server.declare_length = declared
    source = local(server, f"{server.address}/mine-x2.safetensors", largest=2000)
    refused(source, folder, ModelError, "which is the limit")
    assert hidden(folder) == []


def test_a_card_without_end_is_refused(server, source, folder):
    (server.folder / "mine-x2.json").write_bytes(b" " * (2 << 20))
    refused(source, folder, ModelError, "no model card")


@pytest.mark.parametrize(
    "change",
    [{"name": "../../evil"}, {"name": "other"}, {"sha256": "abc"}, {"sha256": "../../../x"}],
)
def test_a_card_of_something_else_is_refused(server, source, folder, change):
    path = server.folder / "mine-x2.json"
    dataclasses.replace(ModelCard.read(path), **change).write(path)
    refused(source, folder, ModelError, "mine-x2.json: ")


def test_a_card_whose_sizes_would_fill_the_memory_is_refused(server, source, folder):
    path = server.folder / "mine-x2.json"
    dataclasses.replace(ModelCard.read(path), sizes={"channels": 10**9, "blocks": 1}).write(path)
    refused(source, folder, ModelError, "beyond any network")
    dataclasses.replace(ModelCard.read(path), sizes={"channels": 4096, "blocks": 900}).write(path)
    refused(source, folder, ModelError, "of another network than their card says")
    assert hidden(folder) == []


def test_what_a_server_answers_instead_is_said(server, source, folder):
    (server.folder / "mine-x2.json").unlink()
    refused(source, folder, ModelError, r"mine-x2.json: the server answers 404 Not Found")


def test_without_a_card_the_users_hash_decides_and_a_card_is_made(server, folder):
    (server.folder / "mine-x2.json").unlink()
    digest = card_module.sha256_of(server.folder / "mine-x2.safetensors")
    address = f"{server.address}/mine-x2.safetensors"
    *_, last = pull(local(server, address, digest.upper()), folder)
    assert (last.card.name, last.card.network, last.card.scale) == ("mine-x2", "compact", 2)
    refused(local(server, address, "0" * 64), folder.with_name("other"), ModelError, "announced")


def test_no_server_is_one_sentence(folder, server):
    source = local(server, "http://127.0.0.1:1/mine-x2.safetensors")
    refused(source, folder, ModelError, r"the connection failed \(.*refused")


@pytest.mark.parametrize("target", ["http://localhost:{port}/mine-x2.json", "ftp://127.0.0.1/x"])
def test_a_redirect_to_anything_but_https_is_refused(server, source, folder, target):
    server.redirect = target.format(port=server.server_port)
    refused(source, folder, RequestError, r"is no https address")
    assert len(server.asked) == 1


def test_a_redirect_that_never_ends_is_refused(server, source, folder):
    server.redirect = f"{server.address}/mine-x2.json"
    refused(source, folder, ModelError, "the server answers 302")


@pytest.mark.parametrize(
    "address",
    ["http://example.com/a.safetensors", "ftp://a/a.safetensors", "file:///a.safetensors"],
)
def test_only_https_is_asked_even_of_this_machine(folder, address, server):
    refused(source_of(address, None, None), folder, RequestError, "is no https address")
    plain = source_of(f"{server.address}/mine-x2.safetensors", None, None)
    refused(plain, folder, RequestError, "is no https address")
    assert server.asked == []


def test_a_model_that_came_with_vidsr_is_not_replaced(folder, server):
    refused(
        local(server, f"{server.address}/fast-x2.safetensors"), folder, RequestError, "came with"
    )


@pytest.mark.parametrize("name", ["..%2F..%2Fevil", "%2e%2e", "a%20b", "-x", "a%0ab", "x" * 200])
def test_a_name_that_is_no_plain_name_is_refused(folder, server, name):
    source = local(server, f"{server.address}/{name}.safetensors")
    refused(source, folder, RequestError, "is no name for a model")
    assert server.asked == []


def test_a_name_needs_a_folder_while_nothing_is_published():
    with pytest.raises(RequestError, match="published nowhere yet; add --from"):
        source_of("photo-x4", None, None)
    source = source_of("photo-x4", "https://example.com/weights/", None)
    assert source == Source("https://example.com/weights/photo-x4.safetensors")
    with pytest.raises(RequestError, match=r"no \.safetensors file"):
        source_of("https://example.com/weights.pth", None, None)
    with pytest.raises(RequestError, match="64 hexadecimal digits"):
        source_of("https://example.com/a.safetensors", None, "abc")


def test_a_folder_that_cannot_be_written_is_one_sentence(source, folder):
    folder.parent.mkdir()
    folder.write_text("a file stands here")
    with pytest.raises(ModelError, match="cannot be written"):
        list(pull(source, folder))
