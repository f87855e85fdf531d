//! The largest singular values of a matrix and their vectors, by subspace iteration in f64 with more
//! vectors than are asked for (Halko, Martinsson, Tropp 2011, arXiv 0909.4061). Deterministic.

use candle_core::{DType, Result, Tensor};

use crate::rng::{Purpose, Stream};

/// Products with the matrix, at most.
const ITERATIONS_MAX: usize = 60;
/// Relative change of the singular values below which the iteration ends.
const TOLERANCE: f64 = 1e-10;

/// `U [m, k]`, singular values `[k]`, `Vᵀ [k, n]`, all f64; signs are such that each column of U has
/// its largest element positive.
pub struct Svd {
    /// Left vectors, columns.
    pub u: Tensor,
    /// Singular values, falling.
    pub s: Vec<f64>,
    /// Right vectors, rows.
    pub vt: Tensor,
}

/// The `k` largest of `matrix [m, n]`; `seed` is of the start.
///
/// # Errors
/// When the tensor is no matrix or memory is lacking.
pub fn largest(matrix: &Tensor, k: usize, seed: u64) -> Result<Svd> {
    let (m, n) = matrix.dims2()?;
    let k = k.min(m).min(n);
    // Twice as many vectors converge by the square of the ratio to the first one left out.
    let width = (2 * k + 10).min(m).min(n);
    let device = matrix.device();
    let matrix = matrix.to_dtype(DType::F64)?;
    let stream = Stream::new(seed, Purpose::Init, 2 << 32);
    let start: Vec<f64> = (0..(n * width) as u64).map(|i| stream.normal(i)).collect();
    let mut q = orthonormal(&matrix.matmul(&Tensor::from_vec(start, (n, width), device)?)?)?;
    let mut before: Vec<f64> = Vec::new();
    for _ in 0..ITERATIONS_MAX {
        let z = orthonormal(&matrix.t()?.matmul(&q)?)?;
        let y = matrix.matmul(&z)?;
        q = orthonormal(&y)?;
        // Lengths of the images fall as the singular values do.
        let lengths: Vec<f64> = y.sqr()?.sum(0)?.sqrt()?.to_vec1()?;
        let near = |(a, b): (&f64, &f64)| (a - b).abs() <= TOLERANCE * lengths[0].max(1e-300);
        let done = before.len() == lengths.len() && before.iter().zip(&lengths).all(near);
        before = lengths;
        if done || width == m.min(n) {
            break;
        }
    }
    // Within the subspace the problem is small.
    let small = q.t()?.matmul(&matrix)?;
    let gram: Vec<Vec<f64>> = small.matmul(&small.t()?)?.to_vec2()?;
    let (values, vectors) = symmetric_eigen(gram);
    let mut order: Vec<usize> = (0..width).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    let mut columns = Vec::with_capacity(width * k);
    for row in &vectors {
        columns.extend(order[..k].iter().map(|&i| row[i]));
    }
    let rotation = Tensor::from_vec(columns, (width, k), device)?;
    let u = q.matmul(&rotation)?;
    let mut s = Vec::with_capacity(k);
    let mut us = u.t()?.to_vec2::<f64>()?;
    for (column, &i) in us.iter_mut().zip(&order) {
        s.push(values[i].max(0.0).sqrt());
        let largest = column.iter().fold(0f64, |a, &b| if b.abs() > a.abs() { b } else { a });
        if largest < 0.0 {
            column.iter_mut().for_each(|v| *v = -*v);
        }
    }
    let u = Tensor::from_vec(us.concat(), (k, m), device)?.t()?.contiguous()?;
    let scaled = u.t()?.matmul(&matrix)?;
    let inverse: Vec<f64> = s.iter().map(|&s| if s > 0.0 { 1.0 / s } else { 0.0 }).collect();
    let vt = scaled.broadcast_mul(&Tensor::from_vec(inverse, (k, 1), device)?)?;
    Ok(Svd { u, s, vt })
}

