//! Tokenizers in other formats against the libraries that own them (`golden/tokenizer_ids.py`), and
//! their files under attack.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use support::golden;
use trainer::text::TextTokenizer;

fn texts() -> Vec<String> {
    let texts: Vec<String> =
        serde_json::from_value(support::json(golden("tokenizers/hostile.json"))).unwrap();
    assert!(texts.len() > 200);
    texts
}

fn load(dir: &Path) -> TextTokenizer {
    TextTokenizer::load(dir, [None; 3]).unwrap()
}

/// Every text but those that hold one of `special`, which trainer finds and the library does not.
fn compare(tokenizer: &TextTokenizer, ids: &Path, special: &[&str]) {
    let wanted: Vec<Vec<u32>> = serde_json::from_value(support::json(ids)).unwrap();
    let mut wrong = Vec::new();
    for (text, want) in texts().iter().zip(&wanted) {
        if special.iter().any(|s| text.contains(s)) {
            continue;
        }
        let got = tokenizer.encode(text, false).unwrap();
        if got.ids != *want {
            wrong.push(format!("{text:?}\n  {:?}\n  {want:?}", got.ids));
        }
    }
    let shown: Vec<&String> = wrong.iter().take(5).collect();
    assert!(wrong.is_empty(), "{}: {} differ: {shown:#?}", ids.display(), wrong.len());
}

const CONTROL: [&str; 3] = ["<s>", "</s>", "<unk>"];

#[test]
fn sentencepiece_models_give_sentencepieces_ids() {
    for name in ["llama", "unigram", "unigram-bytes", "gemma"] {
        let dir = golden("tokenizers").join(name);
        let tokenizer = load(&dir);
        // The tokenizers crate finds the names of a unigram model's bytes in a text, SentencePiece does not.
        let bytes: &[&str] = if name == "unigram-bytes" { &["<0x"] } else { &[] };
        compare(&tokenizer, &dir.join("ids.json"), &[&CONTROL, bytes].concat());
        assert!(tokenizer.notices[0].contains("converted from"), "{:?}", tokenizer.notices);
    }
    let gemma = load(&golden("tokenizers/gemma"));
    assert_eq!(gemma.bos(), Some(("<bos>", 1)));
    assert_eq!(gemma.encode("<bos>a", false).unwrap().ids[0], 1);
    // Class and settings say what a text is framed by.
    assert_eq!(gemma.encode("a", true).unwrap().ids[0], 1);
    let t5 = load(&golden("tokenizers/unigram"));
    assert_eq!(t5.encode("a", true).unwrap().ids.last(), Some(&2));
    let plain = load(&golden("tokenizers/unigram-bytes"));
    let ids = |special| plain.encode("a", special).unwrap().ids;
    assert_eq!(ids(true), ids(false));
}

#[test]
fn tiktoken_files_give_tiktokens_ids() {
    for name in ["qwen", "glm4", "llama3"] {
        let dir = golden("tokenizers").join(name);
        compare(&load(&dir), &dir.join("ids.json"), &[]);
    }
    let qwen = load(&golden("tokenizers/qwen"));
    assert_eq!(qwen.eos(), Some(("<|endoftext|>", 500)));
    assert_eq!(qwen.encode("<|im_start|>a", false).unwrap().ids, [501, 97]);
    let glm = load(&golden("tokenizers/glm4"));
    assert_eq!(glm.encode("a", true).unwrap().ids, [502, 504, 97]);
    assert_eq!(glm.encode("a<|user|>", false).unwrap().ids, [97, 507]);
    let llama = load(&golden("tokenizers/llama3"));
    assert_eq!(llama.encode("a<|eot_id|>", true).unwrap().ids, [500, 97, 509]);
}

#[test]
fn shared_vocabularies_give_their_owners_ids() {
    let Some(stories) = support::shared("stories260K/hf/tokenizer.model") else { return };
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(&stories, dir.path().join("tokenizer.model")).unwrap();
    compare(&load(dir.path()), &golden("tokenizers/stories260K.json"), &CONTROL);
    let Some(gpt2) = support::shared("cs336-a1/tests/fixtures") else { return };
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(gpt2.join("gpt2_vocab.json"), dir.path().join("vocab.json")).unwrap();
    std::fs::copy(gpt2.join("gpt2_merges.txt"), dir.path().join("merges.txt")).unwrap();
    let config = r#"{"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"}"#;
    std::fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
    compare(&load(dir.path()), &golden("tokenizers/gpt2.json"), &[]);
}

#[test]
fn what_was_converted_is_saved_and_reads_back_the_same() {
    for name in ["llama", "unigram", "unigram-bytes", "gemma", "qwen", "glm4", "llama3"] {
        let tokenizer = load(&golden("tokenizers").join(name));
        let dir = tempfile::tempdir().unwrap();
        tokenizer.save(dir.path()).unwrap();
        let again = load(dir.path());
        assert!(dir.path().join("tokenizer.json").is_file());
        assert_eq!(again.differs_from(&tokenizer), None, "{name}");
        assert_eq!((again.bos(), again.eos()), (tokenizer.bos(), tokenizer.eos()), "{name}");
        for text in texts() {
            for special in [false, true] {
                let encode = |t: &TextTokenizer| t.encode(&text, special).unwrap();
                assert_eq!(encode(&again), encode(&tokenizer), "{name}: {text:?}");
            }
        }
        let config = support::json(dir.path().join("tokenizer_config.json"));
        assert_eq!(config["tokenizer_class"], "PreTrainedTokenizerFast");
        assert!(config.get("auto_map").is_none());
    }
}

