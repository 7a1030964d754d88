import hashlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from segue_training.data import corpus as corpus_module
from segue_training.data.corpus import SHAKESPEARE, find_corpus
from segue_training.data.download import Download, fetch
from segue_training.errors import CorpusError

CONTENT = b"To be, or not to be\n"
PAGES = {
    "/right": (200, CONTENT),
    "/wrong": (200, CONTENT[:-1]),
    "/portal": (200, b"\n<!DOCTYPE html><title>Log in to the hotel</title>"),
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/broken":
            self.wfile.write(b"HTTP/1.1 nonsense\r\n\r\n")
            return
        status, content = PAGES.get(self.path, (404, b"<html>no such page</html>"))
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) + (self.path == "/cut")))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def download(server: str, page: str) -> Download:
    return Download(server + page, hashlib.sha256(CONTENT).hexdigest(), "play.txt")


def test_a_download_is_kept_and_not_repeated(server: str, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "cache"
    assert fetch(download(server, "/right"), folder) == CONTENT
    assert [path.name for path in folder.iterdir()] == ["play.txt"]
    assert fetch(download("http://127.0.0.1:9", "/nobody-listens"), folder) == CONTENT


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("/wrong", "has SHA-256 .* it is damaged or was changed"),
        ("/portal", "is an HTML page, not the corpus"),
        ("/missing", r"HTTP Error 404.*; without a network, place the file at .*play\.txt"),
        ("/broken", r"cannot download .*; without a network, place the file at .*play\.txt"),
    ],
)
def test_a_failed_download_says_why_and_leaves_nothing(server: str, tmp_path: Path, page: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        fetch(download(server, page), tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_a_network_the_message_names_the_place_for_the_file(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=rf"cannot download .* place the file at {tmp_path}/play\.txt"):
        fetch(download("http://127.0.0.1:9", "/"), tmp_path)


def test_a_damaged_file_in_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "play.txt").write_bytes(CONTENT + b"!")
    with pytest.raises(CorpusError, match=r"play\.txt \(delete it to download it again\) has SHA-256"):
        fetch(download("http://127.0.0.1:9", "/"), tmp_path)


def test_a_folder_that_cannot_be_written_is_named(server: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CorpusError, match=r"cannot keep .*; set SEGUE_DATA to another folder"):
        fetch(download(server, "/right"), tmp_path / "file")


def test_named_corpora_come_from_the_folder_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = Download("http://127.0.0.1:9/", hashlib.sha256(CONTENT).hexdigest(), SHAKESPEARE.file)
    monkeypatch.setattr(corpus_module, "SHAKESPEARE", local)
    monkeypatch.setenv("SEGUE_DATA", str(tmp_path))
    (tmp_path / "tinyshakespeare.txt").write_bytes(CONTENT)
    assert "".join(find_corpus("shakespeare").blocks()) == CONTENT.decode()
