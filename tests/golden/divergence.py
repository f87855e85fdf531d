"""divergence.json: generalised Jensen-Shannon divergences of a student from a teacher, by TRL.

hidden, weight, teacher_hidden, teacher_weight   states and heads of both
coefficients, entropies, agrees                  weights of the loss; the student's entropies; whether
                                                 the teacher's favourite is the student's
cases  for each beta: the divergences by TRL's `GKDTrainer.generalized_jsd_loss`, and the derivatives of
       their weighted sum by the student's states and head
"""

import torch
from trl.experimental.gkd import GKDTrainer

from common import HERE, write_json

TOKENS, STUDENT, TEACHER, VOCAB = 6, 5, 8, 37


def main():
    generator = torch.Generator().manual_seed(5)
    draw = lambda *shape: torch.randn(shape, generator=generator)
    hidden, weight = draw(TOKENS, STUDENT), draw(VOCAB, STUDENT)
    teacher_hidden, teacher_weight = draw(TOKENS, TEACHER), draw(VOCAB, TEACHER)
    # One position where both agree.
    favourite = int((teacher_hidden @ teacher_weight.T)[2].argmax())
    weight[favourite] = 2 * hidden[2]
    coefficients = 0.05 + 0.1 * torch.rand(TOKENS, generator=generator)
    logits, theirs = hidden @ weight.T, teacher_hidden @ teacher_weight.T
    log_p = logits.log_softmax(-1)
    out = {
        "hidden": hidden.tolist(),
        "weight": weight.tolist(),
        "teacher_hidden": teacher_hidden.tolist(),
        "teacher_weight": teacher_weight.tolist(),
        "coefficients": coefficients.tolist(),
        "entropies": (-(log_p.exp() * log_p).sum(-1)).tolist(),
        "agrees": (logits.argmax(-1) == theirs.argmax(-1)).tolist(),
        "cases": [],
    }
    assert any(out["agrees"]) and not all(out["agrees"])
    for beta in (0.0, 0.1, 0.5, 0.9, 1.0):
        h, w = hidden.double().requires_grad_(), weight.double().requires_grad_()
        teacher = (teacher_hidden.double() @ teacher_weight.double().T)[None]
        by_token = GKDTrainer.generalized_jsd_loss(
            (h @ w.T)[None], teacher, beta=beta, reduction="none"
        )[0].sum(-1)
        (by_token * coefficients.double()).sum().backward()
        out["cases"].append(
            {
                "beta": beta,
                "divergences": by_token.tolist(),
                "dhidden": h.grad.tolist(),
                "dweight": w.grad.tolist(),
            }
        )
    write_json(HERE / "divergence.json", out)


if __name__ == "__main__":
    main()
