//! Every way in which data files are known to be wrong, each with what `trainer convert` says of
//! it: a typed error that names the file, or rejected rows with file, row and reason. The list is
//! `faults()`; a seeded sweep damages good files at random on top of it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, DictionaryArray, Float64Array, Int64Array, NullArray, RecordBatch, StringArray,
};
use arrow::datatypes::{DataType, Field, Int32Type, Schema};
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::Value;
use support::{arg, json, trainer_fails, trainer_ok};
use trainer::data::{Projection, ReadOptions, SourceReader, source};
use trainer::rng::{Purpose, Stream};

/// What becomes of a faulty input.
enum Outcome {
    /// Nothing is wrong after all: so many rows come out.
    Fine(u64),
    /// Rows that are rejected: their numbers, and words of the reason.
    Rejects(&'static [u64], &'static str),
    /// The job ends with this exit code and these words.
    Fails(i32, &'static str),
}
use Outcome::{Fails, Fine, Rejects};

/// A named fault: the files of one input folder, and what is said of them.
struct Fault {
    files: Vec<(&'static str, Vec<u8>)>,
    /// Read by the formatter `sharegpt`, or as it is.
    formatter: bool,
    outcome: Outcome,
}

const GOOD: &str = r#"{"conversations":[{"from":"human","value":"a"},{"from":"gpt","value":"b"}]}"#;

/// A row between two good ones, read by the formatter.
fn row(name: &'static str, bad: impl AsRef<[u8]>, why: &'static str) -> Fault {
    let bytes = [GOOD.as_bytes(), b"\n", bad.as_ref(), b"\n", GOOD.as_bytes(), b"\n"].concat();
    Fault { files: vec![(name, bytes)], formatter: true, outcome: Rejects(&[2], why) }
}

/// A file that is read by the formatter.
fn formatted(name: &'static str, bytes: impl AsRef<[u8]>, outcome: Outcome) -> Fault {
    Fault { files: vec![(name, bytes.as_ref().to_vec())], formatter: true, outcome }
}

/// A file that is read as it is.
fn plain(name: &'static str, bytes: impl AsRef<[u8]>, outcome: Outcome) -> Fault {
    Fault { files: vec![(name, bytes.as_ref().to_vec())], formatter: false, outcome }
}

fn gz(data: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    out.write_all(data).unwrap();
    out.finish().unwrap()
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true)))
        .unwrap()
}

fn texts(each: impl IntoIterator<Item = String>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(each))
}

fn integers(n: i64) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(0..n))
}

/// 400 rows of numbers and repeating words.
fn table() -> RecordBatch {
    let words = (0..400).map(|i| format!("word number {}", i % 17));
    let floats = Float64Array::from_iter_values((0..400).map(|i| f64::from(i) * 0.5));
    batch(vec![("n", integers(400)), ("word", texts(words)), ("x", Arc::new(floats))])
}

fn parquet(batch: &RecordBatch, compressed: bool, dictionary: bool) -> Vec<u8> {
    let compression = match compressed {
        true => Compression::ZSTD(ZstdLevel::try_new(3).unwrap()),
        false => Compression::UNCOMPRESSED,
    };
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_dictionary_enabled(dictionary)
        .build();
    let mut out = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    out.write(batch).unwrap();
    out.into_inner().unwrap()
}

/// Damages one column chunk of a Parquet file.
fn damaged(bytes: &[u8], column: usize, damage: impl FnOnce(&mut Vec<u8>, Chunk)) -> Vec<u8> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    let chunk = reader.metadata().row_group(0).column(column);
    let dictionary = chunk.dictionary_page_offset().map(|at| at as usize);
    let data = chunk.data_page_offset() as usize;
    let end = dictionary.unwrap_or(data) + chunk.compressed_size() as usize;
    let mut out = bytes.to_vec();
    damage(&mut out, Chunk { dictionary, data, end });
    out
}

/// Where the pages of a column chunk lie in its file.
struct Chunk {
    dictionary: Option<usize>,
    data: usize,
    end: usize,
}

