"""What the explorer says of a model, against the library's plain calls."""

import pytest
import torch

from subscape.explorer.generation import continuation, difference
from subscape.explorer.session import Input, Moves, Session, _telling
from tests.explorer.conftest import WORDS, session_of


@pytest.fixture(scope="module")
def said(words):
    return session_of(words)


@pytest.fixture(scope="module")
def seen(pictures):
    return session_of(pictures)


def probabilities(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].double().softmax(-1)


def test_a_push_shows_the_next_token_before_and_after(said, words):
    ids = [1, 2, 3, 4]
    found = said.push(Input(text="once upon a time"), Moves({0: 1.5, 2: -2.0}), position=1)
    before = probabilities(words.model, ids)[1]
    after = probabilities(words.decomposition.edited(words.model, {0: 1.5, 2: -2.0}), ids)[1]
    assert [name for name, *_ in found["outputs"]] == WORDS  # few outputs: all, in their order
    assert [p for _, p, _ in found["outputs"]] == pytest.approx(before.tolist(), rel=1e-4)
    assert [p for *_, p in found["outputs"]] == pytest.approx(after.tolist(), rel=1e-4)
    kl = (before * (before / after).log()).sum().item()
    assert found["change"] == pytest.approx(kl, rel=1e-3)


def test_random_directions_have_the_same_norm_and_other_effects(said):
    plain, chance = (said.change_of(Moves({1: 2.0}, random)) for random in (False, True))
    for name, move in plain.items():
        assert chance[name].norm().item() == pytest.approx(move.norm().item(), rel=1e-4)
        assert not torch.allclose(chance[name], move, atol=1e-3)


def test_a_picture_is_pushed_and_shown(seen, pictures):
    found = seen.push(Input(sample=7), Moves({3: 1.0}))
    x = pictures.data[7:8]
    with torch.no_grad():
        before = pictures.model(x)[0].double().softmax(-1)
        after = pictures.decomposition.edited(pictures.model, {3: 1.0})(x)[0].double().softmax(-1)
    assert [p for _, p, _ in found["outputs"]] == pytest.approx(before.tolist(), rel=1e-4)
    assert [p for *_, p in found["outputs"]] == pytest.approx(after.tolist(), rel=1e-4)
    assert seen.look(Input(sample=7))["image"].startswith("data:image/png")


def test_active_subnetworks_are_those_of_encode(seen, pictures):
    """The mean over rows stands for partners, which one sample alone does not have."""
    found = seen.look(Input(sample=3))["active"][0]
    codes = pictures.decomposition.encode(
        pictures.model, pictures.data[3:4], reference=seen._reference
    )[0]
    assert {k for k, _ in found} == set(codes.nonzero()[:, 0].tolist())
    assert [c for _, c in found] == sorted((c for _, c in found), key=abs, reverse=True)


def test_texts_of_any_length_are_encoded_as_by_the_library(said, words):
    n_active = []
    for text in ("once", "once upon a time there was a cat", "dog cat dog", "a dog there . <b>"):
        ids = torch.tensor([[WORDS.index(word) for word in text.split()]])
        given = {"input_ids": ids}
        codes = words.decomposition.encode(words.model, given, reference=said._reference)
        found = said.look(Input(text=text))["active"]
        for row, active in zip(codes, found, strict=True):
            own = {int(k): float(row[k]) for k in row.nonzero()[:, 0]}
            assert dict(active) == pytest.approx(own, rel=1e-3)
        n_active.append(sum(map(len, found)))
    assert sum(n > 0 for n in n_active) >= 2


def test_tokens_come_with_their_text(said):
    found = said.look(Input(text="once upon a time"))
    assert found["tokens"] == ["once", "upon", "a", "time"]
    assert len(found["active"]) == 4
    again = said.look(Input(sample=2))
    assert len(again["tokens"]) == 6
    assert again["sample"] == 2


def test_the_meter_counts_own_rows_and_others_beside_chance(said, words):
    found = said.meter(Moves({1: 3.0}))
    assert [line["subnetwork"] for line in found] == [None, 1]
    assert said.meter(Moves())[0]["change"] == pytest.approx(0, abs=1e-6)
    top = words.measures[1].top_samples
    moved = words.decomposition.edited(words.model, {1: 3.0})
    changes = []
    for row in top:
        ids = words.data["input_ids"][row.sample].tolist()
        p, q = (probabilities(m, ids)[row.position] for m in (words.model, moved))
        changes.append((p * (p / q).log()).sum())
    assert found[1]["change"] == pytest.approx(torch.stack(changes).mean().item(), rel=1e-3)
    assert found[1]["rows"] == len(top)
    assert found[1]["random"] != found[1]["change"]


