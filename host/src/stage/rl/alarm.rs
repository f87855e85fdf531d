//! Signs of a run that goes wrong while its reward looks well: one line each, with what to try.

use serde::{Deserialize, Serialize};

/// Generations between two alarms of one kind.
const PAUSE: u64 = 20;
/// Generations that a sign must last.
const LASTING: usize = 5;
/// Generations remembered.
const WINDOW: usize = 20;

/// What one generation looked like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Signs {
    /// Share of the groups whose rewards are all the same; none without groups.
    pub zero_std: Option<f64>,
    /// Mean reward.
    pub reward: f64,
    /// Mean length of the completions, tokens.
    pub length: f64,
    /// Correlation of length and reward over the completions.
    pub length_reward: f64,
    /// Divergence from the reference, nats a completion; none without one.
    pub kl: Option<f64>,
    /// Share of n-grams that a completion had before.
    pub repeated: f64,
    /// Share of completions that were cut off.
    pub clipped: f64,
}

/// The last generations, and when each alarm was last given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Alarms {
    history: Vec<Signs>,
    given: std::collections::BTreeMap<String, u64>,
}

/// Share of the 4-grams of `ids` that occur earlier in it.
pub fn repeated_share(ids: &[u32]) -> f64 {
    let mut seen = std::collections::BTreeSet::new();
    let grams = ids.windows(4);
    let all = grams.len();
    let repeated = grams.filter(|g| !seen.insert(g.to_vec())).count();
    if all == 0 { 0.0 } else { repeated as f64 / all as f64 }
}

/// Pearson's correlation; 0 where a side does not vary.
pub fn correlation(pairs: &[(f64, f64)]) -> f64 {
    let n = pairs.len().max(1) as f64;
    let (ma, mb) =
        (pairs.iter().map(|p| p.0).sum::<f64>() / n, pairs.iter().map(|p| p.1).sum::<f64>() / n);
    let sum = |f: fn(f64, f64) -> f64| pairs.iter().map(|(a, b)| f(a - ma, b - mb)).sum::<f64>();
    let (ab, aa, bb) = (sum(|a, b| a * b), sum(|a, _| a * a), sum(|_, b| b * b));
    if aa * bb > 0.0 { ab / (aa * bb).sqrt() } else { 0.0 }
}

impl Alarms {
    /// Takes in a generation's signs; the alarms they raise.
    pub fn take(&mut self, generation: u64, signs: Signs) -> Vec<String> {
        let mut raised = Vec::new();
        let earlier = self.history.clone();
        self.history.push(signs.clone());
        if self.history.len() > WINDOW {
            self.history.remove(0);
        }
        let lasting = |f: &dyn Fn(&Signs) -> bool| {
            self.history.len() >= LASTING
                && self.history[self.history.len() - LASTING..].iter().all(f)
        };
        if lasting(&|s| s.zero_std.is_some_and(|z| z > 0.5)) {
            let share = 100.0 * signs.zero_std.unwrap_or(0.0);
            raised.push(("zero_std", format!(
                "all completions of {share:.0} % of the prompts get the same reward, so there is \
                 little to learn from; try a higher --temperature, more --num_generations, prompts \
                 of mixed difficulty or a finer reward"
            )));
        }
        if lasting(&|s| s.clipped > 0.5) {
            let share = 100.0 * signs.clipped;
            raised.push(("clipped", format!(
                "{share:.0} % of the completions are cut off; try a greater --max_completion_length, \
                 a reward on length, or --mask_truncated_completions True"
            )));
        }
        if lasting(&|s| s.repeated > 0.5) {
            let share = 100.0 * signs.repeated;
            raised.push((
                "repeated",
                format!(
                    "{share:.0} % of the completions' 4-grams were said before; try the reward \
                 repetition, a greater --beta or a lower --learning_rate"
                ),
            ));
        }
        if let (Some(first), true) = (earlier.first(), earlier.len() + 1 >= 2 * LASTING)
            && signs.length > 1.25 * first.length
            && signs.reward > first.reward
            && lasting(&|s| s.length_reward > 0.5)
        {
            raised.push(("length", format!(
                "rewards grow with the completions' length ({:.0} tokens, {:.0} before); look at \
                 the completions, and try the reward length or --loss_type dr_grpo",
                signs.length, first.length
            )));
        }
        let mut known: Vec<f64> = earlier.iter().filter_map(|s| s.kl).collect();
        known.sort_by(f64::total_cmp);
        if let Some(kl) = signs.kl
            && known.len() >= LASTING
            && kl > 1.0
            && kl > 5.0 * known[known.len() / 2].max(0.0)
        {
            raised.push((
                "kl",
                format!(
                    "the divergence from the reference jumped to {kl:.2} nats a completion ({:.2} \
                 before); try a lower --learning_rate or a greater --beta",
                    known[known.len() / 2]
                ),
            ));
        }
        let due = |name: &str, given: &std::collections::BTreeMap<String, u64>| {
            given.get(name).is_none_or(|&last| generation >= last + PAUSE)
        };
        let mut lines = Vec::new();
        for (name, text) in raised {
            if due(name, &self.given) {
                self.given.insert(name.to_string(), generation);
                lines.push(format!("alarm: {text}"));
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(signs: impl Fn(u64) -> Signs) -> Vec<(u64, String)> {
        let mut alarms = Alarms::default();
        (0..12).flat_map(|g| alarms.take(g, signs(g)).into_iter().map(move |t| (g, t))).collect()
    }

    #[test]
    fn a_sound_run_is_silent() {
        let sound = |g: u64| Signs {
            zero_std: Some(0.3),
            reward: g as f64 / 12.0,
            length: 20.0,
            kl: Some(0.01 * g as f64),
            ..Signs::default()
        };
        assert_eq!(run(sound), []);
    }

    #[test]
    fn each_sign_is_said_once_with_what_to_try() {
        type Case = (&'static str, &'static str, fn(u64) -> Signs);
        let cases: [Case; 5] = [
            ("same reward", "--temperature", |_| Signs { zero_std: Some(0.9), ..Signs::default() }),
            ("cut off", "--max_completion_length", |_| Signs { clipped: 0.8, ..Signs::default() }),
            ("4-grams", "repetition", |_| Signs { repeated: 0.7, ..Signs::default() }),
            ("length", "dr_grpo", |g| Signs {
                length: 10.0 + 2.0 * g as f64,
                reward: g as f64,
                length_reward: 0.9,
                ..Signs::default()
            }),
            ("jumped", "--beta", |g| Signs {
                kl: Some(if g == 9 { 4.0 } else { 0.2 }),
                ..Signs::default()
            }),
        ];
        for (what, remedy, signs) in cases {
            let said = run(signs);
            assert_eq!(said.len(), 1, "{what}: {said:?}");
            assert!(said[0].1.contains(what) && said[0].1.contains(remedy), "{said:?}");
        }
    }

    #[test]
    fn repetition_and_correlation() {
        assert_eq!(repeated_share(&[1, 2, 3]), 0.0);
        assert_eq!(repeated_share(&[1, 1, 1, 1, 1, 1]), 2.0 / 3.0);
        assert!((correlation(&[(1.0, 2.0), (2.0, 4.0), (3.0, 6.0)]) - 1.0).abs() < 1e-12);
        assert_eq!(correlation(&[(1.0, 2.0), (1.0, 4.0)]), 0.0);
    }
}
