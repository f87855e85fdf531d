//! Attention's softmax over scores that are there, and its backward.

use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, DevicePtr, DevicePtrMut, DeviceRepr, LaunchConfig,
};
use candle_core::{Result, Tensor};

use super::{Module, Value, blocks, by_dtype, config, cuda, distinct, launch, modify, module};
use super::{output, tensor, view};

const SOFTMAX: Module = module!("softmax");

/// Keys up to which a warp does a row, eight rows a block.
const WARP_KEYS: usize = 1024;

/// What becomes of scores `[batch, heads, queries, keys]` before the softmax, and who sees whom.
#[derive(Clone, Copy, Debug)]
pub struct Spec<'a> {
    /// Factor on the scores.
    pub scale: f32,
    /// `cap · tanh(score / cap)` on the scaled scores.
    pub softcap: Option<f32>,
    /// Position of query 0 in the sequence.
    pub first_query: usize,
    /// Position of key 0 in the sequence.
    pub first_key: usize,
    /// Position `t` sees only positions `> t - window`.
    pub window: Option<usize>,
    /// Positions that all see, as far as their windows reach.
    pub prefix: usize,
    /// ALiBi: `[heads]`, f32, of [`crate::ops::attention::alibi_slope`]; the slope times the (negative)
    /// distance is added to a score.
    pub slopes: Option<&'a Tensor>,
}

/// `struct Spec` of `softmax.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Raw {
    scale: f32,
    softcap: f32,
    first_query: u32,
    first_key: u32,
    window: u32,
    prefix: u32,
}

// SAFETY: two f32 and four u32 in C's order, as `struct Spec` of `softmax.cu`.
unsafe impl DeviceRepr for Raw {}

/// The sizes of scores, and how a kernel is launched on them.
struct Sizes {
    rows: u32,
    heads: u32,
    queries: u32,
    keys: u32,
    raw: Raw,
    team: &'static str,
    config: LaunchConfig,
}

fn sizes(scores: &Tensor, spec: &Spec<'_>) -> Result<Sizes> {
    let (batch, heads, queries, keys) = scores.dims4()?;
    let number = |n: usize| match u32::try_from(n) {
        Ok(n) => Ok(n),
        Err(_) => candle_core::bail!("{n} positions are too many for attention; shorten them"),
    };
    if spec.window == Some(0) || spec.softcap.is_some_and(|cap| cap.is_nan() || cap <= 0.0) {
        candle_core::bail!("attention can't have {spec:?}: windows and caps are positive");
    }
    if let Some(slopes) = spec.slopes.filter(|slopes| slopes.dims() != [heads]) {
        candle_core::bail!("slopes {:?} for {heads} heads", slopes.dims());
    }
    let rows = blocks(batch * heads * queries)?;
    if rows > 0 && keys == 0 {
        candle_core::bail!("attention of {queries} queries was given no keys");
    }
    let (team, config) = match keys <= WARP_KEYS {
        true => ("warp", config(rows.div_ceil(8), 256)),
        false => ("block", config(rows, if keys <= 8192 { 256 } else { 512 })),
    };
    let raw = Raw {
        scale: spec.scale,
        softcap: spec.softcap.unwrap_or(0.0),
        first_query: number(spec.first_query)?,
        first_key: number(spec.first_key)?,
        window: spec.window.map_or(u32::MAX, |w| u32::try_from(w).unwrap_or(u32::MAX)),
        prefix: number(spec.prefix)?,
    };
    let (heads, queries, keys) = (number(heads)?, number(queries)?, number(keys)?);
    Ok(Sizes { rows, heads, queries, keys, raw, team, config })
}

/// Places of the slopes, and what keeps them there until the kernel is launched.
macro_rules! slopes {
    ($spec:expr, $device:expr, $stream:expr => $place:ident) => {
        let locked = $spec.slopes.map(Tensor::storage_and_layout);
        let slopes = locked.as_ref().map(|l| view::<f32>(l, $device)).transpose()?;
        let slopes = slopes.as_ref().map(|s| s.device_ptr($stream));
        let $place: u64 = slopes.as_ref().map_or(0, |s| s.0);
    };
}

