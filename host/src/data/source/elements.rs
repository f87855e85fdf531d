//! The elements of one JSON array, or JSON values one after the other, as a stream: only the
//! element at hand is in memory. Elements are cut by brackets and quotes; whether they are valid
//! JSON is for others to say.

use std::io::{self, BufRead};

/// One element.
#[derive(Debug, PartialEq, Eq)]
pub enum Element {
    /// The element is in the buffer.
    Whole,
    /// The element is longer than the limit; the buffer holds its start.
    TooLong,
}

/// Why no further element can be read.
#[derive(Debug)]
pub enum ElementError {
    /// The stream failed.
    Io(io::Error),
    /// The structure is broken.
    Broken(&'static str),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Start,
    Element,
    /// After a comma, where an element must follow.
    AfterComma,
    End,
}

/// Cuts a stream into elements.
pub struct Elements<R> {
    stream: R,
    limit: usize,
    in_array: bool,
    at: At,
    number: u64,
    buffer: Vec<u8>,
    too_long: bool,
}

impl<R: BufRead> Elements<R> {
    /// The elements of the one array that `stream` holds.
    pub fn array(stream: R, limit: usize) -> Self {
        Self {
            stream,
            limit,
            in_array: true,
            at: At::Start,
            number: 0,
            buffer: Vec::new(),
            too_long: false,
        }
    }

    /// The values of `stream`, one after the other.
    pub fn sequence(stream: R, limit: usize) -> Self {
        Self { in_array: false, at: At::Element, ..Self::array(stream, limit) }
    }

    /// 1-based number of the last element.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The element, or the start of one that is too long.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Reads the next element; `None` at the end.
    pub fn advance(&mut self) -> Result<Option<Element>, ElementError> {
        self.buffer.clear();
        self.too_long = false;
        if self.at == At::Start {
            // The caller saw the bracket; blanks may come before it.
            while self.next_solid()? != Some(b'[') {
                if self.peek()?.is_none() {
                    return Err(ElementError::Broken("there is no list"));
                }
            }
            self.at = At::Element;
        }
        if self.at == At::End {
            return match self.next_solid()? {
                None => Ok(None),
                Some(_) => Err(ElementError::Broken(
                    "there is more after the end of the list; write one list, or one object per line",
                )),
            };
        }
        self.scan()
    }

    /// The next byte, left in the stream.
    fn peek(&mut self) -> Result<Option<u8>, ElementError> {
        Ok(self.stream.fill_buf().map_err(ElementError::Io)?.first().copied())
    }

    /// Takes the next byte that is no white space.
    fn next_solid(&mut self) -> Result<Option<u8>, ElementError> {
        while let Some(b) = self.peek()? {
            self.stream.consume(1);
            if !b.is_ascii_whitespace() {
                return Ok(Some(b));
            }
        }
        Ok(None)
    }

    fn scan(&mut self) -> Result<Option<Element>, ElementError> {
        let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
        let mut started = false;
        loop {
            let piece = self.stream.fill_buf().map_err(ElementError::Io)?;
            if piece.is_empty() {
                if !self.in_array && depth == 0 && !in_string {
                    return Ok(started.then(|| self.finish()));
                }
                return Err(ElementError::Broken("the file ends inside it: it is cut off"));
            }
            let mut keep_from = if started { 0 } else { piece.len() };
            let mut stop = None;
            let mut used = piece.len();
            for (i, &b) in piece.iter().enumerate() {
                if in_string {
                    match b {
                        _ if escaped => escaped = false,
                        b'\\' => escaped = true,
                        b'"' => in_string = false,
                        _ => {}
                    }
                    // A string on its own is a whole value of a sequence.
                    if !in_string && depth == 0 && !self.in_array {
                        (stop, used) = (Some(i + 1), i + 1);
                        break;
                    }
                    continue;
                }
                if depth == 0 {
                    if self.in_array && (b == b',' || b == b']') {
                        (stop, used) = (Some(i), i + 1);
                        let empty = !started;
                        let after_comma = self.at == At::AfterComma;
                        self.at = if b == b',' { At::AfterComma } else { At::End };
                        if empty && (b == b',' || after_comma) {
                            return Err(ElementError::Broken("there is a comma without a value"));
                        }
                        break;
                    }
                    if b.is_ascii_whitespace() {
                        if started && !self.in_array {
                            (stop, used) = (Some(i), i + 1);
                            break;
                        }
                        continue;
                    }
                }
                if !started {
                    started = true;
                    keep_from = i;
                }
                match b {
                    b'"' => in_string = true,
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => {
                        depth = depth.saturating_sub(1);
                        if depth == 0 && !self.in_array {
                            (stop, used) = (Some(i + 1), i + 1);
                            break;
                        }
                    }
                    _ => {}
                }
            }
            let keep_to = stop.unwrap_or(piece.len());
            if let Some(text) = piece.get(keep_from..keep_to) {
                let room = self.limit.saturating_sub(self.buffer.len());
                self.too_long |= text.len() > room;
                self.buffer.extend_from_slice(&text[..text.len().min(room)]);
            }
            self.stream.consume(used);
            if stop.is_some() {
                if !started {
                    // An empty array: look past its end.
                    return self.advance();
                }
                return Ok(Some(self.finish()));
            }
        }
    }

