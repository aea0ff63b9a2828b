//! FP4 E2M1: eight sizes and a sign, as ONNX's FLOAT4E2M1 and OCP's FP4. Numbers flow in and out as f32; a code is the low
//! half of a byte.

/// Largest value.
pub const MAX: f32 = 6.0;

/// What the sixteen codes stand for.
pub static VALUES: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// What the low half of a byte stands for.
#[inline]
pub fn decode(code: u8) -> f32 {
    VALUES[code as usize & 15]
}

/// The nearest code, halves to the even code; beyond 6 the largest.
#[inline]
pub fn encode(x: f32) -> u8 {
    let size = x.abs();
    let code = if size <= 0.25 {
        0
    } else if size < 0.75 {
        1
    } else if size <= 1.25 {
        2
    } else if size < 1.75 {
        3
    } else if size <= 2.5 {
        4
    } else if size < 3.5 {
        5
    } else if size <= 5.0 {
        6
    } else {
        7
    };
    code | u8::from(x < 0.0) << 3
}

/// `x` as it comes back: the nearest value that a code stands for.
#[inline]
pub fn round(x: f32) -> f32 {
    decode(encode(x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_comes_back_and_halves_go_to_the_even_code() {
        for code in (0..16u8).filter(|&code| code != 8) {
            assert_eq!(encode(decode(code)), code);
        }
        for code in 0..7u8 {
            let middle = (decode(code) + decode(code + 1)) / 2.0;
            let (below, above) = (f32::from_bits(middle.to_bits() - 1), f32::from_bits(middle.to_bits() + 1));
            let even = code + code % 2;
            assert_eq!((encode(below), encode(middle), encode(above)), (code, even, code + 1));
            assert_eq!(encode(-middle), if even == 0 { 8 } else { even | 8 });
        }
        assert_eq!((encode(1e6), encode(-1e6)), (7, 15));
    }
}
