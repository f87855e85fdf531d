//! Where tensors live: the CPU, or a GPU that a CUDA build found.

use std::fmt;
use std::str::FromStr;

use candle_core::Device;
use serde::{Serialize, Serializer};

/// What `--device` asks for. A GPU without a number is that of the process's rank on its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU where there is one, else the CPU.
    Auto(Option<usize>),
    /// The CPU.
    Cpu,
    /// A GPU, or an error.
    Cuda(Option<usize>),
}

impl Default for DeviceChoice {
    fn default() -> Self {
        DeviceChoice::Auto(None)
    }
}

impl DeviceChoice {
    /// The choice of a process that is the machine's number `local_rank`.
    pub fn of_rank(self, local_rank: usize) -> Self {
        match self {
            DeviceChoice::Auto(None) => DeviceChoice::Auto(Some(local_rank)),
            DeviceChoice::Cuda(None) => DeviceChoice::Cuda(Some(local_rank)),
            chosen => chosen,
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "auto" => Ok(DeviceChoice::Auto(None)),
            None if text == "cpu" => Ok(DeviceChoice::Cpu),
            None if text == "cuda" => Ok(DeviceChoice::Cuda(None)),
            Some(("cuda", number)) if number.parse::<usize>().is_ok() => {
                Ok(DeviceChoice::Cuda(number.parse().ok()))
            }
            _ => Err(format!("`{text}` is no device; give auto, cpu, cuda or cuda:N")),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto(_) => f.write_str("auto"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Cuda(None) => f.write_str("cuda"),
            DeviceChoice::Cuda(Some(n)) => write!(f, "cuda:{n}"),
        }
    }
}

impl Serialize for DeviceChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why there is no GPU.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The build knows none.
    #[error(
        "this build has no CUDA; make one that has with `scripts/cuda.sh build`, or give `--device cpu`"
    )]
    NotBuilt,
    /// A library of NVIDIA's is absent.
    #[error("{library} was not found; install {what}, or give `--device cpu`")]
    Library {
        /// File name.
        library: &'static str,
        /// What brings it.
        what: &'static str,
    },
    /// The driver sees no GPU.
    #[error("the NVIDIA driver sees no GPU ({0}); look at `nvidia-smi`, or give `--device cpu`")]
    NoGpu(String),
    /// There are fewer GPUs.
    #[error("`--device cuda:{wanted}`: the driver sees {found} GPU(s), numbered from 0")]
    NoSuch {
        /// Which was wanted.
        wanted: usize,
        /// How many there are.
        found: usize,
    },
    /// A GPU can't be used.
    #[error("GPU {number} can't be used: {reason}; look at `nvidia-smi`, or give `--device cpu`")]
    Failed {
        /// Which.
        number: usize,
        /// Why.
        reason: String,
    },
}

/// The device of a choice. One process opens a GPU once: tensors of one are tensors of all.
///
/// # Errors
/// When a GPU is asked for that can't be had.
pub fn open(choice: DeviceChoice) -> Result<Device, DeviceError> {
    match choice {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Cuda(number) => gpu(number.unwrap_or(0)),
        DeviceChoice::Auto(number) => Ok(gpu(number.unwrap_or(0)).unwrap_or(Device::Cpu)),
    }
}

/// Number of the GPU that a choice means, where there is one.
pub fn gpu_of(choice: DeviceChoice) -> Option<usize> {
    match choice {
        DeviceChoice::Cpu => None,
        DeviceChoice::Auto(number) | DeviceChoice::Cuda(number) => {
            let number = number.unwrap_or(0);
            gpu(number).is_ok().then_some(number)
        }
    }
}

/// Why a choice that was left to us fell on the CPU, in a build that could have used a GPU.
pub fn notice(choice: DeviceChoice) -> Option<String> {
    match choice {
        DeviceChoice::Auto(number) => match gpu(number.unwrap_or(0)) {
            Ok(_) | Err(DeviceError::NotBuilt) => None,
            Err(reason) => Some(format!("runs on the CPU: {reason}")),
        },
        _ => None,
    }
}

/// The device's name for people.
pub fn describe(device: &Device) -> String {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(cuda) = device {
        let stream = cuda.cuda_stream();
        let context = stream.context();
        let name = context.name().unwrap_or_else(|_| "a GPU".into());
        return format!("cuda:{} ({name})", context.ordinal());
    }
    match device {
        Device::Cpu => "CPU".into(),
        _ => "a GPU".into(),
    }
}

/// Memory of a GPU that nobody uses, bytes; `None` on the CPU.
pub fn free_bytes(device: &Device) -> Option<u64> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(cuda) = device {
        return cuda.cuda_stream().context().mem_get_info().ok().map(|(free, _)| free as u64);
    }
    let _ = device;
    None
}

