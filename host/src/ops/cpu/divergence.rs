//! Divergence of two rows of logits on the CPU, and its gradient by the first.

use super::{math, multiversion};

/// What a student's row of logits is against a teacher's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowDivergence {
    /// Generalised Jensen-Shannon divergence, nats.
    pub divergence: f32,
    /// Entropy of the student's distribution, nats.
    pub entropy: f32,
    /// Whether the student finds no token more likely than the teacher's most likely one.
    pub agrees: bool,
}

/// Greatest logit and the logarithm of the sum of all exponentials.
#[inline(always)]
fn normaliser(row: &[f32]) -> (f32, f32) {
    let max = math::max_of(row);
    let sum = math::sum_by(row.len(), |i| math::exp(row[i] - max));
    (max, max + math::ln(sum))
}

/// `value` of a token of probability `p`: infinity times zero would be NaN, and a NaN stays one.
#[inline(always)]
fn nothing_if_impossible(p: f32, value: f32) -> f32 {
    if p == 0.0 { 0.0 } else { value }
}

/// What a token adds to both sums, and the two values that the gradient is made of.
struct Term {
    by_student: f32,
    by_teacher: f32,
    kept: (f32, f32),
}

/// Applies `term(p, q, log p, log q)` to every token, keeps its pair of values in the rows, and
/// answers both sums and the student's entropy.
#[inline(always)]
fn sweep(
    student: &mut [f32],
    teacher: &mut [f32],
    lse: (f32, f32),
    term: impl Fn(f32, f32, f32, f32) -> Term,
) -> (f32, f32, f32) {
    const LANES: usize = 16;
    let mut sums = [[0f32; LANES]; 3];
    let each = |s: &mut f32, t: &mut f32| {
        let (log_p, log_q) = (*s - lse.0, *t - lse.1);
        let (p, q) = (math::exp(log_p), math::exp(log_q));
        let term = term(p, q, log_p, log_q);
        (*s, *t) = term.kept;
        [term.by_student, term.by_teacher, nothing_if_impossible(p, -p * log_p)]
    };
    let whole = student.len() - student.len() % LANES;
    let (s_whole, s_tail) = student.split_at_mut(whole);
    let (t_whole, t_tail) = teacher.split_at_mut(whole);
    for (s, t) in s_whole.chunks_exact_mut(LANES).zip(t_whole.chunks_exact_mut(LANES)) {
        for j in 0..LANES {
            let [a, b, c] = each(&mut s[j], &mut t[j]);
            sums[0][j] += a;
            sums[1][j] += b;
            sums[2][j] += c;
        }
    }
    let mut out = sums.map(|lanes| lanes.iter().sum::<f32>());
    for (s, t) in s_tail.iter_mut().zip(t_tail) {
        for (sum, value) in out.iter_mut().zip(each(s, t)) {
            *sum += value;
        }
    }
    (out[0], out[1], out[2])
}

multiversion! {
    /// Divergence of a student's logits from a teacher's: with `m = (1 - beta) p + beta q`,
    /// `beta KL(q, m) + (1 - beta) KL(p, m)`; `KL(q, p)` for a beta of 0 and `KL(p, q)` for 1.
    /// Afterwards the student's row holds `coefficient · d divergence / d logits`, and the
    /// teacher's nothing of use.
    pub fn divergence_row(
        student: &mut [f32],
        teacher: &mut [f32],
        beta: f32,
        coefficient: f32,
    ) -> RowDivergence {
        let (max, lse) = normaliser(student);
        let (teacher_max, teacher_lse) = normaliser(teacher);
        let favourite = teacher.iter().position(|&v| v >= teacher_max).unwrap_or(0);
        let agrees = student[favourite] >= max;
        let lse = (lse, teacher_lse);
        let (divergence, entropy, factor, mean);
        if beta <= 0.0 {
            let (_, kl, h) = sweep(student, teacher, lse, |p, q, log_p, log_q| Term {
                by_student: 0.0,
                by_teacher: nothing_if_impossible(q, q * (log_q - log_p)),
                kept: (p - q, 0.0),
            });
            (divergence, entropy, factor, mean) = (kl, h, coefficient, 0.0);
        } else if beta >= 1.0 {
            let (kl, _, h) = sweep(student, teacher, lse, |p, _, log_p, log_q| {
                let own = nothing_if_impossible(p, p * (log_p - log_q));
                Term { by_student: own, by_teacher: 0.0, kept: (own, p) }
            });
            (divergence, entropy, factor, mean) = (kl, h, coefficient, kl);
        } else {
            let rest = 1.0 - beta;
            let (own, other, h) = sweep(student, teacher, lse, |p, q, log_p, log_q| {
                let log_m = math::ln(rest * p + beta * q);
                let own = nothing_if_impossible(p, p * (log_p - log_m));
                let other = nothing_if_impossible(q, q * (log_q - log_m));
                Term { by_student: own, by_teacher: other, kept: (own, p) }
            });
            divergence = beta * other + rest * own;
            (entropy, factor, mean) = (h, coefficient * rest, own);
        }
        for (s, &mut p) in student.iter_mut().zip(teacher) {
            *s = factor * (*s - p * mean);
        }
        RowDivergence { divergence, entropy, agrees }
    }
}
