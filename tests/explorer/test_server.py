"""Who is let in, what is answered, and that the model stays as it is."""

import asyncio
import hashlib
import json

import pytest

from subscape.explorer.server import MOST_WAITING
from tests.explorer.conftest import HOST, TOKEN, app_of, session_of

PUSH = {"input": {"text": "once upon a"}, "moves": {"deltas": {"0": 1.0}}}


def weights(model):
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture
def client(words, client_of):
    return client_of(words)


def test_the_page_is_given_to_who_knows_the_token(client):
    answer = client.get(f"/?token={TOKEN}")
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    for name, value in (
        ("cache-control", "no-store"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
    ):
        assert answer.headers[name] == value


@pytest.mark.parametrize(
    ("headers", "status", "reason"),
    [
        ({"x-token": ""}, 403, "token"),
        ({"x-token": TOKEN[:-1]}, 403, "token"),
        ({"x-token": "ü"}, 403, "token"),
        ({"origin": "https://evil.example"}, 403, "origin"),
        ({"origin": "null"}, 403, "origin"),
        ({"host": "evil.example:8123"}, 421, "host"),
        ({"host": "127.0.0.1:9"}, 421, "host"),
        ({"content-type": "text/plain"}, 415, "content-type"),
    ],
)
def test_strange_requests_are_refused_with_a_reason(client, headers, status, reason):
    usual = {"content-type": "application/json"}
    coded = {k: v.encode() for k, v in (usual | headers).items()}
    answer = client.post("/api/push", content=json.dumps(PUSH), headers=coded)
    assert answer.status_code == status
    assert answer.json()["error"].startswith(reason)
    assert "access-control-allow-origin" not in answer.headers


def test_the_page_itself_is_refused_without_the_token(client):
    for path in ("/", "/?token=", "/?token=x", "/elsewhere"):
        answer = client.get(path)
        assert answer.status_code == 403
        assert "<script" not in answer.text
    assert client.get(f"/elsewhere?token={TOKEN}").status_code == 404
    rebound = client.get(f"/?token={TOKEN}", headers={"host": "evil.example"})
    assert rebound.status_code == 421


def test_the_own_origin_may_ask(client):
    answer = client.post("/api/push", json=PUSH, headers={"origin": f"http://{HOST}"})
    assert answer.status_code == 200
    assert len(answer.json()["outputs"]) == 11


def test_a_prompt_of_a_megabyte_is_refused(client):
    body = PUSH | {"input": {"text": "once " * 200_000}}
    answer = client.post("/api/push", json=body)
    assert answer.status_code == 413
    assert "65,536 bytes" in answer.json()["error"]


@pytest.mark.parametrize(
    ("what", "body", "reason"),
    [
        ("push", {"moves": {}}, "input"),
        ("push", PUSH | {"moves": {"deltas": {"0": "far"}}}, "float"),
        ("push", PUSH | {"moves": {"deltas": {"9": 1.0}}}, "subnetworks from 0 to 3"),
        ("push", PUSH | {"position": 3}, "0 to 2"),
        ("label", {"subnetwork": 9, "label": {}}, "0 to 3"),
        ("label", {"subnetwork": 0, "label": {"name": "x" * 81}}, "80 characters"),
        ("keep", {"kind": "pickle", "moves": PUSH["moves"]}, "lora or model"),
        ("keep", {"kind": "lora", "moves": {}}, "some subnetwork"),
    ],
)
def test_wrong_wishes_are_refused_with_a_reason(client, what, body, reason):
    answer = client.post(f"/api/{what}", json=body)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]


def test_nothing_else_answers(client):
    assert client.post("/api/shutdown", json={}).status_code == 404
    assert client.get("/api/push").status_code == 405


def test_two_hundred_pushes_at_once_are_served_in_order_or_refused_and_change_no_weight(words):
    import httpx2

    order, session = [], session_of(words)
    asked = session.push
    session.push = lambda what, moves, position: (
        order.append(round(moves.deltas[0] * 100)),
        asked(what, moves, position),
    )[1]
    app = app_of(words, session=session)
    before = weights(words.model)

    async def all_at_once():
        transport = httpx2.ASGITransport(app=app)
        at = dict(base_url=f"http://{HOST}", headers={"x-token": TOKEN})
        async with httpx2.AsyncClient(transport=transport, **at) as client:
            bodies = [PUSH | {"moves": {"deltas": {"0": i / 100}}} for i in range(1, 201)]
            return await asyncio.gather(*(client.post("/api/push", json=b) for b in bodies))

    answers = asyncio.run(all_at_once())
    codes = [a.status_code for a in answers]
    assert set(codes) == {200, 503}
    assert codes.count(200) == MOST_WAITING == len(order)
    assert order == sorted(order)
    assert "ask again" in answers[codes.index(503)].json()["error"]
    assert weights(words.model) == before
    alone = session_of(words)
    for number in (order[0], order[-1]):
        from subscape.explorer.session import Input, Moves

        same = alone.push(Input(text="once upon a"), Moves({0: number / 100}))
        assert answers[number - 1].json()["change"] == pytest.approx(same["change"])


def test_every_answer_leaves_the_weights_as_they_were(words, client):
    before = weights(words.model)
    moves = {"deltas": {"0": 3.0, "1": -2.0}}
    for what, body in (
        ("look", {"input": {"text": "once upon"}}),
        ("push", PUSH | {"moves": moves}),
        ("meter", {"moves": moves}),
        ("write", {"moves": moves, "text": "once", "n": 3}),
        ("cross", {"first": 0, "second": 1, "moves": moves}),
        ("keep", {"kind": "lora", "moves": moves}),
        ("keep", {"kind": "model", "moves": moves}),
        ("push", PUSH | {"moves": {"deltas": {"0": 1e38}}}),
    ):
        answer = client.post(f"/api/{what}", json=body)
        assert answer.status_code == 200, answer.text
        assert weights(words.model) == before
