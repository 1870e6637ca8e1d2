import torch

from subscape.finetuning.adam import BETAS, EPS, at_rest


def test_without_a_penalty_it_is_adam():
    start = torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64)
    state, theirs = at_rest(start), torch.nn.Parameter(start.clone())
    optimiser = torch.optim.Adam([theirs], lr=0.1, betas=BETAS, eps=EPS)
    for step in range(20):
        gradient = torch.randn(3, dtype=torch.float64) + step / 10
        theirs.grad = gradient
        optimiser.step()
        state = state.after(gradient, 0.1)
    torch.testing.assert_close(state.values, theirs.detach())
    assert state.step == 20


def test_the_penalty_ends_at_the_soft_threshold():
    # ½(x − a)² + l1 |x| is least at sign(a) max(|a| − l1, 0).
    a = torch.tensor([1.0, -0.5, 0.2, -0.1], dtype=torch.float64)
    state = at_rest(torch.zeros(4, dtype=torch.float64))
    for step in range(2000):
        state = state.after(state.values - a, 0.02 * (1 - step / 2000), l1=0.3)
    expected = torch.tensor([0.7, -0.2, 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(state.values, expected, atol=1e-3, rtol=0)
    assert (state.values[2:] == 0).all()
