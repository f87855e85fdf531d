//! Sums of gradients in an order that the number of ranks does not change: a binary tree over the
//! micro-batches of an update. A rank adds up the subtrees that lie wholly within its share; their
//! sums are gathered and added in the tree's order.

use candle_core::{Result as TensorResult, Tensor};

use crate::dist::World;
use crate::error::Result;
use crate::model::{GradSet, ParamSet};
use crate::ops::transfer::with_values;

/// The sum over leaves `index << level .. (index + 1) << level`, cut off at the last leaf.
struct Node<T> {
    level: u32,
    index: usize,
    value: T,
}

/// Adds nodes that come in the order of their leaves.
struct Adder<T, F> {
    stack: Vec<Node<T>>,
    add: F,
}

impl<T, F: FnMut(T, T) -> TensorResult<T>> Adder<T, F> {
    fn push(&mut self, mut node: Node<T>) -> TensorResult<()> {
        while let Some(left) = self.stack.last() {
            let siblings = left.level == node.level
                && left.index.is_multiple_of(2)
                && left.index + 1 == node.index;
            if !siblings {
                break;
            }
            let Some(left) = self.stack.pop() else { break };
            let value = (self.add)(left.value, node.value)?;
            node = Node { level: node.level + 1, index: left.index / 2, value };
        }
        self.stack.push(node);
        Ok(())
    }

    /// The root: what has no right sibling joins the next one on its left.
    fn root(mut self) -> TensorResult<Option<T>> {
        let Some(last) = self.stack.pop() else { return Ok(None) };
        let mut value = last.value;
        while let Some(left) = self.stack.pop() {
            value = (self.add)(left.value, value)?;
        }
        Ok(Some(value))
    }
}

type Grads = Vec<Option<Tensor>>;

fn add_tensors(a: Option<Tensor>, b: Option<Tensor>) -> TensorResult<Option<Tensor>> {
    Ok(match (a, b) {
        (Some(a), Some(b)) => Some((a + b)?),
        (a, b) => a.or(b),
    })
}

fn add_all(a: Grads, b: Grads) -> TensorResult<Grads> {
    a.into_iter().zip(b).map(|(a, b)| add_tensors(a, b)).collect()
}

/// A rank's part of the tree.
pub struct Tree {
    adder: Adder<Grads, fn(Grads, Grads) -> TensorResult<Grads>>,
    next: usize,
}

impl Tree {
    /// For micro-batches from number `first` of the update on.
    pub fn new(first: usize) -> Self {
        Self { adder: Adder { stack: Vec::new(), add: add_all }, next: first }
    }

    /// Takes the gradients of the next micro-batch.
    ///
    /// # Errors
    /// A failing tensor operation.
    pub fn push(&mut self, grads: &mut GradSet) -> Result<()> {
        let empty = vec![None; grads.grads.len()];
        let value = std::mem::replace(&mut grads.grads, empty);
        let index = self.next;
        self.next += 1;
        Ok(self.adder.push(Node { level: 0, index, value })?)
    }

    /// Puts the sum over all ranks' micro-batches into `grads`.
    ///
    /// # Errors
    /// A rank that is missing.
    pub fn sum(self, world: &World, params: &ParamSet, grads: &mut GradSet) -> Result<()> {
        let own = self.adder.stack;
        if world.is_single() {
            let adder = Adder { stack: own, add: add_all };
            if let Some(sum) = adder.root()? {
                grads.grads = sum;
            }
            return Ok(());
        }
        let describe = |node: &Node<Grads>| {
            let present: Vec<bool> = node.value.iter().map(Option::is_some).collect();
            (node.level, node.index, present)
        };
        let described: Vec<_> = own.iter().map(describe).collect();
        let nodes = world.gather(&described, "gradients' places")?;
        for (i, param) in params.params.iter().enumerate() {
            let with =
                |nodes: &Vec<(u32, usize, Vec<bool>)>| nodes.iter().filter(|n| n.2[i]).count();
            let most = nodes.iter().map(with).max().unwrap_or(0);
            if most == 0 {
                grads.grads[i] = None;
                continue;
            }
            let n = param.tensor.elem_count();
            let mut sent: Vec<f32> = Vec::with_capacity(most * n);
            for grad in own.iter().filter_map(|node| node.value[i].as_ref()) {
                with_values(grad, |values| {
                    sent.extend_from_slice(values);
                    Ok(())
                })?;
            }
            sent.resize(most * n, 0.0);
            let bytes: Vec<u8> = sent.iter().flat_map(|v| v.to_le_bytes()).collect();
            let mut all = vec![0; bytes.len() * world.size()];
            world.collective().all_gather(&bytes, &mut all, "gradients")?;
            let mut adder = Adder { stack: Vec::new(), add: add_tensors };
            for (nodes, theirs) in nodes.iter().zip(all.chunks(bytes.len())) {
                let mut values = theirs.chunks(4 * n);
                for (level, index, present) in nodes {
                    let value = match present[i] {
                        false => None,
                        true => {
                            values.next().map(|bytes| tensor(bytes, &param.tensor)).transpose()?
                        }
                    };
                    adder.push(Node { level: *level, index: *index, value })?;
                }
            }
            grads.grads[i] = adder.root()?.flatten();
        }
        Ok(())
    }
}

/// A tensor of these bytes, of the shape and on the device of `like`.
fn tensor(bytes: &[u8], like: &Tensor) -> TensorResult<Tensor> {
    let value = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    let values: Vec<f32> = bytes.chunks_exact(4).map(value).collect();
    Tensor::from_vec(values, like.shape(), like.device())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::dist::world::share;

    fn join(a: String, b: String) -> TensorResult<String> {
        Ok(format!("({a}+{b})"))
    }

    /// The tree of a whole, written down.
    fn whole(n: usize) -> String {
        let mut adder = Adder { stack: Vec::new(), add: join };
        for index in 0..n {
            adder.push(Node { level: 0, index, value: index.to_string() }).unwrap();
        }
        adder.root().unwrap().unwrap_or_default()
    }

    #[test]
    fn the_tree_is_the_same_however_it_is_shared_out() {
        assert_eq!(whole(1), "0");
        assert_eq!(whole(7), "(((0+1)+(2+3))+((4+5)+6))");
        for n in 0..40 {
            for size in 1..7 {
                let mut all = Adder { stack: Vec::new(), add: join };
                for rank in 0..size {
                    let mut own = Adder { stack: Vec::new(), add: join };
                    for index in share(n, rank, size) {
                        own.push(Node { level: 0, index, value: index.to_string() }).unwrap();
                    }
                    assert!(own.stack.len() <= 12);
                    own.stack.into_iter().for_each(|node| all.push(node).unwrap());
                }
                assert_eq!(all.root().unwrap().unwrap_or_default(), whole(n), "{n} over {size}");
            }
        }
    }
}
