//! What the fused CPU kernels are made of: slices of tensors, products, vectorised mathematics.

pub mod attention;
pub mod divergence;
pub mod gemm;
pub mod head;
pub mod math;
pub mod slices;
pub mod softcap;
pub mod widened;

/// Elements of work below which a kernel stays on its thread: starting others costs more.
pub const PARALLEL_MIN: usize = 16 * 1024;

/// Compiles a function three times (AVX-512, AVX2 with FMA, baseline) and picks at run time, so
/// that plain loops vectorise although the binary runs on every x86-64.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
                fn v4($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn v3($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                match $crate::ops::cpu::level() {
                    // SAFETY: the features were detected on this machine.
                    $crate::ops::cpu::Level::Avx512 => return unsafe { v4($($arg),*) },
                    // SAFETY: as above.
                    $crate::ops::cpu::Level::Avx2 => return unsafe { v3($($arg),*) },
                    $crate::ops::cpu::Level::Baseline => {}
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use multiversion;

/// Instruction sets that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// AVX-512 F, VL, BW, DQ.
    Avx512,
    /// AVX2 and FMA.
    Avx2,
    /// What every machine has.
    Baseline,
}

/// What this machine has.
pub fn level() -> Level {
    static LEVEL: std::sync::OnceLock<Level> = std::sync::OnceLock::new();
    *LEVEL.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        {
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq");
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            match (avx512 && avx2, avx2) {
                (true, _) => return Level::Avx512,
                (_, true) => return Level::Avx2,
                _ => {}
            }
        }
        Level::Baseline
    })
}

/// A pointer that tasks write through, each to places of its own.
#[derive(Clone, Copy)]
pub struct SharedMut(*mut f32);

// SAFETY: whoever dereferences it states why no two tasks touch the same element.
unsafe impl Send for SharedMut {}
// SAFETY: as above.
unsafe impl Sync for SharedMut {}

impl SharedMut {
    /// Of a slice that outlives every use.
    pub fn new(slice: &mut [f32]) -> Self {
        Self(slice.as_mut_ptr())
    }

    /// The element at `offset`.
    ///
    /// # Safety
    /// `offset` is within the slice, and no other task touches what is written through it.
    pub unsafe fn add(self, offset: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(offset) }
    }
}
