//! The account of every input row: used, skipped or rejected, each with its reason; and of what
//! was cut from rows that were used. Memory is bounded: counts are kept for all, details for the
//! first.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::{DataError, Reject, RejectKind, shown};
use super::example::Provenance;
use super::source::SourceBatch;
use crate::fs;

/// Rejected rows kept in detail unless told otherwise.
const REJECTS_KEPT: usize = 100;
/// Row numbers kept per reason.
const EXAMPLES_KEPT: usize = 5;
/// Distinct reasons kept per file; further ones are counted together.
const REASONS_MAX: usize = 100;
/// Name under which further reasons are counted.
const OTHER_REASONS: &str = "other reasons";
/// Reason of blank lines.
const BLANK: &str = "blank line";

/// Rows of one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// How many.
    pub count: u64,
    /// The first rows, 1-based; empty where they are not known by number.
    pub first_rows: Vec<u64>,
}

impl Tally {
    fn add(&mut self, row: Option<u64>) {
        self.count += 1;
        if self.first_rows.len() < EXAMPLES_KEPT {
            self.first_rows.extend(row);
        }
    }

    fn merge(&mut self, other: &Tally) {
        self.count += other.count;
        let room = EXAMPLES_KEPT.saturating_sub(self.first_rows.len());
        self.first_rows.extend(other.first_rows.iter().take(room));
    }
}

/// The account of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileAccount {
    /// Rows read, blank lines included.
    pub rows: u64,
    /// Rows that became examples.
    pub used: u64,
    /// Examples they became.
    pub examples: u64,
    /// Rows passed over on purpose, by reason.
    pub skipped: BTreeMap<String, Tally>,
    /// Rows that can't be used, by class.
    pub rejected: BTreeMap<RejectKind, Tally>,
    /// Used rows of which tokens were cut.
    pub truncated_rows: u64,
    /// Tokens that were cut.
    pub truncated_tokens: u64,
    /// Remarks about used rows, by reason.
    pub notes: BTreeMap<String, u64>,
}

/// Sums over all files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Rows read.
    pub rows: u64,
    /// Rows that became examples.
    pub used: u64,
    /// Examples they became.
    pub examples: u64,
    /// Rows passed over on purpose.
    pub skipped: u64,
    /// Rows that can't be used.
    pub rejected: u64,
    /// Used rows of which tokens were cut.
    pub truncated_rows: u64,
    /// Tokens that were cut.
    pub truncated_tokens: u64,
}

/// The account of every row of every file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// By file, as the user named it.
    pub files: BTreeMap<String, FileAccount>,
    /// The first rejected rows, in the order they came.
    pub first_rejects: Vec<Reject>,
    rejects_kept: usize,
}

impl Default for Ledger {
    fn default() -> Self {
        Self::keeping(REJECTS_KEPT)
    }
}

impl Ledger {
    /// An empty ledger that keeps the first `rejects` rejected rows in detail.
    pub fn keeping(rejects: usize) -> Self {
        Self { files: BTreeMap::new(), first_rejects: Vec::new(), rejects_kept: rejects }
    }

    fn file(&mut self, file: &str) -> &mut FileAccount {
        // Two look-ups, because the entry API would need an owned name for every row.
        if !self.files.contains_key(file) {
            self.files.insert(file.to_string(), FileAccount::default());
        }
        self.files.entry(file.to_string()).or_default()
    }

    /// Enters a batch as it comes from the reader: its rows are read, its rejects and blank lines
    /// are accounted for. The fate of its usable rows is entered by the other methods.
    pub fn read(&mut self, batch: &SourceBatch) {
        let account = self.file(&batch.file);
        account.rows += batch.rows.len() as u64 + batch.rejects.len() as u64 + batch.blank;
        if batch.blank > 0 {
            account.skipped.entry(BLANK.into()).or_default().count += batch.blank;
        }
        for reject in &batch.rejects {
            self.rejected(reject.clone());
        }
    }

    /// A row became `examples` examples, at least one.
    pub fn used(&mut self, at: &Provenance, examples: u64) {
        let account = self.file(&at.file);
        account.used += 1;
        account.examples += examples;
    }

    /// A row was passed over on purpose.
    pub fn skipped(&mut self, at: &Provenance, reason: &str) {
        let skipped = &mut self.file(&at.file).skipped;
        let reason = bounded(reason, skipped.len(), |r| skipped.contains_key(r));
        skipped.entry(reason).or_default().add(Some(at.row));
    }

    /// Rows of a file were read and passed over on purpose. [`Ledger::read`] must not have entered
    /// them.
    pub fn left_out(&mut self, file: &str, rows: &[u64], reason: &str) {
        let account = self.file(file);
        account.rows += rows.len() as u64;
        let skipped = &mut account.skipped;
        let reason = bounded(reason, skipped.len(), |r| skipped.contains_key(r));
        let tally = skipped.entry(reason).or_default();
        rows.iter().for_each(|row| tally.add(Some(*row)));
    }

