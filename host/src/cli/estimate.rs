//! `trainer estimate`: the memory of a stage's command, before it is run.

use super::flags::{self, Parsed};
use super::screen;
use crate::config::table::{self, Kind, Setting, row};
use crate::config::values::Given;
use crate::config::{ConfigError, RunConfig, Stage};
use crate::error::Result;
use crate::run::memory::available_bytes;
use crate::stage::estimate::forecast;

const EXAMPLE: &str = "trainer estimate sft --model_name_or_path MODEL --per_device_train_batch_size 4 --model_max_length 1024";

fn own_table(stage: Stage) -> &'static [Setting] {
    let json = row("Estimate", "json", Kind::Bool, "False", &[], "print one JSON object");
    // One a process.
    Box::leak(table::of(stage).iter().copied().chain([json]).collect())
}

/// Runs the command.
pub fn run(args: &[String]) -> Result<()> {
    let named = args.first().and_then(|name| Stage::ALL.into_iter().find(|s| s.name() == name));
    let (stage, args) = match named {
        Some(stage) => (stage, &args[1..]),
        None => (Stage::Sft, args),
    };
    let about = "Say what memory a stage's command will take, before it is run: put `estimate` before \
                 the stage's name. No data and no weights are read";
    let mut values = match flags::parse("estimate", about, EXAMPLE, own_table(stage), args)? {
        Parsed::Help => return Ok(()),
        Parsed::Values(values) => *values,
    };
    let as_json = values.bool("json");
    if !values.is_given("train_file_dir") && !values.is_given("dataset_name") {
        let unread = Given { text: "-".into(), origin: "estimate".into() };
        values.take(vec![("train_file_dir".into(), unread)]);
    }
    let config = RunConfig::resolve(stage, values, false)?;
    let found = forecast(&config)?;
    let device = crate::device::open(config.precision.device)?;
    let available = crate::device::free_bytes(&device).or_else(available_bytes);
    if as_json {
        let mut value = serde_json::to_value(&found)
            .map_err(|e| ConfigError::one(format!("the estimate can't be written ({e})")))?;
        value["available"] = serde_json::json!(available);
        screen::line(&format!("{value:#}"));
        return Ok(());
    }
    let line = |name: &str, bytes: usize, what: String| {
        if bytes > 0 {
            let size = screen::megabytes(bytes as u64);
            screen::line(&format!("  {name:<12} {size:>12}  {}", screen::printable(&what)));
        }
    };
    screen::line(&format!("trainer {} would take", stage.name()));
    let grouped = |n: usize| screen::grouped(n as u64);
    let values = format!("{} values, {}", grouped(found.parameters), found.dtype);
    line("weights", found.weights, values);
    let trained = format!("{} trained values, their gradients and moments", grouped(found.trained));
    line("training", found.training, trained);
    line("activations", found.activations, format!("{} tokens at once", grouped(found.tokens)));
    line("head", found.head, "logits of one chunk".into());
    line("others", found.others, "references, teachers, reward models".into());
    line("cache", found.cache, "keys and values of what is generated".into());
    line("process", found.process, "the program, tokenizer, plugins and data".into());
    line(
        "total",
        found.total,
        available.map_or(String::new(), |bytes| {
            let fits = if found.total as u64 > bytes { "it does not fit" } else { "it fits" };
            format!("{} are free: {fits}", screen::megabytes(bytes))
        }),
    );
    Ok(())
}
