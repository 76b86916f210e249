"""Fetch weights over https into the user's folder of models: the only room that uses the network.

A model appears there whole or not at all: its card says which bytes its weights are, a download
that was cut off goes on where it stopped, and both files are renamed when everything was checked.
"""

from __future__ import annotations

import http.client
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vidsr.errors import ModelError, RequestError
from vidsr.files import put_in_place
from vidsr.models.card import ModelCard, sha256_of, weights_dir
from vidsr.models.load import describe, load

PUBLISHED: str | None = None  # the folder of vidsr's own weights; there is none yet
LARGEST = 2 << 30  # bytes of a weights file
LARGEST_CARD = 1 << 20
SECONDS = 30  # without a byte, and the connection counts as broken
CHUNK = 1 << 20
_NOTHING_BEHIND = 416  # "range not satisfiable": we have it all; the hash decides


@dataclass(frozen=True)
class Source:
    """Where weights lie, and what may be trusted."""

    address: str  # of the weights; the card's has .json instead of .safetensors
    sha256: str | None = None  # of the weights, from the user: then no card is fetched
    plain_hosts: frozenset[str] = frozenset()  # that may be asked without encryption; for tests
    largest: int = LARGEST

    @property
    def name(self) -> str:
        """The model's name, which is that of its file."""
        return urllib.parse.unquote(Path(urllib.parse.urlsplit(self.address).path).stem)


@dataclass(frozen=True)
class Pulled:
    """How far a download is; at its end `card` is set."""

    done: int  # bytes
    total: int | None  # bytes, where the server says
    path: Path
    card: ModelCard | None = None


def source_of(what: str, folder: str | None, sha256: str | None) -> Source:
    """What a name, in a web folder, or a whole address means.

    Args:
        what: a model's name, or the https address of a .safetensors file.
        folder: the https address of the folder for a name; None is vidsr's own.
        sha256: of the weights, if the user knows it.

    Raises:
        RequestError: neither, or no folder is known for a name.
    """
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise RequestError(f"--sha256 {sha256} is not 64 hexadecimal digits")
    if "://" not in what:
        folder = folder or PUBLISHED
        if folder is None:
            raise RequestError(
                "vidsr's weights are published nowhere yet; add --from https://..., the folder "
                "that holds the model and its card, or give a .safetensors file's whole address"
            )
        what = f"{folder.rstrip('/')}/{urllib.parse.quote(what, safe='')}.safetensors"
    if not urllib.parse.urlsplit(what).path.endswith(".safetensors"):
        raise RequestError(f"{what} is no .safetensors file, the only kind that is pulled")
    return Source(what, sha256.lower() if sha256 else None)


def pull(source: Source, folder: Path) -> Iterator[Pulled]:
    """Fetch weights and card into `folder`, which is made; yields a report for every MiB.

    Raises:
        RequestError: an address that is not https, or a name that vidsr does not take.
        ModelError: what is there is too large, not what its card says, or no model; or the
            connection failed, and then the same call continues.
    """
    name = source.name
    if not re.fullmatch(r"\w[\w.-]{0,99}", name):
        raise RequestError(f"{name!r} is no name for a model: letters, digits, -, _ and . are")
    if (weights_dir() / f"{name}.json").is_file():
        raise RequestError(f"{name} came with vidsr; to have another one, give its file a new name")
    path = folder / f"{name}.safetensors"
    card = None if source.sha256 else _fetch_card(source)
    wanted = source.sha256 or (card.sha256 if card else "")
    if path.is_file() and path.with_suffix(".json").is_file() and sha256_of(path) == wanted:
        size = path.stat().st_size
        yield Pulled(size, size, path, ModelCard.read(path.with_suffix(".json")))
        return
    with _files_in(folder):
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f".{name}-{wanted[:16]}.part.safetensors"  # of these very bytes
        for done, total in _download(source, part):
            yield Pulled(done, total, path)
        card = _checked(source, part, card, wanted)
        yield _installed(part, path, card)


def _checked(source: Source, part: Path, card: ModelCard | None, wanted: str) -> ModelCard:
    """The card of what was downloaded, which is removed if it is not what was wanted."""
    found = sha256_of(part)
    if found != wanted:
        part.unlink()
        raise ModelError(
            f"{source.address}: these are not the weights that were announced (sha256 "
            f"{found[:12]}…, not {wanted[:12]}…); they were removed"
        )
    try:
        card = card or replace(describe(part), name=source.name)
        load(card, part)
    except ModelError:
        part.unlink()
        raise
    return card


