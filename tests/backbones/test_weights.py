"""Weights files: found, downloaded whole or not at all, checked before use."""

from __future__ import annotations

import hashlib
import json
import pickle
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pyimgano.backbones._weights import cache_dir, file_sha256, find_weights
from pyimgano.exceptions import WeightsError

CONTENT = bytes(range(256)) * 5000  # more than one block
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = f"net-{SHA256[:8]}.pth"


class _Handler(BaseHTTPRequestHandler):
    """Serves CONTENT under any name; "broken" ends halfway, "missing" is a 404."""

    def do_GET(self) -> None:
        self.server.requests.append(self.path)  # type: ignore[attr-defined]
        if self.path.startswith("/missing"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        half = self.path.startswith("/broken")
        self.wfile.write(CONTENT[: len(CONTENT) // 2] if half else CONTENT)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as httpd:
        httpd.requests = []
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield httpd
        httpd.shutdown()
        thread.join()


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("PYIMGANO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "cache" / "weights"


def _url(server, path: str) -> str:
    return f"http://127.0.0.1:{server.server_port}/{path}"


def test_cache_dir_by_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("PYIMGANO_CACHE_DIR", str(tmp_path / "own"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert cache_dir() == tmp_path / "own" / "weights"
    monkeypatch.delenv("PYIMGANO_CACHE_DIR")
    assert cache_dir() == tmp_path / "torch" / "hub" / "checkpoints"
    monkeypatch.delenv("TORCH_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_dir() == tmp_path / "xdg" / "pyimgano" / "weights"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_dir().parts[-4:] == ("Library", "Caches", "pyimgano", "weights")
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_dir() == tmp_path / "local" / "pyimgano" / "weights"


def test_download_once_with_a_record_beside(server, cache, capsys):
    url = _url(server, NAME)
    path = find_weights("net", "Net.V1", url)
    assert path == cache / NAME
    assert path.read_bytes() == CONTENT
    assert json.loads((cache / f"{NAME}.json").read_text()) == {
        "name": "net",
        "version": "Net.V1",
        "url": url,
        "sha256": SHA256,
    }
    assert sorted(p.name for p in cache.iterdir()) == [NAME, f"{NAME}.json"]
    assert find_weights("net", "Net.V1", url) == path
    assert len(server.requests) == 1
    assert capsys.readouterr() == ("", "")  # no progress bar where nobody looks


def test_download_from_file_url(cache, tmp_path):
    (tmp_path / NAME).write_bytes(CONTENT)
    path = find_weights("net", "Net.V1", (tmp_path / NAME).as_uri())
    assert path.read_bytes() == CONTENT
    assert file_sha256(path) == SHA256


def test_broken_connection_leaves_nothing(server, cache):
    with pytest.raises(WeightsError, match=r"broke after 640000 of 1280000 bytes|IncompleteRead"):
        find_weights("net", "Net.V1", _url(server, f"broken/{NAME}"))
    assert list(cache.iterdir()) == []


def test_interrupt_leaves_nothing(server, cache, monkeypatch):
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tqdm.tqdm.update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        find_weights("net", "Net.V1", _url(server, NAME))
    assert list(cache.iterdir()) == []


def test_wrong_content_is_not_kept(server, cache):
    with pytest.raises(WeightsError, match="should begin with 0123abcd"):
        find_weights("net", "Net.V1", _url(server, "net-0123abcd.pth"))
    assert list(cache.iterdir()) == []


def test_no_weights_and_no_network_names_three_ways_out(server, cache):
    with pytest.raises(WeightsError) as caught:
        find_weights("net", "Net.V1", _url(server, f"missing/{NAME}"))
    message = str(caught.value)
    assert "no pretrained weights of net" in message and "404" in message
    assert 'weights="path/to/file.pth"' in message
    assert f"put {NAME} into {cache}" in message
    assert 'features="filterbank"' in message and "weights=None" in message
    assert str(pickle.loads(pickle.dumps(caught.value))) == message
    assert list(cache.iterdir()) == []


def test_unwritable_cache_is_an_error_with_ways_out(server, cache):
    cache.parent.write_text("a file where a folder should be")
    with pytest.raises(WeightsError, match="Three ways out"):
        find_weights("net", "Net.V1", _url(server, NAME))


def test_file_put_there_by_hand_is_checked_by_its_name(server, cache):
    cache.mkdir(parents=True)
    (cache / NAME).write_bytes(CONTENT)
    assert find_weights("net", "Net.V1", _url(server, NAME)) == cache / NAME
    (cache / NAME).write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsError, match="the name of the file says"):
        find_weights("net", "Net.V1", _url(server, NAME))
    assert server.requests == []


def test_file_changed_after_download(server, cache):
    url = _url(server, "plain.pth")  # no hash in the name: the record alone tells
    find_weights("net", "Net.V1", url)
    (cache / "plain.pth").write_bytes(b"something else")
    with pytest.raises(WeightsError, match=r"plain\.pth\.json says " + SHA256):
        find_weights("net", "Net.V1", url)
    (cache / "plain.pth.json").write_text("{not json")
    with pytest.raises(WeightsError, match="Delete both files"):
        find_weights("net", "Net.V1", url)
    (cache / "plain.pth").unlink()
    assert find_weights("net", "Net.V1", url).read_bytes() == CONTENT


def test_torchvisions_own_download_is_used(server, cache, tmp_path):
    hub = tmp_path / "torch" / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    (hub / NAME).write_bytes(CONTENT)
    assert find_weights("net", "Net.V1", _url(server, NAME)) == hub / NAME
    assert server.requests == []
    assert [p.name for p in hub.iterdir()] == [NAME]
