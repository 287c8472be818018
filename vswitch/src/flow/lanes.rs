//! Eight numbers compared with one, as the processor likes it: sets of the flow cache and buckets of the index have eight places.
#![allow(unsafe_code)]

/// How many.
pub(super) const LANES: usize = 8;

/// One bit per number that is equal. All are compared: a loop that ends early is a branch nobody can predict.
#[inline(always)]
pub(super) fn equal(numbers: &[u32; LANES], number: u32) -> u32 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: only for SSE2, which is part of x86_64; nothing here reads memory by address.
    unsafe {
        // Left to itself the compiler takes the eight apart.
        use core::arch::x86_64::{
            _mm_cmpeq_epi32, _mm_movemask_epi8, _mm_packs_epi16, _mm_packs_epi32, _mm_set_epi32,
            _mm_set1_epi32, _mm_setzero_si128,
        };
        let [a, b, c, d, e, f, g, h] = *numbers;
        let four = |a: u32, b: u32, c: u32, d: u32| {
            _mm_set_epi32(d.cast_signed(), c.cast_signed(), b.cast_signed(), a.cast_signed())
        };
        let wanted = _mm_set1_epi32(number.cast_signed());
        let low = _mm_cmpeq_epi32(four(a, b, c, d), wanted);
        let high = _mm_cmpeq_epi32(four(e, f, g, h), wanted);
        let bytes = _mm_packs_epi16(_mm_packs_epi32(low, high), _mm_setzero_si128());
        _mm_movemask_epi8(bytes).cast_unsigned()
    }
    #[cfg(not(target_arch = "x86_64"))]
    (0..LANES).fold(0, |equal, lane| equal | u32::from(numbers[lane] == number) << lane)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lane_has_its_bit() {
        for number in [0, 1, u32::MAX, 1 << 31] {
            assert_eq!(equal(&[number; LANES], number), 0xff);
            assert_eq!(equal(&[!number; LANES], number), 0);
            for mask in 0..256u32 {
                let numbers =
                    std::array::from_fn(|n| if mask >> n & 1 == 1 { number } else { number ^ 1 << n });
                assert_eq!(equal(&numbers, number), mask);
            }
        }
    }
}
