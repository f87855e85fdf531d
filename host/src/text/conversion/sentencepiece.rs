//! SentencePiece models (`sentencepiece_model.proto`): BPE and unigram, with or without bytes for what
//! the vocabulary lacks.

use std::collections::HashMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::protobuf::{Field, Fields};
use super::special::SpecialTokens;
use super::{Added, Conversion, chatglm, replace, replace_regex, sequence};

/// What stands for a space.
const SPACE: &str = "\u{2581}";
/// Longest piece, bytes: SentencePiece's own limit is 512 characters.
const PIECE_BYTES_MAX: usize = 2048;
/// Most pieces: the largest published vocabularies have 256 thousand.
const PIECES_MAX: usize = 1 << 20;

/// What a piece is (`SentencePiece.Type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl Kind {
    /// By SentencePiece's number, which is GGUF's too.
    fn of(number: u64) -> Result<Self, String> {
        Ok(match number {
            1 => Kind::Normal,
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => Kind::Unused,
            6 => Kind::Byte,
            other => return Err(format!("a piece has the unknown type {other}")),
        })
    }
}

#[derive(Clone, Debug)]
struct Piece {
    text: String,
    score: f32,
    kind: Kind,
}

/// The parts of a model that encoding depends on.
#[derive(Debug)]
struct ModelProto {
    pieces: Vec<Piece>,
    bpe: bool,
    byte_fallback: bool,
    /// Ids by the trainer's settings; negative: none.
    ids: [i64; 4],
    charsmap: Vec<u8>,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
}

fn text(bytes: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "a piece is not UTF-8".to_string())?;
    if text.len() > PIECE_BYTES_MAX || text.is_empty() {
        return Err(format!("a piece has {} bytes, expected 1 to {PIECE_BYTES_MAX}", text.len()));
    }
    Ok(text.to_string())
}

