//! MinHash signatures (Broder 1997) of the words of a text, and the bands by which near ones are
//! found (locality-sensitive hashing; Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets",
//! ch. 3). Of each minimum only 8 bits are kept (b-bit minwise hashing, Li and König 2010).

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::rng::{Purpose, Stream, mix64};

/// How near texts are found.
#[derive(Clone, Debug, PartialEq)]
pub struct MinHash {
    /// Similarity (Jaccard, of the sets of `ngram` words) from which on texts are near.
    pub threshold: f64,
    /// Words of a shingle.
    pub ngram: usize,
    /// Factor and summand of every hash function, modulo 2^32.
    functions: Vec<(u32, u32)>,
    /// Functions of a band.
    rows: usize,
}

/// A text's signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// 8 bits of each minimum.
    minima: Vec<u8>,
    /// A hash of each band.
    bands: Vec<u64>,
}

impl MinHash {
    /// `functions` seeded hash functions. Bands are as long as they can be while at most 1 % of the
    /// pairs at the threshold are missed.
    pub fn new(threshold: f64, ngram: usize, functions: usize, seed: u64) -> Self {
        let count = functions.max(1);
        let each = |k: u64| {
            let stream = Stream::new(seed, Purpose::MinHash, k);
            (stream.at(0) as u32 | 1, stream.at(1) as u32)
        };
        let found = |rows: usize| {
            let bands = (count / rows) as f64;
            1.0 - (1.0 - threshold.powi(rows as i32)).powf(bands)
        };
        let rows = (1..=count).rev().find(|&rows| found(rows) >= 0.99).unwrap_or(1);
        let functions = (0..count as u64).map(each).collect();
        Self { threshold, ngram: ngram.max(1), functions, rows }
    }

    /// Its settings, for an account.
    pub fn describe(&self) -> Value {
        json!({
            "minhash": {
                "threshold": self.threshold,
                "ngram": self.ngram,
                "functions": self.functions.len(),
                "bands": self.bands(),
            }
        })
    }

    /// Bands of a signature.
    pub fn bands(&self) -> usize {
        self.functions.len() / self.rows
    }

    /// The signature of some texts, taken as one; `None` without a word.
    pub fn signature(&self, texts: &[&str]) -> Option<Signature> {
        let mut words = Vec::new();
        texts.iter().for_each(|text| words_of(text, &mut words));
        if words.is_empty() {
            return None;
        }
        let mut minima = vec![u32::MAX; self.functions.len()];
        // A text shorter than a shingle is one as a whole.
        for shingle in words.windows(self.ngram.min(words.len())) {
            let hash = shingle.iter().fold(0u64, |hash, word| mix64(hash.rotate_left(5) ^ word));
            let hash = (hash >> 32) as u32;
            for (least, (factor, summand)) in minima.iter_mut().zip(&self.functions) {
                *least = (*least).min(hash.wrapping_mul(*factor).wrapping_add(*summand));
            }
        }
        let bands = minima
            .chunks_exact(self.rows)
            .enumerate()
            .map(|(band, rows)| {
                rows.iter().fold(mix64(band as u64 + 1), |hash, m| mix64(hash ^ u64::from(*m)))
            })
            .collect();
        let minima = minima.iter().map(|m| (mix64(u64::from(*m)) >> 56) as u8).collect();
        Some(Signature { minima, bands })
    }
}

/// Hashes of the words of a text, without case: runs of letters and digits; of scripts that are
/// written without blanks, every character.
fn words_of(text: &str, out: &mut Vec<u64>) {
    let mut hash = 0u64;
    let mut inside = false;
    for c in text.chars() {
        let alone = matches!(c, '\u{2e80}'..='\u{9fff}' | '\u{ac00}'..='\u{d7af}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}' | '\u{0e00}'..='\u{0eff}');
        let letter = c.is_alphanumeric() && !alone;
        if inside && !letter {
            out.push(mix64(hash));
            (hash, inside) = (0, false);
        }
        if letter {
            for c in c.to_lowercase() {
                hash = (hash ^ u64::from(c)).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(23);
            }
            inside = true;
        } else if alone && c.is_alphanumeric() {
            out.push(mix64(u64::from(c) | 1 << 40));
        }
    }
    if inside {
        out.push(mix64(hash));
    }
}

/// Signatures seen so far, found again by their bands.
pub struct Index {
    minhash: MinHash,
    /// The newest entry of each band's hash.
    newest: HashMap<u64, u32>,
    /// The entry before, of every entry and band.
    before: Vec<u32>,
    minima: Vec<u8>,
}

/// No entry.
const NONE: u32 = u32::MAX;
/// Entries of one band that are compared at most: of texts that share a band with so many, some are
/// compared with less of them.
const COMPARED_MAX: usize = 500;

