//! Values of tensors on any device as slices of the host.

use candle_core::{Result, Tensor};

use super::cpu::slices::{modify, with_f32};

/// Calls `f` with the values of a contiguous f32 tensor; those of a GPU are fetched first.
///
/// # Errors
/// When the tensor is not contiguous or of another type, or a device fails.
pub fn with_values<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    match tensor.device().is_cpu() {
        true => with_f32(tensor, f),
        false => f(&tensor.flatten_all()?.to_vec1::<f32>()?),
    }
}

/// Changes the values of a contiguous f32 tensor in place, for all its holders.
///
/// # Errors
/// As [`with_values`].
pub fn change(tensor: Tensor, f: impl FnOnce(&mut [f32])) -> Result<Tensor> {
    if tensor.device().is_cpu() {
        return modify(tensor, f);
    }
    let flat = tensor.flatten_all()?;
    let mut values = flat.to_vec1::<f32>()?;
    f(&mut values);
    flat.slice_set(&Tensor::from_vec(values, flat.dims1()?, tensor.device())?, 0, 0)?;
    Ok(tensor)
}
