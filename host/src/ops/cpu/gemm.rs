//! Products of f32 matrices on slices, by the crate `gemm`. Row-major throughout.

use gemm::Parallelism;

/// Threads for a product of this many multiply-adds.
fn parallelism(work: usize) -> Parallelism {
    if work < 64 * 64 * 64 {
        Parallelism::None
    } else {
        Parallelism::Rayon(rayon::current_num_threads())
    }
}

/// A matrix within a slice: row and column strides in elements.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    /// The values.
    pub data: &'a [f32],
    /// Elements from one row to the next.
    pub row_stride: usize,
    /// Elements from one column to the next.
    pub col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `width` values, one after the other.
    pub fn rows(data: &'a [f32], width: usize) -> Self {
        Self { data, row_stride: width, col_stride: 1 }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Self { row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    fn holds(&self, rows: usize, cols: usize) -> bool {
        rows == 0
            || cols == 0
            || (rows - 1) * self.row_stride + (cols - 1) * self.col_stride < self.data.len()
    }
}

/// Where a product goes: rows of `row_stride` elements.
pub struct Output<'a> {
    /// The values.
    pub data: &'a mut [f32],
    /// Elements from one row to the next.
    pub row_stride: usize,
    /// Whether the product is added to what is there.
    pub accumulate: bool,
}

/// `out [m, n] (+)= scale · lhs [m, k] · rhs [k, n]`, on as many threads as pay.
pub fn matmul(
    m: usize,
    n: usize,
    k: usize,
    out: Output<'_>,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    scale: f32,
) {
    run(m, n, k, out, lhs, rhs, scale, parallelism(m * n * k));
}

/// As [`matmul`], on the calling thread.
pub fn matmul_serial(
    m: usize,
    n: usize,
    k: usize,
    out: Output<'_>,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    scale: f32,
) {
    run(m, n, k, out, lhs, rhs, scale, Parallelism::None);
}

#[allow(clippy::too_many_arguments)]
fn run(
    m: usize,
    n: usize,
    k: usize,
    out: Output<'_>,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    scale: f32,
    parallelism: Parallelism,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(out.row_stride >= n && (m - 1) * out.row_stride + n <= out.data.len());
    assert!(lhs.holds(m, k) && rhs.holds(k, n));
    // SAFETY: the assertions above bound every element that is read or written.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.data.as_mut_ptr(),
            1,
            out.row_stride as isize,
            out.accumulate,
            lhs.data.as_ptr(),
            lhs.col_stride as isize,
            lhs.row_stride as isize,
            rhs.data.as_ptr(),
            rhs.col_stride as isize,
            rhs.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}
