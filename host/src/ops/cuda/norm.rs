//! RMS and layer norms, and sums of squares.

use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaView, LaunchConfig};
use candle_core::{Result, Tensor};

use super::{Module, Value, blocks, by_dtype, config, cuda, launch, module, output, tensor, view};

const NORM: Module = module!("norm");

/// Values of a row up to which a warp does it, eight rows a block.
const WARP_WIDTH: usize = 1024;

/// What follows a kernel's name, and its launch.
fn team(rows: usize, width: usize) -> Result<(&'static str, LaunchConfig)> {
    let rows = blocks(rows)?;
    Ok(match width <= WARP_WIDTH {
        true => ("warp", config(rows.div_ceil(8), 256)),
        false => ("block", config(rows, if width <= 4096 { 256 } else { 512 })),
    })
}

/// Rows of `width` values within `x`, of which a row of the tensor may hold several.
fn grouped(x: &Tensor, weight: &Tensor) -> Result<(usize, usize)> {
    let ((tokens, total), width) = (x.dims2()?, weight.dims1()?);
    if width == 0 || total % width != 0 {
        candle_core::bail!("a norm of {width} values can't divide rows of {total}");
    }
    Ok((tokens * (total / width), width))
}

/// Rows and width of `x`, whose `parameters` have a value for each column.
fn whole(x: &Tensor, parameters: &[&Tensor]) -> Result<(usize, usize)> {
    let (rows, width) = x.dims2()?;
    if width == 0 || parameters.iter().any(|p| p.dims() != [width]) {
        let shapes: Vec<&[usize]> = parameters.iter().map(|p| p.dims()).collect();
        candle_core::bail!("a norm of {shapes:?} values was given rows of {width}");
    }
    Ok((rows, width))
}

/// Checks what the rows' statistics and a gradient must be.
fn check(x: &Tensor, rows: usize, statistics: &[&Tensor], dy: Option<&Tensor>) -> Result<()> {
    if let Some(other) = statistics.iter().find(|s| s.dims() != [rows]) {
        candle_core::bail!("statistics {:?} of a norm don't fit its {rows} rows", other.dims());
    }
    if let Some(dy) = dy.filter(|dy| dy.elem_count() != x.elem_count()) {
        candle_core::bail!("a gradient {:?} doesn't fit {:?}", dy.dims(), x.dims());
    }
    Ok(())
}

/// `y = x / sqrt(mean(x²) + eps) · weight`: `x [tokens, groups · width]` with `weight [width]`, each of
/// a row's groups by itself → `y` of `x`'s shape and the reciprocal roots `[tokens · groups]`.
///
/// # Errors
/// When shapes don't fit, a tensor is not contiguous f32 of one CUDA device, or the device fails.
pub fn rms_forward(x: &Tensor, weight: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    let ((rows, width), device) = (grouped(x, weight)?, cuda(x)?);
    let (mut y, mut rstd) = (output::<f32>(device, rows * width)?, output::<f32>(device, rows)?);
    if rows > 0 {
        let locked = (x.storage_and_layout(), weight.storage_and_layout());
        let (x, w) = (view::<f32>(&locked.0, device)?, view::<f32>(&locked.1, device)?);
        let ((team, config), eps) = (team(rows, width)?, eps as f32);
        let name = format!("rms_forward_{team}");
        // SAFETY: as `norm.cu` declares it; x and y have rows · width values, w width, rstd rows.
        unsafe {
            launch!(device, NORM, &name, config, &x, &w, &eps, &mut y, &mut rstd, &rows, &width);
        }
    }
    Ok((tensor(y, device, x.shape()), tensor(rstd, device, rows)))
}

/// The output of [`rms_forward`] again, to the bit, from `rstd [tokens · groups]`.
///
/// # Errors
/// As [`rms_forward`].
pub fn rms_recompute(x: &Tensor, weight: &Tensor, rstd: &Tensor) -> Result<Tensor> {
    let ((rows, width), device) = (grouped(x, weight)?, cuda(x)?);
    check(x, rows, &[rstd], None)?;
    let mut y = output::<f32>(device, rows * width)?;
    if rows > 0 {
        let locked =
            (x.storage_and_layout(), weight.storage_and_layout(), rstd.storage_and_layout());
        let (x, w) = (view::<f32>(&locked.0, device)?, view::<f32>(&locked.1, device)?);
        let rstd = view::<f32>(&locked.2, device)?;
        let (team, config) = team(rows, width)?;
        let name = format!("rms_recompute_{team}");
        // SAFETY: as `norm.cu` declares it; x and y have rows · width values, w width, rstd rows.
        unsafe { launch!(device, NORM, &name, config, &x, &w, &rstd, &mut y, &rows, &width) }
    }
    Ok(tensor(y, device, x.shape()))
}