#[test]
fn texts_come_back() {
    for name in ["llama", "gemma", "qwen", "llama3"] {
        let tokenizer = load(&golden("tokenizers").join(name));
        let plain = |t: &&String| !t.contains('\u{2581}') && !CONTROL.iter().any(|c| t.contains(c));
        for text in texts().iter().filter(plain) {
            let ids = tokenizer.encode(text, false).unwrap().ids;
            let decoded = tokenizer.decode(&ids, false).unwrap();
            // The first space is the tokenizer's own.
            assert_eq!(decoded.trim_start(), text.trim_start(), "{name}");
        }
    }
}

#[test]
fn added_tokens_of_the_folders_other_files_keep_their_ids() {
    let dir = tempfile::tempdir().unwrap();
    let copy = |name: &str| {
        std::fs::copy(golden("tokenizers/llama").join(name), dir.path().join(name)).unwrap();
    };
    copy("tokenizer.model");
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("added_tokens.json", r#"{"<extra>": 703, "[PAD]": 700}"#);
    write(
        "special_tokens_map.json",
        r#"{"pad_token": "[PAD]", "additional_special_tokens": ["<turn>", {"content": "</s>"}]}"#,
    );
    let tokenizer = load(dir.path());
    assert_eq!(tokenizer.pad(), Some(("[PAD]", 700)));
    let ids = tokenizer.encode("<extra><turn>", false).unwrap().ids;
    assert_eq!(ids, [703, 704]);
    write("added_tokens.json", r#"{"<extra>": 5}"#);
    let error = TextTokenizer::load(dir.path(), [None; 3]).err().unwrap().to_string();
    assert!(error.contains("`<extra>` the id 5"), "{error}");
    write("added_tokens.json", r#"{"<extra>": 900000000}"#);
    let error = TextTokenizer::load(dir.path(), [None; 3]).err().unwrap().to_string();
    assert!(error.contains("far beyond"), "{error}");
}

/// ChatGLM-6B's tokens for white space, on a small unigram model of the same kind.
#[test]
fn chatglm_keeps_white_space_in_tokens_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = Vec::new();
    let mut piece = |text: &str, score: f32, kind: u8| {
        let mut inner = vec![0x0A, text.len() as u8];
        inner.extend(text.bytes());
        inner.push(0x15);
        inner.extend(score.to_le_bytes());
        inner.extend([0x18, kind]);
        bytes.extend([0x0A, inner.len() as u8]);
        bytes.extend(inner);
    };
    piece("<unk>", 0.0, 2);
    for text in ["<n>", "<|tab|>", "<|blank_2|>", "<|blank_3|>"] {
        piece(text, 0.0, 4);
    }
    for (i, text) in ["\u{2581}", "a", "b", "<", "n", ">"].iter().enumerate() {
        piece(text, -1.0 - i as f32, 1);
    }
    for text in ["[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"] {
        piece(text, 0.0, 4);
    }
    std::fs::write(dir.path().join("ice_text.model"), &bytes).unwrap();
    std::fs::write(
        dir.path().join("tokenizer_config.json"),
        r#"{"tokenizer_class": "ChatGLMTokenizer"}"#,
    )
    .unwrap();
    let tokenizer = load(dir.path());
    let encode = |text: &str| tokenizer.encode(text, false).unwrap().ids;
    assert_eq!(encode("a\nb"), [5, 6, 1, 7]);
    assert_eq!(encode("a\t  b   a"), [5, 6, 2, 3, 7, 4, 6]);
    assert_eq!(tokenizer.encode("a", true).unwrap().ids, [5, 6, 12, 14]);
    assert_eq!(encode("[gMASK]<sop>"), [12, 14]);
    assert_eq!(tokenizer.decode(&[5, 6, 1, 7, 4, 6], true).unwrap(), "a\nb   a");
    assert_eq!(tokenizer.eos(), Some(("<eop>", 15)));
}

fn files() -> Vec<(PathBuf, Vec<u8>)> {
    ["llama/tokenizer.model", "unigram/spiece.model", "gemma/tokenizer.model", "qwen/qwen.tiktoken"]
        .map(|name| {
            let path = golden("tokenizers").join(name);
            let bytes = std::fs::read(&path).unwrap();
            (PathBuf::from(path.file_name().unwrap()), bytes)
        })
        .to_vec()
}

/// Loads `bytes` as a tokenizer; what loads must encode.
fn attack(name: &Path, bytes: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(name), bytes).unwrap();
    match TextTokenizer::load(dir.path(), [None; 3]) {
        Ok(tokenizer) => {
            for text in ["Hello, world!\n", "日本語 \u{2581}<0x41>\0", ""] {
                let _ = tokenizer.encode(text, true);
            }
        }
        Err(error) => assert!(error.to_string().contains("can't be used"), "{error}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn damaged_files_never_panic(
        which in 0usize..4,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        end in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let (name, mut bytes) = files().swap_remove(which);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if cut {
            bytes.truncate(end.index(bytes.len()));
        }
        attack(&name, &bytes);
    }

    #[test]
    fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        for name in ["tokenizer.model", "x.tiktoken", "ice_text.model"] {
            attack(Path::new(name), &bytes);
        }
    }
}
