//! Fused CUDA kernels, each the equal of a CPU kernel of [`super`]: the `.cu` files beside this one,
//! compiled to PTX by `build.rs`, and what launches them.
//!
//! Tensors are contiguous (a start offset is respected), on one CUDA device, and f32 unless said
//! otherwise. No kernel uses atomics or an order that depends on scheduling: the same inputs give the
//! same bits on every run. Launches are asynchronous, on the device's stream.
//!
//! [`crate::device::open`] gives a device one stream for all threads.

use std::cell::RefCell;
use std::ops::Deref;

use candle_core::backend::BackendDevice;
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, CudaView, CudaViewMut, DeviceRepr, LaunchConfig,
};
use candle_core::cuda_backend::{CudaDType, CudaDevice, CudaStorage};
use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Result, Shape, Storage, Tensor};

pub mod activation;
pub mod adamw;
pub mod dropout;
pub mod head;
pub mod norm;
pub mod quant;
pub mod rope;
pub mod softmax;

#[cfg(test)]
mod tests;

/// The kernels of one `.cu` file.
struct Module {
    name: &'static str,
    ptx: &'static str,
}

/// The kernels of `NAME.cu`.
macro_rules! module {
    ($name:literal) => {
        $crate::ops::cuda::Module {
            name: concat!("trainer_", $name),
            ptx: include_str!(concat!(env!("OUT_DIR"), "/", $name, ".ptx")),
        }
    };
}
use module;

/// Launches kernel `$name` of `$module` with references to its arguments. To be called in an `unsafe`
/// block: number, order and types of the arguments must be the kernel's, and what it reads and writes
/// must lie within them.
macro_rules! launch {
    ($device:expr, $module:expr, $name:expr, $config:expr, $($arg:expr),+ $(,)?) => {{
        use candle_core::cuda_backend::WrapErr as _;
        use candle_core::cuda_backend::cudarc::driver::PushKernelArg as _;
        let function = $device.get_or_load_custom_func($name, $module.name, $module.ptx)?;
        let mut builder = function.builder();
        $(builder.arg($arg);)+
        builder.launch($config).w()?;
    }};
}
use launch;

/// A floating-point type that kernels exist for.
trait Value: CudaDType + DeviceRepr {
    /// What their names end with.
    const NAME: &'static str;
}

impl Value for f32 {
    const NAME: &'static str = "f32";
}

impl Value for half::bf16 {
    const NAME: &'static str = "bf16";
}

impl Value for half::f16 {
    const NAME: &'static str = "f16";
}

/// `$function::<T>(…)` with the type of `$dtype`.
macro_rules! by_dtype {
    ($dtype:expr, $function:ident($($arg:expr),* $(,)?)) => {
        match $dtype {
            candle_core::DType::F32 => $function::<f32>($($arg),*),
            candle_core::DType::BF16 => $function::<half::bf16>($($arg),*),
            candle_core::DType::F16 => $function::<half::f16>($($arg),*),
            other => candle_core::bail!("no CUDA kernel for {other:?}; use f32, bf16 or f16"),
        }
    };
}
use by_dtype;

/// The CUDA device of a tensor.
fn cuda(tensor: &Tensor) -> Result<&CudaDevice> {
    match tensor.device() {
        Device::Cuda(device) => Ok(device),
        _ => candle_core::bail!("a CUDA kernel was given a tensor of another device"),
    }
}

/// First and last + 1 value of a contiguous layout.
fn range(layout: &Layout) -> Result<(usize, usize)> {
    match layout.contiguous_offsets() {
        Some(range) => Ok(range),
        None => candle_core::bail!(
            "a CUDA kernel was given a tensor with strides {:?}; call contiguous() first",
            layout.stride()
        ),
    }
}

/// The values of a tensor whose storage is locked for reading.
fn view<'a, T: CudaDType>(
    locked: &'a (impl Deref<Target = Storage>, &Layout),
    device: &CudaDevice,
) -> Result<CudaView<'a, T>> {
    let Storage::Cuda(storage) = &*locked.0 else {
        candle_core::bail!("a CUDA kernel was given a tensor of another device");
    };
    if !storage.device.same_device(device) {
        candle_core::bail!("a CUDA kernel was given tensors of two devices");
    }
    let (start, end) = range(locked.1)?;
    Ok(storage.as_cuda_slice::<T>()?.slice(start..end))
}

/// Calls `f` with the values of `tensor`, to be changed, while its storage is locked. Whoever shares
/// the storage sees the change.
fn modify<T: CudaDType>(
    tensor: &Tensor,
    f: impl FnOnce(CudaViewMut<'_, T>, &CudaDevice) -> Result<()>,
) -> Result<()> {
    struct Op<F>(RefCell<Option<F>>);
    impl<F: FnOnce(&mut CudaStorage, &Layout) -> Result<()>> InplaceOp1 for Op<F> {
        fn name(&self) -> &'static str {
            "modify"
        }
        fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
            candle_core::bail!("a CUDA kernel was given a tensor of the CPU")
        }
        fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> Result<()> {
            match self.0.borrow_mut().take() {
                Some(f) => f(storage, layout),
                None => Ok(()),
            }
        }
    }
    let op = |storage: &mut CudaStorage, layout: &Layout| {
        let (start, end) = range(layout)?;
        let device = storage.device.clone();
        f(storage.as_cuda_slice_mut::<T>()?.slice_mut(start..end), &device)
    };
    tensor.inplace_op1(&Op(RefCell::new(Some(op))))
}

/// Fails when two of the tensors share their memory: locking both would never end.
fn distinct(tensors: &[&Tensor]) -> Result<()> {
    let mut places: Vec<usize> = tensors
        .iter()
        .map(|tensor| std::ptr::from_ref(&*tensor.storage_and_layout().0).addr())
        .collect();
    places.sort_unstable();
    if places.windows(2).any(|pair| pair[0] == pair[1]) {
        candle_core::bail!("tensors that a CUDA kernel changes share their memory; copy() them");
    }
    Ok(())
}

/// Memory for `n` values, which are whatever they are.
fn output<T: DeviceRepr>(device: &CudaDevice, n: usize) -> Result<CudaSlice<T>> {
    // SAFETY: every caller writes all of the values by its kernel before anything reads them. CUDA
    // can't allocate nothing at all.
    unsafe { device.alloc::<T>(n.max(1)) }
}

/// A tensor of values that a kernel wrote.
fn tensor<T: CudaDType>(
    values: CudaSlice<T>,
    device: &CudaDevice,
    shape: impl Into<Shape>,
) -> Tensor {
    let storage = CudaStorage::wrap_cuda_slice(values, device.clone());
    Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false)
}

/// A number of blocks; CUDA allows 2³¹ - 1.
fn blocks(n: usize) -> Result<u32> {
    match i32::try_from(n) {
        Ok(n) => Ok(n.unsigned_abs()),
        Err(_) => candle_core::bail!("{n} rows are too many for a CUDA kernel; split the batch"),
    }
}

/// `n` blocks of `threads`.
fn config(n: u32, threads: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (n, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 }
}

/// For kernels of one block a row: a thread for every `each` values of `width`, 32 to 256.
fn by_rows(rows: usize, width: usize, each: usize) -> Result<LaunchConfig> {
    let threads = width.div_ceil(each).next_multiple_of(32).clamp(32, 256);
    Ok(config(blocks(rows)?, threads as u32))
}

/// For kernels that go over `n` values four or more at a time, as many threads as there are.
fn flat(n: usize) -> LaunchConfig {
    config(n.div_ceil(1024).clamp(1, 8192) as u32, 256)
}
