//! Tokenized rows kept for later runs: one file for each combination of sources, plugins, options,
//! tokenizer, settings and program, all known by their hashes, so that what is found is never
//! stale. A file that is not whole is as good as none.
//!
//! The file: record batches (an Arrow stream), the account as JSON, its length (8 bytes, little
//! endian), and the sha256 of everything before.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::dataset::{Item, Part, Pipeline};
use crate::config::PreprocessingCache;
use crate::data::source::{Discovered, SourceFile};
use crate::data::{Ledger, Provenance};
use crate::error::Result;
use crate::fs;
use crate::limits::PREPROCESSED_FROM_BYTES;

/// Items of a record batch.
const BATCH_ITEMS: usize = 4096;
/// Bytes of a hash.
const HASH: u64 = 32;
/// Bytes of the account's length.
const LENGTH: u64 = 8;

/// What is written behind the items.
#[derive(Serialize, Deserialize)]
struct Account {
    ledger: Ledger,
    /// Files by number, as the items' column has them.
    files: Vec<Arc<str>>,
    items: usize,
}

/// Where rows are kept.
pub struct Kept {
    path: PathBuf,
}

/// The folder of all of them.
fn folder() -> Option<PathBuf> {
    let of = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = of("XDG_CACHE_HOME").or_else(|| of("HOME").map(|home| home.join(".cache")))?;
    Some(of("TRAINER_CACHE").unwrap_or(base.join("trainer")).join("preprocessed"))
}

impl Kept {
    /// Where the rows of these files are kept, if they are to be.
    ///
    /// # Errors
    /// Files that can't be read.
    pub fn of<T: Item>(
        mode: PreprocessingCache,
        found: &Discovered,
        pipeline: &Pipeline,
        limit: Option<usize>,
    ) -> Result<Option<Self>> {
        let bytes: u64 = found.files.iter().map(|f| f.bytes).sum();
        let wanted = match mode {
            PreprocessingCache::Off => false,
            PreprocessingCache::On => true,
            PreprocessingCache::Auto => bytes >= PREPROCESSED_FROM_BYTES,
        };
        let (true, true, Some(folder)) = (wanted, T::KEPT, folder()) else { return Ok(None) };
        // The program itself, so that another build never finds what an older one made.
        let Ok(program) = std::env::current_exe() else { return Ok(None) };
        let mut files = Vec::with_capacity(found.files.len());
        for SourceFile { path, name, format, compression, .. } in &found.files {
            let how = format!("{format:?} {compression:?}");
            files.push(json!([name, how, fs::sha256_file(path)?]));
        }
        let all = json!({
            "program": fs::sha256_file(&program)?,
            "item": std::any::type_name::<T>(),
            "files": files,
            "pipeline": pipeline.identity()?,
            "limit": limit,
        });
        let key = fs::sha256_hex(all.to_string().as_bytes());
        Ok(Some(Self { path: folder.join(format!("{key}.rows")) }))
    }

    /// The rows, if they are there and whole.
    pub fn read<T: Item>(&self, found: &Discovered) -> Option<Part<T>> {
        let part = self.parsed(found);
        if part.is_none() && self.path.is_file() {
            // Damaged: it is made again.
            let _ = std::fs::remove_file(&self.path);
        }
        part
    }

    fn parsed<T: Item>(&self, found: &Discovered) -> Option<Part<T>> {
        let mut file = File::open(&self.path).ok()?;
        let end = file.metadata().ok()?.len().checked_sub(HASH)?;
        let body_end = end.checked_sub(LENGTH)?;
        let mut hasher = Sha256::new();
        let mut reader = BufReader::with_capacity(1 << 20, &mut file).take(end);
        io::copy(&mut reader, &mut hasher).ok()?;
        let mut tail = [0u8; HASH as usize];
        file.seek(SeekFrom::Start(end)).ok()?;
        file.read_exact(&mut tail).ok()?;
        if hasher.finalize().as_slice() != tail {
            return None;
        }
        let mut length = [0u8; LENGTH as usize];
        file.seek(SeekFrom::Start(body_end)).ok()?;
        file.read_exact(&mut length).ok()?;
        let items_end = body_end.checked_sub(u64::from_le_bytes(length))?;
        let mut account = Vec::new();
        file.seek(SeekFrom::Start(items_end)).ok()?;
        Read::by_ref(&mut file).take(u64::from_le_bytes(length)).read_to_end(&mut account).ok()?;
        let account: Account = serde_json::from_slice(&account).ok()?;
        account.ledger.check().ok()?;
        file.seek(SeekFrom::Start(0)).ok()?;
        let body = BufReader::with_capacity(1 << 20, file.take(items_end));
        let mut examples = Vec::with_capacity(account.items);
        for batch in StreamReader::try_new(body, None).ok()? {
            examples.extend(T::from_columns(&batch.ok()?, &account.files)?);
        }
        let files = found.files.iter().map(|f| f.path.clone()).collect();
        (examples.len() == account.items).then_some(Part {
            examples,
            ledger: account.ledger,
            files,
        })
    }