/// `dy` of `x`'s size → `dx` of `x`'s shape, and the weight's gradient `[width]` when wanted.
///
/// # Errors
/// As [`rms_forward`].
pub fn rms_backward(
    dy: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    rstd: &Tensor,
    want_weight: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let ((rows, width), device) = (grouped(x, weight)?, cuda(x)?);
    check(x, rows, &[rstd], Some(dy))?;
    let (mut dx, shape) = (output::<f32>(device, rows * width)?, x.shape());
    if rows == 0 {
        let dw = if want_weight { Some(weight.zeros_like()?) } else { None };
        return Ok((tensor(dx, device, shape), dw));
    }
    let locked = (
        dy.storage_and_layout(),
        x.storage_and_layout(),
        weight.storage_and_layout(),
        rstd.storage_and_layout(),
    );
    let (dy, x) = (view::<f32>(&locked.0, device)?, view::<f32>(&locked.1, device)?);
    let (w, rstd) = (view::<f32>(&locked.2, device)?, view::<f32>(&locked.3, device)?);
    let (team, config) = team(rows, width)?;
    let name = format!("rms_backward_{team}");
    // SAFETY: as `norm.cu` declares it; dy, x and dx have rows · width values, w width, rstd rows.
    unsafe { launch!(device, NORM, &name, config, &dy, &x, &w, &rstd, &mut dx, &rows, &width) }
    let mut dw = None;
    if want_weight {
        let parts = Parts::of(rows, width)?;
        let mut part = output::<f32>(device, parts.count * width)?;
        let (config, stretch) = (parts.config(), parts.stretch);
        // SAFETY: as `norm.cu` declares it; dy and x have rows · width values, rstd rows, and
        // `part` a row for each of the launch's stretches.
        unsafe {
            launch!(
                device,
                NORM,
                "rms_weight",
                config,
                &dy,
                &x,
                &rstd,
                &mut part,
                &rows,
                &width,
                &stretch
            );
        }
        dw = Some(tensor(parts.sum(device, &part)?, device, width));
    }
    Ok((tensor(dx, device, shape), dw))
}

