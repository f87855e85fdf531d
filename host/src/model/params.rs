//! Named parameters and their gradients, in one fixed order.

use candle_core::Tensor;

/// A tensor with its name in the file it is saved to.
#[derive(Clone, Debug)]
pub struct NamedTensor {
    /// Name as saved (`base_model.model.….lora_A.weight`, `model.embed_tokens.weight`).
    pub name: String,
    /// The value; contiguous.
    pub tensor: Tensor,
    /// Whether AdamW's weight decay applies (not to biases and norm weights).
    pub decay: bool,
    /// Whether files hold the transpose (GPT-2's linear layers).
    pub transposed: bool,
    /// Its learning rate over the run's.
    pub learning_rate_ratio: f64,
}

impl NamedTensor {
    /// A parameter with weight decay, as files hold it, at the run's learning rate.
    pub fn new(name: impl Into<String>, tensor: Tensor) -> Self {
        Self { name: name.into(), tensor, decay: true, transposed: false, learning_rate_ratio: 1.0 }
    }

    /// The value as a file holds it.
    pub fn file_tensor(&self) -> candle_core::Result<Tensor> {
        self.turned(self.tensor.clone())
    }

    /// From a file's value to the one in use, or back.
    pub fn turned(&self, tensor: Tensor) -> candle_core::Result<Tensor> {
        if self.transposed { tensor.t()?.contiguous() } else { Ok(tensor) }
    }
}

/// The parameters being trained, in a fixed order: index = [`GradSet`] index.
#[derive(Clone, Debug, Default)]
pub struct ParamSet {
    /// The parameters.
    pub params: Vec<NamedTensor>,
}

impl ParamSet {
    /// Number of trained values.
    pub fn num_values(&self) -> usize {
        self.params.iter().map(|p| p.tensor.elem_count()).sum()
    }
}

/// Takes the gradients of a block as soon as they are complete.
pub struct GradSink(Box<dyn FnMut(&mut [Option<Tensor>], usize) -> candle_core::Result<()>>);

impl GradSink {
    /// `take` is given all gradients and the block whose are complete.
    pub fn new(
        take: impl FnMut(&mut [Option<Tensor>], usize) -> candle_core::Result<()> + 'static,
    ) -> Self {
        Self(Box::new(take))
    }
}

impl std::fmt::Debug for GradSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GradSink")
    }
}

/// Gradients of a [`ParamSet`], by index; `None`: nothing flowed yet.
#[derive(Debug, Default)]
pub struct GradSet {
    /// The gradients, f32, each of its parameter's shape.
    pub grads: Vec<Option<Tensor>>,
    /// Where gradients go block by block; `None`: they stay.
    pub sink: Option<GradSink>,
    /// Blocks that went there since [`GradSet::take_done`].
    done: Vec<usize>,
}

impl GradSet {
    /// Empty gradients for `n` parameters.
    pub fn new(n: usize) -> Self {
        Self { grads: vec![None; n], ..Self::default() }
    }

    /// These gradients.
    pub fn of(grads: Vec<Option<Tensor>>) -> Self {
        Self { grads, ..Self::default() }
    }

    /// The gradients of block `layer` are complete.
    ///
    /// # Errors
    /// The sink's.
    pub fn block_done(&mut self, layer: usize) -> candle_core::Result<()> {
        let Some(sink) = &mut self.sink else { return Ok(()) };
        if self.done.contains(&layer) {
            candle_core::bail!("block {layer} was differentiated twice in one micro-batch");
        }
        self.done.push(layer);
        (sink.0)(&mut self.grads, layer)
    }

    /// Blocks that went to the sink since the last call.
    pub fn take_done(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.done)
    }

    /// Forgets everything, keeping the size.
    pub fn clear(&mut self) {
        self.grads.iter_mut().for_each(|g| *g = None);
    }

    /// Adds `grad` to the gradient of parameter `index`.
    pub fn add(&mut self, index: usize, grad: Tensor) -> candle_core::Result<()> {
        let slot = &mut self.grads[index];
        *slot = Some(match slot.take() {
            Some(sum) => (sum + grad)?,
            None => grad,
        });
        Ok(())
    }

    /// Adds a gradient that is wanted.
    pub fn add_optional(
        &mut self,
        index: Option<usize>,
        grad: Option<Tensor>,
    ) -> candle_core::Result<()> {
        match (index, grad) {
            (Some(index), Some(grad)) => self.add(index, grad),
            _ => Ok(()),
        }
    }
}
