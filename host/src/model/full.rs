//! Full fine-tuning: every weight becomes a trained parameter.

use candle_core::Tensor;

use super::block::BlockParams;
use super::decoder::{Decoder, Trained, TrainedWeights};
use super::params::{NamedTensor, ParamSet};
use super::projection::{LinearParams, Projection};
use super::weights::Linear;
