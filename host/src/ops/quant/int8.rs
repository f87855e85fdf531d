//! Vector-wise 8 bits, as LLM.int8() stores weights (Dettmers et al. 2022, arXiv 2208.07339): one scale
//! a row. Activations stay in f32 here, outliers and all, so that no column needs to be set apart.

use crate::ops::cpu::multiversion;

/// 1 / 127 as bitsandbytes has it.
pub(super) const STEP: f32 = 7.874_016e-3;

/// A matrix `[out, in]` of bytes with a scale for each row.
#[derive(Clone, Debug, PartialEq)]
pub struct Int8 {
    values: Vec<i8>,
    /// Greatest magnitude of each row.
    scales: Vec<f32>,
    width: usize,
}

multiversion! {
    fn widen_values(values: &[i8], scale: f32, to: &mut [f32]) {
        for (t, &v) in to.iter_mut().zip(values) {
            *t = f32::from(v) * scale * STEP;
        }
    }
}

impl Int8 {
    /// From f32 values, row by row: `round(127 · value / greatest magnitude)`.
    pub fn quantize(values: &[f32], rows: usize, width: usize) -> Self {
        let mut out = Vec::with_capacity(values.len());
        let mut scales = Vec::with_capacity(rows);
        for row in values.chunks_exact(width.max(1)) {
            let scale = row.iter().fold(0f32, |m, v| m.max(v.abs()));
            let factor = if scale > 0.0 { 127.0 / scale } else { 0.0 };
            out.extend(row.iter().map(|v| (v * factor).round_ties_even() as i8));
            scales.push(scale);
        }
        Self { values: out, scales, width }
    }

    /// From stored values and scales; `None` when their numbers don't fit.
    pub fn from_parts(values: Vec<i8>, scales: Vec<f32>, width: usize) -> Option<Self> {
        (values.len() == scales.len() * width).then_some(Self { values, scales, width })
    }

    /// Values `[out, in]`, row by row, and the greatest magnitude of each row.
    pub fn parts(&self) -> (&[i8], &[f32]) {
        (&self.values, &self.scales)
    }

    /// `(out, in)`.
    pub fn dims(&self) -> (usize, usize) {
        (self.scales.len(), self.width)
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.values.len() + 4 * self.scales.len()
    }

    /// A row as f32.
    pub fn widen_row(&self, row: usize, to: &mut [f32]) {
        let values = &self.values[row * self.width..(row + 1) * self.width];
        widen_values(values, self.scales[row], to);
    }
}
