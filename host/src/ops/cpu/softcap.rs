//! `cap · tanh(x / cap)` and its slope.

use super::{math, multiversion};

multiversion! {
    /// `x → cap · tanh(x / cap)`.
    pub fn cap(values: &mut [f32], cap: f32) {
        let scale = 1.0 / cap;
        for v in values.iter_mut() {
            *v = cap * math::tanh(*v * scale);
        }
    }
}

multiversion! {
    /// `d → d · (1 - (capped / cap)²)`.
    pub fn cap_gradient(d: &mut [f32], capped: &[f32], cap: f32) {
        let scale = 1.0 / cap;
        for (d, &c) in d.iter_mut().zip(capped) {
            let part = c * scale;
            *d *= 1.0 - part * part;
        }
    }
}
