//! Bytes on disk: big-endian numbers, length before text, nothing concatenated bare.
//!
//! A [`Reader`] never panics and never reads past its end; a short or over-long input is one error, [`Torn`].

/// The bytes are not what the format says: too short, too long, or a value out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Torn;

/// Puts fields one after the other.
#[derive(Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Empty, with room for `capacity` bytes, so that a secret written into it is not copied by growth.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    /// One byte.
    pub fn u8(&mut self, v: u8) -> &mut Self {
        self.0.push(v);
        self
    }

    /// Two bytes, big-endian.
    pub fn u16(&mut self, v: u16) -> &mut Self {
        self.fixed(&v.to_be_bytes())
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self, v: u32) -> &mut Self {
        self.fixed(&v.to_be_bytes())
    }

    /// Eight bytes, big-endian.
    pub fn u64(&mut self, v: u64) -> &mut Self {
        self.fixed(&v.to_be_bytes())
    }

    /// Bytes whose number the format fixes.
    pub fn fixed(&mut self, v: &[u8]) -> &mut Self {
        self.0.extend_from_slice(v);
        self
    }

    /// `e(v)`: a big-endian u16 length, then the bytes. Longer than 65,535 bytes is a mistake of the caller's, who
    /// bounds every text where it comes in; it is written cut, and so opens to nothing.
    pub fn e(&mut self, v: &[u8]) -> &mut Self {
        let length = u16::try_from(v.len()).unwrap_or(u16::MAX);
        self.u16(length);
        self.fixed(v.get(..usize::from(length)).unwrap_or_default())
    }

    /// What was written.
    #[must_use]
    pub fn done(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

/// Takes fields off the front.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads `bytes` from the front.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next `n` bytes.
    pub fn fixed(&mut self, n: usize) -> Result<&'a [u8], Torn> {
        let (front, rest) = self.0.split_at_checked(n).ok_or(Torn)?;
        self.0 = rest;
        Ok(front)
    }

    /// The next `N` bytes, as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Torn> {
        self.fixed(N)?.try_into().map_err(|_| Torn)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Torn> {
        self.array::<1>().map(|[b]| b)
    }

    /// Two bytes, big-endian.
    pub fn u16(&mut self) -> Result<u16, Torn> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self) -> Result<u32, Torn> {
        self.array().map(u32::from_be_bytes)
    }

    /// Eight bytes, big-endian.
    pub fn u64(&mut self) -> Result<u64, Torn> {
        self.array().map(u64::from_be_bytes)
    }

    /// `e(x)`: a big-endian u16 length, then that many bytes.
    pub fn e(&mut self) -> Result<&'a [u8], Torn> {
        let length = self.u16()?;
        self.fixed(usize::from(length))
    }

    /// `e(x)` as UTF-8 text.
    pub fn text(&mut self) -> Result<&'a str, Torn> {
        std::str::from_utf8(self.e()?).map_err(|_| Torn)
    }

    /// All that is left.
    #[must_use]
    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Succeeds if nothing is left over.
    pub fn end(self) -> Result<(), Torn> {
        if self.0.is_empty() { Ok(()) } else { Err(Torn) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_every_cut_is_torn() {
        let bytes = Writer::default().u8(1).u16(2).u32(3).u64(4).e(b"five").fixed(b"six").done();
        let read = |b: &[u8]| -> Result<(), Torn> {
            let mut r = Reader::new(b);
            assert!(r.u8()? == 1 && r.u16()? == 2 && r.u32()? == 3 && r.u64()? == 4);
            assert!(r.text()? == "five" && r.fixed(3)? == b"six");
            r.end()
        };
        assert_eq!(read(&bytes), Ok(()));
        for cut in 0..bytes.len() {
            assert_eq!(read(&bytes[..cut]), Err(Torn), "{cut}");
        }
        assert_eq!(read(&[&bytes[..], &[0]].concat()), Err(Torn));
    }
}
