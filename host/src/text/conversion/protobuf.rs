//! Protocol buffers' wire format, as much of it as SentencePiece's model files use.

/// One field of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Field<'a> {
    /// A number.
    Varint(u64),
    /// Four bytes.
    Fixed32(u32),
    /// Eight bytes, which no field that is read here has.
    Fixed64,
    /// A text, bytes or a message.
    Bytes(&'a [u8]),
}

/// The fields of a message, in the file's order.
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Of the bytes of a message.
    pub fn of(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let (&byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            value |= u64::from(byte & 0x7F).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(n)?;
        self.rest = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u64, Field<'a>)> {
        let key = self.varint()?;
        let field = match key & 7 {
            0 => Field::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Field::Fixed64
            }
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((key >> 3, field))
    }
}

impl<'a> Iterator for Fields<'a> {
    /// Number and value; an error ends the message.
    type Item = Result<(u64, Field<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.rest = &[];
        }
        Some(field.ok_or_else(|| "it is no sound protocol buffer".into()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_and_damage_is_an_error() {
        // 1: "ab", 2: 1.5f32, 3: 300
        let bytes = [0x0A, 2, b'a', b'b', 0x15, 0, 0, 0xC0, 0x3F, 0x18, 0xAC, 0x02];
        let fields: Vec<_> = Fields::of(&bytes).map(Result::unwrap).collect();
        let want = [
            (1, Field::Bytes(b"ab".as_slice())),
            (2, Field::Fixed32(1.5f32.to_bits())),
            (3, Field::Varint(300)),
        ];
        assert_eq!(fields, want);
        for end in [1, 3, 6, 11] {
            assert!(Fields::of(&bytes[..end]).any(|f| f.is_err()), "{end}");
        }
        assert!(Fields::of(&[0xFF; 11]).next().unwrap().is_err());
        let minus_one = [0x18, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01];
        assert_eq!(Fields::of(&minus_one).next().unwrap(), Ok((3, Field::Varint(u64::MAX))));
    }
}