def test_text_goes_on_as_the_model_itself_would(said, words):
    found = said.write("once upon", Moves({0: 4.0}), n=5)
    for when, model in (
        ("before", words.model),
        ("after", words.decomposition.edited(words.model, {0: 4.0})),
    ):
        ids = [1, 2]
        for _ in range(5):
            ids.append(int(probabilities(model, ids)[-1].argmax()))
        assert found[when] == words.tokenizer.decode(ids[2:])


def test_generation_ends_with_the_end_token_and_goes_without_a_cache(words):
    target = words.decomposition.target_in(words.model)
    whole = continuation(target, [1, 2], {}, 4)
    assert whole is not None
    assert continuation(target, [1, 2], {}, 4, end=whole[1]) == whole[:2]


def test_differences_are_in_words():
    assert difference("a cat sat", "a dog sat down") == [
        ("same", "a"),
        ("gone", "cat"),
        ("come", "dog"),
        ("same", "sat"),
        ("come", "down"),
    ]


def test_of_many_outputs_the_largest_and_those_that_move_are_shown():
    before, after = torch.zeros(100).double(), torch.zeros(100).double()
    before[3], after[3] = 0.5, 0.5
    after[77] = 0.2
    assert {3, 77} <= set(_telling(before, after))
    assert len(_telling(before, after)) <= 8
    assert _telling(before, after)[0] == 3


def test_two_subnetworks_are_pushed_over_each_others_rows(said):
    found = said.cross(2, 0, {0: 1.5, 2: -2.0})
    assert [line["subnetwork"] for line in found] == [2, 0, None]
    for n, moves in enumerate(({2: -2.0}, {0: 1.5}, {0: 1.5, 2: -2.0})):
        metered = {line["subnetwork"]: line["change"] for line in said.meter(Moves(moves))}
        for line in found:
            if line["subnetwork"] in metered:
                assert line["changes"][n] == pytest.approx(metered[line["subnetwork"]], rel=1e-6)


@pytest.mark.parametrize(
    ("call", "words_of_it"),
    [
        (lambda s: s.push(Input(text="once"), Moves({4: 1.0})), "subnetworks from 0 to 3"),
        (lambda s: s.push(Input(text="once"), Moves({0: float("inf")})), "finite"),
        (lambda s: s.push(Input(text="once"), Moves(), position=1), "0 to 0"),
        (lambda s: s.push(Input(text=""), Moves()), "1 to 256 tokens"),
        (lambda s: s.push(Input(text="a " * 300), Moves()), "1 to 256 tokens"),
        (lambda s: s.look(Input(sample=40)), "0 to 39"),
        (lambda s: s.look(Input()), "a text or the number"),
        (lambda s: s.write("once", Moves(), n=10_000), "1 to 200"),
        (lambda s: s.cross(0, 9, {0: 1.0, 9: 1.0}), "0 to 3"),
        (lambda s: s.cross(0, 1, {0: 1.0}), "δ of 1"),
        (lambda s: Moves(dict.fromkeys(range(65), 1.0)), "at most 64"),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(said, call, words_of_it):
    with pytest.raises((ValueError, IndexError), match=words_of_it):
        call(said)


def test_outputs_that_are_not_finite_are_said_to_be_none(words, monkeypatch):
    said = session_of(words)
    known = said.change_of(Moves({0: 1.0}))
    far = {name: torch.full_like(move, torch.inf) for name, move in known.items()}
    monkeypatch.setattr(said, "_change", lambda key: far if key[0] else {})
    found = said.push(Input(text="once"), Moves({0: 1.0}))
    assert found["finite"] is False
    assert found["change"] is None
    assert all(before == after for _, before, after in found["outputs"])
    assert said.meter(Moves({0: 1.0}))[1]["change"] is None
    assert said.write("once", Moves({0: 1.0}))["after"] is None


def test_whoever_uses_the_model_meanwhile_meets_its_own_weights(words):
    said, seen = session_of(words), []
    weight = words.model.model.layers[0].self_attn.q_proj.weight
    twin_of = said.target.model.model.layers[0].self_attn.q_proj
    assert twin_of.weight is weight

    def watch(module, _):
        mine = words.model.model.layers[0].self_attn.q_proj
        seen.append((module.weight is weight, mine.weight is weight))

    with twin_of.register_forward_pre_hook(watch):
        said.push(Input(text="once"), Moves({0: 1.0}))
    assert seen == [(False, True)] * 2  # without and with the move


def test_other_data_than_was_measured_are_refused(words):
    target = words.decomposition.target_in(words.model)
    other = {"input_ids": words.data["input_ids"].flip(0)}
    with pytest.raises(ValueError, match="the data that were measured"):
        Session(words.decomposition, target, words.measures, other)