/// `scores [batch, heads, queries, keys]` (f32, bf16 or f16) → probabilities of the same type, 0 where a
/// query does not see a key, and the log-sum-exps `[batch, heads, queries]`, f32. Every query must see
/// a key.
///
/// # Errors
/// When shapes don't fit, a tensor is not contiguous of one CUDA device and of its type, or the
/// device fails.
pub fn forward(scores: &Tensor, spec: &Spec<'_>) -> Result<(Tensor, Tensor)> {
    by_dtype!(scores.dtype(), forward_of(scores, spec))
}

/// As [`forward`], with the probabilities in the place of the scores.
///
/// # Errors
/// As [`forward`].
pub fn forward_in_place(scores: Tensor, spec: &Spec<'_>) -> Result<(Tensor, Tensor)> {
    let lse = by_dtype!(scores.dtype(), forward_in_place_of(&scores, spec))?;
    Ok((scores, lse))
}

fn forward_of<T: Value>(scores: &Tensor, spec: &Spec<'_>) -> Result<(Tensor, Tensor)> {
    let (sizes, device, dims) = (sizes(scores, spec)?, cuda(scores)?, scores.dims());
    let (mut p, mut lse) =
        (output::<T>(device, scores.elem_count())?, output::<f32>(device, sizes.rows as usize)?);
    if scores.elem_count() > 0 {
        let stream = device.cuda_stream();
        let locked = scores.storage_and_layout();
        let view = view::<T>(&locked, device)?;
        let (from, _read) = view.device_ptr(&stream);
        let (to, _written) = p.device_ptr_mut(&stream);
        launch_forward::<T>(device, &sizes, spec, from, to, &mut lse)?;
    }
    Ok((tensor(p, device, dims), tensor(lse, device, &dims[..3])))
}

fn forward_in_place_of<T: Value>(scores: &Tensor, spec: &Spec<'_>) -> Result<Tensor> {
    let (sizes, device, dims) = (sizes(scores, spec)?, cuda(scores)?, scores.dims());
    let mut lse = output::<f32>(device, sizes.rows as usize)?;
    if let Some(slopes) = spec.slopes {
        distinct(&[scores, slopes])?;
    }
    if scores.elem_count() > 0 {
        modify::<T>(scores, |mut scores, device| {
            let stream = device.cuda_stream();
            let (place, _written) = scores.device_ptr_mut(&stream);
            launch_forward::<T>(device, &sizes, spec, place, place, &mut lse)
        })?;
    }
    Ok(tensor(lse, device, &dims[..3]))
}

/// `from` and `to`: places of the scores and the probabilities, maybe the same.
fn launch_forward<T: Value>(
    device: &CudaDevice,
    sizes: &Sizes,
    spec: &Spec<'_>,
    from: u64,
    to: u64,
    lse: &mut CudaSlice<f32>,
) -> Result<()> {
    let stream = device.cuda_stream();
    slopes!(spec, device, &stream => slopes);
    let name = format!("softmax_{}_{}", T::NAME, sizes.team);
    let Sizes { rows, heads, queries, keys, raw, config, .. } = sizes;
    // SAFETY: as `softmax.cu` declares it; from and to have rows · keys values, lse rows, slopes
    // heads or are null; the kernel reads a row before it writes it.
    unsafe {
        launch!(
            device, SOFTMAX, &name, *config, &from, &slopes, &to, lse, rows, heads, queries, keys,
            raw
        );
    }
    Ok(())
}

/// From the scores, the gradient `dp` by the probabilities (of the scores' shape and type), the
/// log-sum-exps and `delta`, the sums over keys of `p · dp` (both `[batch, heads, queries]`, f32) → the
/// probabilities again and the gradient by the scores as [`forward`] got them (the scale and the cap's
/// slope are in it).
///
/// # Errors
/// As [`forward`].
pub fn backward(
    scores: &Tensor,
    dp: &Tensor,
    lse: &Tensor,
    delta: &Tensor,
    spec: &Spec<'_>,
) -> Result<(Tensor, Tensor)> {
    check_backward(scores, dp, lse, delta)?;
    by_dtype!(scores.dtype(), backward_of(scores, dp, lse, delta, spec))
}

