"""A method's own optimizer: what it holds, when it moves, and that it goes on after a resume."""

import pytest
import torch
from torch import nn

from cakdbench.method import Method, Step
from cakdbench.train.lane import parameters_of
from tests.train.training import Training, same, short_recipe


class Opposed(Method):
    """Its critic learns in epochs with even numbers, and the student is none of its business."""

    id, title, paper, url = "opposed", "", "", ""

    def build(self):
        self.critic = nn.Linear(10, 1)
        self.helper = nn.Linear(10, 1)
        self.ends = []
        self.saves = []

    def extra_optimizers(self):
        return [torch.optim.Adam(self.critic.parameters(), 0.1)]

    def distill_step(self, batch):
        logits = self.student(batch.images).logits
        losses = {"label": batch.label_loss(logits), "helper": self.helper(logits).square().mean()}
        if batch.epoch % 2:
            return Step(logits, losses)
        return Step(logits, losses, {"critic": (self.critic(logits.detach()) - 5).square().mean()})

    def step_end(self):
        self.ends.append(self.critic.weight.detach().clone())

    def before_save(self):
        self.saves.append(len(self.ends))


@pytest.fixture(scope="module")
def trained():
    return Training([Opposed], short_recipe(epochs=4, clip_grad=1e-3)).run()


def test_each_optimizer_holds_its_own(trained):
    lane = trained.lane("opposed")
    critic = {id(p) for p in lane.method.critic.parameters()}
    held, own = ({id(p) for p in parameters_of(*each)} for each in ([lane.optimizer], lane.extra_optimizers))
    assert own == critic and not held & critic
    assert held | own == {id(p) for p in lane.method.parameters() if p.requires_grad}


def test_the_adversary_moves_only_where_it_has_a_loss_and_its_gradient_is_not_clipped(trained):
    method, steps = trained.lane("opposed").method, trained.stream.steps_per_epoch
    assert len(method.ends) == 4 * steps
    epochs = [method.ends[i * steps : (i + 1) * steps] for i in range(4)]
    moved = [not torch.equal(epoch[0], epoch[-1]) for epoch in epochs]
    assert moved == [True, False, True, False]
    assert torch.equal(epochs[0][-1], epochs[1][-1])


def test_its_losses_are_in_the_history_of_its_epochs(trained):
    history = trained.lane("opposed").history
    assert ["critic" in line.losses for line in history] == [True, False, True, False]
    assert history[2].losses["critic"] < history[0].losses["critic"]


def test_a_student_beside_an_adversary_learns_what_it_learns_without():
    class Unopposed(Opposed):
        def extra_optimizers(self):
            self.critic.requires_grad_(False)
            return []

        def distill_step(self, batch):
            made = super().distill_step(batch)
            return Step(made.logits, made.losses)

    one, other = (Training([method], short_recipe()).run() for method in (Opposed, Unopposed))
    states = [training.lane("opposed").method.student.state_dict() for training in (one, other)]
    assert same(*states)


def test_a_saved_adversary_goes_on_as_if_nothing_had_happened():
    whole = Training([Opposed], short_recipe(epochs=3)).run()
    stopped = Training([Opposed], short_recipe(epochs=3))
    state = next(state for _, state in Training([Opposed], short_recipe(epochs=3)).run().saved)
    stopped.lanes[0].load(state)
    stopped.run()
    assert same(whole.weights("opposed"), stopped.weights("opposed"))
