//! What a source was, for the manifest: every file by its sha256.

use serde::{Deserialize, Serialize};

use super::error::DataError;
use super::source::SourceFile;
use crate::fs;

/// One input file, known by its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The path as the user named it.
    pub file: String,
    /// Size, bytes.
    pub bytes: u64,
    /// Lower-case hexadecimal sha256 of the file as it lies on the disk.
    pub sha256: String,
}

/// Hashes the files, in their order, reading them in pieces.
///
/// # Errors
/// [`DataError::Fs`] when a file can't be read.
pub fn fingerprint(files: &[SourceFile]) -> Result<Vec<Fingerprint>, DataError> {
    files
        .iter()
        .map(|file| {
            Ok(Fingerprint {
                file: file.name.to_string(),
                bytes: file.bytes,
                sha256: fs::sha256_file(&file.path)?,
            })
        })
        .collect()
}

/// One hash over the contents of all files in their order; names do not count.
pub fn combined(files: &[Fingerprint]) -> String {
    let mut all = String::new();
    for file in files {
        all.push_str(&file.sha256);
        all.push('\n');
    }
    fs::sha256_hex(all.as_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::source::discover_folder;

    #[test]
    fn content_and_order_decide_the_hash() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.txt"), "abc").unwrap();
        std::fs::write(dir.path().join("b.txt"), "x").unwrap();
        let prints = fingerprint(&discover_folder(dir.path()).unwrap().files).unwrap();
        // The well-known test vector of FIPS 180-2.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((prints[0].sha256.as_str(), prints[0].bytes), (abc, 3));
        let mut swapped = prints.clone();
        swapped.swap(0, 1);
        assert_ne!(combined(&prints), combined(&swapped));
    }
}
