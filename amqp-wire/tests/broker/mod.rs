//! The broker's side: what it writes.

/// A message, and all that comes with it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Message {
    pub(crate) tag: u64,
    pub(crate) redelivered: bool,
    pub(crate) exchange: Vec<u8>,
    pub(crate) routing_key: Vec<u8>,
    pub(crate) properties: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// Its frames; of the body, none is longer than `frame_max`.
    pub(crate) fn frames(&self, channel: u16, frame_max: usize) -> Vec<Vec<u8>> {
        let deliver = [
            &short(b"tag")[..],
            &self.tag.to_be_bytes(),
            &[self.redelivered.into()],
            &short(&self.exchange),
            &short(&self.routing_key),
        ];
        let size = u64::try_from(self.body.len()).unwrap().to_be_bytes();
        let header = [&[0, 60, 0, 0][..], &size, &self.properties];
        let mut frames = vec![
            method(channel, 60, 60, &deliver.concat()),
            frame(2, channel, &header.concat()),
        ];
        let parts = self.body.chunks(frame_max.saturating_sub(8));
        frames.extend(parts.map(|part| frame(3, channel, part)));
        frames
    }
}

pub(crate) fn method(channel: u16, class: u16, number: u16, arguments: &[u8]) -> Vec<u8> {
    let head = [class.to_be_bytes(), number.to_be_bytes()].concat();
    frame(1, channel, &[&head[..], arguments].concat())
}

pub(crate) fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[kind], &channel.to_be_bytes()[..], &size, payload, &[0xce]].concat()
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text].concat()
}
