import pytest
import torch

from rest_trl.regions.rules import checked_coefficients, needs_forward_pass
from rest_trl.regions.stare import stare


GENERATOR = torch.Generator().manual_seed(0)
MASK = (torch.arange(50) < torch.tensor([50, 30, 40, 45]).unsqueeze(1)).long()
ARGUMENTS = {
    "advantages": torch.tensor([1.0, -0.5, 0.0, 0.25]),
    "entropies": torch.rand(4, 50, generator=GENERATOR) * 0.4,
    "per_token_logps": -torch.rand(4, 50, generator=GENERATOR),
}


def coefficients(**changes):
    return checked_coefficients(stare, MASK, ARGUMENTS | changes)


class TestStare:
    def test_weighs_the_most_surprising_tenth_of_what_has_a_positive_advantage(self):
        found = coefficients()
        chosen = found != 1
        assert torch.equal(found[chosen], torch.full((9,), 1.1))  # of 50 + 45 tokens
        assert not chosen[1:3].any() and not chosen[MASK == 0].any()
        of_good = torch.cat([ARGUMENTS["per_token_logps"][row][MASK[row] == 1] for row in (0, 3)])
        assert torch.equal(ARGUMENTS["per_token_logps"][chosen].sort().values, of_good.sort().values[:9])

    def test_takes_advantages_per_token(self):
        per_token = ARGUMENTS["advantages"].unsqueeze(1).repeat(1, 50)
        assert torch.equal(coefficients(advantages=per_token), coefficients())
        per_token[0] = -1.0
        found = coefficients(advantages=per_token)
        assert (found[3] != 1).sum() == 4 and (found[0] == 1).all()

    def test_is_uniform_once_the_entropy_has_its_target(self):
        # Behind the end of a completion the entropy does not count.
        entropies = torch.where(MASK == 1, 0.3, 0.0)
        assert torch.equal(coefficients(entropies=entropies), torch.ones(4, 50))
        assert (coefficients(entropies=entropies - 1e-3) != 1).any()

    def test_is_uniform_where_no_advantage_is_positive(self):
        assert torch.equal(coefficients(advantages=-ARGUMENTS["advantages"].abs()), torch.ones(4, 50))

    def test_takes_one_token_at_least(self):
        advantages = torch.tensor([0.0, 0.0, 0.0, 1.0])
        assert (coefficients(advantages=advantages, share=0.001) != 1).sum() == 1

    @pytest.mark.parametrize("share", [1.5, 10.0, -0.1, float("nan")])
    def test_refuses_a_share_that_is_none(self, share):
        with pytest.raises(ValueError, match=r"share=.*must be between 0 and 1"):
            coefficients(share=share)

    def test_takes_all_tokens(self):
        assert (coefficients(share=1.0) != 1).sum() == 95

    def test_asks_for_a_forward_pass(self):
        assert needs_forward_pass(stare)