impl ModelProto {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut model = Self {
            pieces: Vec::new(),
            bpe: false,
            byte_fallback: false,
            ids: [0, 1, 2, -1],
            charsmap: Vec::new(),
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
        };
        for field in Fields::of(bytes) {
            match field? {
                (1, Field::Bytes(piece)) => {
                    if model.pieces.len() == PIECES_MAX {
                        return Err(format!("it has more than {PIECES_MAX} pieces"));
                    }
                    model.pieces.push(Self::piece(piece)?);
                }
                (2, Field::Bytes(trainer)) => model.trainer(trainer)?,
                (3, Field::Bytes(normalizer)) => model.normalizer(normalizer)?,
                _ => {}
            }
        }
        if model.pieces.is_empty() {
            return Err("it holds no pieces; it is not a SentencePiece model".into());
        }
        Ok(model)
    }

    fn piece(bytes: &[u8]) -> Result<Piece, String> {
        let mut piece = Piece { text: String::new(), score: 0.0, kind: Kind::Normal };
        for field in Fields::of(bytes) {
            match field? {
                (1, Field::Bytes(b)) => piece.text = text(b)?,
                (2, Field::Fixed32(bits)) => piece.score = f32::from_bits(bits),
                (3, Field::Varint(kind)) => piece.kind = Kind::of(kind)?,
                _ => {}
            }
        }
        if piece.text.is_empty() || !piece.score.is_finite() {
            return Err("a piece has no text, or a score that is not finite".into());
        }
        Ok(piece)
    }

    fn trainer(&mut self, bytes: &[u8]) -> Result<(), String> {
        for field in Fields::of(bytes) {
            match field? {
                (3, Field::Varint(1)) => self.bpe = false,
                (3, Field::Varint(2)) => self.bpe = true,
                (3, Field::Varint(_)) => {
                    return Err(
                        "it is a word or character model; only BPE and unigram are read".into()
                    );
                }
                (24, Field::Varint(1)) => {
                    return Err(
                        "it has its spaces at the ends of words, which is not supported".into()
                    );
                }
                (35, Field::Varint(on)) => self.byte_fallback = on != 0,
                (at @ 40..=43, Field::Varint(id)) => {
                    self.ids[(at - 40) as usize] = i64::from(id as i32);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn normalizer(&mut self, bytes: &[u8]) -> Result<(), String> {
        for field in Fields::of(bytes) {
            match field? {
                (2, Field::Bytes(map)) => self.charsmap = map.to_vec(),
                (3, Field::Varint(on)) => self.add_dummy_prefix = on != 0,
                (4, Field::Varint(on)) => self.remove_extra_whitespaces = on != 0,
                (5, Field::Varint(0)) => {
                    return Err("it keeps spaces as they are, which is not supported".into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The piece of a named role.
    fn role(&self, role: usize) -> Option<&str> {
        let id = usize::try_from(self.ids[role]).ok()?;
        self.pieces.get(id).map(|p| p.text.as_str())
    }

    fn unknown(&self) -> Option<usize> {
        self.pieces.iter().position(|p| p.kind == Kind::Unknown)
    }

    /// The tokenizers crate's BPE: merges of any two pieces that make a third, better ones first.
    fn bpe_model(&self, vocab: &HashMap<&str, usize>) -> Value {
        let mut order: Vec<usize> = (0..self.pieces.len())
            .filter(|&i| matches!(self.pieces[i].kind, Kind::Normal | Kind::Unused))
            .collect();
        order.sort_by(|&a, &b| {
            self.pieces[b].score.total_cmp(&self.pieces[a].score).then(a.cmp(&b))
        });
        let part = |text: &str| {
            let id = *vocab.get(text)?;
            matches!(self.pieces[id].kind, Kind::Normal | Kind::Unused).then_some(id)
        };
        let mut merges = Vec::new();
        for id in order {
            let whole = self.pieces[id].text.as_str();
            let mut splits: Vec<(usize, usize, &str, &str)> = whole
                .char_indices()
                .skip(1)
                .filter_map(|(at, _)| {
                    let (left, right) = whole.split_at(at);
                    Some((part(left)?, part(right)?, left, right))
                })
                .collect();
            splits.sort_unstable();
            merges.extend(splits.iter().map(|(_, _, left, right)| json!([left, right])));
        }
        let tokens: Map<String, Value> =
            self.pieces.iter().enumerate().map(|(i, p)| (p.text.clone(), json!(i))).collect();
        json!({
            "type": "BPE", "dropout": null,
            "unk_token": self.unknown().map(|i| self.pieces[i].text.as_str()),
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "byte_fallback": self.byte_fallback, "ignore_merges": false, "vocab": tokens,
            "merges": merges,
        })
    }

    /// Its unigram model. SentencePiece matches no control, unused or byte piece in a text: they get
    /// a score that never wins. A user's piece always wins, by SentencePiece's own bonus.
    fn unigram_model(&self) -> Value {
        let normal = || self.pieces.iter().filter(|p| p.kind == Kind::Normal).map(|p| p.score);
        let (least, most) =
            (normal().fold(0f32, f32::min), normal().fold(f32::MIN_POSITIVE, f32::max));
        let never = f64::from(least) - 1e4;
        let score = |p: &Piece| match p.kind {
            Kind::Normal => f64::from(p.score),
            // As in `unigram_model.cc`: next to nothing, where every other piece costs something.
            Kind::UserDefined => f64::from(p.text.len() as f32 * most - 0.1),
            Kind::Unknown | Kind::Control | Kind::Unused | Kind::Byte => never,
        };
        let vocab: Vec<Value> = self.pieces.iter().map(|p| json!([p.text, score(p)])).collect();
        json!({
            "type": "Unigram", "unk_id": self.unknown(), "byte_fallback": self.byte_fallback,
            "vocab": vocab,
        })
    }
}

/// Classes whose tokenizers begin a text with bos where their files don't say.
const BEGIN_WITH_BOS: [&str; 7] = [
    "LlamaTokenizer",
    "CodeLlamaTokenizer",
    "GemmaTokenizer",
    "BaichuanTokenizer",
    "InternLMTokenizer",
    "InternLM2Tokenizer",
    "",
];

/// A BPE model whose pieces another format lists.
pub(super) struct Listed<'a> {
    /// Text, score and number of the kind of each.
    pub pieces: Vec<(&'a str, f32, u64)>,
    /// Ids of unk, bos, eos and pad.
    pub ids: [Option<u64>; 4],
    /// Whether texts begin as if with a space.
    pub add_dummy_prefix: bool,
}

/// From a list of pieces.
pub(super) fn of_listed(listed: Listed<'_>, special: &SpecialTokens) -> Result<Conversion, String> {
    let piece = |(piece, score, kind): (&str, f32, u64)| {
        let (text, kind) = (text(piece.as_bytes())?, Kind::of(kind)?);
        match score.is_finite() {
            true => Ok(Piece { text, score, kind }),
            false => Err("a piece has a score that is not finite".to_string()),
        }
    };
    if listed.pieces.len() > PIECES_MAX {
        return Err(format!("it has more than {PIECES_MAX} pieces"));
    }
    let pieces = listed.pieces.into_iter().map(piece).collect::<Result<Vec<_>, _>>()?;
    let model = ModelProto {
        byte_fallback: pieces.iter().any(|p| p.kind == Kind::Byte),
        pieces,
        bpe: true,
        ids: listed.ids.map(|id| id.and_then(|id| i64::try_from(id).ok()).unwrap_or(-1)),
        charsmap: Vec::new(),
        add_dummy_prefix: listed.add_dummy_prefix,
        remove_extra_whitespaces: false,
    };
    complete(model, None, special)
}

/// From the bytes of a model file.
pub(super) fn convert(
    bytes: &[u8],
    path: &Path,
    special: &SpecialTokens,
) -> Result<Conversion, String> {
    complete(ModelProto::parse(bytes)?, chatglm::Generation::of(path, special), special)
}

fn complete(
    mut model: ModelProto,
    glm: Option<chatglm::Generation>,
    special: &SpecialTokens,
) -> Result<Conversion, String> {
    if let Some(glm) = &glm {
        model.pieces.splice(
            0..0,
            glm.image_pieces(special).map(|text| Piece { text, score: 0.0, kind: Kind::Unused }),
        );
    }
    let mut vocab = HashMap::new();
    for (id, piece) in model.pieces.iter().enumerate() {
        if vocab.insert(piece.text.as_str(), id).is_some() {
            return Err(format!("it has the piece `{}` twice", crate::error::excerpt(&piece.text)));
        }
    }
    if model.byte_fallback
        && let Some(byte) = (0..=255u8).find(|b| !vocab.contains_key(&*format!("<0x{b:02X}>")))
    {
        return Err(format!("it falls back to bytes and lacks the piece of byte {byte}"));
    }
    let json = match model.bpe {
        true => model.bpe_model(&vocab),
        false => model.unigram_model(),
    };
    let user_defined = model.pieces.iter().any(|p| p.kind == Kind::UserDefined);
    // In a unigram model a user's pieces are found by their scores; BPE must find them before.
    let outside = model.bpe && user_defined;
    // Only a pre-tokenizer can leave out the space before what follows an added token.
    let first_only = model.add_dummy_prefix
        && match special.flag("legacy") {
            Some(legacy) => !legacy,
            None => outside,
        };
    let mut normalizers = Vec::new();
    if glm == Some(chatglm::Generation::First) {
        normalizers.extend(chatglm::whitespace_to_tokens());
    }
    if !model.charsmap.is_empty() {
        let map = STANDARD.encode(&model.charsmap);
        normalizers.push(json!({"type": "Precompiled", "precompiled_charsmap": map}));
    }
    if model.remove_extra_whitespaces {
        // At the end SentencePiece drops its own character for a space too.
        normalizers.push(replace_regex("\\A +|[ \u{2581}]+\\z", ""));
        normalizers.push(replace_regex(" {2,}", " "));
    }
    if model.add_dummy_prefix && !first_only {
        normalizers.push(json!({"type": "Prepend", "prepend": SPACE}));
    }
    normalizers.push(replace(" ", SPACE));
    let pre_tokenizer = match first_only {
        true => {
            json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": false})
        }
        false => Value::Null,
    };
    let mut decoders = vec![replace(SPACE, " ")];
    if glm == Some(chatglm::Generation::First) {
        decoders.extend(chatglm::tokens_to_whitespace());
    }
    decoders.push(json!({"type": "ByteFallback"}));
    decoders.push(json!({"type": "Fuse"}));
    if model.add_dummy_prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let mut added = Vec::new();
    for (id, piece) in model.pieces.iter().enumerate() {
        let token = |special| Added::new(id as u64, piece.text.clone(), special);
        match piece.kind {
            Kind::Control | Kind::Unknown => added.push(token(true)),
            Kind::UserDefined if outside => {
                // Without a prefix, normalising a token's own text changes nothing but its spaces.
                let normalized = !model.add_dummy_prefix || first_only;
                added.push(Added { normalized, ..token(false) });
            }
            _ => {}
        }
    }
    let mut config = Map::new();
    for (role, name) in ["unk_token", "bos_token", "eos_token", "pad_token"].into_iter().enumerate()
    {
        if let Some(token) = model.role(role) {
            config.insert(name.into(), token.into());
        }
    }
    let named =
        |name: &str| special.token(name).or_else(|| config.get(name)?.as_str().map(str::to_string));
    let bos = special.flag("add_bos_token").unwrap_or_else(|| {
        let class = special.class().trim_end_matches("Fast");
        glm.is_none() && BEGIN_WITH_BOS.contains(&class)
    });
    let eos = special.flag("add_eos_token").unwrap_or(false);
    let before = bos.then(|| named("bos_token")).flatten().into_iter().collect();
    let after = eos.then(|| named("eos_token")).flatten().into_iter().collect();
    let mut conversion = Conversion {
        model: json,
        normalizer: sequence("normalizers", normalizers),
        pre_tokenizer,
        decoder: sequence("decoders", decoders),
        added,
        frame: (before, after),
        config,
    };
    if let Some(glm) = glm {
        glm.complete(&mut conversion, model.pieces.len(), special);
    }
    Ok(conversion)
}
