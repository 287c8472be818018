//! Tables on huge pages, where the kernel has some to give: a table of a million flows is a hundred thousand small pages, and
//! the processor's own table of pages holds some thousands. A hint: without it everything is as it was.
#![allow(unsafe_code)]

/// Shorter tables are not worth a page of this size.
pub(super) const HUGE_PAGE_LEN: usize = 2 << 20;

/// `len` copies of a value.
pub(super) fn table<T: Clone>(value: T, len: usize) -> Vec<T> {
    let mut table = Vec::with_capacity(len);
    advise(table.as_ptr() as usize, len * size_of::<T>());
    table.resize(len, value);
    table
}

/// Asks for huge pages for memory nobody has touched yet.
pub(super) fn advise(start: usize, len: usize) {
    let (from, to) = (start.next_multiple_of(HUGE_PAGE_LEN), (start + len) / HUGE_PAGE_LEN * HUGE_PAGE_LEN);
    if from < to {
        // SAFETY: MADV_HUGEPAGE changes what memory is backed by and never what it holds, whatever the range.
        unsafe { libc::madvise(from as *mut libc::c_void, to - from, libc::MADV_HUGEPAGE) };
    }
}

/// Puts memory that is backed by small pages on huge ones, now. A file under `/dev/shm` gets none as it grows, whatever is advised:
/// that is for who mounts it to say. What is there already may be put together all the same, from Linux 6.1 on; where
/// that cannot be, or not everywhere, small pages stay. False: some did.
pub(super) fn collapse(start: usize, len: usize) -> bool {
    let (from, to) = (start.next_multiple_of(HUGE_PAGE_LEN), (start + len) / HUGE_PAGE_LEN * HUGE_PAGE_LEN);
    if from >= to {
        return true;
    }
    // SAFETY: MADV_COLLAPSE changes what memory is backed by and never what it holds, whatever the range.
    let all = || unsafe { libc::madvise(from as *mut libc::c_void, to - from, libc::MADV_COLLAPSE) == 0 };
    // What the kernel holds at the moment is left out.
    all() || all()
}
