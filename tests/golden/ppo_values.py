"""ppo_values.json: what PPO makes of rewards and values, by PyTorch, by the papers' formulas
(Schulman et al. 2016, arXiv 1506.02438; Schulman et al. 2017, arXiv 1707.06347).

rewards, values, lengths        of four completions, by token
advantages, returns             generalised advantage estimates, before whitening
whitened, whitened_in_place     advantages with mean 0, and rewards with their own mean, variance 1
old_values, value_loss, dvalues loss of new values clipped around old ones, and its derivatives
"""

import torch

from common import HERE, write_json

GAMMA, LAM, RANGE = 0.97, 0.9, 0.2


def whiten(values, mask, shift_mean=True):
    known = values[mask]
    whitened = (values - known.mean()) / (known.var() + 1e-8).sqrt()
    return whitened if shift_mean else whitened + known.mean()


def main():
    generator = torch.Generator().manual_seed(3)
    lengths = [6, 2, 4, 1]
    shape = (len(lengths), max(lengths))
    mask = torch.tensor([[t < n for t in range(shape[1])] for n in lengths])
    rewards = torch.randn(shape, generator=generator).double() * mask
    values = torch.randn(shape, generator=generator).double() * mask
    last, reversed_ = 0, []
    for t in reversed(range(shape[1])):
        following = values[:, t + 1] if t < shape[1] - 1 else 0.0
        delta = rewards[:, t] + GAMMA * following - values[:, t]
        last = delta + GAMMA * LAM * last
        reversed_.append(last)
    advantages = torch.stack(reversed_[::-1], axis=1)
    returns = advantages + values
    new = (values + 0.3 * torch.randn(shape, generator=generator)).requires_grad_()
    clipped = torch.clamp(new, values - RANGE, values + RANGE)
    worst = torch.max(torch.square(new - returns), torch.square(clipped - returns))
    loss = 0.5 * worst[mask].mean()
    loss.backward()
    rows = lambda t: [row[:n] for row, n in zip(t.tolist(), lengths)]
    write_json(
        HERE / "ppo_values.json",
        {
            "gamma": GAMMA,
            "lam": LAM,
            "cliprange_value": RANGE,
            "rewards": rows(rewards),
            "values": rows(values),
            "advantages": rows(advantages),
            "returns": rows(returns),
            "whitened": rows(whiten(advantages, mask)),
            "whitened_in_place": rows(whiten(rewards, mask, shift_mean=False)),
            "new_values": rows(new.detach()),
            "value_loss": loss.item(),
            "dvalues": rows(new.grad),
        },
    )


if __name__ == "__main__":
    main()
