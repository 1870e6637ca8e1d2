import pytest
import torch
from torch import nn

from subscape.interaction_basis import Affine, BasisConfig, Chain, build_bases, check_chain


def rows(n=8, width=3):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("name", ["tanh", "mod-add", "linear", "sequence"])
def test_nodes_parts_and_tail_agree(example, name):
    case = example(name)
    chain = case.chain
    nodes = chain.nodes(case.inputs)
    assert len(nodes) == len(chain.names) == len(chain) + 1
    for layer in range(len(chain) + 1):
        assert torch.equal(chain.tail(layer, nodes[layer]), chain.outputs(case.inputs))
    assert torch.equal(chain.part(0, len(chain))(nodes[0]), nodes[-1])
    assert torch.equal(chain.part(1, 2)(nodes[1]), nodes[2])
    assert len(chain.nodes(case.inputs, 1)) == 2
    assert check_chain(chain, case.inputs) == [n.shape[-1] for n in nodes]


@pytest.mark.parametrize(
    ("names", "sections", "more", "message"),
    [
        ("a", 1, {}, "names: expected one name more than the 1 sections; got 1"),
        ("aa", 1, {}, "a name of its own"),
        ("a", 0, {}, "sections: expected at least one section"),
        ("ab", 1, {"isolated": (1,)}, "isolated: expected one count for each of the 2"),
    ],
)
def test_names_must_fit_the_sections(names, sections, more, message):
    with pytest.raises(ValueError, match=message):
        Chain(tuple(names), (torch.tanh,) * sections, **more)


def zeros(n_in, n_out):
    return Affine(torch.zeros(n_in, n_out).double(), torch.zeros(n_out).double())


WRONG = [
    # Sections that do not fit the next, whatever their error is, are named.
    ((zeros(3, 4), zeros(5, 2)), r"sections\[1\]: expected a section that takes .*'n1'"),
    ((torch.tanh, lambda f: f[:, [7]]), r"sections\[1\]: expected a section that takes .*'n1'"),
    ((torch.tanh, lambda f: f.reshape(2, 2)), r"sections\[1\]: expected .* that takes .*'n1'"),
    ((torch.tanh, lambda f: f + ""), r"sections\[1\]: expected a section that takes .*'n1'"),
    ((lambda f: f - f.mean(0),), r"sections\[0\]: expected every sample by itself.*eval"),
    # One sample alone has no variance: torch's own error, said of this section.
    ((nn.BatchNorm1d(3).double(),), r"sections\[0\]: .*more than 1 value.*batch normalisation"),
    ((lambda f: f[:1],), r"'n1'.*2 samples"),
    ((lambda f: f.long(),), "int64"),
]


def chain_of(*sections):
    return Chain(tuple(f"n{k}" for k in range(len(sections) + 1)), sections)


@pytest.mark.parametrize(("sections", "message"), WRONG)
def test_sections_that_do_not_fit_or_mix_samples_are_refused(sections, message):
    for check in (check_chain, build_bases):
        with pytest.raises(ValueError, match=message):
            check(chain_of(*sections), rows())


def test_a_norm_in_eval_mode_is_taken():
    assert check_chain(chain_of(nn.BatchNorm1d(3).double().eval()), rows()) == [3, 3]


def test_activations_that_are_not_finite_are_refused():
    inputs = rows()
    inputs[5, 1] = torch.nan
    with pytest.raises(ValueError, match="'n0'.*finite activations; got 1 of 24"):
        build_bases(chain_of(torch.tanh), inputs)
    with pytest.raises(ValueError, match="'n1'.*finite"):
        build_bases(chain_of(lambda f: f / 0), rows())


def test_fewer_data_points_than_dimensions_says_what_rank_is_left():
    chain = chain_of(torch.tanh)
    with pytest.raises(ValueError, match="more data points than the 3 .* rank of at most 2"):
        build_bases(chain, rows(3))
    bases = build_bases(chain, rows(3), BasisConfig(allow_low_rank=True))
    assert bases.pca[0].rank == 2


def test_equal_samples_do_not_hide_that_a_section_mixes_them():
    inputs = rows()
    inputs[1:4] = inputs[0]
    with pytest.raises(ValueError, match=r"sections\[0\]: expected every sample by itself"):
        check_chain(chain_of(lambda f: f - f.mean(0)), inputs)
    # One sample alone, or only equal ones, show nothing and are no error here.
    check_chain(chain_of(torch.tanh), inputs[:3])
