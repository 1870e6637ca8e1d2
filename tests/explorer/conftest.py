"""A small language model and a small classifier of pictures, decomposed, measured and served."""

import threading
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.conftest import tiny

WORDS = ["<unk>", "once", "upon", "a", "time", "there", "was", "<b>", "cat", "dog", "."]
HOST = "127.0.0.1:8123"
TOKEN = "a-token-of-the-tests"
MEASURE = dict(n_rows=60, n_references=2, n_top=4, n_others=12, n_deltas=2, progress=False)
TRAINING = dict(
    steps=20, batch_size=16, n_heldout_rows=20, rank=1, n_subnetworks=4, active_fraction=0.3
)


def tokenizer():
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>")
    words = tokenizers.Tokenizer(model)
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")


@dataclass(frozen=True)
class Explored:
    """What an explorer needs."""

    decomposition: object
    model: nn.Module
    data: object
    measures: object
    tokenizer: object = None


@pytest.fixture(scope="session")
def words():
    from subscape import decompose, measure

    torch.manual_seed(0)
    model, named = tiny("llama", len(WORDS), num_hidden_layers=1), tokenizer()
    data = {"input_ids": torch.randint(1, len(WORDS), (40, 6))}
    kinds = dict(rows="sampled-token", divergence="kl", row_weight=0.5, progress=False)
    found = decompose(model, data, parameters="model.layers.0.self_attn", **kinds, **TRAINING)
    names = dict(token_names=WORDS.__getitem__, output_names=WORDS.__getitem__)
    with warnings.catch_warnings():  # of fused attention, which cannot be differentiated forward
        warnings.simplefilter("ignore")
        measures = measure(found, model, data, **names, **MEASURE)
    return Explored(found, model, data, measures, named)


@pytest.fixture(scope="session")
def pictures():
    from subscape import decompose, measure

    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 3))
    data = torch.rand(60, 1, 8, 8)
    found = decompose(model, data, divergence="kl", progress=False, **TRAINING)
    labels = torch.arange(60) % 3
    names = dict(output_names=lambda i: f"class {i}", labels=labels)
    return Explored(found, model, data, measure(found, model, data, **names, **MEASURE))


def session_of(explored):
    from subscape.explorer.session import Session

    target = explored.decomposition.target_in(explored.model)
    names = None if explored.tokenizer is None else WORDS.__getitem__
    return Session(
        *(explored.decomposition, target, explored.measures, explored.data),
        tokenizer=explored.tokenizer,
        token_name=names,
        output_name=names,
    )


def app_of(explored, folder=None, host=HOST, session=None, other=None):
    from subscape.explorer.beside import Beside, beside
    from subscape.explorer.page import explorer_page, policy_of
    from subscape.explorer.server import make_app
    from subscape.explorer.takeaway import Takeaway

    session = session or session_of(explored)
    takeaway = Takeaway(session, folder)
    hosts = frozenset({host})
    compared = None
    if other is not None:
        named = Beside("runs/other", other.decomposition, other.measures)
        compared = beside(explored.decomposition, explored.measures, named)

    def page():
        return explorer_page(session, takeaway, "A title", "runs/x", compared)

    return make_app(session, takeaway, page, token=TOKEN, hosts=hosts, policy=policy_of)


@pytest.fixture
def client_of(tmp_path):
    from starlette.testclient import TestClient

    def make(explored, folder=tmp_path, **more):
        app = app_of(explored, folder, **more)
        return TestClient(app, base_url=f"http://{HOST}", headers={"x-token": TOKEN})

    return make


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Serves an explorer on a free port, as the command does, and returns its address and folder."""
    import uvicorn

    from subscape.explorer.serve import HOST as here
    from subscape.explorer.serve import listening

    servers = []

    def serve(explored, other=None) -> tuple[str, Path]:
        place = listening(0)
        host = f"{here}:{place.getsockname()[1]}"
        folder = tmp_path_factory.mktemp("run")
        config = uvicorn.Config(
            app_of(explored, folder, host, other=other), log_level="error", lifespan="off"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
        thread.start()
        servers.append((server, thread, place))
        while not server.started:
            time.sleep(0.01)
        return f"http://{host}/?token={TOKEN}", folder

    yield serve
    for server, thread, place in servers:
        server.should_exit = True
        thread.join()
        place.close()
