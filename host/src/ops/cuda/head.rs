//! Scores of rows of logits, and their gradient in place.

use candle_core::cuda_backend::cudarc::driver::CudaView;
use candle_core::{Result, Tensor};

use super::{Module, Value, blocks, by_dtype, config, cuda, distinct, launch, modify, module};
use super::{output, tensor, view};

const HEAD: Module = module!("head");

/// Scores `logits [n, vocab]` (f32, bf16 or f16; sums are f32) by `targets [n]`, u32 → `[n, 3]`, f32: the
/// target's log-probability, the distribution's entropy, and 1 where no token is more likely, else 0.
/// With `dlogprobs [n]`, f32, the logits become `dlogprob · (onehot - softmax)` in their own storage,
/// which is returned; without, they stay as they are. A target beyond the vocabulary, which only the
/// device could notice, scores NaN.
///
/// # Errors
/// When shapes don't fit, a tensor is not contiguous of one CUDA device and of its type, or the
/// device fails.
pub fn score(
    logits: Tensor,
    targets: &Tensor,
    dlogprobs: Option<&Tensor>,
) -> Result<(Tensor, Tensor)> {
    let (n, vocab) = logits.dims2()?;
    if targets.dims() != [n] || dlogprobs.is_some_and(|d| d.dims() != [n]) || vocab == 0 {
        candle_core::bail!(
            "targets {:?} and derivatives {:?} don't fit logits {:?}",
            targets.dims(),
            dlogprobs.map(Tensor::dims),
            logits.dims()
        );
    }
    if let Some(dlogprobs) = dlogprobs {
        distinct(&[&logits, dlogprobs])?;
    }
    let scores = by_dtype!(logits.dtype(), score_of(&logits, targets, dlogprobs))?;
    Ok((scores, logits))
}

fn score_of<T: Value>(
    logits: &Tensor,
    targets: &Tensor,
    dlogprobs: Option<&Tensor>,
) -> Result<Tensor> {
    let ((n, vocab), device) = (logits.dims2()?, cuda(logits)?);
    let mut scores = output::<f32>(device, n * 3)?;
    if n > 0 {
        let config = config(blocks(n)?, 512);
        let name = format!("score_{}", T::NAME);
        let locked = targets.storage_and_layout();
        let targets = view::<u32>(&locked, device)?;
        if let Some(dlogprobs) = dlogprobs {
            let locked = dlogprobs.storage_and_layout();
            let coefficients = view::<f32>(&locked, device)?;
            modify::<T>(logits, |mut logits, device| {
                // SAFETY: as `head.cu` declares it; a block a row of logits, which has a target, a
                // coefficient and three scores.
                unsafe {
                    launch!(
                        device,
                        HEAD,
                        &name,
                        config,
                        &mut logits,
                        &targets,
                        &coefficients,
                        &mut scores,
                        &vocab
                    );
                }
                Ok(())
            })?;
        } else {
            let locked = logits.storage_and_layout();
            let (logits, none): (CudaView<'_, T>, u64) = (view(&locked, device)?, 0);
            // SAFETY: as above; without coefficients (a null pointer) the logits are only read.
            unsafe {
                launch!(device, HEAD, &name, config, &logits, &targets, &none, &mut scores, &vocab);
            }
        }
    }
    Ok(tensor(scores, device, (n, 3)))
}
