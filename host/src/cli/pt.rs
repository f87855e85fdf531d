//! `trainer pt`: continued pre-training, or pre-training from scratch.

use super::flags::{self, Parsed};
use super::signals;
use crate::config::{RunConfig, Stage, table};
use crate::error::Result;

const EXAMPLE: &str =
    "trainer pt --model_name_or_path MODEL --train_file_dir TEXTS --output_dir OUT
  trainer pt --tokenizer_name_or_path TOKENIZER --hidden_size 256 --num_hidden_layers 6 \
   --num_attention_heads 8 --train_file_dir TEXTS --output_dir OUT";

/// Runs the command.
pub fn run(args: &[String]) -> Result<()> {
    let about = "Train on plain text: every token of every document, by LoRA on a base unless \
                 --use_peft False, or a new model from scratch";
    let values = match flags::parse("pt", about, EXAMPLE, table::pt(), args)? {
        Parsed::Help => return Ok(()),
        Parsed::Values(values) => *values,
    };
    let config = RunConfig::resolve(Stage::Pt, values, true)?;
    let mut command = vec!["trainer".to_string(), "pt".to_string()];
    command.extend(args.iter().cloned());
    signals::install();
    super::sft::train(&config, command)
}
