//! Lines of a byte stream with their numbers, none longer than the limit in memory.

use std::io::{self, BufRead};

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// The line is in the buffer, without its ending.
    Whole,
    /// The line is longer than the limit; the buffer holds its start.
    TooLong,
}

/// Splits at `\n`; a `\r` before it belongs to the ending.
pub struct Lines<R> {
    stream: R,
    limit: usize,
    number: u64,
    buffer: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// Lines of `stream`, each of at most `limit` bytes.
    pub fn new(stream: R, limit: usize) -> Self {
        Self::after(stream, limit, 0)
    }

    /// The same, of a stream that goes on behind `lines` lines.
    pub fn after(stream: R, limit: usize, lines: u64) -> Self {
        Self { stream, limit, number: lines, buffer: Vec::new() }
    }

    /// 1-based number of the line in the buffer.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The line, or the start of a line that is too long.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Reads the next line; `None` at the end.
    pub fn advance(&mut self) -> io::Result<Option<Line>> {
        self.buffer.clear();
        let mut too_long = false;
        let mut any = false;
        loop {
            let piece = self.stream.fill_buf()?;
            if piece.is_empty() {
                if !any {
                    return Ok(None);
                }
                break;
            }
            any = true;
            let end = memchr::memchr(b'\n', piece);
            let text = &piece[..end.unwrap_or(piece.len())];
            if !too_long {
                // One byte more than the limit, for the `\r` of a line that fits exactly.
                let room = self.limit + 1 - self.buffer.len().min(self.limit + 1);
                self.buffer.extend_from_slice(&text[..text.len().min(room)]);
                too_long = text.len() > room;
            }
            let used = end.map_or(piece.len(), |e| e + 1);
            self.stream.consume(used);
            if end.is_some() {
                break;
            }
        }
        self.number += 1;
        if !too_long && self.buffer.last() == Some(&b'\r') {
            self.buffer.pop();
        }
        let too_long = too_long || self.buffer.len() > self.limit;
        if too_long {
            self.buffer.truncate(self.limit);
        }
        Ok(Some(if too_long { Line::TooLong } else { Line::Whole }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::BufReader;

    fn all(text: &[u8], limit: usize, chunk: usize) -> Vec<(u64, Vec<u8>, bool)> {
        let mut lines = Lines::new(BufReader::with_capacity(chunk, text), limit);
        let mut out = Vec::new();
        while let Some(line) = lines.advance().unwrap() {
            out.push((lines.number(), lines.bytes().to_vec(), line == Line::TooLong));
        }
        out
    }

    #[test]
    fn endings_and_numbers_do_not_depend_on_the_buffer() {
        for chunk in 1..8 {
            let got = all(b"ab\r\n\ncd\r\r\ne", 9, chunk);
            let want = [(1, "ab"), (2, ""), (3, "cd\r"), (4, "e")];
            let want: Vec<_> =
                want.iter().map(|(n, s)| (*n, s.as_bytes().to_vec(), false)).collect();
            assert_eq!(got, want, "chunk {chunk}");
        }
    }

    #[test]
    fn long_lines_are_passed_over_to_their_end() {
        for chunk in 1..8 {
            let got = all(b"abcd\r\nabcde\nxy\nabcdefghijk", 4, chunk);
            assert_eq!(got[0], (1, b"abcd".to_vec(), false));
            assert_eq!(got[1], (2, b"abcd".to_vec(), true));
            assert_eq!(got[2], (3, b"xy".to_vec(), false));
            assert_eq!(got[3], (4, b"abcd".to_vec(), true));
        }
    }
}
