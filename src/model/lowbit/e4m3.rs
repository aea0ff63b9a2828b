//! FP8 E4M3 (the "fn" kind: no infinities, one NaN per sign, largest value 448), as ONNX's FLOAT8E4M3FN and OCP's FP8.
//! Numbers flow in and out as f32: every one of the 256 codes has an exact f32.

/// Largest finite value.
pub const MAX: f32 = 448.0;

/// Smallest value above 0, a subnormal: 2^-9.
pub const LEAST: f32 = 1.0 / 512.0;

/// Smallest normal value: 2^-6.
const LEAST_NORMAL: f32 = 1.0 / 64.0;

/// What every code stands for.
static VALUES: [f32; 256] = {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        let (sign, exponent, fraction) = ((code as u32 & 0x80) << 24, code as u32 >> 3 & 15, code as u32 & 7);
        let size = if code & 0x7f == 0x7f {
            f32::NAN
        } else if exponent == 0 {
            fraction as f32 * LEAST
        } else {
            // Bias 7 becomes bias 127, three bits of fraction become 23.
            f32::from_bits((exponent + 120) << 23 | fraction << 20)
        };
        values[code] = f32::from_bits(size.to_bits() | sign);
        code += 1;
    }
    values
};

/// What a code stands for.
#[inline]
pub fn decode(code: u8) -> f32 {
    VALUES[code as usize]
}

/// The nearest code, halves to even; beyond 448 the largest, as `QuantizeLinear` saturates.
#[inline]
pub fn encode(x: f32) -> u8 {
    let sign = (x.to_bits() >> 24) as u8 & 0x80;
    let size = x.abs();
    if size.is_nan() {
        sign | 0x7f
    } else if size >= MAX {
        sign | 0x7e
    } else if size < LEAST_NORMAL {
        // Whole steps of 2^-9; eight of them are the smallest normal value, whose code is 8.
        sign | (size / LEAST).round_ties_even() as u8
    } else {
        let bits = size.to_bits();
        // Adds just under half a step of the kept fraction, or half if the last kept bit is odd.
        let rounded = bits + 0x7_ffff + (bits >> 20 & 1);
        sign | ((rounded >> 20) - (120 << 3)) as u8
    }
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
    fn known_codes_of_the_standard() {
        for (code, value) in [(0x00, 0.0), (0x01, 0.001_953_125), (0x08, 0.015_625), (0x38, 1.0), (0x7e, 448.0)] {
            assert_eq!((decode(code), decode(code | 0x80)), (value, -value));
        }
        assert!(decode(0x7f).is_nan() && decode(0xff).is_nan());
    }

    #[test]
    fn every_code_comes_back_and_every_number_goes_to_the_nearest_one() {
        for code in (0..=255u8).filter(|code| code & 0x7f != 0x7f) {
            assert_eq!(encode(decode(code)), code);
        }
        for code in 0..0x7eu8 {
            let (low, high) = (decode(code), decode(code + 1));
            let middle = (low + high) / 2.0;
            assert_eq!(encode(middle), if code.is_multiple_of(2) { code } else { code + 1 }, "halfway above {low}");
            assert_eq!(encode(f32::from_bits(middle.to_bits() - 1)), code);
            assert_eq!(encode(f32::from_bits(middle.to_bits() + 1)), code + 1);
        }
        assert_eq!((encode(1e9), encode(f32::NEG_INFINITY), encode(460.0)), (0x7e, 0xfe, 0x7e));
        assert_eq!(encode(f32::NAN) & 0x7f, 0x7f);
    }
}
