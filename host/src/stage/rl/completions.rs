//! Completions for people: a Parquet file by log row, and a few of them as a table.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;

use crate::error::{Result, excerpt};
use crate::fs::{self, io_error};

/// Completions of one generation, column by column.
#[derive(Clone, Debug, Default)]
pub struct Completions {
    /// Last turns of the prompts.
    pub prompts: Vec<String>,
    /// Texts.
    pub texts: Vec<String>,
    /// Rewards by name, then by completion.
    pub rewards: Vec<(String, Vec<Option<f64>>)>,
    /// Advantages; means over tokens where each token has its own.
    pub advantages: Vec<f64>,
}

impl Completions {
    /// Writes `completions_NNNNN.parquet` into `dir`, whole or not at all.
    ///
    /// # Errors
    /// A full disk and the like.
    pub fn write(&self, dir: &Path, step: u64) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(io_error("create", dir))?;
        let path = dir.join(format!("completions_{step:05}.parquet"));
        let n = self.texts.len();
        let mut fields = vec![
            Field::new("step", DataType::UInt64, false),
            Field::new("prompt", DataType::Utf8, false),
            Field::new("completion", DataType::Utf8, false),
        ];
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from(vec![step; n])),
            Arc::new(StringArray::from(self.prompts.clone())),
            Arc::new(StringArray::from(self.texts.clone())),
        ];
        for (name, values) in &self.rewards {
            fields.push(Field::new(name, DataType::Float64, true));
            columns.push(Arc::new(Float64Array::from(values.clone())));
        }
        fields.push(Field::new("advantage", DataType::Float64, false));
        columns.push(Arc::new(Float64Array::from(self.advantages.clone())));
        let failed = |e: &dyn std::fmt::Display| {
            let error = std::io::Error::other(e.to_string());
            io_error("write", &path)(error)
        };
        let batch =
            RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(|e| failed(&e))?;
        let mut bytes = Vec::new();
        let mut writer =
            ArrowWriter::try_new(&mut bytes, batch.schema(), None).map_err(|e| failed(&e))?;
        writer.write(&batch).map_err(|e| failed(&e))?;
        writer.close().map_err(|e| failed(&e))?;
        Ok(fs::write_atomic(&path, &bytes)?)
    }

    /// The first `rows` completions, a line each.
    pub fn table(&self, step: u64, rows: usize) -> Vec<String> {
        let short = |text: &str, most: usize| -> String {
            let flat = excerpt(&text.replace('\n', "⏎"));
            match flat.char_indices().nth(most) {
                Some((at, _)) => format!("{}…", &flat[..at]),
                None => flat,
            }
        };
        let mut lines = Vec::new();
        for i in 0..rows.min(self.texts.len()) {
            let rewards: Vec<String> = self
                .rewards
                .iter()
                .map(|(name, values)| match values[i] {
                    Some(value) => format!("{name} {value:.3}"),
                    None => format!("{name} -"),
                })
                .collect();
            lines.push(format!(
                "  step {step} | {} | {} | {} | advantage {:.3}",
                short(&self.prompts[i], 48),
                short(&self.texts[i], 64),
                rewards.join(", "),
                self.advantages[i]
            ));
        }
        lines
    }
}