    /// A row can't be used. Rejects of a [`SourceBatch`] are entered by [`Ledger::read`] already.
    pub fn rejected(&mut self, reject: Reject) {
        let rejected = &mut self.file(&reject.file).rejected;
        rejected.entry(reject.kind).or_default().add(Some(reject.row));
        if self.first_rejects.len() < self.rejects_kept {
            self.first_rejects.push(reject);
        }
    }

    /// A row that was entered as used with `examples` examples is passed over after all.
    pub fn unused(&mut self, at: &Provenance, examples: u64, reason: &str) {
        let account = self.file(&at.file);
        account.used = account.used.saturating_sub(1);
        account.examples = account.examples.saturating_sub(examples);
        self.skipped(at, reason);
    }

    /// `tokens` tokens of a used row were cut.
    pub fn truncated(&mut self, at: &Provenance, tokens: u64) {
        let account = self.file(&at.file);
        account.truncated_rows += 1;
        account.truncated_tokens += tokens;
    }

    /// A remark about a used row.
    pub fn note(&mut self, file: &str, reason: &str) {
        let notes = &mut self.file(file).notes;
        let reason = bounded(reason, notes.len(), |r| notes.contains_key(r));
        *notes.entry(reason).or_default() += 1;
    }

    /// Adds the rows of another ledger.
    pub fn merge(&mut self, other: &Ledger) {
        for (name, theirs) in &other.files {
            let ours = self.file(name);
            ours.rows += theirs.rows;
            ours.used += theirs.used;
            ours.examples += theirs.examples;
            ours.truncated_rows += theirs.truncated_rows;
            ours.truncated_tokens += theirs.truncated_tokens;
            for (reason, tally) in &theirs.skipped {
                let reason = bounded(reason, ours.skipped.len(), |r| ours.skipped.contains_key(r));
                ours.skipped.entry(reason).or_default().merge(tally);
            }
            for (kind, tally) in &theirs.rejected {
                ours.rejected.entry(*kind).or_default().merge(tally);
            }
            for (reason, count) in &theirs.notes {
                let reason = bounded(reason, ours.notes.len(), |r| ours.notes.contains_key(r));
                *ours.notes.entry(reason).or_default() += count;
            }
        }
        let room = self.rejects_kept.saturating_sub(self.first_rejects.len());
        self.first_rejects.extend(other.first_rejects.iter().take(room).cloned());
    }

    /// Sums over all files.
    pub fn totals(&self) -> Totals {
        let mut sums = Totals::default();
        for account in self.files.values() {
            sums.rows += account.rows;
            sums.used += account.used;
            sums.examples += account.examples;
            sums.skipped += account.skipped.values().map(|t| t.count).sum::<u64>();
            sums.rejected += account.rejected.values().map(|t| t.count).sum::<u64>();
            sums.truncated_rows += account.truncated_rows;
            sums.truncated_tokens += account.truncated_tokens;
        }
        sums
    }

    /// Checks that every row read of every file is in exactly one account.
    ///
    /// # Errors
    /// [`DataError::Unbalanced`] for the first file where that is not so.
    pub fn check(&self) -> Result<(), DataError> {
        for (file, account) in &self.files {
            let skipped = account.skipped.values().map(|t| t.count).sum::<u64>();
            let rejected = account.rejected.values().map(|t| t.count).sum::<u64>();
            if account.rows != account.used + skipped + rejected {
                return Err(DataError::Unbalanced {
                    file: shown(file),
                    read: account.rows,
                    used: account.used,
                    skipped,
                    rejected,
                });
            }
        }
        Ok(())
    }

    /// A report: the sums, then a line for every reason, summed over the files.
    pub fn lines(&self) -> Vec<String> {
        let sums = self.totals();
        let files = match self.files.len() {
            1 => "1 file".to_string(),
            n => format!("{n} files"),
        };
        let mut lines = vec![format!(
            "{} rows of {files}: {} used, {} skipped, {} rejected",
            sums.rows, sums.used, sums.skipped, sums.rejected
        )];
        if sums.examples != sums.used {
            lines.push(format!("the used rows became {} examples", sums.examples));
        }
        let mut reasons: BTreeMap<(&str, String), (u64, Option<String>)> = BTreeMap::new();
        let mut add = |what, reason: &str, count: u64, file: &str, first: Option<u64>| {
            let sum = reasons.entry((what, shown(reason))).or_default();
            sum.0 += count;
            if let (None, Some(row)) = (&sum.1, first) {
                sum.1 = Some(format!("{}:{row}", shown(file)));
            }
        };
        for (file, account) in &self.files {
            for (reason, tally) in &account.skipped {
                add("skipped", reason, tally.count, file, tally.first_rows.first().copied());
            }
            for (kind, tally) in &account.rejected {
                let first = tally.first_rows.first().copied();
                add("rejected", kind.label(), tally.count, file, first);
            }
            for (reason, count) in &account.notes {
                add("noted", reason, *count, file, None);
            }
        }
        for ((what, reason), (count, first)) in reasons {
            let first = first.map(|f| format!(" (first: {f})")).unwrap_or_default();
            lines.push(format!("{what}: {count} × {reason}{first}"));
        }
        if sums.truncated_rows > 0 {
            lines.push(format!(
                "truncated: {} rows, {} tokens cut",
                sums.truncated_rows, sums.truncated_tokens
            ));
        }
        lines
    }

