"""The way in: where it listens, what it says, what it needs."""

import re
import socket
import subprocess
import sys

import pytest

import subscape
from subscape.explorer.serve import HOST, N_PORTS, PORT, listening


@pytest.fixture
def served_to(monkeypatch):
    """What would be served, instead of serving it."""
    uvicorn = pytest.importorskip("uvicorn")
    seen = []

    class Server:
        def __init__(self, config):
            self.config = config

        def run(self, sockets):
            seen.append((self.config.app, sockets[0].getsockname()))

    monkeypatch.setattr(uvicorn, "Server", Server)
    return seen


def test_it_listens_on_this_computer_only_and_its_address_holds_the_token(words, served_to):
    said = []
    subscape.explore(
        *(words.decomposition, words.model, words.data, words.measures),
        tokenizer=words.tokenizer,
        port=0,
        say=said.append,
    )
    guard, (host, port) = served_to[0]
    assert host == "127.0.0.1"
    found = re.fullmatch(rf"http://127\.0\.0\.1:{port}/\?token=([\w-]{{32}})", said[0])
    assert found
    assert guard.token == found[1]
    assert guard.hosts == {f"127.0.0.1:{port}", f"localhost:{port}"}


def test_what_was_not_measured_is_measured(pictures, served_to, monkeypatch):
    from subscape.explorer import serve

    asked = []
    monkeypatch.setattr(serve, "measure", lambda *a, **_: asked.append(a) or pictures.measures)
    subscape.explore(pictures.decomposition, pictures.model, pictures.data, port=0, say=str)
    assert len(asked) == len(served_to) == 1


def test_another_model_is_refused_before_anything_is_served(words, pictures, served_to):
    with pytest.raises(ValueError, match="parameters"):
        subscape.explore(words.decomposition, pictures.model, words.data, words.measures)
    assert served_to == []


def test_the_next_free_port_is_taken_and_a_taken_one_refused():
    first = listening(None)
    second = listening(None)
    ports = [place.getsockname()[1] for place in (first, second)]
    assert all(PORT <= port < PORT + N_PORTS for port in ports)
    assert ports[0] != ports[1]
    with pytest.raises(ValueError, match=f"port: .*{ports[0]}"):
        listening(ports[0])
    with pytest.raises(ValueError, match="from 0"):
        listening(70_000)
    with socket.create_connection((HOST, ports[1])):  # heard before it is served
        pass
    first.close()
    second.close()


def test_without_the_extra_one_line_says_what_to_install():
    script = (
        "import sys; sys.modules['starlette'] = sys.modules['uvicorn'] = None\n"
        "import subscape\n"
        "try: subscape.explore(None, None, None)\n"
        "except ImportError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "pip install 'subscape[explore]'" in said.stdout, said.stderr
