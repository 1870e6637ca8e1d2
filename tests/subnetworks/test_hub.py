"""A decomposition pushed to, and loaded from, a stand-in for the Hub's HTTP interface."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest

pytest.importorskip("huggingface_hub")
SHA = "a" * 40
PROGRAM = """
import sys, torch, subscape
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).eval()
few = dict(steps=5, batch_size=16, n_subnetworks=3, l0=1.0, rank=1, n_heldout_rows=20)
found = subscape.decompose(model, torch.randn(100, 4), progress=False, **few)
open("page.html", "w").write("<!doctype html>")
print(found.push_to_hub("me/small", base_model="org/base", report="page.html"))
again = subscape.Decomposition.from_pretrained("me/small")
assert torch.equal(again.decoder.weights, found.decoder.weights)
assert again.metrics["fvu"] == found.metrics["fvu"]
for name in ("me/other", "me/closed"):
    try:
        found.push_to_hub(name) if name == "me/closed" else subscape.Decomposition.from_pretrained(name)
    except (OSError, ValueError) as error:
        print(str(error).splitlines()[0])
"""


class Hub:
    """Keeps the files of repositories, and what was asked."""

    def __init__(self):
        self.files, self.created = {}, []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self, content, status=200, **headers):
                raw = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(raw)

            def missing(self):
                self.answer({"error": "none"}, 404, X_Error_Code="RepoNotFound")

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                path = unquote(self.path).split("?")[0]
                if path == "/api/repos/create":
                    asked = json.loads(body)
                    hub.created.append(asked)
                    if asked["name"] == "closed":
                        return self.answer({"error": "not yours"}, 403)
                    hub.files.setdefault("me/small", {})
                    return self.answer({"url": f"{hub.url}/me/small"})
                if path.endswith("/preupload/main"):
                    files = [
                        {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for f in json.loads(body)["files"]
                    ]
                    return self.answer({"files": files})
                if path.endswith("/commit/main"):
                    for line in map(json.loads, body.splitlines()):
                        if line["key"] == "file":
                            raw = base64.b64decode(line["value"]["content"])
                            hub.files["me/small"][line["value"]["path"]] = raw
                    url = f"{hub.url}/me/small/commit/{SHA}"
                    return self.answer({"commitUrl": url, "commitOid": SHA})
                return self.answer({}, 200) if "validate-yaml" in path else self.missing()

            def do_GET(self):
                path = unquote(self.path).split("?")[0]
                if found := re.fullmatch(r"/api/models/(me/small)(/revision/\w+)?", path):
                    names = [{"rfilename": name} for name in hub.files.get(found[1], {})]
                    info = {"id": found[1], "modelId": found[1], "sha": SHA, "siblings": names}
                    return self.answer(info) if found[1] in hub.files else self.missing()
                if re.fullmatch(r"/api/models/me/small/tree/\w+", path):
                    tree = [
                        {"type": "file", "path": name, "size": len(raw), "oid": _digest(raw)}
                        for name, raw in hub.files["me/small"].items()
                    ]
                    return self.answer(tree)
                if found := re.fullmatch(r"/me/small/resolve/\w+/(.+)", path):
                    raw = hub.files["me/small"].get(found[1])
                    if raw is not None:
                        tag = f'"{_digest(raw)}"'
                        return self.answer(raw, ETag=tag, X_Repo_Commit=SHA, Accept_Ranges="none")
                return self.missing()

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def _digest(raw):
    return hashlib.sha1(raw).hexdigest()


@pytest.fixture
def hub():
    it = Hub()
    yield it
    it.server.shutdown()
    it.server.server_close()


def test_pushed_and_loaded_again(hub, tmp_path):
    home = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_none", "HF_HOME": str(tmp_path / "hf")}
    quiet = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env=os.environ | home | quiet,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    address, missing, closed = ended.stdout.splitlines()
    assert address == f"{hub.url}/me/small"
    assert "me/other, no folder here, and not to be had from the Hub" in missing
    assert closed.startswith("repository: expected a repository that you may write to; got me/cl")
    assert [asked["visibility"] for asked in hub.created] == ["private"] * 2, hub.created
    files = hub.files["me/small"]
    assert set(files) == {"README.md", "config.json", "subnetworks.safetensors", "report.html"}
    card = files["README.md"].decode()
    assert card.startswith("---\nlibrary_name: subscape\ntags:\n- interpretability\n")
    assert "base_model: org/base" in card and "# 3 subnetworks of `org/base`" in card
    fvu = json.loads(files["config.json"])["metrics"]["fvu"]
    assert f"| fraction of variance unexplained | {fvu:,.3g} |" in card
    assert "| `0.weight` | 6 × 4 |" in card and 'from_pretrained("me/small")' in card
    assert "`report.html`" in card
