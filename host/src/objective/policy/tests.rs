#![allow(clippy::unwrap_used)]

use super::*;

fn loss(level: RatioLevel) -> ClippedLoss {
    ClippedLoss { level, epsilon: 0.2, epsilon_high: 0.28, beta: 0.05 }
}

const OLD: [f32; 4] = [-1.0, -2.0, -0.5, -3.0];
const REFERENCE: [f32; 4] = [-1.1, -1.7, -0.6, -2.0];

#[test]
fn derivatives_match_finite_differences() {
    for level in [RatioLevel::Token, RatioLevel::Sequence, RatioLevel::Sum] {
        for (logps, advantage) in [
            ([-1.1f32, -1.9, -0.45, -3.3], 1.5f32),
            ([-1.1, -1.9, -0.45, -3.3], -0.7),
            ([-0.2, -1.0, -0.1, -2.0], 1.0),
            ([-3.0, -4.0, -2.0, -5.0], -1.0),
        ] {
            let of = |logps: &[f32]| {
                let s = Sequence {
                    logps,
                    old_logps: &OLD,
                    ref_logps: &REFERENCE,
                    advantages: &[advantage],
                };
                loss(level).of(&s)
            };
            let got = of(&logps);
            for t in 0..4 {
                let h = 1e-3;
                let moved = |by: f32| {
                    let mut moved = logps;
                    moved[t] += by;
                    // The step that f32 could represent.
                    (of(&moved).loss_sum, f64::from(moved[t]))
                };
                let ((up, a), (down, b)) = (moved(h), moved(-h));
                let numeric = (up - down) / (a - b);
                assert!((got.derivatives[t] - numeric).abs() < 1e-4, "{level:?} {t} {numeric}");
            }
        }
    }
}

#[test]
fn an_unchanged_policy_has_ratios_of_one() {
    let s = Sequence { logps: &OLD, old_logps: &OLD, ref_logps: &[], advantages: &[2.0] };
    for level in [RatioLevel::Token, RatioLevel::Sequence, RatioLevel::Sum] {
        let out = loss(level).of(&s);
        assert_eq!(out.ratio_sum, out.terms as f64);
        assert_eq!((out.low_clipped, out.high_clipped), (0, 0));
        assert!(out.derivatives.iter().all(|&d| d == -2.0));
    }
}

#[test]
fn advantages_are_those_of_the_papers() {
    let known = |r: &[f64]| r.iter().map(|&r| Some(r)).collect::<Vec<_>>();
    let near = |got: &[f64], want: &[f64]| {
        assert_eq!(got.len(), want.len());
        got.iter().zip(want).for_each(|(g, w)| assert!((g - w).abs() < 1e-4, "{got:?} {want:?}"));
    };
    let rewards = known(&[1.0, 0.0, 0.0, 0.0]);
    near(
        &group_advantages(&rewards, 4, AdvantageScale::Group),
        &[1.4997, -0.4999, -0.4999, -0.4999],
    );
    near(&group_advantages(&rewards, 4, AdvantageScale::None), &[0.75, -0.25, -0.25, -0.25]);
    near(&leave_one_out(&known(&[1.0, 0.0]), 2, false), &[1.0, -1.0]);
    near(&leave_one_out(&known(&[3.0, 1.0, 2.0]), 3, false), &[1.5, -1.5, 0.0]);
    let some = [Some(1.0), None, Some(0.0), None, None, Some(4.0)];
    near(&group_advantages(&some, 3, AdvantageScale::None), &[0.5, 0.0, -0.5, 0.0, 0.0, 0.0]);
    near(&leave_one_out(&some, 3, false), &[1.0, 0.0, -1.0, 0.0, 0.0, 0.0]);
}

#[test]
fn generalised_advantages_by_hand() {
    // gamma 1, lambda 0.95: delta = [0.1 + 0.2 - 0.5, 1.0 + 0 - 0.2] = [-0.2, 0.8].
    let (advantages, returns) = generalised_advantages(&[0.1, 1.0], &[0.5, 0.2], 1.0, 0.95);
    assert!((advantages[1] - 0.8).abs() < 1e-7 && (advantages[0] - 0.56).abs() < 1e-7);
    assert!((returns[0] - 1.06).abs() < 1e-7 && (returns[1] - 1.0).abs() < 1e-7);
}

#[test]
fn whitened_values_have_mean_zero_and_variance_one() {
    let mut values = vec![vec![1.0, 5.0], vec![3.0]];
    whiten(&mut values, true);
    assert!((values[0][0] + 1.0).abs() < 1e-6 && (values[0][1] - 1.0).abs() < 1e-6);
    let mut kept = vec![vec![1.0, 5.0], vec![3.0]];
    whiten(&mut kept, false);
    assert!((kept[1][0] - 3.0).abs() < 1e-6);
}

#[test]
fn the_value_loss_is_clipped_around_the_old_value() {
    for (value, old, target) in [(0.5, 0.4, 1.0), (1.5, 0.4, 1.0), (0.9, 0.4, 0.0), (0.1, 0.4, 1.0)]
    {
        let h = 1e-6;
        let of = |v: f64| value_loss(v, old, target, 0.2).0;
        let numeric = (of(value + h) - of(value - h)) / (2.0 * h);
        assert!((value_loss(value, old, target, 0.2).1 - numeric).abs() < 1e-5, "{value}");
    }
}