def _installed(part: Path, path: Path, card: ModelCard) -> Pulled:
    """The weights first: a card without them would be a model that fails."""
    part_of_card = part.with_suffix(".json.part")
    card.write(part_of_card)
    put_in_place(part, path)
    put_in_place(part_of_card, path.with_suffix(".json"))
    size = path.stat().st_size
    return Pulled(size, size, path, card)


@contextmanager
def _files_in(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise ModelError(f"{folder} cannot be written ({exc.strerror or exc})") from exc


def _fetch_card(source: Source) -> ModelCard:
    parts = urllib.parse.urlsplit(source.address)
    address = parts._replace(path=parts.path.removesuffix(".safetensors") + ".json").geturl()
    with _asked(address, source, {}) as answer:
        text = answer.read(LARGEST_CARD + 1)
    if len(text) > LARGEST_CARD:
        raise ModelError(f"{address}: more than {LARGEST_CARD >> 20} MiB, so it is no model card")
    card = ModelCard.parse(text, address)
    if card.name != source.name:
        raise ModelError(f"{address}: this is the card of {card.name!r}")
    if not re.fullmatch(r"[0-9a-f]{64}", card.sha256):
        raise ModelError(f"{address}: the card's sha256 is {card.sha256!r}, not 64 digits")
    return card


def _download(source: Source, part: Path) -> Iterator[tuple[int, int | None]]:
    """Complete a partial file; yields (bytes there, bytes in all)."""
    done = part.stat().st_size if part.exists() else 0
    with _asked(source.address, source, {"Range": f"bytes={done}-"} if done else {}) as answer:
        if answer.status == _NOTHING_BEHIND:
            return
        if answer.status != 206 or _first_byte(answer) != done:
            done = 0  # the server sends all of it
        rest = answer.headers.get("Content-Length")
        total = done + int(rest) if rest and rest.isdecimal() else None
        _check_size(source, total or 0, part)
        with part.open("r+b" if done else "wb") as file:
            file.seek(done)
            while chunk := answer.read(CHUNK):
                done += len(chunk)
                _check_size(source, done, part)
                file.write(chunk)
                yield done, total
    if total is not None and done < total:
        raise _broken(source.address, f"{done} of {total} bytes came")


def _check_size(source: Source, size: int, part: Path) -> None:
    if size > source.largest:
        part.unlink(missing_ok=True)
        raise ModelError(
            f"{source.address}: more than {source.largest / 1e6:.0f} MB, which is the limit"
        )


def _first_byte(answer: http.client.HTTPResponse) -> int:
    """Of a partial answer, by its Content-Range."""
    found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(found[1]) if found else -1


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows an address only to where it might have been asked in the first place."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        try:
            _check_address(newurl, self.source)
        except RequestError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def _asked(
    address: str, source: Source, headers: dict[str, str]
) -> Iterator[http.client.HTTPResponse]:
    """A server's answer; whatever fails while it is read is one sentence."""
    _check_address(address, source)
    request = urllib.request.Request(address, headers={"User-Agent": "vidsr", **headers})
    opener = urllib.request.build_opener(_Redirects(source))
    try:
        with _opened(opener, request) as answer:
            yield answer
    except urllib.error.HTTPError as exc:
        exc.close()
        reason = (str(exc.reason).splitlines() or [""])[0]
        raise ModelError(f"{address}: the server answers {exc.code} {reason}") from exc
    except urllib.error.URLError as exc:
        raise _broken(address, str(exc.reason)) from exc
    except (ConnectionError, TimeoutError, ssl.SSLError, http.client.HTTPException) as exc:
        raise _broken(address, str(exc) or type(exc).__name__) from exc


def _opened(opener: urllib.request.OpenerDirector, request: urllib.request.Request) -> Any:
    try:
        return opener.open(request, timeout=SECONDS)
    except urllib.error.HTTPError as exc:
        if exc.code == _NOTHING_BEHIND:
            return exc  # an answer, too
        raise


def _check_address(address: str, source: Source) -> None:
    parts = urllib.parse.urlsplit(address)
    plain = parts.scheme == "http" and parts.hostname in source.plain_hosts
    if not (parts.hostname and (parts.scheme == "https" or plain)):
        raise RequestError(f"{address} is no https address; weights are pulled over https only")


def _broken(address: str, why: str) -> ModelError:
    return ModelError(f"{address}: the connection failed ({why}); the same command continues")
