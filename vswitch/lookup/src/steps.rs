//! How many steps a lookup takes, for the tests that show it does not grow. Nothing at all outside of tests.

#[cfg(test)]
thread_local!(static STEPS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) });

/// One more step: a probe of a hash map, a node of an index, an interval looked at.
#[inline(always)]
pub(crate) fn count() {
    #[cfg(test)]
    STEPS.with(|steps| steps.set(steps.get() + 1));
}

/// What `f` returns, and the steps it took.
#[cfg(test)]
pub(crate) fn counted<T>(f: impl FnOnce() -> T) -> (T, usize) {
    STEPS.with(|steps| steps.set(0));
    let result = f();
    (result, STEPS.with(std::cell::Cell::get))
}
