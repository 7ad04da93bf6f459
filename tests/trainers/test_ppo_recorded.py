"""Our PPO against TRL 1.12's, on the same answers: experience, losses and gradients.

`recorded/record_ppo.py` tells how the numbers came about; ADR 0005 where we differ on purpose.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aligntune.backends.trl.rl.ppo.advantages import Experience, experience, gae
from aligntune.backends.trl.rl.ppo.losses import loss_sums, policy_loss, value_loss
from aligntune.backends.trl.rl.ppo.sums import whiten
from aligntune.backends.trl.rl.ppo.value import PolicyAndValue, Predictions
from aligntune.core.rl.config import PPOConfig
from tests.one_process import alone
from tests.trainers.recorded import ppo_case as case

RECORDED = json.loads((Path(__file__).parent / "recorded" / "ppo-trl-1.12.json").read_text())
SETTINGS = PPOConfig(
    gamma=case.GAMMA,
    lam=case.LAM,
    clip_range=case.CLIP,
    value_clip_range=case.VALUE_CLIP,
    value_coefficient=case.VALUE_COEFFICIENT,
    missing_eos_penalty=case.MISSING_EOS_PENALTY,
)


class Update:
    """One recorded update, gone through with our functions."""

    def __init__(self, name: str) -> None:
        self.case, self.theirs = case.CASES[name], RECORDED["cases"][name]
        answers = torch.tensor(self.case.answers)
        self.ids = torch.cat([torch.tensor(case.PROMPTS), answers], dim=1)
        self.attention = (self.ids != case.PAD).long()
        self.mask = answers != case.PAD
        self.ended = (answers == case.EOS).any(1)
        self.models = models()
        with torch.no_grad():
            self.before = self.predictions()
            frozen = PolicyAndValue(case.policy(0.05), None, case.TEMPERATURE)
            self.reference = frozen(self.ids, self.attention, case.ANSWER).logp_BT
            hidden = case.classifier(2.0)(
                self.ids, attention_mask=self.attention, position_ids=positions(self.attention)
            )
        self.score = hidden.logits[:, 0] - case.MISSING_EOS_PENALTY * ~self.ended

    def predictions(self) -> Predictions:
        now: Predictions = self.models(self.ids, self.attention, case.ANSWER)
        return now

    def experience(self) -> Experience:
        return experience(
            score_N=self.score,
            logp_NT=self.before.logp_BT,
            reference_logp_NT=self.reference,
            value_NT=self.before.value_BT,
            mask_NT=self.mask,
            settings=SETTINGS.model_copy(update={"whiten_rewards": self.case.whiten_rewards}),
            coefficient=case.KL_COEFFICIENT,
            total=alone,
        )

    def step(self, loss: Tensor) -> dict[str, list[float]]:
        """A step of plain SGD; the gradients' fingerprints by TRL's names."""
        self.models.zero_grad()
        loss.backward()
        with torch.no_grad():
            for part in self.models.parameters():
                if part.grad is not None:
                    part.sub_(case.RATE * part.grad)
        return {
            their_name(name): case.fingerprint(part.grad)
            for name, part in self.models.named_parameters()
            if part.grad is not None and name != "value_head.bias"
        }


def models() -> PolicyAndValue:
    critic = case.classifier(1.0)
    both = PolicyAndValue(case.policy(), critic.model, case.TEMPERATURE)
    with torch.no_grad():
        both.value_head.weight.copy_(critic.score.weight)
    both.value_head.bias.requires_grad_(requires_grad=False)  # TRL's has none
    return both


def their_name(ours: str) -> str:
    return ours.replace("value_trunk.", "value_model.model.").replace(
        "value_head.", "value_model.score."
    )


def positions(attention: Tensor) -> Tensor:
    return (attention.cumsum(1) - 1).clamp(min=0)


def near(theirs: Any) -> Any:
    """Equal but for the rounding of float32, which three steps carry on."""
    return pytest.approx(np.array(theirs), rel=5e-5, abs=1e-5)


def near_gradient(fingerprint: list[float]) -> Any:
    """Equal but for rounding, which goes with a gradient's length also where its share in a
    direction is small: processors add up in different orders.
    """
    length = fingerprint[0]
    return pytest.approx(np.array(fingerprint), rel=0, abs=5e-5 * length)


def test_experience_losses_and_gradients_are_those_of_trl() -> None:
    """Answers that end with the last token or not at all: nothing differs."""
    update = Update("to the last token")
    theirs = update.theirs
    assert update.score.tolist() == near(theirs["scores"])
    assert update.before.logp_BT.tolist() == near(theirs["logprobs"])
    assert update.reference.tolist() == near(theirs["ref_logprobs"])
    assert update.before.value_BT.tolist() == near(theirs["values"])
    learned = update.experience()
    assert learned.advantage_NT.tolist() == near(theirs["advantages"])
    assert learned.return_NT.tolist() == near(theirs["returns"])
    batch = {
        "mask": update.mask,
        "logp": update.before.logp_BT,
        "value": update.before.value_BT,
        "advantage": learned.advantage_NT,
        "return": learned.return_NT,
    }
    clipped = []
    for epoch in theirs["epochs"]:
        sums = loss_sums(update.predictions(), batch, SETTINGS)
        policy, value = sums.policy / sums.tokens, sums.value / sums.tokens
        loss = policy + SETTINGS.value_coefficient * value
        assert policy.item() == near(epoch["pg_loss"])
        assert value.item() == near(epoch["vf_loss"])
        assert loss.item() == near(epoch["loss"])
        gradients = update.step(loss)
        assert gradients.keys() == epoch["gradients"].keys()
        for name, fingerprint in gradients.items():
            assert fingerprint == near_gradient(epoch["gradients"][name]), name
        clipped.append((sums.clipped.item(), sums.value_clipped.item()))
    assert all(clipped[-1])  # both clips have been put to the test


def test_the_same_functions_give_trls_numbers_where_it_lets_a_step_follow_the_end() -> None:
    """TRL pays an answer that ended early one position after its end token (ADR 0005)."""
    update = Update("of all lengths")
    theirs = update.theirs
    after = torch.cat([torch.ones_like(update.mask[:, :1]), update.mask[:, :-1]], dim=1)
    value_mask = update.mask | after
    assert update.score.tolist() == near(theirs["scores"])
    kl = torch.where(update.mask, update.before.logp_BT - update.reference, 0.0)
    last = value_mask.sum(1, keepdim=True) - 1
    reward = (-case.KL_COEFFICIENT * kl).scatter_add(1, last, update.score[:, None])
    assert reward.tolist() == near(theirs["rewards"])
    value = torch.where(value_mask, update.before.value_BT, 0.0)
    advantage = gae(reward, value, value_mask, case.GAMMA, case.LAM)
    returns = advantage + value
    advantage = whiten(advantage, update.mask, alone)
    assert returns.tolist() == near(theirs["returns"])
    assert advantage.tolist() == near(theirs["advantages"])
    for epoch in theirs["epochs"]:
        now = update.predictions()
        policy = policy_loss(now.logp_BT, update.before.logp_BT, advantage, case.CLIP)
        valued = value_loss(now.value_BT, value, returns, case.VALUE_CLIP)
        loss = policy.loss_BT[update.mask].mean()
        loss = loss + case.VALUE_COEFFICIENT * valued.loss_BT[value_mask].mean()
        assert loss.item() == near(epoch["loss"])
        for name, fingerprint in update.step(loss).items():
            assert fingerprint == near_gradient(epoch["gradients"][name]), name
