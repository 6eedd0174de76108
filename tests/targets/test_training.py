import math

import pytest
import torch

from eigen_lightning.targets.toys.training import ToyProblem, train_ensemble, train_until_accepted


class Parabolas(ToyProblem):
    """Each restart finds the bottom of (w - target)^2; its scores are as told."""

    name = "parabolas"
    restarts = 4
    steps = 800
    learning_rate = 0.1

    def __init__(self, accepted_score: float, scores_by_round: list[list[float]]) -> None:
        self.accepted_score = accepted_score
        self.scores_by_round = iter(scores_by_round)

    def initial(self, generator):
        self.started = torch.randn(self.restarts, 1, generator=generator, dtype=torch.float64)
        return {"w": self.started.clone()}

    def losses(self, ensemble, generator):
        return (ensemble["w"] - torch.tensor([[1.0], [2.0], [3.0], [4.0]])).square().sum(dim=1)

    def final_losses(self, ensemble):
        return ensemble["w"].squeeze(1)

    def scores(self, ensemble):
        return torch.tensor(next(self.scores_by_round))


def test_restarts_train_independently():
    problem = Parabolas(0, [])
    trained = train_ensemble(problem, torch.Generator().manual_seed(0))
    bottoms = torch.tensor([1.0, 2, 3, 4], dtype=torch.float64)
    torch.testing.assert_close(trained["w"].squeeze(1), bottoms, atol=1e-3, rtol=0)
    assert not trained["w"].requires_grad


def test_the_accepted_restart_with_the_lowest_loss_is_taken():
    trained = train_until_accepted(Parabolas(0.5, [[0.0, 0.6, 0.9, 0.0]]), seed=0, max_rounds=3)
    assert trained.loss == pytest.approx(2, abs=1e-3)
    assert trained.score == pytest.approx(0.6)
    assert (trained.rounds, trained.restarts) == (1, 4)
    assert trained.weights["w"].shape == (1,)
    assert trained.weights["w"].dtype == torch.float32


def test_rounds_go_on_until_one_restart_is_accepted():
    scores = [[0.0, 0.4, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.0], [1.0, 1.0, 1.0, 1.0]]
    trained = train_until_accepted(Parabolas(0.5, scores), seed=0, max_rounds=9)
    assert (trained.score, trained.rounds, trained.restarts) == (0.5, 3, 12)
    assert trained.loss == pytest.approx(3, abs=1e-3)


def test_the_best_of_all_rounds_comes_back_where_none_was_accepted():
    scores = [[0.0, 0.4, 0.0, 0.0], [0.0, 0.0, 0.0, 0.3]]
    trained = train_until_accepted(Parabolas(0.5, scores), seed=0, max_rounds=2)
    assert trained.score == pytest.approx(0.4)
    assert trained.loss == pytest.approx(2, abs=1e-3)
    assert (trained.rounds, trained.restarts) == (2, 8)


def test_each_round_starts_elsewhere():
    starts = []

    class Recorder(Parabolas):
        steps = 1

        def initial(self, generator):
            starts.append(super().initial(generator)["w"])
            return {"w": starts[-1].clone()}

    train_until_accepted(Recorder(1, [[0.0] * 4] * 3), seed=0, max_rounds=3)
    assert len({tuple(start.flatten().tolist()) for start in starts}) == 3


def test_thread_count_and_global_random_numbers_are_left_alone():
    torch.set_num_threads(2)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    train_until_accepted(Parabolas(0, [[1.0] * 4]), seed=0, max_rounds=1)
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), before)


def test_the_learning_rate_falls_along_half_a_cosine():
    """Adam moves by exactly the learning rate a step where the gradient never changes."""

    class Slope(Parabolas):
        restarts = 1
        steps = 10

        def losses(self, ensemble, generator):
            return 1e6 * ensemble["w"].squeeze(1)

    problem = Slope(0, [])
    trained = train_ensemble(problem, torch.Generator().manual_seed(0))
    rates = [0.1 * (1 + math.cos(math.pi * step / 10)) / 2 for step in range(10)]
    torch.testing.assert_close(problem.started - trained["w"], torch.tensor([[sum(rates)]], dtype=torch.float64))
