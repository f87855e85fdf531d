//! GGUF's blocks as llama.cpp defines them, widened by candle's own functions: Q8_0, Q6_K, Q5_K, Q4_K,
//! Q4_1, Q4_0 and the others it knows. Blocks never cross rows.

use candle_core::Result;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::k_quants::{
    BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K,
    BlockQ8_0, GgmlType,
};

/// Rows of blocks of one kind.
trait BlockRows: Send + Sync {
    /// Blocks `first..` as f32.
    fn widen(&self, first: usize, to: &mut [f32]);
    /// The blocks as a file holds them.
    fn data(&self) -> &[u8];
}

impl<T: GgmlType> BlockRows for Vec<T> {
    fn widen(&self, first: usize, to: &mut [f32]) {
        T::to_float(&self[first..first + to.len() / T::BLCK_SIZE], to);
    }

    fn data(&self) -> &[u8] {
        // SAFETY: candle's block types are plain structures of numbers without gaps, in the layout of the
        // file; the slice covers the vector's elements and lives as long as they do.
        unsafe { std::slice::from_raw_parts(self.as_ptr().cast(), size_of_val(self.as_slice())) }
    }
}

/// A matrix `[out, in]` in rows of blocks.
pub struct Blocks {
    blocks: Box<dyn BlockRows>,
    rows: usize,
    width: usize,
    dtype: GgmlDType,
}

impl std::fmt::Debug for Blocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Blocks({:?}, [{}, {}])", self.dtype, self.rows, self.width)
    }
}

fn from_bytes<T: GgmlType + 'static>(bytes: &[u8]) -> Box<dyn BlockRows> {
    let count = bytes.len() / size_of::<T>();
    let mut blocks = vec![T::zeros(); count];
    // SAFETY: the vector owns `count` blocks of this size; candle's block types are plain structures of
    // numbers, in the layout of the file, for which every bit pattern is a value.
    unsafe {
        let to = blocks.as_mut_ptr().cast::<u8>();
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, count * size_of::<T>());
    }
    Box::new(blocks)
}

impl Blocks {
    /// Whether matrices of this type are rows of blocks that can be used.
    pub fn is_known(dtype: GgmlDType) -> bool {
        use GgmlDType::*;
        matches!(dtype, Q2K | Q3K | Q4_0 | Q4_1 | Q4K | Q5_0 | Q5_1 | Q5K | Q6K | Q8_0)
    }

    /// From the bytes of `rows` rows of `width` values.
    ///
    /// # Errors
    /// When the numbers don't fit, or for a kind that is no block.
    pub fn from_bytes(bytes: &[u8], dtype: GgmlDType, rows: usize, width: usize) -> Result<Self> {
        let block = dtype.block_size();
        if width == 0 || !width.is_multiple_of(block) {
            candle_core::bail!("rows of {width} values are not whole blocks of {block}");
        }
        let row_bytes = width / block * dtype.type_size();
        if Some(bytes.len()) != rows.checked_mul(row_bytes) {
            candle_core::bail!("{} bytes don't hold {rows} rows of {row_bytes}", bytes.len());
        }
        let blocks = match dtype {
            GgmlDType::Q2K => from_bytes::<BlockQ2K>(bytes),
            GgmlDType::Q3K => from_bytes::<BlockQ3K>(bytes),
            GgmlDType::Q4_0 => from_bytes::<BlockQ4_0>(bytes),
            GgmlDType::Q4_1 => from_bytes::<BlockQ4_1>(bytes),
            GgmlDType::Q4K => from_bytes::<BlockQ4K>(bytes),
            GgmlDType::Q5_0 => from_bytes::<BlockQ5_0>(bytes),
            GgmlDType::Q5_1 => from_bytes::<BlockQ5_1>(bytes),
            GgmlDType::Q5K => from_bytes::<BlockQ5K>(bytes),
            GgmlDType::Q6K => from_bytes::<BlockQ6K>(bytes),
            GgmlDType::Q8_0 => from_bytes::<BlockQ8_0>(bytes),
            other => candle_core::bail!("{other:?} is no kind of block"),
        };
        Ok(Self { blocks, rows, width, dtype })
    }

    /// `(out, in)`.
    pub fn dims(&self) -> (usize, usize) {
        (self.rows, self.width)
    }

    /// Kind of block.
    pub fn dtype(&self) -> GgmlDType {
        self.dtype
    }

    /// The blocks, row by row, as a file holds them.
    pub fn data(&self) -> &[u8] {
        self.blocks.data()
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.rows * self.width / self.dtype.block_size() * self.dtype.type_size()
    }

    /// A row as f32.
    pub fn widen_row(&self, row: usize, to: &mut [f32]) {
        self.blocks.widen(row * self.width / self.dtype.block_size(), to);
    }
}
