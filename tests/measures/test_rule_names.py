"""Names by rule, of planted regularities, and none by chance."""

import pytest
import torch

from subscape.measures.record import Names, TopSample
from subscape.measures.rule_names import rule_names
from tests.measures.test_record import entry_of, measures_of

TEXTS = ["Once", " cat", " dog", " the", "tle", " lit", " walked", " was", " ran", " wet", "\n"]
N = 10


def measures(rows, labels=None):
    """Of tokens [subnetwork, row, 3], position 1."""
    ids = torch.tensor(rows)
    k, n = ids.shape[:2]
    samples = {"index": torch.arange(k * n), "input_ids": ids.flatten(0, 1)}
    if labels is not None:
        samples |= {"labels": torch.tensor(labels).flatten()}
    position = None if labels is not None else 1
    tops = [[TopSample(i * n + j, position, 1.0, 1.0) for j in range(n)] for i in range(k)]
    made = measures_of(*(entry_of(i, top_samples=tuple(top)) for i, top in enumerate(tops)))
    object.__setattr__(made, "samples", samples)
    object.__setattr__(made, "names", Names({}, dict(enumerate(TEXTS))))
    return made


def mixed(j, *but):
    """A token that changes from row to row."""
    return [t for t in range(4) if t not in but][j % (4 - len(but))]


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (lambda j: [mixed(j), 1, mixed(j + 1)], "token 'cat'"),
        (lambda j: [mixed(j), mixed(j // 2), 2], "next token 'dog'"),
        (lambda j: [3, mixed(j // 2), mixed(j)], "after 'the'"),
        (lambda j: [10, mixed(j // 2), mixed(j)], "after '\\n'"),
        (lambda j: [mixed(j), 6 + j % 4, mixed(j // 2)], "word has initial 'w'"),
        (lambda j: [mixed(j), mixed(j // 2), mixed(j // 3)], None),
    ],
)
def test_what_top_rows_share_is_their_name(row, name):
    """Beside it stand three subnetworks of mixed rows; of tokens 6 to 9 only `ran` does not begin with w."""
    chance = [
        [[mixed(j + i), mixed(j // 2 + i), mixed(j // 3 + i)] for j in range(N)] for i in range(3)
    ]
    found = rule_names(measures([[row(j) for j in range(N)], *chance]))
    assert found.names == ({0: name} if name else {})
    assert found.n_shuffled == 0


def test_what_all_share_names_none():
    assert rule_names(measures([[[0, 1, 2]] * N] * 3)).names == {}


def test_classes_and_too_few_rows():
    labels = [[5] * 8 + [1, 2], list(range(10)), [7] * 10]
    found = rule_names(measures([[[0, 1, 2]] * N] * 3, labels))
    assert found.names == {0: "class 5", 2: "class 7"}
    few = rule_names(measures([[[0, 1, 2]] * 7] * 3, [row[:7] for row in labels]))
    assert few.names == {}
