//! Tables on huge pages, where the kernel has some to give: a table of a million flows is a hundred thousand small pages, and
//! the processor's own table of pages holds some thousands. A hint: without it everything is as it was.
#![allow(unsafe_code)]

/// Shorter tables are not worth a page of this size.
const HUGE_PAGE_LEN: usize = 2 << 20;

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
