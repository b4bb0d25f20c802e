//! Leaks from Rust, by the protocol of the C victims. Between the go byte and the summary it makes
//! no allocation but those it tells of: reading and writing is done by the plain system calls on
//! memory of the stack. The standard library stands between these functions and malloc, so the
//! expected names are `anywhere` in the stack, one after the other, not at its start.

use std::fmt::Write;

const BOXES: u64 = 300;
const VECTORS: u64 = 20;
const VECTOR_BYTES: u64 = 100_000;

unsafe extern "C" {
    fn read(fd: i32, to: *mut u8, len: usize) -> isize;
    fn write(fd: i32, from: *const u8, len: usize) -> isize;
}

/// Text on the stack.
struct Line {
    bytes: [u8; 2000],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.len + text.len();
        let room = self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

fn say(text: std::fmt::Arguments) {
    let mut line = Line { bytes: [0; 2000], len: 0 };
    line.write_fmt(text).expect("the line fits");
    // SAFETY: the bytes are the line's own.
    let sent = unsafe { write(1, line.bytes.as_ptr(), line.len) };
    assert_eq!(sent, line.len as isize, "stdout is gone");
}

fn wait_for_byte() -> bool {
    let mut byte = 0;
    // SAFETY: there is room for one byte.
    unsafe { read(0, &mut byte, 1) == 1 }
}

#[inline(never)]
fn leak_boxes() {
    for i in 0..BOXES {
        std::mem::forget(std::hint::black_box(Box::new([i; 32])));
    }
}

#[inline(never)]
fn leak_vectors() {
    for _ in 0..VECTORS {
        std::mem::forget(std::hint::black_box(Vec::<u8>::with_capacity(VECTOR_BYTES as usize)));
    }
}

/// A vector that grows: reallocations of 8, 16, ... 1024 elements of eight bytes, then freed.
#[inline(never)]
fn grow_and_drop() -> (u64, u64) {
    let mut numbers = Vec::with_capacity(8);
    let (mut bytes, mut count, mut capacity) = (64, 1, 8);
    for i in 0..1024_u64 {
        std::hint::black_box(&mut numbers).push(i);
        if numbers.capacity() != capacity {
            capacity = numbers.capacity();
            bytes += 8 * capacity as u64;
            count += 1;
        }
    }
    (bytes, count)
}

fn main() {
    say(format_args!("ready {}\n", std::process::id()));
    if !wait_for_byte() {
        return;
    }
    leak_boxes();
    let (bytes, count) = grow_and_drop();
    leak_vectors();
    let (box_bytes, vector_bytes) = (BOXES * 256, VECTORS * VECTOR_BYTES);
    say(format_args!(
        "{{\"victim\":\"rust\",\"leaks\":[\
         {{\"anywhere\":true,\"stack\":[\"rust::leak_boxes\",\"rust::main\"],\"bytes\":{box_bytes},\"count\":{BOXES}}},\
         {{\"anywhere\":true,\"stack\":[\"rust::leak_vectors\",\"rust::main\"],\"bytes\":{vector_bytes},\"count\":{VECTORS}}}],\
         \"allocated_bytes\":{},\"allocated_count\":{},\"freed_bytes\":{bytes},\"freed_count\":{count}}}\n",
        box_bytes + vector_bytes + bytes,
        BOXES + VECTORS + count,
    ));
    wait_for_byte();
}