#[test]
fn the_coefficient_follows_the_divergence() {
    assert!((adapted_coefficient(0.2, 12.0, 6.0, 10_000.0, 8) - 0.200_032).abs() < 1e-9);
    assert!(adapted_coefficient(0.2, 3.0, 6.0, 10_000.0, 8) < 0.2);
}

#[test]
fn losses_and_derivatives_are_pytorchs() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/policy_losses.json");
    let golden: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let number = |v: &serde_json::Value| v.as_f64().unwrap();
    let rows = |v: &serde_json::Value| -> Vec<Vec<f32>> {
        let row = |r: &serde_json::Value| {
            r.as_array().unwrap().iter().map(|x| number(x) as f32).collect()
        };
        v.as_array().unwrap().iter().map(row).collect()
    };
    let (logps, old, reference) =
        (rows(&golden["logps"]), rows(&golden["old"]), rows(&golden["ref"]));
    let tokens: usize = logps.iter().map(Vec::len).sum();
    let longest = golden["longest"].as_u64().unwrap() as usize;
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 17);
    for case in cases {
        let (kind, level) = (case["kind"].as_str().unwrap(), case["level"].as_str().unwrap());
        let loss = match kind {
            "bnpo" => PolicyLoss::Bnpo,
            "dr_grpo" => PolicyLoss::DrGrpo,
            "dapo" => PolicyLoss::Dapo,
            _ => PolicyLoss::Grpo,
        };
        let level = match level {
            "sequence" => RatioLevel::Sequence,
            "sum" => RatioLevel::Sum,
            _ => RatioLevel::Token,
        };
        let beta = number(&case["beta"]);
        let clipped = ClippedLoss {
            level,
            epsilon: number(&golden["epsilon"]),
            epsilon_high: number(&golden["epsilon_high"]),
            beta,
        };
        let denominator = match loss {
            PolicyLoss::Bnpo => 1.0,
            _ => logps.iter().map(|l| denominator_share(loss, l.len())).sum(),
        };
        let mut total = 0.0;
        for (i, own) in logps.iter().enumerate() {
            let out = clipped.of(&Sequence {
                logps: own,
                old_logps: &old[i],
                ref_logps: if beta > 0.0 { &reference[i] } else { &[] },
                advantages: &[number(&golden["advantages"][i]) as f32],
            });
            let weight = match level {
                RatioLevel::Sum => 1.0,
                _ => token_weight(loss, own.len(), tokens, longest),
            } / denominator;
            total += weight * out.loss_sum;
            for (t, d) in out.derivatives.iter().enumerate() {
                let want = number(&case["grad"][i][t]);
                assert!((weight * d - want).abs() < 1e-6, "{case} {i} {t}: {} {want}", weight * d);
            }
        }
        assert!((total - number(&case["loss"])).abs() < 1e-6, "{kind} {level:?}: {total}");
    }
}

#[test]
fn values_and_their_loss_are_pytorchs() {
    let text = include_str!("../../../../tests/golden/ppo_values.json");
    let golden: serde_json::Value = serde_json::from_str(text).unwrap();
    let number = |name: &str| golden[name].as_f64().unwrap();
    let rows =
        |name: &str| -> Vec<Vec<f64>> { serde_json::from_value(golden[name].clone()).unwrap() };
    let close = |got: &[Vec<f64>], name: &str| {
        for (got, want) in got.iter().flatten().zip(rows(name).iter().flatten()) {
            assert!((got - want).abs() < 1e-6, "{name}: {got} is not {want}");
        }
    };
    let (rewards, values) = (rows("rewards"), rows("values"));
    let (mut advantages, mut returns) = (Vec::new(), Vec::new());
    for (rewards, values) in rewards.iter().zip(&values) {
        let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
        let (gamma, lambda) = (number("gamma"), number("lam"));
        let (own, targets) = generalised_advantages(rewards, &values, gamma, lambda);
        advantages.push(own);
        returns.push(targets);
    }
    close(&advantages, "advantages");
    close(&returns, "returns");
    let mut in_place = rewards;
    whiten(&mut in_place, false);
    close(&in_place, "whitened_in_place");
    whiten(&mut advantages, true);
    close(&advantages, "whitened");
    let new = rows("new_values");
    let count = new.iter().flatten().count() as f64;
    let (mut loss, mut derivatives) = (0.0, Vec::new());
    for ((new, old), target) in new.iter().zip(&values).zip(&rows("returns")) {
        let each = new.iter().zip(old).zip(target);
        let judged: Vec<(f64, f64)> = each
            .map(|((&v, &old), &target)| value_loss(v, old, target, number("cliprange_value")))
            .collect();
        loss += judged.iter().map(|j| j.0).sum::<f64>() / count;
        derivatives.push(judged.iter().map(|j| j.1 / count).collect());
    }
    assert!((loss - number("value_loss")).abs() < 1e-7);
    close(&derivatives, "dvalues");
}
