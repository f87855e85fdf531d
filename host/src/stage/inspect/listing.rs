//! A file of JSON lines that appears under its name when it is whole.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::Result;
use crate::fs::io_error;

/// The file while it is written.
pub struct Listing {
    out: BufWriter<File>,
    aside: PathBuf,
    target: PathBuf,
    done: bool,
}

impl Listing {
    /// Begins the file that will be `target`.
    ///
    /// # Errors
    /// A folder that can't be written to.
    pub fn create(target: &Path) -> Result<Self> {
        if let Some(parent) = target.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent).map_err(io_error("create", parent))?;
        }
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let aside = target.with_file_name(format!(".{name}.part"));
        let out = BufWriter::new(File::create(&aside).map_err(io_error("create", &aside))?);
        Ok(Self { out, aside, target: target.to_path_buf(), done: false })
    }

    /// Adds a line.
    ///
    /// # Errors
    /// A full disk and the like.
    pub fn write(&mut self, line: &impl Serialize) -> Result<()> {
        let written = serde_json::to_writer(&mut self.out, line).map_err(std::io::Error::from);
        let written = written.and_then(|()| self.out.write_all(b"\n"));
        Ok(written.map_err(io_error("write", &self.aside))?)
    }

    /// Ends the file and gives it its name.
    ///
    /// # Errors
    /// A full disk and the like.
    pub fn finish(mut self) -> Result<()> {
        let synced = self.out.flush().and_then(|()| self.out.get_ref().sync_all());
        synced.map_err(io_error("write", &self.aside))?;
        std::fs::rename(&self.aside, &self.target).map_err(io_error("rename", &self.aside))?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        if !self.done {
            // The aside file is ours alone; failing to remove it changes nothing for the reader.
            let _ = std::fs::remove_file(&self.aside);
        }
    }
}