    /// Keeps rows.
    ///
    /// # Errors
    /// A folder that can't be written to, a full disk.
    pub fn write<T: Item>(&self, part: &Part<T>) -> Result<()> {
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(fs::io_error("create", folder))?;
        }
        let mut files = Files::default();
        fs::write_atomic_with(&self.path, |out| {
            let mut out = Hashing { out, hasher: Sha256::new() };
            let mut batches = part.examples.chunks(BATCH_ITEMS).peekable();
            let failed = |e: arrow::error::ArrowError| io::Error::other(e.to_string());
            let mut columns = |items: &[T]| -> io::Result<RecordBatch> {
                T::to_columns(items, &mut |at| files.number(&at.file))
                    .ok_or_else(|| io::Error::other("these rows are not kept"))
            };
            let first = columns(batches.next().unwrap_or_default())?;
            let mut writer = StreamWriter::try_new(&mut out, &first.schema()).map_err(failed)?;
            writer.write(&first).map_err(failed)?;
            for items in batches {
                writer.write(&columns(items)?).map_err(failed)?;
            }
            writer.finish().map_err(failed)?;
            drop(writer);
            let account = Account {
                ledger: part.ledger.clone(),
                files: std::mem::take(&mut files.names),
                items: part.examples.len(),
            };
            let account = serde_json::to_vec(&account)?;
            out.write_all(&account)?;
            out.write_all(&(account.len() as u64).to_le_bytes())?;
            let digest = out.hasher.finalize();
            out.out.write_all(&digest)
        })?;
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Files by number.
#[derive(Default)]
struct Files {
    names: Vec<Arc<str>>,
}

impl Files {
    fn number(&mut self, file: &Arc<str>) -> u32 {
        // Rows come file by file.
        let at = self.names.iter().rposition(|own| own == file).unwrap_or_else(|| {
            self.names.push(file.clone());
            self.names.len() - 1
        });
        at as u32
    }
}

struct Hashing<'a> {
    out: &'a mut BufWriter<File>,
    hasher: Sha256,
}

