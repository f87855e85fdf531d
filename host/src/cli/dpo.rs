//! `trainer dpo`: direct preference optimisation.

use super::flags::{self, Parsed};
use super::signals;
use crate::config::{RunConfig, Stage, table};
use crate::error::Result;

const EXAMPLE: &str = "trainer dpo --plugin preference --model_name_or_path MODEL --train_file_dir PAIRS --output_dir OUT";

/// Runs the command.
pub fn run(args: &[String]) -> Result<()> {
    let about = "Train on pairs of a better and a worse answer (direct preference optimisation), \
                 by LoRA unless --use_peft False";
    let values = match flags::parse("dpo", about, EXAMPLE, table::dpo(), args)? {
        Parsed::Help => return Ok(()),
        Parsed::Values(values) => *values,
    };
    let config = RunConfig::resolve(Stage::Dpo, values, true)?;
    let mut command = vec!["trainer".to_string(), "dpo".to_string()];
    command.extend(args.iter().cloned());
    signals::install();
    super::sft::train(&config, command)
}