impl Index {
    /// Nothing yet.
    pub fn new(minhash: MinHash) -> Self {
        Self { minhash, newest: HashMap::new(), before: Vec::new(), minima: Vec::new() }
    }

    /// Entries so far.
    pub fn len(&self) -> usize {
        self.minima.len() / self.minhash.functions.len()
    }

    /// The earliest entry that is near, and the estimated similarity.
    pub fn find(&self, signature: &Signature) -> Option<(u32, f64)> {
        let mut candidates = Vec::new();
        let bands = self.minhash.bands();
        for (band, hash) in signature.bands.iter().enumerate() {
            let mut entry = self.newest.get(hash).copied().unwrap_or(NONE);
            let mut compared = 0;
            while entry != NONE && compared < COMPARED_MAX {
                candidates.push(entry);
                entry = self.before[entry as usize * bands + band];
                compared += 1;
            }
        }
        candidates.sort_unstable();
        candidates.dedup();
        let near = |entry: &u32| {
            let similarity = self.similarity(signature, *entry);
            (similarity >= self.minhash.threshold).then_some((*entry, similarity))
        };
        candidates.iter().find_map(near)
    }

    /// Estimated Jaccard similarity: the share of equal minima, without those that are equal by
    /// chance.
    fn similarity(&self, signature: &Signature, entry: u32) -> f64 {
        const CHANCE: f64 = 1.0 / 256.0;
        let n = self.minhash.functions.len();
        let own = &self.minima[entry as usize * n..][..n];
        let equal = own.iter().zip(&signature.minima).filter(|(a, b)| a == b).count();
        ((equal as f64 / n as f64 - CHANCE) / (1.0 - CHANCE)).max(0.0)
    }

    /// Adds a signature; answers its entry.
    pub fn add(&mut self, signature: &Signature) -> u32 {
        let entry = self.len() as u32;
        self.minima.extend(&signature.minima);
        for hash in &signature.bands {
            self.before.push(self.newest.insert(*hash, entry).unwrap_or(NONE));
        }
        entry
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Seeded words, some of which are replaced.
    fn text(seed: u64, replaced: f64) -> String {
        let (words, noise) =
            (Stream::new(seed, Purpose::Test, 0), Stream::new(seed, Purpose::Test, 1));
        let each = (0..300u64).map(|i| match noise.uniform(i) < replaced {
            true => format!("other{}", noise.at(1000 + i) % 1000),
            false => format!("word{}", words.at(i) % 5000),
        });
        each.collect::<Vec<_>>().join(" ")
    }

    fn jaccard(a: &str, b: &str, n: usize) -> f64 {
        let shingles = |text: &str| -> BTreeSet<String> {
            let words: Vec<&str> = text.split(' ').collect();
            words.windows(n).map(|w| w.join(" ")).collect()
        };
        let (a, b) = (shingles(a), shingles(b));
        a.intersection(&b).count() as f64 / a.union(&b).count() as f64
    }

    #[test]
    fn similarity_is_estimated_and_near_texts_are_found() {
        let minhash = MinHash::new(0.7, 3, 256, 1);
        let mut worst: f64 = 0.0;
        let (mut missed, mut near) = (0, 0);
        for seed in 0..120 {
            let share = f64::from(seed as u32) / 1200.0;
            let (a, b) = (text(seed, 0.0), text(seed, share));
            let mut index = Index::new(minhash.clone());
            index.add(&minhash.signature(&[&text(seed + 1000, 0.0)]).unwrap());
            index.add(&minhash.signature(&[&a]).unwrap());
            let signature = minhash.signature(&[&b]).unwrap();
            let exact = jaccard(&a, &b, 3);
            worst = worst.max((index.similarity(&signature, 1) - exact).abs());
            let found = index.find(&signature);
            if exact > 0.8 {
                near += 1;
                missed += usize::from(found.map(|f| f.0) != Some(1));
            }
            assert!(exact > 0.55 || found.is_none(), "{exact}: {found:?}");
        }
        // Four standard errors of 256 functions.
        assert!(worst < 0.13, "{worst}");
        assert!(near > 20 && missed == 0, "{missed} of {near} missed");
    }

    #[test]
    fn words_have_no_case_and_characters_stand_for_words_where_there_are_none() {
        let count = |text: &str| {
            let mut words = Vec::new();
            words_of(text, &mut words);
            words
        };
        assert_eq!(count("Hello, WORLD 42"), count("hello world\n42!"));
        assert_eq!(count("你好 world").len(), 3);
        assert_ne!(count("ab"), count("ba"));
        assert!(count(" ,.! ").is_empty());
        let minhash = MinHash::new(0.8, 5, 128, 1);
        assert_eq!(minhash.signature(&["?!"]), None);
        assert!(minhash.signature(&["one two"]).is_some());
        assert_ne!(
            minhash.signature(&["one two"]),
            MinHash::new(0.8, 5, 128, 2).signature(&["one two"])
        );
    }
}