#[cfg(not(feature = "cuda"))]
fn gpu(_: usize) -> Result<Device, DeviceError> {
    Err(DeviceError::NotBuilt)
}

#[cfg(feature = "cuda")]
fn gpu(number: usize) -> Result<Device, DeviceError> {
    use std::collections::BTreeMap;
    use std::sync::{Mutex, PoisonError};
    static OPENED: Mutex<BTreeMap<usize, Result<Device, DeviceError>>> =
        Mutex::new(BTreeMap::new());
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    opened.entry(number).or_insert_with(|| open_gpu(number)).clone()
}

#[cfg(feature = "cuda")]
fn open_gpu(number: usize) -> Result<Device, DeviceError> {
    use candle_core::cuda_backend::cudarc::{cublas, curand, driver};
    // The binding panics where a library is absent: ask first.
    // SAFETY: these only try to load a shared library of that name.
    let (has_driver, has_cublas, has_curand) = unsafe {
        (
            driver::sys::is_culib_present(),
            cublas::sys::is_culib_present(),
            curand::sys::is_culib_present(),
        )
    };
    let missing = |library, what| Err(DeviceError::Library { library, what });
    if !has_driver {
        return missing("libcuda.so.1", "NVIDIA's driver");
    }
    if !has_cublas {
        return missing(
            "libcublas.so.13",
            "CUDA 13's libraries and name their folder in LD_LIBRARY_PATH",
        );
    }
    if !has_curand {
        return missing(
            "libcurand.so.10",
            "CUDA 13's libraries and name their folder in LD_LIBRARY_PATH",
        );
    }
    let found =
        driver::CudaContext::device_count().map_err(|e| DeviceError::NoGpu(e.to_string()))?;
    let found = usize::try_from(found).unwrap_or(0);
    if found == 0 {
        return Err(DeviceError::NoGpu("it counts none".into()));
    }
    if number >= found {
        return Err(DeviceError::NoSuch { wanted: number, found });
    }
    let failed = |e: candle_core::Error| DeviceError::Failed { number, reason: e.to_string() };
    let device = Device::new_cuda_with_stream(number).map_err(failed)?;
    if let Device::Cuda(cuda) = &device {
        // SAFETY: everything runs on this one stream, in the order it was asked for; so nothing is freed
        // or written while another stream uses it.
        unsafe { cuda.disable_event_tracking() };
        keep_memory(cuda.cuda_stream().context().cu_device());
    }
    Ok(device)
}

/// Lets the driver keep what was freed for the next allocation; without it the memory goes back to the
/// system at every wait and must be mapped again.
#[cfg(feature = "cuda")]
fn keep_memory(device: candle_core::cuda_backend::cudarc::driver::sys::CUdevice) {
    use candle_core::cuda_backend::cudarc::driver::{result, sys};
    let mut threshold = u64::MAX;
    // SAFETY: the device is open, its default pool lives as long as it, and the attribute is a u64.
    // A driver without pools goes on without.
    unsafe {
        if let Ok(pool) = result::device::get_default_mem_pool(device) {
            let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            let _ = result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast());
        }
    }
}

/// The most that was in use at a time of a GPU's memory by this process's tensors, bytes.
pub fn peak_bytes(device: &Device) -> Option<u64> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(cuda) = device {
        use candle_core::cuda_backend::cudarc::driver::{result, sys};
        let mut bytes = 0u64;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
        // SAFETY: as in `keep_memory`.
        return unsafe {
            let device = cuda.cuda_stream().context().cu_device();
            let pool = result::device::get_default_mem_pool(device).ok()?;
            result::mem_pool::get_attribute(pool, attribute, (&raw mut bytes).cast()).ok()?;
            Some(bytes)
        };
    }
    let _ = device;
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_and_written() {
        for text in ["auto", "cpu", "cuda", "cuda:3"] {
            assert_eq!(text.parse::<DeviceChoice>().unwrap().to_string(), text);
        }
        for text in ["", "gpu", "cuda:", "cuda:-1", "cpu:0"] {
            assert!(text.parse::<DeviceChoice>().unwrap_err().contains("cuda:N"), "{text}");
        }
        assert_eq!(DeviceChoice::Auto(None).of_rank(2), DeviceChoice::Auto(Some(2)));
        assert_eq!(DeviceChoice::Cuda(Some(1)).of_rank(2), DeviceChoice::Cuda(Some(1)));
    }

    #[test]
    fn a_gpu_that_is_not_there_is_an_error_and_auto_takes_the_cpu() {
        let wanted = open(DeviceChoice::Cuda(Some(99))).unwrap_err().to_string();
        assert!(wanted.contains("--device cpu") || wanted.contains("numbered from 0"), "{wanted}");
        assert!(open(DeviceChoice::Auto(Some(99))).unwrap().is_cpu());
    }
}
