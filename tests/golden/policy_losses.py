"""policy_losses.json: losses of sampled completions and their derivatives, by PyTorch.

cases  for each loss (grpo, bnpo, dr_grpo, dapo; rloo), ratio level and beta: loss of one batch of six
       completions, formed as TRL 1.16 forms it, and its derivative by every log-probability
Inputs: log-probabilities now, when sampled, and by the reference; lengths; advantages.
"""

import torch

from common import HERE, write_json

LOW, HIGH, LONGEST = 0.2, 0.28, 9


def loss_of(kind, level, beta, logps, old, ref, mask, advantages):
    if kind == "rloo":
        ratio = torch.exp(((logps - old) * mask).sum(1))
        return -torch.min(ratio * advantages, ratio.clamp(1 - LOW, 1 + HIGH) * advantages).mean()
    log_ratio = logps - old
    if level == "sequence":
        log_ratio = ((log_ratio * mask).sum(-1) / mask.sum(-1)).unsqueeze(-1)
    ratio, a = torch.exp(log_ratio), advantages.unsqueeze(1)
    per_token = -torch.min(ratio * a, ratio.clamp(1 - LOW, 1 + HIGH) * a)
    if beta:
        per_token = per_token + beta * (torch.exp(ref - logps) - (ref - logps) - 1)
    if kind == "grpo":
        return ((per_token * mask).sum(-1) / mask.sum(-1)).mean()
    total = (per_token * mask).sum()
    return total / (len(mask) * LONGEST if kind == "dr_grpo" else mask.sum())


def main():
    generator = torch.Generator().manual_seed(11)
    lengths = [7, 3, 5, 1, 6, 4]
    shape = (len(lengths), max(lengths))
    old = -3 * torch.rand(shape, generator=generator) - 0.05
    logps = (old + 0.35 * torch.randn(shape, generator=generator)).clamp(max=-0.01)
    ref = (old + 0.2 * torch.randn(shape, generator=generator)).clamp(max=-0.01)
    mask = torch.tensor([[float(t < n) for t in range(shape[1])] for n in lengths])
    advantages = torch.tensor([1.2, -0.8, 0.3, -1.5, 0.9, -0.1])
    cases = []
    for kind in ("grpo", "bnpo", "dr_grpo", "dapo", "rloo"):
        for level in ("token", "sequence") if kind != "rloo" else ("sum",):
            for beta in (0.0, 0.04) if kind != "rloo" else (0.0,):
                now = logps.clone().requires_grad_()
                loss = loss_of(kind, level, beta, now, old, ref, mask, advantages)
                loss.backward()
                rows = [now.grad[i, :n].tolist() for i, n in enumerate(lengths)]
                cases.append({"kind": kind, "level": level, "beta": beta, "loss": loss.item(), "grad": rows})
    cut = lambda x: [x[i, :n].tolist() for i, n in enumerate(lengths)]
    write_json(HERE / "policy_losses.json", {
        "logps": cut(logps), "old": cut(old), "ref": cut(ref), "advantages": advantages.tolist(),
        "epsilon": LOW, "epsilon_high": HIGH, "longest": LONGEST, "cases": cases,
    })


main()
