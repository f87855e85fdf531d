//! 4-bit NormalFloat with double quantisation (Dettmers et al. 2023, arXiv 2305.14314), in the layout of
//! bitsandbytes: 64 values share a scale, 256 scales share one of their own.

/// Values that share a scale.
pub const BLOCK: usize = 64;
/// Scales that share a scale.
pub const NESTED_BLOCK: usize = 256;

/// The sixteen values: quantiles of the normal distribution, with an exact zero.
pub const CODE: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Scales of blocks.
#[derive(Clone, Debug, PartialEq)]
pub enum Scales {
    /// As they are.
    Plain(Vec<f32>),
    /// In 8 bits.
    Nested {
        /// A number of `code` for each block.
        indices: Vec<u8>,
        /// What the numbers stand for.
        code: Vec<f32>,
        /// Scale of each [`NESTED_BLOCK`] of scales.
        nested: Vec<f32>,
        /// Added to all.
        offset: f32,
    },
}

impl Scales {
    fn len(&self) -> usize {
        match self {
            Scales::Plain(scales) => scales.len(),
            Scales::Nested { indices, .. } => indices.len(),
        }
    }

    fn get(&self, block: usize) -> f32 {
        match self {
            Scales::Plain(scales) => scales[block],
            Scales::Nested { indices, code, nested, offset } => {
                code[usize::from(indices[block])] * nested[block / NESTED_BLOCK] + offset
            }
        }
    }

    fn fits(&self, blocks: usize) -> bool {
        self.len() == blocks
            && match self {
                Scales::Plain(_) => true,
                Scales::Nested { code, nested, .. } => {
                    code.len() == 256 && nested.len() == blocks.div_ceil(NESTED_BLOCK)
                }
            }
    }
}

/// A matrix `[out, in]` of 4-bit values, two a byte, the first in the high half.
#[derive(Clone, Debug, PartialEq)]
pub struct Nf4 {
    packed: Vec<u8>,
    scales: Scales,
    rows: usize,
    width: usize,
}

/// The dynamic 8-bit type of scales, signed (Dettmers 2015, arXiv 1511.04561), ascending: seven ranges of
/// magnitude, each with as many evenly spaced values as bits are left for it.
pub fn dynamic_code() -> Vec<f32> {
    let mut code = vec![0.0, 1.0];
    for range in 0..7u32 {
        let count = 1usize << range;
        let exponent = 10f64.powi(range as i32 - 6) as f32;
        // PyTorch's `linspace(0.1, 1, count + 1)` in f32: from each end to the middle.
        let step = (1.0 - 0.1f32) / count as f32;
        let steps = count + 1;
        let border = |i: usize| match i < steps / 2 {
            true => 0.1 + step * i as f32,
            false => 1.0 - step * (steps - i - 1) as f32,
        };
        for i in 0..count {
            let mean = (border(i) + border(i + 1)) / 2.0;
            code.extend([exponent * mean, -(exponent * mean)]);
        }
    }
    code.sort_by(f32::total_cmp);
    code
}

/// The number of the value of ascending `code` that is nearest; the smaller of two that are as near.
fn nearest(code: &[f32], value: f32) -> u8 {
    let middle = |i: usize| (code[i] + code[i + 1]) / 2.0;
    let (mut low, mut high) = (0, code.len() - 1);
    while low < high {
        let i = (low + high) / 2;
        if middle(i) < value { low = i + 1 } else { high = i }
    }
    low as u8
}

fn greatest(values: &[f32]) -> f32 {
    values.iter().fold(0f32, |m, v| m.max(v.abs()))
}

impl Nf4 {
    /// From f32 values, row by row, with scales in 8 bits.
    pub fn quantize(values: &[f32], rows: usize, width: usize) -> Self {
        let mut scales = Vec::with_capacity(values.len().div_ceil(BLOCK));
        let mut indices = Vec::with_capacity(values.len());
        for block in values.chunks(BLOCK) {
            let scale = greatest(block);
            let factor = 1.0 / scale.max(1e-38);
            indices.extend(block.iter().map(|v| nearest(&CODE, (v * factor).clamp(-1.0, 1.0))));
            scales.push(scale);
        }
        let packed = indices
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair.get(1).copied().unwrap_or(7))
            .collect();
        let sum: f64 = scales.iter().map(|&s| f64::from(s)).sum();
        let offset = (sum / scales.len().max(1) as f64) as f32;
        let code = dynamic_code();
        let mut nested = Vec::new();
        let mut scale_indices = Vec::with_capacity(scales.len());
        for block in scales.chunks(NESTED_BLOCK) {
            let around: Vec<f32> = block.iter().map(|s| s - offset).collect();
            let scale = greatest(&around);
            let factor = 1.0 / scale.max(1e-38);
            let index = |v: &f32| nearest(&code, (v * factor).clamp(-1.0, 1.0));
            scale_indices.extend(around.iter().map(index));
            nested.push(scale);
        }
        let scales = Scales::Nested { indices: scale_indices, code, nested, offset };
        Self { packed, scales, rows, width }
    }

    /// From stored parts; `None` when their numbers don't fit.
    pub fn from_parts(packed: Vec<u8>, scales: Scales, rows: usize, width: usize) -> Option<Self> {
        let count = rows.checked_mul(width)?;
        let fits = packed.len() == count.div_ceil(2) && scales.fits(count.div_ceil(BLOCK));
        fits.then_some(Self { packed, scales, rows, width })
    }

    /// Packed values and scales.
    pub fn parts(&self) -> (&[u8], &Scales) {
        (&self.packed, &self.scales)
    }

    /// `(out, in)`.
    pub fn dims(&self) -> (usize, usize) {
        (self.rows, self.width)
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        let scales = match &self.scales {
            Scales::Plain(scales) => 4 * scales.len(),
            Scales::Nested { indices, code, nested, .. } => {
                indices.len() + 4 * (code.len() + nested.len())
            }
        };
        self.packed.len() + scales
    }

    /// A row as f32. Blocks may cross rows.
    pub fn widen_row(&self, row: usize, to: &mut [f32]) {
        let (mut at, mut done) = (row * self.width, 0);
        while done < to.len() {
            let n = (BLOCK - at % BLOCK).min(to.len() - done);
            let scale = self.scales.get(at / BLOCK);
            let part = &mut to[done..done + n];
            if at.is_multiple_of(2) {
                let bytes = &self.packed[at / 2..(at + n).div_ceil(2)];
                for (pair, &byte) in part.chunks_mut(2).zip(bytes) {
                    pair[0] = CODE[usize::from(byte >> 4)] * scale;
                    if let Some(second) = pair.get_mut(1) {
                        *second = CODE[usize::from(byte & 15)] * scale;
                    }
                }
            } else {
                for (i, t) in (at..).zip(part) {
                    let byte = self.packed[i / 2];
                    let index = if i.is_multiple_of(2) { byte >> 4 } else { byte & 15 };
                    *t = CODE[usize::from(index)] * scale;
                }
            }
            (at, done) = (at + n, done + n);
        }
    }
}
