//! How often the heap is asked: a connection's cost is counted in frames.
#![allow(unsafe_code, reason = "an allocator cannot be written without")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use bytes::Bytes;
use stomp_grammar::{Command, Decoder, Frame, Limits, Version, encode};

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
    static HELD: Cell<isize> = const { Cell::new(0) };
}

/// Counts for each thread, so that tests do not see each other.
struct Counting;

fn count(calls: usize, bytes: isize) {
    CALLS.set(CALLS.get() + calls);
    HELD.set(HELD.get() + bytes);
}

// SAFETY: all work is the system allocator's; the counters are plain numbers that allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as isize);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, -(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, size as isize - layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LIMITS: Limits = Limits {
    max_frame_size: 65_536,
    max_headers: 100,
    max_header_size: 4_096,
};

fn send() -> Frame {
    Frame::new(Command::Send)
        .with_header("destination", "/exchange/feed/a:b\\c")
        .with_header("content-type", "application/json")
        .with_body(vec![b'x'; 256])
}

#[test]
fn a_frame_in_one_piece_takes_two_allocations() {
    let mut stream = Vec::new();
    for _ in 0..10 {
        encode::frame(&mut stream, Version::V1_2, &send());
    }
    let mut input = Bytes::from(stream);
    // The first sharing of a `Bytes` allocates its counter: once for a read, not for a frame.
    let _shared = input.clone();
    let mut decoder = Decoder::new(LIMITS);
    for _ in 0..10 {
        let before = CALLS.get();
        let frame = decoder.decode(&mut input).unwrap().unwrap();
        let calls = CALLS.get() - before;
        assert_eq!(frame.body.len(), 256);
        assert_eq!(calls, 2);
    }
}

#[test]
fn between_frames_a_decoder_holds_no_memory() {
    let mut stream = b"\n\r\n".to_vec();
    encode::frame(&mut stream, Version::V1_2, &send());
    stream.extend_from_slice(b"\r\n\n\r");
    for size in 1..=stream.len() {
        let mut decoder = Decoder::new(LIMITS);
        let before = HELD.get();
        for piece in stream.chunks(size) {
            let mut input = Bytes::copy_from_slice(piece);
            while decoder.decode(&mut input).unwrap().is_some() {}
        }
        assert_eq!(HELD.get(), before, "in pieces of {size}");
    }
}

#[test]
fn an_answer_of_none_releases_the_input() {
    let mut decoder = Decoder::new(LIMITS);
    let before = HELD.get();
    let mut input = Bytes::from(vec![b'\n'; 10_000]);
    assert_eq!(decoder.decode(&mut input), Ok(None));
    assert_eq!(HELD.get(), before);
    let mut input = Bytes::from([&b"\n".repeat(10_000)[..], b"SEND\n"].concat());
    assert_eq!(decoder.decode(&mut input), Ok(None));
    assert!(HELD.get() - before < 500, "{}", HELD.get() - before);
}

#[test]
fn encoding_into_a_buffer_with_room_allocates_nothing() {
    let frame = send();
    let mut out = Vec::with_capacity(1_000);
    let before = CALLS.get();
    for _ in 0..10 {
        out.clear();
        encode::frame(&mut out, Version::V1_2, &frame);
    }
    assert_eq!(CALLS.get(), before);
}