fn fill(bytes: &mut [u8], with: u8) {
    bytes.iter_mut().for_each(|b| *b = with);
}

fn arrow_file(batch: &RecordBatch, compressed: bool) -> Vec<u8> {
    let compression = compressed.then_some(CompressionType::ZSTD);
    let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
    let mut out = FileWriter::try_new_with_options(Vec::new(), &batch.schema(), options).unwrap();
    out.write(batch).unwrap();
    out.finish().unwrap();
    out.into_inner().unwrap()
}

fn arrow_stream(batch: &RecordBatch) -> Vec<u8> {
    let mut out = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    out.write(batch).unwrap();
    out.into_inner().unwrap()
}

/// Replaces the first occurrence of some bytes.
fn replaced(bytes: &[u8], this: &[u8], by: &[u8]) -> Vec<u8> {
    let at = bytes.windows(this.len()).position(|w| w == this).expect("the bytes are there");
    [&bytes[..at], by, &bytes[at + this.len()..]].concat()
}

fn words_of(ints: &[i32]) -> Vec<u8> {
    ints.iter().flat_map(|i| i.to_le_bytes()).collect()
}

/// The corpus.
fn faults() -> Vec<Fault> {
    let mut all = json_faults();
    all.extend(text_faults());
    all.extend(compressed_faults());
    all.extend(parquet_faults());
    all.extend(arrow_faults());
    all.extend(folder_faults());
    all
}

