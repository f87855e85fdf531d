//! Slices of contiguous CPU tensors, and tensors out of vectors, without copying.

use candle_core::{CpuStorage, DType, Device, Result, Shape, Storage, Tensor, WithDType};

/// Calls `f` with the values of a contiguous CPU tensor.
///
/// # Errors
/// When the tensor is not on the CPU, not contiguous, or of another type.
pub fn with<T: WithDType, R>(tensor: &Tensor, f: impl FnOnce(&[T]) -> Result<R>) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        candle_core::bail!("a CPU kernel was given a tensor of another device");
    };
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("a CPU kernel was given a tensor with strides {:?}", layout.stride());
    };
    f(&storage.as_slice::<T>()?[start..end])
}

/// Values of an f32 tensor.
pub fn with_f32<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    with::<f32, R>(tensor, f)
}

/// A CPU tensor that owns `values`.
pub fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// The values of `tensor`: taken over when nobody else holds them, copied otherwise.
pub fn into_vec(tensor: Tensor) -> Result<Vec<f32>> {
    with_f32(&tensor, |values| Ok(values.to_vec()))
}

/// Changes the values of an f32 tensor in place when this is its only holder; otherwise works on
/// a copy. Returns the tensor that holds the result.
pub fn modify(tensor: Tensor, f: impl FnOnce(&mut [f32])) -> Result<Tensor> {
    struct Op<F>(std::cell::RefCell<Option<F>>);
    impl<F: FnOnce(&mut [f32])> candle_core::InplaceOp1 for Op<F> {
        fn name(&self) -> &'static str {
            "modify"
        }
        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &candle_core::Layout) -> Result<()> {
            let Some((start, end)) = layout.contiguous_offsets() else {
                candle_core::bail!("a CPU kernel was given a tensor with gaps");
            };
            let CpuStorage::F32(values) = storage else {
                candle_core::bail!("a CPU kernel was given a tensor of another type than f32");
            };
            if let Some(f) = self.0.borrow_mut().take() {
                f(&mut values[start..end]);
            }
            Ok(())
        }
    }
    if tensor.dtype() != DType::F32 {
        candle_core::bail!("a CPU kernel was given {:?} where f32 is needed", tensor.dtype());
    }
    tensor.inplace_op1(&Op(std::cell::RefCell::new(Some(f))))?;
    Ok(tensor)
}