/// `y = (x - mean) / sqrt(variance + eps) · weight + bias` over the rows of `x [rows, width]`, with
/// `weight`, `bias [width]` → `y` of `x`'s shape, the means and the reciprocal standard deviations,
/// `[rows]`.
///
/// # Errors
/// As [`rms_forward`].
pub fn layer_forward(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<(Tensor, Tensor, Tensor)> {
    let ((rows, width), device) = (whole(x, &[weight, bias])?, cuda(x)?);
    let mut y = output::<f32>(device, rows * width)?;
    let (mut mean, mut rstd) = (output::<f32>(device, rows)?, output::<f32>(device, rows)?);
    if rows > 0 {
        let locked =
            (x.storage_and_layout(), weight.storage_and_layout(), bias.storage_and_layout());
        let (x, w) = (view::<f32>(&locked.0, device)?, view::<f32>(&locked.1, device)?);
        let b = view::<f32>(&locked.2, device)?;
        let ((team, config), eps) = (team(rows, width)?, eps as f32);
        let name = format!("layer_forward_{team}");
        // SAFETY: as `norm.cu` declares it; x and y have rows · width values, w and b width, mean
        // and rstd rows.
        unsafe {
            launch!(
                device, NORM, &name, config, &x, &w, &b, &eps, &mut y, &mut mean, &mut rstd, &rows,
                &width
            );
        }
    }
    Ok((tensor(y, device, x.shape()), tensor(mean, device, rows), tensor(rstd, device, rows)))
}

/// The output of [`layer_forward`] again, to the bit, from `mean` and `rstd [rows]`.
///
/// # Errors
/// As [`rms_forward`].
pub fn layer_recompute(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    mean: &Tensor,
    rstd: &Tensor,
) -> Result<Tensor> {
    let ((rows, width), device) = (whole(x, &[weight, bias])?, cuda(x)?);
    check(x, rows, &[mean, rstd], None)?;
    let mut y = output::<f32>(device, rows * width)?;
    if rows > 0 {
        let locked =
            (x.storage_and_layout(), weight.storage_and_layout(), bias.storage_and_layout());
        let (x, w) = (view::<f32>(&locked.0, device)?, view::<f32>(&locked.1, device)?);
        let b = view::<f32>(&locked.2, device)?;
        let statistics = (mean.storage_and_layout(), rstd.storage_and_layout());
        let mean = view::<f32>(&statistics.0, device)?;
        let rstd = view::<f32>(&statistics.1, device)?;
        let (team, config) = team(rows, width)?;
        let name = format!("layer_recompute_{team}");
        // SAFETY: as `norm.cu` declares it; x and y have rows · width values, w and b width, mean
        // and rstd rows.
        unsafe {
            launch!(device, NORM, &name, config, &x, &w, &b, &mean, &rstd, &mut y, &rows, &width);
        }
    }
    Ok(tensor(y, device, x.shape()))
}

/// `dy [rows, width]` → `dx`, and the gradients of weight and bias `[width]` when wanted.
///
/// # Errors
/// As [`rms_forward`].
pub fn layer_backward(
    dy: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    mean: &Tensor,
    rstd: &Tensor,
    want_params: bool,
) -> Result<(Tensor, Option<(Tensor, Tensor)>)> {
    let ((rows, width), device) = (whole(x, &[weight])?, cuda(x)?);
    check(x, rows, &[mean, rstd], Some(dy))?;
    let (mut dx, shape) = (output::<f32>(device, rows * width)?, x.shape());
    if rows == 0 {
        let params = match want_params {
            true => Some((weight.zeros_like()?, weight.zeros_like()?)),
            false => None,
        };
        return Ok((tensor(dx, device, shape), params));
    }
    let locked = (dy.storage_and_layout(), x.storage_and_layout(), weight.storage_and_layout());
    let (dy, x) = (view::<f32>(&locked.0, device)?, view::<f32>(&locked.1, device)?);
    let w = view::<f32>(&locked.2, device)?;
    let statistics = (mean.storage_and_layout(), rstd.storage_and_layout());
    let mean = view::<f32>(&statistics.0, device)?;
    let rstd = view::<f32>(&statistics.1, device)?;
    let (team, config) = team(rows, width)?;
    let name = format!("layer_backward_{team}");
    // SAFETY: as `norm.cu` declares it; dy, x and dx have rows · width values, w width, mean and
    // rstd rows.
    unsafe {
        launch!(device, NORM, &name, config, &dy, &x, &w, &mean, &rstd, &mut dx, &rows, &width);
    }
    let mut params = None;
    if want_params {
        let parts = Parts::of(rows, width)?;
        let mut part = output::<f32>(device, parts.count * width)?;
        let (config, stretch) = (parts.config(), parts.stretch);
        // SAFETY: as `norm.cu` declares it; dy and x have rows · width values, mean and rstd rows,
        // and `part` a row for each of the launch's stretches.
        unsafe {
            launch!(
                device,
                NORM,
                "layer_weight",
                config,
                &dy,
                &x,
                &mean,
                &rstd,
                &mut part,
                &rows,
                &width,
                &stretch
            );
        }
        let dw = parts.sum(device, &part)?;
        let mut part = output::<f32>(device, parts.count * width)?;
        // SAFETY: as above.
        unsafe {
            launch!(device, NORM, "sum_rows", config, &dy, &mut part, &rows, &width, &stretch);
        }
        let db = parts.sum(device, &part)?;
        params = Some((tensor(dw, device, width), tensor(db, device, width)));
    }
    Ok((tensor(dx, device, shape), params))
}

/// Stretches of rows that are added each by itself, and then each other: a choice by the sizes alone.
struct Parts {
    count: usize,
    stretch: usize,
    width: usize,
    columns: u32,
}

impl Parts {
    /// Of at least one row.
    fn of(rows: usize, width: usize) -> Result<Self> {
        let stretch = rows.div_ceil(rows.div_ceil(64).min(512));
        let columns = blocks(width.div_ceil(32))?;
        Ok(Self { count: rows.div_ceil(stretch), stretch, width, columns })
    }

    /// Launch of the first stage: at most 512 stretches.
    fn config(&self) -> LaunchConfig {
        LaunchConfig {
            grid_dim: (self.columns, self.count as u32, 1),
            block_dim: (32, 8, 1),
            shared_mem_bytes: 0,
        }
    }

    /// The second stage: `part [count, width]` → `[width]`.
    fn sum(&self, device: &CudaDevice, part: &CudaSlice<f32>) -> Result<CudaSlice<f32>> {
        let mut out = output::<f32>(device, self.width)?;
        let config = LaunchConfig { grid_dim: (self.columns, 1, 1), ..self.config() };
        let (rows, width) = (&self.count, &self.width);
        // SAFETY: as `norm.cu` declares it; `part` has rows · width values and `out` width.
        unsafe { launch!(device, NORM, "sum_rows", config, part, &mut out, rows, width, rows) }
        Ok(out)
    }
}

/// The sum of the squares of `x` (any shape; f32, bf16 or f16), added in f64: a scalar on the device.
///
/// # Errors
/// When `x` is not contiguous on a CUDA device, is of another type, or the device fails.
pub fn square_sum(x: &Tensor) -> Result<Tensor> {
    by_dtype!(x.dtype(), square_sum_of(x))
}

fn square_sum_of<T: Value>(x: &Tensor) -> Result<Tensor> {
    let (device, n) = (cuda(x)?, x.elem_count());
    let count = n.div_ceil(4096).clamp(1, 1024);
    let (mut part, mut out) = (output::<f64>(device, count)?, output::<f64>(device, 1)?);
    let locked = x.storage_and_layout();
    let name = format!("square_sums_{}", T::NAME);
    if n > 0 {
        let x: CudaView<'_, T> = view(&locked, device)?;
        // SAFETY: as `norm.cu` declares it; x has n values and `part` one for each block.
        unsafe { launch!(device, NORM, &name, config(count as u32, 256), &x, &mut part, &n) }
    }
    let count = if n > 0 { count } else { 0 };
    // SAFETY: as `norm.cu` declares it; `part` has at least `count` values, `out` one.
    unsafe { launch!(device, NORM, "sum_f64", config(1, 256), &part, &mut out, &count) }
    Ok(tensor(out, device, ()))
}