    /// Writes the rejected rows kept in detail as JSON lines, whole or not at all. When more were
    /// rejected than kept, a last line `{"not_listed": n}` says how many.
    ///
    /// # Errors
    /// [`DataError::Fs`].
    pub fn write_rejects(&self, path: &Path) -> Result<(), DataError> {
        let more = self.totals().rejected - self.first_rejects.len() as u64;
        fs::write_atomic_with(path, |out| {
            for reject in &self.first_rejects {
                serde_json::to_writer(&mut *out, reject)?;
                out.write_all(b"\n")?;
            }
            if more > 0 {
                writeln!(out, "{{\"not_listed\": {more}}}")?;
            }
            Ok(())
        })?;
        Ok(())
    }
}

/// The reason itself while there is room for it, else the common one.
fn bounded(reason: &str, known: usize, is_known: impl Fn(&str) -> bool) -> String {
    if known < REASONS_MAX || is_known(reason) { reason.into() } else { OTHER_REASONS.into() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn at(file: &str, row: u64) -> Provenance {
        Provenance { file: file.into(), row }
    }

    fn reject(row: u64) -> Reject {
        Reject {
            file: "b".into(),
            row,
            kind: RejectKind::Json,
            reason: "is not valid JSON".into(),
            excerpt: "{".into(),
        }
    }

    fn batch(file: &str, rows: u64, rejects: Vec<Reject>, blank: u64) -> SourceBatch {
        let schema = Arc::new(arrow::datatypes::Schema::empty());
        SourceBatch {
            batch: arrow::array::RecordBatch::new_empty(schema),
            file: file.into(),
            rows: (1..=rows).collect(),
            rejects,
            blank,
        }
    }

    #[test]
    fn sums_close_only_when_every_row_is_in_one_account() {
        let mut ledger = Ledger::default();
        ledger.read(&batch("a", 2, vec![], 1));
        ledger.read(&batch("b", 0, vec![reject(1), reject(2)], 0));
        ledger.used(&at("a", 1), 3);
        let open = ledger.check().unwrap_err().to_string();
        assert!(open.contains("3 read, but 1 used + 1 skipped + 0 rejected = 2"), "{open}");
        ledger.skipped(&at("a", 2), "no assistant turn");
        ledger.check().unwrap();
        ledger.truncated(&at("a", 1), 40);
        ledger.note("a", "turns joined");
        assert_eq!(
            ledger.lines(),
            [
                "5 rows of 2 files: 1 used, 2 skipped, 2 rejected",
                "the used rows became 3 examples",
                "noted: 1 × turns joined",
                "rejected: 2 × not a JSON object (first: b:1)",
                "skipped: 1 × blank line",
                "skipped: 1 × no assistant turn (first: a:2)",
                "truncated: 1 rows, 40 tokens cut",
            ]
        );
        let back: Ledger = serde_json::from_str(&serde_json::to_string(&ledger).unwrap()).unwrap();
        assert_eq!(back, ledger);
        ledger.used(&at("a", 2), 1);
        assert!(ledger.check().is_err());
    }

    #[test]
    fn memory_stays_bounded_and_rejects_are_written_whole() {
        let mut ledger = Ledger::keeping(2);
        for row in 1..=500 {
            ledger.read(&batch("b", 1, vec![reject(row)], 0));
            ledger.skipped(&at("b", row), &format!("reason {row}"));
        }
        ledger.check().unwrap();
        assert!(ledger.files["b"].skipped.len() <= REASONS_MAX + 1);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rejected.jsonl");
        ledger.write_rejects(&path).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(serde_json::from_str::<Reject>(lines[1]).unwrap(), reject(2));
        assert_eq!(lines[2], "{\"not_listed\": 498}");
    }

    proptest! {
        #[test]
        fn merging_adds_up(parts in proptest::collection::vec((0u64..9, 0u64..9, 0u64..9), 1..6)) {
            let mut whole = Ledger::default();
            let mut merged = Ledger::default();
            for (i, (used, skipped, rejected)) in parts.iter().enumerate() {
                let file = if i % 2 == 0 { "a" } else { "b" };
                let mut part = Ledger::default();
                for ledger in [&mut whole, &mut part] {
                    let rejects = (0..*rejected).map(reject).collect();
                    ledger.read(&batch("b", 0, rejects, 2));
                    ledger.read(&batch(file, used + skipped, vec![], 1));
                    (0..*used).for_each(|row| ledger.used(&at(file, row), 2));
                    (0..*skipped).for_each(|row| ledger.skipped(&at(file, row), "short"));
                }
                part.check().unwrap();
                merged.merge(&part);
            }
            merged.check().unwrap();
            prop_assert_eq!(merged, whole);
        }
    }
}
