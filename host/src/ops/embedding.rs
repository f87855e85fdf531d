//! Rows of a table.

use candle_core::{DType, Result, Tensor};

use super::Exec;
use super::cpu::slices::{into_vec, tensor, with_f32};

/// `table [vocab, hidden]` (f32 or bf16), `ids [tokens]` → `[tokens, hidden]` f32.
///
/// # Errors
/// When an id is beyond the table or a device fails.
pub fn forward(_exec: Exec, table: &Tensor, ids: &[u32]) -> Result<Tensor> {
    let ids = Tensor::new(ids, table.device())?;
    table.index_select(&ids, 0)?.to_dtype(DType::F32)
}

/// Rows `x [n, hidden]` at the places `positions [n]` of `[tokens, hidden]`, zero elsewhere. Positions
/// differ from each other.
///
/// # Errors
/// When a position is beyond `tokens` or a device fails.
pub fn spread(exec: Exec, x: &Tensor, positions: &[u32], tokens: usize) -> Result<Tensor> {
    let (n, hidden) = x.dims2()?;
    let zeros = |rows: usize| Tensor::zeros((rows, hidden), x.dtype(), x.device());
    if exec.on_cpu(x) || exec == Exec::Portable {
        return zeros(tokens)?.index_add(&Tensor::new(positions, x.device())?, x, 0);
    }
    // candle's kernel adds row after row; here each place looks up its row, the last of which is zero.
    let mut row_of = vec![n as u32; tokens];
    for (row, &position) in positions.iter().enumerate() {
        match row_of.get_mut(position as usize) {
            Some(place) => *place = row as u32,
            None => candle_core::bail!("position {position} is beyond {tokens} tokens"),
        }
    }
    let row_of = Tensor::from_vec(row_of, tokens, x.device())?;
    Tensor::cat(&[x, &zeros(1)?], 0)?.index_select(&row_of, 0)
}

/// Adds the rows of `dy [tokens, hidden]` to row `ids[t]` of `grad [vocab, hidden]`, in token
/// order. `grad` of `None` starts at zero.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    exec: Exec,
    dy: &Tensor,
    ids: &[u32],
    vocab_size: usize,
    grad: Option<Tensor>,
) -> Result<Tensor> {
    let hidden = dy.dim(1)?;
    if !exec.on_cpu(dy) {
        let grad = match grad {
            Some(grad) => grad,
            None => Tensor::zeros((vocab_size, hidden), DType::F32, dy.device())?,
        };
        return grad.index_add(&Tensor::new(ids, dy.device())?, dy, 0);
    }
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
        candle_core::bail!("token id {id} is beyond the table's {vocab_size} rows");
    }
    let mut sum = match grad {
        Some(grad) => into_vec(grad)?,
        None => vec![0f32; vocab_size * hidden],
    };
    with_f32(dy, |dy| {
        for (row, &id) in dy.chunks_exact(hidden).zip(ids) {
            let to = &mut sum[id as usize * hidden..][..hidden];
            to.iter_mut().zip(row).for_each(|(t, r)| *t += r);
        }
        Ok(())
    })?;
    tensor(sum, (vocab_size, hidden))
}