/// Orthonormal columns that span those of `x [m, k]`: Gram and Schmidt, each twice.
fn orthonormal(x: &Tensor) -> Result<Tensor> {
    let (m, k) = x.dims2()?;
    let mut columns: Vec<Vec<f64>> = x.t()?.contiguous()?.to_vec2()?;
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for i in 0..k {
        let (done, rest) = columns.split_at_mut(i);
        let column = &mut rest[0];
        let length = dot(column, column).sqrt();
        for _ in 0..2 {
            for other in done.iter() {
                let along = dot(other, column);
                column.iter_mut().zip(other).for_each(|(c, o)| *c -= along * o);
            }
        }
        let left = dot(column, column).sqrt();
        // What is left of a dependent column is rounding.
        let factor = if left > 1e-12 * length && left > 0.0 { 1.0 / left } else { 0.0 };
        column.iter_mut().for_each(|c| *c *= factor);
    }
    Tensor::from_vec(columns.concat(), (k, m), x.device())?.t()?.contiguous()
}

/// Eigenvalues of a symmetric matrix, and its eigenvectors as columns: Jacobi's rotations.
fn symmetric_eigen(mut a: Vec<Vec<f64>>) -> (Vec<f64>, Vec<Vec<f64>>) {
    let n = a.len();
    let mut v: Vec<Vec<f64>> =
        (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    for _ in 0..60 {
        let off: f64 =
            (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| a[i][j].powi(2)).sum();
        let all: f64 = a.iter().flatten().map(|x| x * x).sum();
        if off <= 1e-30 * all {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                if a[p][q] == 0.0 {
                    continue;
                }
                let theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let t = if theta == 0.0 { 1.0 } else { t };
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for row in a.iter_mut() {
                    (row[p], row[q]) = (c * row[p] - s * row[q], s * row[p] + c * row[q]);
                }
                let (above, below) = a.split_at_mut(q);
                for (x, y) in above[p].iter_mut().zip(below[0].iter_mut()) {
                    (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
                }
                for row in v.iter_mut() {
                    (row[p], row[q]) = (c * row[p] - s * row[q], s * row[p] + c * row[q]);
                }
            }
        }
    }
    ((0..n).map(|i| a[i][i]).collect(), v)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// A matrix with these singular values.
    fn matrix(m: usize, n: usize, s: &[f64]) -> Tensor {
        let random = |rows: usize, index| {
            let stream = Stream::new(3, Purpose::Test, index);
            let values: Vec<f64> = (0..(rows * s.len()) as u64).map(|i| stream.normal(i)).collect();
            let t = Tensor::from_vec(values, (rows, s.len()), &Device::Cpu).unwrap();
            orthonormal(&t).unwrap()
        };
        let (u, v) = (random(m, 0), random(n, 1));
        let s = Tensor::new(s, &Device::Cpu).unwrap();
        u.broadcast_mul(&s).unwrap().matmul(&v.t().unwrap()).unwrap()
    }

    #[test]
    fn the_best_approximation_of_a_rank_is_found() {
        let s: Vec<f64> = (0..40).map(|i| 10.0 * 0.8f64.powi(i)).collect();
        for (m, n, k) in [(200, 60, 8), (50, 300, 5), (40, 41, 40), (6, 5, 9)] {
            let s = &s[..s.len().min(m).min(n)];
            let a = matrix(m, n, s);
            let svd = largest(&a, k, 7).unwrap();
            let k = k.min(m).min(n);
            assert_eq!(svd.s.len(), k);
            for (got, want) in svd.s.iter().zip(s) {
                assert!((got - want).abs() < 1e-7 * want.max(1e-3), "{got} {want}");
            }
            let s_row = Tensor::new(svd.s.as_slice(), &Device::Cpu).unwrap();
            let close = svd.u.broadcast_mul(&s_row).unwrap().matmul(&svd.vt).unwrap();
            let error = (&a - close).unwrap().sqr().unwrap().sum_all().unwrap();
            let error = error.to_scalar::<f64>().unwrap().sqrt();
            let best = s[k..].iter().map(|x| x * x).sum::<f64>().sqrt();
            assert!((error - best).abs() < 1e-6, "{m} {n} {k}: {error} {best}");
        }
    }
}
