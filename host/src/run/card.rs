//! `README.md` of an output folder: the model card.

use std::path::Path;

use crate::error::Result;
use crate::fs;

/// What the card says.
#[derive(Clone, Debug, Default)]
pub struct Card {
    /// The base, as the user named it.
    pub base_model: String,
    /// Name of the stage's command.
    pub stage: &'static str,
    /// Whether an adapter or a whole model was trained.
    pub adapter: bool,
    /// Settings worth reading, `name = value`.
    pub settings: Vec<(String, String)>,
    /// Results, `name = value`.
    pub results: Vec<(String, String)>,
    /// Hash of the manifest.
    pub manifest_sha256: String,
    /// One command that makes the run again.
    pub command: String,
}

/// A YAML string in double quotes.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn table(rows: &[(String, String)]) -> String {
    rows.iter().map(|(k, v)| format!("| {k} | {v} |\n")).collect()
}

/// Writes the card into `dir`.
///
/// # Errors
/// A full disk and the like.
pub fn write(dir: &Path, card: &Card) -> Result<()> {
    let base = quoted(&card.base_model);
    let (library, lora) = if card.adapter { ("peft", "- lora\n") } else { ("transformers", "") };
    let tags = format!("{lora}- {}\n- trainer\n", card.stage);
    let pipeline = match card.stage {
        "rm" => "text-classification",
        _ => "text-generation",
    };
    let what = if card.adapter { "a LoRA adapter of" } else { "a fine-tuned version of" };
    let text = format!(
        "---\nbase_model: {base}\nlibrary_name: {library}\npipeline_tag: {pipeline}\ntags:\n\
         {tags}---\n\n# Model Card\n\nThis is {what} {base}, made by trainer {version}.\n\n\
         ## Training procedure\n\n| setting | value |\n|---|---|\n{settings}\n\
         ## Results\n\n| metric | value |\n|---|---|\n{results}\n\
         ## Remake this run\n\nManifest (`trainer_manifest.json`) sha256: `{hash}`\n\n```\n{command}\n```\n\n\
         ### Framework versions\n\n- trainer {version}\n",
        version = env!("CARGO_PKG_VERSION"),
        settings = table(&card.settings),
        results = table(&card.results),
        hash = card.manifest_sha256,
        command = card.command,
    );
    Ok(fs::write_atomic(&dir.join("README.md"), text.as_bytes())?)
}