impl Write for Hashing<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = self.out.write(data)?;
        self.hasher.update(&data[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The number of an item's file.
pub type FileNumber<'a> = &'a mut dyn FnMut(&Provenance) -> u32;

/// Columns of tokenized examples.
pub(super) mod tokenized {
    use arrow::array::{
        Array, ArrayRef, AsArray, Float32Builder, Int32Builder, ListBuilder, RecordBatch,
        UInt32Builder, UInt64Builder,
    };
    use arrow::datatypes::{Float32Type, Int32Type, UInt32Type, UInt64Type};

    use super::{Arc, FileNumber, Provenance};
    use crate::text::TokenizedExample;

    /// Items as columns.
    pub fn to_columns(items: &[TokenizedExample], file: FileNumber<'_>) -> Option<RecordBatch> {
        let (mut files, mut rows) = (UInt32Builder::new(), UInt64Builder::new());
        let mut ids = ListBuilder::new(UInt32Builder::new());
        let mut labels = ListBuilder::new(Int32Builder::new());
        let mut weights = ListBuilder::new(Float32Builder::new());
        for item in items {
            files.append_value(file(&item.provenance));
            rows.append_value(item.provenance.row);
            ids.values().append_slice(&item.input_ids);
            ids.append(true);
            labels.values().append_slice(&item.labels);
            labels.append(true);
            if let Some(own) = &item.loss_weights {
                weights.values().append_slice(own);
            }
            weights.append(item.loss_weights.is_some());
        }
        let columns: [(&str, ArrayRef); 5] = [
            ("file", Arc::new(files.finish())),
            ("row", Arc::new(rows.finish())),
            ("input_ids", Arc::new(ids.finish())),
            ("labels", Arc::new(labels.finish())),
            ("loss_weights", Arc::new(weights.finish())),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(n, c)| (n, c, true))).ok()
    }

    /// The items of columns; `None` where they are none.
    pub fn from_columns(batch: &RecordBatch, files: &[Arc<str>]) -> Option<Vec<TokenizedExample>> {
        let column = |name: &str| batch.column_by_name(name);
        let file = column("file")?.as_primitive_opt::<UInt32Type>()?;
        let row = column("row")?.as_primitive_opt::<UInt64Type>()?;
        let ids = column("input_ids")?.as_list_opt::<i32>()?;
        let labels = column("labels")?.as_list_opt::<i32>()?;
        let weights = column("loss_weights")?.as_list_opt::<i32>()?;
        let mut items = Vec::with_capacity(batch.num_rows());
        for i in 0..batch.num_rows() {
            let item = TokenizedExample {
                input_ids: ids.value(i).as_primitive_opt::<UInt32Type>()?.values().to_vec(),
                labels: labels.value(i).as_primitive_opt::<Int32Type>()?.values().to_vec(),
                loss_weights: match weights.is_null(i) {
                    true => None,
                    false => {
                        Some(weights.value(i).as_primitive_opt::<Float32Type>()?.values().to_vec())
                    }
                },
                provenance: Provenance {
                    file: files.get(file.value(i) as usize)?.clone(),
                    row: row.value(i),
                },
            };
            if item.input_ids.len() != item.labels.len() {
                return None;
            }
            items.push(item);
        }
        Some(items)
    }
}

/// What decides how rows become items, beside the files: for [`Kept::of`].
pub(super) fn identity(plugins: Vec<Value>, tokenizer: &Path, rest: Value) -> Result<Value> {
    let names = [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
    ];
    let mut files = Vec::new();
    for name in names {
        let path = tokenizer.join(name);
        if path.is_file() {
            files.push(json!([name, fs::sha256_file(&path)?]));
        }
    }
    Ok(json!({"plugins": plugins, "tokenizer": files, "rest": rest}))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::text::TokenizedExample;

    fn part() -> Part {
        let file: [Arc<str>; 2] = ["a.jsonl".into(), "b.jsonl".into()];
        let mut ledger = Ledger::default();
        let examples: Vec<TokenizedExample> = (0..10_000u64)
            .map(|i| TokenizedExample {
                input_ids: (0..i % 7).map(|k| k as u32).collect(),
                labels: (0..i % 7).map(|k| k as i32 - 100).collect(),
                loss_weights: (i % 3 == 0).then(|| vec![0.5; (i % 7) as usize]),
                provenance: Provenance { file: file[(i / 5000) as usize].clone(), row: i + 1 },
            })
            .collect();
        for example in &examples {
            let at = &example.provenance;
            ledger.left_out(&at.file, &[at.row], "test");
        }
        Part { examples, ledger, files: Vec::new() }
    }

    #[test]
    fn rows_come_back_whole_or_not_at_all() {
        let tmp = tempfile::tempdir().unwrap();
        let kept = Kept { path: tmp.path().join("x/key.rows") };
        let none = Discovered::default();
        assert!(kept.read::<TokenizedExample>(&none).is_none());
        let part = part();
        kept.write(&part).unwrap();
        let back: Part = kept.read(&none).unwrap();
        assert_eq!((&back.examples, &back.ledger), (&part.examples, &part.ledger));
        let good = std::fs::read(&kept.path).unwrap();
        for at in (0..good.len()).step_by(good.len() / 60) {
            let mut bad = good.clone();
            bad[at] ^= 4;
            std::fs::write(&kept.path, &bad).unwrap();
            assert!(kept.read::<TokenizedExample>(&none).is_none(), "byte {at}");
            assert!(!kept.path.exists());
            std::fs::write(&kept.path, &good[..at]).unwrap();
            assert!(kept.read::<TokenizedExample>(&none).is_none(), "cut at {at}");
        }
        let empty: Part =
            Part { examples: Vec::new(), ledger: Ledger::default(), files: Vec::new() };
        kept.write(&empty).unwrap();
        assert!(kept.read::<TokenizedExample>(&none).unwrap().examples.is_empty());
    }
}
