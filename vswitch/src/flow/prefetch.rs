//! Asks the processor for a cache line a pass ahead of its use. A hint: nothing depends on it, and where the processor
//! has no such instruction it is nothing.
#![allow(unsafe_code)]

/// Brings the line that holds the beginning of `value` nearer.
#[inline(always)]
pub(super) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: PREFETCHT0 reads nothing the program can see and never faults, whatever the address; SSE is part of x86_64.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