/// As [`backward`], with the probabilities in the place of the scores and the gradient in that of
/// `dp`.
///
/// # Errors
/// As [`forward`], and when two of the tensors share their memory.
pub fn backward_in_place(
    scores: Tensor,
    dp: Tensor,
    lse: &Tensor,
    delta: &Tensor,
    spec: &Spec<'_>,
) -> Result<(Tensor, Tensor)> {
    check_backward(&scores, &dp, lse, delta)?;
    // Lse and delta are only read, and may lie in one place.
    distinct(&[&scores, &dp, lse])?;
    distinct(&[&scores, &dp, delta])?;
    if let Some(slopes) = spec.slopes {
        distinct(&[&scores, &dp, slopes])?;
    }
    by_dtype!(scores.dtype(), backward_in_place_of(&scores, &dp, lse, delta, spec))?;
    Ok((scores, dp))
}

fn check_backward(scores: &Tensor, dp: &Tensor, lse: &Tensor, delta: &Tensor) -> Result<()> {
    let dims = scores.dims();
    let rows = &dims[..dims.len().min(3)];
    if dp.dims() != dims || lse.dims() != rows || delta.dims() != rows {
        candle_core::bail!(
            "gradient {:?}, log-sum-exps {:?} and sums {:?} don't fit scores {dims:?}",
            dp.dims(),
            lse.dims(),
            delta.dims()
        );
    }
    Ok(())
}

fn backward_of<T: Value>(
    scores: &Tensor,
    dp: &Tensor,
    lse: &Tensor,
    delta: &Tensor,
    spec: &Spec<'_>,
) -> Result<(Tensor, Tensor)> {
    let (sizes, device, n) = (sizes(scores, spec)?, cuda(scores)?, scores.elem_count());
    let (mut p, mut ds) = (output::<T>(device, n)?, output::<T>(device, n)?);
    if n > 0 {
        let stream = device.cuda_stream();
        let locked = (scores.storage_and_layout(), dp.storage_and_layout());
        let (scores, dp) = (view::<T>(&locked.0, device)?, view::<T>(&locked.1, device)?);
        let ((scores, _a), (dp, _b)) = (scores.device_ptr(&stream), dp.device_ptr(&stream));
        let ((p, _c), (ds, _d)) = (p.device_ptr_mut(&stream), ds.device_ptr_mut(&stream));
        launch_backward::<T>(device, &sizes, spec, [scores, dp, p, ds], lse, delta)?;
    }
    Ok((tensor(p, device, scores.dims()), tensor(ds, device, scores.dims())))
}

fn backward_in_place_of<T: Value>(
    scores: &Tensor,
    dp: &Tensor,
    lse: &Tensor,
    delta: &Tensor,
    spec: &Spec<'_>,
) -> Result<()> {
    let sizes = sizes(scores, spec)?;
    if scores.elem_count() == 0 {
        return Ok(());
    }
    if !scores.device().same_device(dp.device()) {
        candle_core::bail!("scores and their gradient are on different devices");
    }
    modify::<T>(scores, |mut scores, device| {
        modify::<T>(dp, |mut dp, _| {
            let stream = device.cuda_stream();
            let ((p, _a), (ds, _b)) = (scores.device_ptr_mut(&stream), dp.device_ptr_mut(&stream));
            launch_backward::<T>(device, &sizes, spec, [p, ds, p, ds], lse, delta)
        })
    })
}

/// `places`: of the scores, of `dp`, of the probabilities and of the scores' gradient; the latter two
/// maybe the former two.
fn launch_backward<T: Value>(
    device: &CudaDevice,
    sizes: &Sizes,
    spec: &Spec<'_>,
    places: [u64; 4],
    lse: &Tensor,
    delta: &Tensor,
) -> Result<()> {
    let stream = device.cuda_stream();
    slopes!(spec, device, &stream => slopes);
    let locked = (lse.storage_and_layout(), delta.storage_and_layout());
    let (lse, delta) = (view::<f32>(&locked.0, device)?, view::<f32>(&locked.1, device)?);
    let name = format!("softmax_backward_{}_{}", T::NAME, sizes.team);
    let Sizes { rows, heads, queries, keys, raw, config, .. } = sizes;
    let [scores, dp, p, ds] = &places;
    // SAFETY: as `softmax.cu` declares it; scores, dp, p and ds have rows · keys values, lse and delta
    // rows, slopes heads or are null; a thread reads a value before it writes there.
    unsafe {
        launch!(
            device, SOFTMAX, &name, *config, scores, dp, &slopes, &lse, &delta, p, ds, rows, heads,
            queries, keys, raw
        );
    }
    Ok(())
}
