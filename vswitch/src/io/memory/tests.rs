use super::*;
use penstock_api::message::AreaKind::{Copy, ZeroCopy};

/// Four chunks that copy and eight larger ones that do not.
fn two_areas() -> Memory {
    let mut memory = Memory::private(4, 2048).unwrap();
    memory.add_private(8, 4096).unwrap();
    memory
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| i as u8).collect()
}

fn read(memory: &Memory, frame: FrameId) -> Vec<u8> {
    let mut out = vec![0; memory.len(frame)];
    memory.copy_out(frame, &mut out);
    out
}

#[test]
fn a_long_frame_spans_chunks_and_comes_back_whole() {
    let mut memory = Memory::private(8, 2048).unwrap();
    let bytes = bytes(5000);
    let frame = memory.copy_in(Copy, &bytes).unwrap();
    assert_eq!(memory.len(frame), 5000);
    assert_eq!(memory.segments(frame).count(), 3);
    assert_eq!(read(&memory, frame), bytes);
    assert_eq!(memory.free_len(Copy), 5);
    memory.release(frame);
    assert_eq!(memory.count(Copy), ([8, 0, 0, 0, 0], vec![]));
}

#[test]
fn a_chunk_the_kernel_was_not_given_is_refused() {
    let mut memory = Memory::private(4, 2048).unwrap();
    assert_eq!(memory.received(Copy, 256, 64), None, "chunk 0 was free");
    let chunk = memory.take_for_receive(Copy).unwrap();
    assert_eq!(memory.received(Copy, 99 * 2048, 64), None, "beyond the area");
    assert_eq!(memory.received(Copy, 256, 2000), None, "beyond the chunk");
    assert_eq!(memory.received(Copy, 256, 64), Some(chunk));
    assert_eq!(memory.received(Copy, 256, 64), None, "received twice");
}

#[test]
fn one_offset_is_a_different_chunk_in_each_area() {
    let mut memory = two_areas();
    memory.take_for_receive(Copy).unwrap();
    let (copying, not) = (memory.take_for_receive(Copy).unwrap(), memory.take_for_receive(ZeroCopy).unwrap());
    assert_eq!((memory.index_of(copying), memory.index_of(not)), (1, 0));
    assert_eq!(memory.received(ZeroCopy, 2048 + 256, 64), Some(not));
    assert_eq!(memory.received(Copy, 2048 + 256, 64), Some(copying));
    memory.head_mut(copying).fill(1);
    memory.head_mut(not).fill(2);
    assert_eq!((memory.head(copying)[0], memory.head(not)[0]), (1, 2));
    assert_eq!(memory.received(Copy, 4 * 2048 + 256, 64), None, "the other area's chunks are not this one's");
}

#[test]
fn a_frame_that_changes_areas_keeps_its_bytes_and_leaves_nothing_behind() {
    let mut memory = two_areas();
    for (from, to) in [(Copy, ZeroCopy), (ZeroCopy, Copy)] {
        for len in [0, 1, 60, 1792, 1793, 5000] {
            let frame = memory.copy_in(from, &bytes(len)).unwrap();
            let moved = memory.move_to(frame, to).unwrap();
            assert_eq!((memory.kind_of(moved), read(&memory, moved)), (to, bytes(len)), "{from} to {to}");
            assert_eq!(memory.free_len(from), memory.chunks(from), "{len} bytes");
            assert_eq!(memory.move_to(moved, to), Some(moved), "it is there already");
            memory.release(moved);
        }
    }
    assert_eq!(memory.count(Copy), ([4, 0, 0, 0, 0], vec![]));
    assert_eq!(memory.count(ZeroCopy), ([8, 0, 0, 0, 0], vec![]));
}

#[test]
fn a_frame_stays_where_it_is_when_the_other_area_has_no_room() {
    let mut memory = two_areas();
    let kept: Vec<_> = (0..3).map(|_| memory.allocate(Copy).unwrap()).collect();
    let frame = memory.copy_in(ZeroCopy, &bytes(2000)).unwrap();
    assert_eq!(memory.move_to(frame, Copy), None, "it wants two chunks, one is free");
    assert_eq!(read(&memory, frame), bytes(2000));
    assert_eq!((memory.free_len(Copy), memory.free_len(ZeroCopy)), (1, 7));
    kept.into_iter().for_each(|chunk| memory.release(chunk));
    assert!(memory.move_to(frame, Copy).is_some());
}

#[test]
fn what_was_with_the_kernel_comes_home_to_its_own_area() {
    let mut memory = two_areas();
    memory.take_for_receive(Copy).unwrap();
    for kind in [Copy, ZeroCopy] {
        memory.take_for_receive(kind).unwrap();
        let frame = memory.allocate(kind).unwrap();
        memory.put(frame, Place::Transmitting);
    }
    assert_eq!(memory.count(Copy).0, [1, 0, 2, 1, 0]);
    assert_eq!(memory.count(ZeroCopy).0, [6, 0, 1, 1, 0]);
    assert_eq!(memory.reclaim_from_kernel(Copy), 3);
    assert_eq!(memory.count(Copy), ([4, 0, 0, 0, 0], vec![]));
    assert_eq!(memory.count(ZeroCopy).0, [6, 0, 1, 1, 0], "the other area's sockets are still there");
    assert_eq!(memory.reclaim_from_kernel(ZeroCopy), 2);
    assert_eq!(memory.count(ZeroCopy), ([8, 0, 0, 0, 0], vec![]));
}

#[test]
fn a_chunk_on_the_wrong_free_list_or_on_it_twice_is_found() {
    let mut memory = two_areas();
    let stray = memory.areas[1].free.pop().unwrap();
    memory.areas[0].free.push(stray);
    assert_eq!(memory.count(Copy).1.len(), 1);
    assert_eq!(memory.count(ZeroCopy).1, [0]);
    let mut memory = two_areas();
    memory.areas[1].free.push(5);
    assert_eq!(memory.count(ZeroCopy).1, [4096]);
}

#[test]
fn bytes_a_driver_put_elsewhere_are_moved_to_where_sockets_expect_them() {
    let mut memory = two_areas();
    for kind in [Copy, ZeroCopy] {
        let chunk = memory.take_for_receive(kind).unwrap();
        // Behind a timestamp of 16 bytes.
        assert_eq!(memory.received(kind, 256 + 16, 1000), Some(chunk));
        memory.head_mut(chunk).copy_from_slice(&bytes(1000));
        assert!(memory.straighten(chunk));
        assert_eq!(memory.segments(chunk).next().unwrap().1.addr, 256);
        assert_eq!(read(&memory, chunk), bytes(1000));
    }
}