fn json_faults() -> Vec<Fault> {
    let deep = format!(r#"{{"conversations":{}{}}}"#, "[".repeat(100), "]".repeat(100));
    let deeper = "[".repeat(100_000);
    let huge =
        format!(r#"{{"conversations":[{{"from":"human","value":"{}"}}]}}"#, "x".repeat(17 << 20));
    let bom = [b"\xef\xbb\xbf", GOOD.as_bytes(), b"\n"].concat();
    let utf16: Vec<u8> = GOOD.encode_utf16().flat_map(u16::to_le_bytes).collect();
    vec![
        formatted("bom.jsonl", &bom, Fine(1)),
        formatted("crlf.jsonl", format!("{GOOD}\r\n{GOOD}\r\n"), Fine(2)),
        formatted("blank-lines.jsonl", format!("\n{GOOD}\n   \n{GOOD}\n\n"), Fine(2)),
        formatted("no-last-newline.jsonl", format!("{GOOD}\n{GOOD}"), Fine(2)),
        formatted("array-under-jsonl.jsonl", format!("[{GOOD},\n{GOOD}]"), Fine(2)),
        row("bom-inside.jsonl", [b"\xef\xbb\xbf", GOOD.as_bytes()].concat(), "not valid JSON"),
        row("bad-utf8.jsonl", b"{\"conversations\": \"\xff\xfe\"}", "not UTF-8 (column 20)"),
        row("overlong-utf8.jsonl", b"{\"conversations\": \"\xc0\xaf\"}", "not UTF-8"),
        row("nul.jsonl", b"{\"conversations\": \"a\0b\"}", "NUL byte (column 21)"),
        row("control.jsonl", "{\"conversations\": \"a\u{1}b\"}", "control character"),
        row("trailing-comma.jsonl", r#"{"conversations": [1,],}"#, "not valid JSON"),
        row("single-quotes.jsonl", "{'conversations': []}", "not valid JSON"),
        row("python.jsonl", r#"{"conversations": None}"#, "not valid JSON"),
        row("nan.jsonl", r#"{"conversations": NaN}"#, "not valid JSON"),
        row("two-objects.jsonl", format!("{GOOD} {GOOD}"), "trailing characters"),
        row("key-twice.jsonl", r#"{"conversations": [], "conversations": []}"#, "twice"),
        row(
            "key-twice-inside.jsonl",
            r#"{"conversations": [{"from": "human", "from": "gpt"}]}"#,
            "the key `from` twice in an object of field `conversations`",
        ),
        formatted("cut-line.jsonl", format!("{GOOD}\n{}", &GOOD[..40]), Rejects(&[2], "cut off")),
        row("old-mac.jsonl", format!("{GOOD}\r{GOOD}"), "trailing characters"),
        row("list-row.jsonl", "[1, 2]", "is a list, not an object"),
        row("string-row.jsonl", "\"text\"", "is a string, not an object"),
        row("null-row.jsonl", "null", "is null, not an object"),
        row("huge-number.jsonl", r#"{"conversations": 1e999}"#, "out of range"),
        row("surrogate.jsonl", r#"{"conversations": "\ud800"}"#, "bad value"),
        row("deep.jsonl", &deep, "nested deeper than 64"),
        row("very-deep.jsonl", &deeper, "nested deeper than 64"),
        row("huge-field.jsonl", &huge, "longer than 16777216 bytes"),
        row("wrong-type.jsonl", r#"{"conversations": 7}"#, "conversations"),
        row("missing-column.jsonl", r#"{"other": 7}"#, "no field `conversations`"),
        row("renamed-column.jsonl", r#"{"conversation": []}"#, "did you mean `conversation`"),
        row("null-field.jsonl", r#"{"conversations": null}"#, "conversations"),
        row("no-turns.jsonl", r#"{"conversations": []}"#, "is empty"),
        row("bad-turn.jsonl", r#"{"conversations": [1]}"#, "not an object"),
        row("no-value.jsonl", r#"{"conversations": [{"from": "human"}]}"#, "value"),
        formatted("empty.jsonl", b"", Fails(3, "holds no rows")),
        formatted("blanks.jsonl", b"\n  \n\n", Fails(3, "")),
        formatted("utf16.jsonl", [b"\xff\xfe", utf16.as_slice()].concat(), Fails(3, "UTF-16")),
        formatted("utf16-unmarked.jsonl", &utf16, Fails(3, "UTF-16")),
        formatted("zip.jsonl", b"PK\x03\x04aaaaaaaa", Fails(3, "a zip archive")),
        formatted("pickle.jsonl", b"\x80\x04\x95aaaaaaa", Fails(3, "a Python pickle")),
        formatted("gguf.jsonl", b"GGUF\x03\0\0\0aaaa", Fails(3, "a GGUF model")),
        formatted("is-parquet.jsonl", b"PAR1aaaaPAR1", Fails(3, "rename it to end in .parquet")),
        formatted("unended.json", b"[{\"conversations\": [], ", Fails(3, "cut off")),
        formatted("comma.json", format!("[{GOOD},,{GOOD}]"), Fails(3, "a comma without a value")),
        formatted("more.json", format!("[{GOOD}] {{}}"), Fails(3, "more after the end")),
    ]
}

fn text_faults() -> Vec<Fault> {
    let open_quote = [b"a,b\n1,\"".to_vec(), vec![b'x'; 18 << 20]].concat();
    let long_line = [b"short\n".to_vec(), vec![b'y'; 17 << 20], b"\nend\n".to_vec()].concat();
    let wide = "x,".repeat(5000) + "a\n";
    vec![
        plain(
            "ragged.csv",
            b"a,b\n1,2\n1\n1,2\n",
            Rejects(&[3], "has 1 fields, but the header has 2"),
        ),
        plain("bad-utf8.csv", b"a,b\n1,2\n\xff,2\n1,2\n", Rejects(&[3], "not UTF-8")),
        plain("nul.tsv", b"a\tb\n1\t2\n\0\t2\n1\t2\n", Rejects(&[3], "NUL byte")),
        plain("column-twice.csv", b"a,a\n1,2\n", Fails(3, "the column `a` twice")),
        plain("header-only.csv", b"a,b\n", Fails(3, "below its header")),
        plain("wide.csv", &wide, Fails(3, "5001 columns")),
        plain("open-quote.csv", &open_quote, Fails(3, "a quote seems to be left open")),
        formatted("no-such-column.csv", b"text,b\n1,2\n", Fails(3, "no field `conversations`")),
        plain("long-line.txt", &long_line, Rejects(&[2], "longer than 16777216 bytes")),
        plain("nul.txt", b"one\nt\0wo\nthree\n", Rejects(&[2], "NUL byte")),
        plain("empty.txt", b"", Fails(3, "holds no rows")),
        plain("other.xyz", b"x", Fails(3, "can't tell the format")),
    ]
}

fn compressed_faults() -> Vec<Fault> {
    let rows = format!("{GOOD}\n").repeat(100);
    let packed = gz(rows.as_bytes());
    let zst = zstd::encode_all(rows.as_bytes(), 3).unwrap();
    let mut sum = packed.clone();
    let at = sum.len() - 6;
    sum[at] ^= 0xff;
    let zst_bomb = zstd::encode_all(&vec![b' '; 64 << 20][..], 19).unwrap();
    vec![
        formatted("two-members.jsonl.gz", [packed.clone(), packed.clone()].concat(), Fine(200)),
        formatted("packed-under-plain-name.jsonl", &packed, Fine(100)),
        formatted("cut.jsonl.gz", &packed[..packed.len() / 2], Fails(3, "can't decompress")),
        formatted("checksum.jsonl.gz", &sum, Fails(3, "can't decompress")),
        formatted("not.jsonl.gz", b"plain text", Fails(3, "something else")),
        formatted("is-gzip.jsonl.zst", &packed, Fails(3, "rename it to end in .gz")),
        formatted("cut.jsonl.zst", &zst[..zst.len() - 5], Fails(3, "can't decompress")),
        formatted("bomb.jsonl.gz", gz(&vec![b' '; 64 << 20]), Fails(3, "decompression bomb")),
        formatted("bomb.jsonl.zst", &zst_bomb, Fails(3, "decompression bomb")),
    ]
}

fn parquet_faults() -> Vec<Fault> {
    let table = table();
    let good = parquet(&table, false, true);
    let packed = parquet(&table, true, false);
    let end = good.len();
    let with_footer = |length: u32| {
        let mut bytes = good.clone();
        bytes[end - 8..end - 4].copy_from_slice(&length.to_le_bytes());
        bytes
    };
    let footer = u32::from_le_bytes(good[end - 8..end - 4].try_into().unwrap()) as usize;
    let mut metadata = good.clone();
    fill(&mut metadata[end - 8 - footer..end - 8], 0xff);
    let mut encrypted = good.clone();
    encrypted[..4].copy_from_slice(b"PARE");
    encrypted[end - 4..].copy_from_slice(b"PARE");
    let page_header = damaged(&good, 0, |b, c| fill(&mut b[c.data..c.data + 12], 0xff));
    let dictionary = damaged(&good, 1, |b, c| {
        let at = c.dictionary.unwrap();
        fill(&mut b[at..at + 8], 0xff);
    });
    // The entries' lengths, behind the page's header.
    let entries = damaged(&good, 1, |b, c| {
        let at = c.dictionary.unwrap();
        fill(&mut b[at + 14..c.data], 0x7f);
    });
    // The last run of indices points behind the dictionary's end.
    let indices = damaged(&good, 1, |b, c| fill(&mut b[c.end - 40..c.end], 0xff));
    let compressed = damaged(&packed, 1, |b, c| fill(&mut b[c.end - 60..c.end - 20], 0x5a));
    let blocks = batch(vec![("blob", texts((0..64).map(|_| "z".repeat(1 << 20))))]);
    let bomb = parquet(&blocks, true, false);
    vec![
        plain("good.parquet", &good, Fine(400)),
        plain("empty.parquet", b"", Fails(3, "the file is empty")),
        plain("text.parquet", b"{\"a\": 1}\n", Fails(3, "written whole")),
        plain("magic-only.parquet", b"PAR1", Fails(3, "can't read")),
        plain("garbage.parquet", b"PAR1aaaaaaaaaaaaPAR1", Fails(3, "can't read")),
        plain("cut.parquet", &good[..end / 2], Fails(3, "can't read")),
        plain("no-last-byte.parquet", &good[..end - 1], Fails(3, "can't read")),
        plain("footer-beyond.parquet", with_footer(0x7fff_ffff), Fails(3, "can't read")),
        plain("footer-short.parquet", with_footer(8), Fails(3, "can't read")),
        plain("footer.parquet", &metadata, Fails(3, "can't read")),
        plain("encrypted.parquet", &encrypted, Fails(3, "can't read")),
        plain("page-header.parquet", &page_header, Fails(3, "can't read")),
        plain("dictionary.parquet", &dictionary, Fails(3, "can't read")),
        plain("dictionary-entries.parquet", &entries, Fails(3, "can't read")),
        plain("dictionary-indices.parquet", &indices, Fails(3, "can't read")),
        plain("compressed-page.parquet", &compressed, Fails(3, "can't read")),
        plain("bomb.parquet", &bomb, Fails(3, "a row group of")),
        formatted("renamed.parquet", &good, Fails(3, "no field `conversations`")),
    ]
}

fn arrow_faults() -> Vec<Fault> {
    let table = batch(vec![("n", integers(9)), ("t", texts((0..9).map(|i| format!("text-{i}"))))]);
    let (file, stream) = (arrow_file(&table, false), arrow_stream(&table));
    let offsets = words_of(&[0, 6, 12, 18]);
    let far = replaced(&file, &offsets, &words_of(&[0, 6, 0x7fff_fff0, 18]));
    let backwards = replaced(&file, &offsets, &words_of(&[0, 60, -12, 18]));
    let negative = replaced(&stream, &offsets, &words_of(&[-9, 6, 12, 18]));
    let utf8 = replaced(&file, b"text-3", b"te\xff\xfe-3");
    let keys: DictionaryArray<Int32Type> =
        ["a", "b", "a", "b", "a", "b", "a"].into_iter().collect();
    let keyed = arrow_file(&batch(vec![("d", Arc::new(keys))]), false);
    let keyed = replaced(&keyed, &words_of(&[0, 1, 0, 1]), &words_of(&[0, 1, 900, 1]));
    let packed_table = batch(vec![("n", integers(4000))]);
    let packed = arrow_file(&packed_table, true);
    // Compressed buffers begin with the length that they claim to unpack to.
    let claimed = replaced(&packed, &32_000i64.to_le_bytes(), &(44i64 << 40).to_le_bytes());
    let less = replaced(&packed, &32_000i64.to_le_bytes(), &8i64.to_le_bytes());
    let wide: Vec<Field> =
        (0..5000).map(|i| Field::new(format!("c{i}"), DataType::Null, true)).collect();
    let nulls: Vec<ArrayRef> = (0..5000).map(|_| Arc::new(NullArray::new(1)) as ArrayRef).collect();
    let wide = RecordBatch::try_new(Arc::new(Schema::new(wide)), nulls).unwrap();
    let mut body = stream.clone();
    // The first message's length.
    body[4..8].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    vec![
        plain("good.arrow", &file, Fine(9)),
        plain("stream.arrow", &stream, Fine(9)),
        plain("empty.arrow", b"", Fails(3, "the file is empty")),
        plain("cut.arrow", &file[..file.len() - 30], Fails(3, "cut off")),
        plain("cut-stream.arrow", &stream[..stream.len() - 60], Fails(3, "cut off")),
        plain("message-length.arrow", &body, Fails(3, "the description of a message")),
        plain("garbage.arrow", b"\xff\xff\xff\xff\x08\0\0\0abcdefgh", Fails(3, "damaged")),
        plain("offset-beyond.arrow", &far, Fails(3, "can't read")),
        plain("offset-backwards.arrow", &backwards, Fails(3, "can't read")),
        plain("offset-negative.arrow", &negative, Fails(3, "can't read")),
        plain("bad-utf8.arrow", &utf8, Fails(3, "can't read")),
        plain("dictionary-key.arrow", &keyed, Fails(3, "can't read")),
        plain("claimed-size.arrow", &claimed, Fails(3, "unpacks to")),
        plain("claimed-less.arrow", &less, Fails(3, "can't read")),
        plain("wide.arrow", arrow_stream(&wide), Fails(3, "the number of columns")),
    ]
}

fn folder_faults() -> Vec<Fault> {
    let folder = |files: Vec<(&'static str, Vec<u8>)>, formatter, outcome| Fault {
        files,
        formatter,
        outcome,
    };
    let numbers = batch(vec![("a", integers(3))]);
    let strings = batch(vec![("a", texts(["x".into(), "y".into()]))]);
    let renamed = batch(vec![("conversation", texts([GOOD.into()]))]);
    let turns = format!("{GOOD}\n").into_bytes();
    vec![
        folder(
            vec![
                ("mixed-1.parquet", parquet(&numbers, true, true)),
                ("mixed-2.parquet", parquet(&strings, true, true)),
            ],
            false,
            Fails(3, "in the files before it is Int64"),
        ),
        folder(
            vec![
                ("kinds-1.jsonl", b"{\"a\": 1}\n{\"a\": \"x\"}\n".to_vec()),
                ("kinds-2.csv", b"a,b\n1,2\n".to_vec()),
            ],
            false,
            Fine(3),
        ),
        folder(
            vec![("shard-1.jsonl", turns.clone()), ("shard-2.jsonl", Vec::new())],
            true,
            Fails(3, "shard-2.jsonl` holds no rows"),
        ),
        folder(
            vec![
                ("whole-1.parquet", parquet(&numbers, true, true)),
                ("whole-2.parquet", Vec::new()),
            ],
            false,
            Fails(3, "whole-2.parquet` should hold Parquet by its name but holds nothing"),
        ),
        folder(
            vec![("names-1.jsonl", turns), ("names-2.parquet", parquet(&renamed, true, true))],
            true,
            Fails(3, "did you mean `conversation`"),
        ),
        folder(vec![("README.md", b"# nothing".to_vec())], true, Fails(3, "no data file in")),
    ]
}

#[test]
fn every_fault_is_named_and_nothing_panics() {
    let tmp = tempfile::tempdir().unwrap();
    let faults = faults();
    assert!(faults.len() >= 100, "{}", faults.len());
    let one = |number: usize, fault: &Fault| {
        let name = fault.files[0].0;
        let folder = tmp.path().join(number.to_string());
        std::fs::create_dir(&folder).unwrap();
        for (name, bytes) in &fault.files {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
        let only = folder.join(name);
        // A file is named, so that it is data whatever it is called.
        let named = fault.files.len() == 1 && name != "README.md";
        let input = if named { &only } else { &folder };
        judge(name, input, fault, tmp.path());
        std::fs::remove_dir_all(&folder).unwrap();
    };
    const AT_A_TIME: usize = 4;
    std::thread::scope(|scope| {
        for part in 0..AT_A_TIME {
            let (one, faults) = (&one, &faults);
            scope.spawn(move || {
                for (number, fault) in faults.iter().enumerate().skip(part).step_by(AT_A_TIME) {
                    one(number, fault);
                }
            });
        }
    });
}

fn judge(name: &str, input: &Path, fault: &Fault, tmp: &Path) {
    let out = tmp.join(format!("{name}.out.parquet"));
    let rejects = tmp.join(format!("{name}.rejects.jsonl"));
    let mut args: Vec<String> = vec!["convert".into(), "--input".into(), arg(input)];
    args.extend(["--output".into(), arg(&out), "--rejects".into(), arg(&rejects)]);
    args.extend(["--max_reject_rate".into(), "0.6".into()]);
    if fault.formatter {
        args.extend(["--plugin".into(), "sharegpt".into()]);
    }
    let listed = || -> Vec<Value> {
        let text = std::fs::read_to_string(&rejects).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    };
    match fault.outcome {
        Fine(rows) => {
            trainer_ok(&args);
            let totals = &json(format!("{}.manifest.json", out.display()))["totals"];
            assert_eq!((totals["used"].as_u64(), &totals["rejected"]), (Some(rows), &0.into()));
            assert!(listed().is_empty(), "{name}");
        }
        Rejects(rows, why) => {
            trainer_ok(&args);
            let listed = listed();
            let numbers: Vec<u64> = listed.iter().map(|r| r["row"].as_u64().unwrap()).collect();
            assert_eq!(numbers, rows, "{name}");
            for reject in &listed {
                assert_eq!(reject["file"], arg(input), "{name}");
                let reason = reject["reason"].as_str().unwrap();
                assert!(reason.contains(why), "{name}: {reason}");
                assert!(reject["kind"].is_string(), "{name}");
            }
            let totals = &json(format!("{}.manifest.json", out.display()))["totals"];
            assert_eq!(totals["rejected"].as_u64(), Some(rows.len() as u64), "{name}");
        }
        Fails(code, words) => {
            let said = trainer_fails(&args, code, &[words]);
            // Of a folder, the file at fault is named; the folder itself where it is none.
            let of = fault.files.iter().any(|(file, _)| said.contains(file));
            assert!(of, "{name} is not named: {said}");
            assert!(!out.exists(), "{name}: a partial output");
        }
    }
}

/// Reads a file to its end or its first error, in all columns and as whole rows.
fn read(path: &Path) {
    let Ok(file) = source::discover_file(path) else { return };
    for projection in [Projection::All, Projection::Columns { needs: Vec::new(), whole_row: true }]
    {
        for batch in SourceReader::new([file.clone()], ReadOptions::new(projection)) {
            if let Ok(batch) = &batch {
                assert_eq!(batch.batch.num_rows(), batch.rows.len());
            }
        }
    }
}

#[test]
fn damage_at_random_ends_in_an_error_or_in_rows() {
    let tmp = tempfile::tempdir().unwrap();
    let table = table();
    let lines = format!("{GOOD}\n").repeat(30);
    let seeds: Vec<(&str, Vec<u8>)> = vec![
        ("a.parquet", parquet(&table, false, true)),
        ("b.parquet", parquet(&table, true, true)),
        ("c.parquet", parquet(&table, true, false)),
        ("a.arrow", arrow_file(&table, false)),
        ("b.arrow", arrow_file(&table, true)),
        ("c.arrow", arrow_stream(&table)),
        ("a.jsonl", lines.clone().into_bytes()),
        ("a.json", format!("[{GOOD},{GOOD}]").into_bytes()),
        ("a.csv", b"a,b\n1,\"x, y\"\n2,\"z\"\n".to_vec()),
        ("a.jsonl.gz", gz(lines.as_bytes())),
        ("a.jsonl.zst", zstd::encode_all(lines.as_bytes(), 3).unwrap()),
    ];
    // A panic that a fence catches is no fault of ours, and its trace is noise.
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = std::panic::catch_unwind(|| {
        for (which, (name, good)) in seeds.iter().enumerate() {
            let path = tmp.path().join(name);
            for round in 0..150u64 {
                let random = Stream::new(round, Purpose::Test, which as u64);
                let below = |at: u64, n: usize| (random.at(at) % n.max(1) as u64) as usize;
                let mut bytes = good.clone();
                match round % 5 {
                    // Cut, a flipped bit, a run of one byte, a number of four bytes, a piece moved.
                    0 => bytes.truncate(below(0, bytes.len())),
                    1 | 2 => {
                        for k in 0..1 + round % 3 {
                            let at = below(1 + 2 * k, bytes.len());
                            bytes[at] ^= 1 << below(2 + 2 * k, 8);
                        }
                    }
                    3 => {
                        let at = below(0, bytes.len().saturating_sub(8));
                        let value = [0x7fff_ffffu32, 0, 0xffff_ffff, 0x8000_0000][below(1, 4)];
                        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
                    }
                    _ => {
                        let (from, to) = (below(0, bytes.len() - 8), below(1, bytes.len() - 8));
                        bytes.copy_within(from..from + 8, to);
                    }
                }
                std::fs::write(&path, &bytes).unwrap();
                let read = std::panic::catch_unwind(|| read(&path));
                assert!(read.is_ok(), "{name}, round {round}");
            }
        }
    });
    let _ = std::panic::take_hook();
    if let Err(panic) = outcome {
        let text = panic.downcast_ref::<String>().cloned();
        panic!("a reader panicked: {}", text.unwrap_or_default());
    }
}
