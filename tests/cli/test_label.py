"""`subscape label`: by rule, and from a stand-in for an endpoint on this computer."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from subscape.cli.main import main
from subscape.measures import Measures
from subscape.report.labels import Label, Labels, read_labels
from subscape.report.naming import Endpoint, description


class Service:
    """Answers as an OpenAI-compatible endpoint does, and keeps what it was asked."""

    def __init__(self):
        self.asked, self.keys = [], []
        self.answer = (200, {"choices": [{"message": {"content": 'hm.\n\n"Names of cats."\n'}}]})
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                service.asked.append((self.path, body))
                service.keys.append(self.headers.get("Authorization"))
                status, content = service.answer
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", f"http://127.0.0.1:{service.port}/elsewhere")
                self.end_headers()
                self.wfile.write(json.dumps(content).encode())

            def do_GET(self):
                service.asked.append((self.path, None))

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.port}/v1"


@pytest.fixture
def service():
    it = Service()
    yield it
    it.server.shutdown()
    it.server.server_close()


@pytest.fixture
def known(folder):
    return Measures.load(folder / "stories" / "measures")


def labels_of(folder, known):
    return read_labels(folder / "stories", known.decomposition).labels


def test_a_model_names_what_people_did_not(folder, known, service, capsys, monkeypatch):
    monkeypatch.setenv("SUBSCAPE_API_KEY", "secret")
    mine = Labels(known.decomposition).with_label(1, Label("by hand"))
    mine.with_label(2, Label(note="look again")).save(folder / "stories")
    line = ["label", "stories", "--endpoint", service.url, "--model", "namer"]
    assert main([*line, "--subnetworks", "0", "1", "2"]) == 0
    assert f"To {service.url} go top contexts" in capsys.readouterr().out
    labels = labels_of(folder, known)
    assert labels == {
        0: Label("Names of cats", by="namer"),
        1: Label("by hand"),
        2: Label("Names of cats", "look again", by="namer"),
    }
    assert [path for path, _ in service.asked] == ["/v1/chat/completions"] * 2
    assert service.keys == ["Bearer secret"] * 2
    told = service.asked[0][1]["messages"][1]["content"]
    assert told == description(known, 0) and "[[" in told and "It raises:" in told
    assert service.asked[0][1]["model"] == "namer"
    # Asked once; again only if told so, and then not for what people said.
    assert main([*line, "--subnetworks", "0", "1"]) == 0
    assert len(service.asked) == 2
    service.answer = (200, {"choices": [{"message": {"content": "unclear."}}]})
    assert main([*line, "--subnetworks", "0", "1", "--overwrite"]) == 0
    assert len(service.asked) == 3 and labels_of(folder, known) == labels


def test_what_is_sent_is_shown_first(folder, known, service, capsys):
    line = ["label", "stories", "--endpoint", service.url, "--model", "namer", "--dry-run"]
    assert main([*line, "--subnetworks", "3"]) == 0
    assert description(known, 3) in capsys.readouterr().out
    assert service.asked == [] and labels_of(folder, known) == {}


def test_by_rule_nothing_is_asked(folder, known, monkeypatch, capsys):
    from subscape.measures.rule_names import RuleNames

    rule = RuleNames({0: "token 'cat'", 1: "next token '.'"}, 0)
    monkeypatch.setattr("subscape.cli.label.rule_names", lambda _: rule)
    Labels(known.decomposition).with_label(1, Label("by hand")).save(folder / "stories")
    assert main(["label", "stories", "--subnetworks", "0", "1", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"0": "token 'cat'"}
    assert labels_of(folder, known) == {0: Label("token 'cat'", by="rule"), 1: Label("by hand")}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((401, {"error": "no such key"}), "HTTP Error 401"),
        ((302, {}), "HTTP Error 302"),
        ((200, {"choices": []}), "expected an answer with choices[0].message.content"),
        ((200, ["?"]), "expected an answer with choices[0].message.content"),
        ((200, {"choices": [{"message": {"content": None}}]}), "expected an answer with"),
    ],
)
def test_other_answers_are_refused(service, answer, words):
    service.answer = answer
    with pytest.raises(ValueError, match="^endpoint: ") as error:
        Endpoint(service.url, "namer").name_of("told")
    assert words in str(error.value)
    assert len(service.asked) == 1  # a redirect is not followed


def test_where_nobody_answers(service):
    service.server.server_close()
    with pytest.raises(ValueError, match="endpoint: expected an answer"):
        Endpoint(service.url, "namer", seconds=5.0).name_of("told")


@pytest.mark.parametrize("url", ["ftp://here/v1", "here/v1", "file:///etc/passwd"])
def test_addresses_of_other_kinds_are_refused(url):
    with pytest.raises(ValueError, match="endpoint: expected a URL"):
        Endpoint(url, "namer")


def test_a_key_does_not_go_out_in_the_open():
    Endpoint("http://example.org/v1", "namer")
    with pytest.raises(ValueError, match="endpoint: expected https"):
        Endpoint("http://example.org/v1", "namer", "secret")
    assert "secret" not in repr(Endpoint("https://example.org/v1", "namer", "secret"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["stories", "--model", "namer"], "endpoint: expected both --endpoint and --model"),
        (["stories", "--subnetworks", "9"], "subnetworks: expected some of the 4, 0 to 3; got 9"),
        (["bare"], "run: expected measures"),
    ],
)
def test_refusals(folder, capsys, arguments, words):
    assert main(["label", *arguments]) == 2
    assert words in capsys.readouterr().err