    fn finish(&mut self) -> Element {
        self.number += 1;
        if self.too_long { Element::TooLong } else { Element::Whole }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::BufReader;

    fn all(text: &str, array: bool, chunk: usize) -> Result<Vec<String>, &'static str> {
        let stream = BufReader::with_capacity(chunk, text.as_bytes());
        let mut elements =
            if array { Elements::array(stream, 40) } else { Elements::sequence(stream, 40) };
        let mut out = Vec::new();
        loop {
            match elements.advance() {
                Ok(None) => return Ok(out),
                Ok(Some(Element::Whole)) => {
                    out.push(String::from_utf8(elements.bytes().trim_ascii().to_vec()).unwrap());
                }
                Ok(Some(Element::TooLong)) => out.push("TOO LONG".into()),
                Err(ElementError::Broken(why)) => return Err(why),
                Err(ElementError::Io(e)) => panic!("{e}"),
            }
        }
    }

    #[test]
    fn arrays_are_cut_at_their_commas_whatever_the_buffer() {
        let long = "x".repeat(60);
        let text = format!(
            " \n[ {{\"a\": \"],}}\\\"\"}} ,[1, [2]],\n3 , \"s,\" ,{{\"l\": \"{long}\"}}, null]\n "
        );
        for chunk in 1..70 {
            let got = all(&text, true, chunk).unwrap();
            let want = [r#"{"a": "],}\""}"#, "[1, [2]]", "3", "\"s,\"", "TOO LONG", "null"];
            assert_eq!(got, want, "chunk {chunk}");
            assert_eq!(all("[]", true, chunk), Ok(vec![]));
            assert_eq!(all(" [ \n ] ", true, chunk), Ok(vec![]));
        }
    }

    #[test]
    fn broken_arrays_are_named() {
        for chunk in 1..9 {
            for text in ["[1,,2]", "[,1]", "[1,]"] {
                assert!(all(text, true, chunk).unwrap_err().contains("comma"), "{text}");
            }
            for text in ["[", "[1", "[1,", "[{\"a\": 1", "[\"a]"] {
                assert!(all(text, true, chunk).unwrap_err().contains("cut off"), "{text}");
            }
            assert!(all("[1] [2]", true, chunk).unwrap_err().contains("more after the end"));
        }
    }

    #[test]
    fn sequences_are_cut_where_brackets_close() {
        for chunk in 1..20 {
            let got = all("{\n \"a\": \"}\"\n}{} \n {\"b\": {}}\n7 \"x\"true", false, chunk);
            assert_eq!(
                got.unwrap(),
                ["{\n \"a\": \"}\"\n}", "{}", "{\"b\": {}}", "7", "\"x\"", "true"]
            );
            assert!(all("{\"a\": {", false, chunk).is_err());
            assert_eq!(all("  \n", false, chunk), Ok(vec![]));
        }
    }
}
