//! Memory for activations that begins on a cache line, so that no register's worth of them crosses one.
//! A length flows in; a slice flows out.

use std::ops::{Deref, DerefMut};

/// Bytes of a cache line.
const LINE: usize = 64;

/// A fixed number of values, the first at the beginning of a cache line.
pub struct Aligned<T> {
    values: Box<[T]>,
    first: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    /// `len` default values.
    pub fn new(len: usize) -> Aligned<T> {
        let spare = if len == 0 { 0 } else { LINE / size_of::<T>() };
        let values = vec![T::default(); len + spare].into_boxed_slice();
        let first = values.as_ptr().align_offset(LINE).min(spare);
        Aligned { values, first, len }
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.values[self.first..self.first + self.len]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.values[self.first..self.first + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_begin_on_a_cache_line() {
        for len in [1, 7, 4096] {
            let mut floats = Aligned::<f32>::new(len);
            floats[len - 1] = 1.0;
            assert_eq!((floats.as_ptr() as usize % LINE, floats.len()), (0, len));
            assert_eq!(Aligned::<i8>::new(len).as_ptr() as usize % LINE, 0);
        }
        assert!(Aligned::<f32>::new(0).is_empty());
    }
}
