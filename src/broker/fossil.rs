//! Fossil's format of deltas: writing one (pure).
//!
//! The size of the body in a line of its own; then `count@place,`, bytes of the base, or `count:` and
//! bytes that follow; then `sum;`, a checksum of the body. Numbers are of base 64.
//!
//! This is no crate's, for whoever may publish chooses the bodies. `fossil-delta` compares up to 250
//! places for each byte of a body that is made for it, and takes forty milliseconds for 16 KiB. Here
//! each byte is looked up once at most, in a table with a random key, and compared once.

use hashbrown::HashMap;

/// The base is known by blocks of this size.
const BLOCK: usize = 16;
/// So much of the body has to be the same at the place of the base that it has come to.
const NEAR: usize = 12;

const DIGITS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~";

/// `body` as a delta to `base`, unless that takes more than so many bytes.
pub(super) fn encode(base: &[u8], body: &[u8], most: usize) -> Option<Vec<u8>> {
    let mut encoder = Encoder::new(base, body);
    encoder.number(body.len());
    encoder.out.push(b'\n');
    let mut at = 0;
    while at < body.len() {
        let waiting = at.saturating_sub(encoder.done);
        if encoder.out.len().saturating_add(waiting) > most {
            return None;
        }
        at = match encoder.find(at) {
            Some(place) => encoder.copy(place, at),
            None => at.saturating_add(1),
        };
    }
    encoder.take(body.len());
    encoder.number(checksum(body) as usize);
    encoder.out.push(b';');
    (encoder.out.len() <= most).then_some(encoder.out)
}

struct Encoder<'a> {
    base: &'a [u8],
    body: &'a [u8],
    /// Where the base has each of its blocks first.
    blocks: HashMap<&'a [u8; BLOCK], usize>,
    /// What is written of the body.
    done: usize,
    /// The place of the base behind the last copy: after a change, the two often go on side by side.
    near: usize,
    out: Vec<u8>,
}

impl<'a> Encoder<'a> {
    fn new(base: &'a [u8], body: &'a [u8]) -> Self {
        let (all, _) = base.as_chunks();
        let mut blocks = HashMap::with_capacity(all.len());
        for (block, place) in all.iter().zip((0..).step_by(BLOCK)) {
            blocks.entry(block).or_insert(place);
        }
        Self {
            base,
            body,
            blocks,
            done: 0,
            near: 0,
            out: Vec::new(),
        }
    }

    /// A place of the base that has what the body has here.
    fn find(&self, at: usize) -> Option<usize> {
        let body = self.body.get(at..)?;
        let near = self.near.saturating_add(at.saturating_sub(self.done));
        let beside = self.base.get(near..).and_then(<[u8]>::first_chunk::<NEAR>);
        if beside.is_some() && beside == body.first_chunk() {
            return Some(near);
        }
        self.blocks.get(body.first_chunk::<BLOCK>()?).copied()
    }

    /// Writes that the body goes on as the base does at that place. Returns for how long.
    fn copy(&mut self, place: usize, at: usize) -> usize {
        let part = |all: &'a [u8], from, to| all.get(from..to).unwrap_or_default();
        let (base, body) = (self.base, self.body);
        let before = part(base, 0, place).iter().rev();
        let before = before.zip(part(body, self.done, at).iter().rev());
        let before = before.take_while(|(one, other)| one == other).count();
        let ahead = part(base, place, base.len()).iter();
        let ahead = ahead.zip(part(body, at, body.len()));
        let ahead = ahead.take_while(|(one, other)| one == other).count();
        self.take(at.saturating_sub(before));
        self.number(before.saturating_add(ahead));
        self.out.push(b'@');
        self.number(place.saturating_sub(before));
        self.out.push(b',');
        self.done = at.saturating_add(ahead);
        self.near = place.saturating_add(ahead);
        self.done
    }

    /// Writes the body up to here as it is.
    fn take(&mut self, end: usize) {
        let bytes = self.body.get(self.done..end).unwrap_or_default();
        if !bytes.is_empty() {
            self.number(bytes.len());
            self.out.push(b':');
            self.out.extend_from_slice(bytes);
            self.done = end;
        }
    }

    fn number(&mut self, number: usize) {
        if number > 63 {
            self.number(number >> 6);
        }
        self.out.extend(DIGITS.get(number & 63));
    }
}

/// The sum of its words of four bytes, the last one filled with zeros.
fn checksum(body: &[u8]) -> u32 {
    let (words, rest) = body.as_chunks();
    let mut last = [0; 4];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    let words = words
        .iter()
        .chain([&last])
        .map(|word| u32::from_be_bytes(*word));
    words.fold(0, u32::wrapping_add)
}
